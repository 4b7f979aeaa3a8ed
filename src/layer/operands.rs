//! The arguments of a call, checked against each other and converted to addresses and a signature.

use std::sync::Arc;

use cudarc::driver::{CudaStream, DevicePtr, DeviceSlice, SyncOnDrop};

use super::inputs::{LoraInputs, LoraProjection};
use super::signature::{ProjectionSignature, Signature};
use crate::plan::BUFFER_ALIGNMENT;
use crate::raw::{DevicePointer, LoraArgs};
use crate::typed::check;
use crate::typed::matrix::Geometry;
use crate::{
    Argument, Element, Error, Formats, Kernels, Layout, Lora, MatMut, MatRef, Matrix, Projection,
    ReadMatrix, Result, Role, WeightLayout, WriteMatrix,
};

/// The inputs of a call on the device. The guards of lifetime `'g` mark their memory as used by the
/// stream.
pub(super) struct Operands<'g> {
    pub signature: Signature,
    pub x: DevicePointer,
    pub projections: Vec<ProjectionOperands>,
    /// When they are dropped, they record on the stream that the memory is in use.
    pub guards: Vec<SyncOnDrop<'g>>,
}

/// Addresses of one projection's inputs.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct ProjectionOperands {
    pub weight: DevicePointer,
    pub bias: Option<DevicePointer>,
    pub lora: Option<LoraArgs>,
}

impl<'g> Operands<'g> {
    /// Checks all inputs before any address is taken.
    pub fn new<T: Element, A: Element>(
        kernels: &Kernels,
        stream: &'g Arc<CudaStream>,
        inputs: &'g LoraInputs<'_, T, A>,
    ) -> Result<Self> {
        check::bind(kernels, stream)?;
        let checks = Checks::new(kernels, inputs);
        let sizes = checks.inputs(inputs)?;
        let mut guards = Vec::with_capacity(1 + 4 * sizes.len());
        let (x, x_layout) = read(stream, &inputs.x, &mut guards);
        let mut signature = Signature {
            tokens: checks.tokens,
            in_features: checks.in_features,
            formats: Formats {
                adapters: A::DTYPE,
                gradients: A::DTYPE,
                ..Formats::uniform(T::DTYPE)
            },
            bias: inputs
                .projections
                .iter()
                .any(|projection| projection.bias.is_some()),
            dropout: inputs.dropout.is_some(),
            mask: inputs.mask,
            weight_layout: inputs.weight_layout,
            input_gradient: true,
            accumulate: false,
            x: x_layout,
            projections: Vec::with_capacity(sizes.len()),
        };
        let mut projections = Vec::with_capacity(sizes.len());
        for (projection, sizes) in inputs.projections.iter().zip(sizes) {
            let mut operands = ProjectionOperands::default();
            let (weight, weight_layout) = read(stream, &projection.weight, &mut guards);
            operands.weight = weight;
            if let Some(bias) = &projection.bias {
                let (address, guard) = bias.device_ptr(stream);
                operands.bias = Some(address);
                guards.push(guard);
            }
            let lora = projection.lora.as_ref().map(|Lora { a, b, scaling }| {
                let (lora_a, a_layout) = read(stream, a, &mut guards);
                let (lora_b, b_layout) = read(stream, b, &mut guards);
                operands.lora = Some(LoraArgs {
                    a: lora_a,
                    b: lora_b,
                    scaling: *scaling,
                });
                [a_layout, b_layout]
            });
            signature.projections.push(ProjectionSignature {
                sizes,
                weight: weight_layout,
                lora,
                dy: None,
                gradients: None,
            });
            projections.push(operands);
        }
        Ok(Self {
            signature,
            x,
            projections,
            guards,
        })
    }
}

/// The address and the layout of a matrix.
pub(super) fn read<'g, T: Element>(
    stream: &'g CudaStream,
    matrix: &'g MatRef<'_, T>,
    guards: &mut Vec<SyncOnDrop<'g>>,
) -> (DevicePointer, Layout) {
    let (address, guard) = matrix.pointer(stream);
    guards.push(guard);
    (address, layout(matrix.geometry(), address))
}

/// The address and the layout of a matrix to write to.
pub(super) fn write<'g, T: Element>(
    stream: &'g CudaStream,
    matrix: &'g mut MatMut<'_, T>,
    guards: &mut Vec<SyncOnDrop<'g>>,
) -> (DevicePointer, Layout) {
    let geometry = matrix.geometry();
    let (address, guard) = matrix.pointer_mut(stream);
    guards.push(guard);
    (address, layout(geometry, address))
}

/// The layout of a matrix at an address. Its alignment is that of the address, up to the largest
/// that a kernel needs. The stride of a single row has no meaning, so it becomes the number of
/// columns.
fn layout(geometry: Geometry, address: DevicePointer) -> Layout {
    let Geometry {
        rows,
        columns,
        row_stride,
    } = geometry;
    Layout {
        row_stride: if rows > 1 { row_stride } else { columns as i64 },
        alignment: 1
            << address
                .trailing_zeros()
                .min(BUFFER_ALIGNMENT.trailing_zeros()),
    }
}

/// Checks shapes against each other, extents against memory, and memory against the context.
pub(super) struct Checks<'a> {
    kernels: &'a Kernels,
    tokens: usize,
    in_features: usize,
    weight_layout: WeightLayout,
    /// Whether messages must name the projection.
    several: bool,
}

impl<'a> Checks<'a> {
    pub fn new<T: Element, A: Element>(
        kernels: &'a Kernels,
        inputs: &LoraInputs<'_, T, A>,
    ) -> Self {
        let x = inputs.x.geometry();
        Self {
            kernels,
            tokens: x.rows,
            in_features: x.columns,
            weight_layout: inputs.weight_layout,
            several: inputs.projections.len() > 1,
        }
    }

    /// Checks all inputs and returns the sizes of each projection.
    pub fn inputs<T: Element, A: Element>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
    ) -> Result<Vec<Projection>> {
        if let Some(dropout) = inputs.dropout {
            dropout.check()?;
        }
        self.memory(Argument::Tensor(Role::X, None), &inputs.x)?;
        let biased = inputs
            .projections
            .iter()
            .filter(|projection| projection.bias.is_some());
        if let (1.., Some(without)) = (
            biased.count(),
            inputs
                .projections
                .iter()
                .position(|projection| projection.bias.is_none()),
        ) {
            return Err(Error::SomeBiases { without });
        }
        let projections = inputs.projections.iter().enumerate();
        projections
            .map(|(index, projection)| self.projection(index, projection))
            .collect()
    }

    fn projection<T: Element, A: Element>(
        &self,
        index: usize,
        projection: &LoraProjection<'_, T, A>,
    ) -> Result<Projection> {
        let weight = projection.weight.geometry();
        let (out_features, weight_shape, because) = match self.weight_layout {
            WeightLayout::OutIn => (
                weight.rows,
                (weight.rows, self.in_features),
                "weights are stored (out_features, in_features), and x has in_features columns",
            ),
            WeightLayout::InOut => (
                weight.columns,
                (self.in_features, weight.columns),
                "weights are stored (in_features, out_features), and x has in_features columns",
            ),
        };
        self.matrix(
            index,
            Role::Weight,
            &projection.weight,
            weight_shape,
            because,
        )?;
        if let Some(bias) = &projection.bias {
            let what = self.argument(index, Role::Bias);
            let because = "the weight has as many out_features";
            same(what, (1, bias.len()), (1, out_features), because)?;
            check::home(self.kernels, what, bias.stream())?;
        }
        let Some(Lora { a, b, scaling }) = &projection.lora else {
            return Ok(Projection {
                out_features,
                rank: 0,
            });
        };
        let rank = a.geometry().rows;
        let because =
            "it is (rank, in_features), x has in_features columns, and a rank is at least 1";
        self.matrix(
            index,
            Role::LoraA,
            a,
            (rank.max(1), self.in_features),
            because,
        )?;
        let because = "it is (out_features, rank), as the weight and lora_A have them";
        self.matrix(index, Role::LoraB, b, (out_features, rank), because)?;
        crate::bind::check_scaling(*scaling)?;
        Ok(Projection { out_features, rank })
    }

    /// Checks the gradients of all y.
    pub fn dy<T: Element>(&self, dy: &[MatRef<'_, T>], sizes: &[Projection]) -> Result<()> {
        let (given, planned) = (dy.len(), sizes.len());
        if given != planned {
            return Err(Error::ProjectionCount { given, planned });
        }
        for (index, (dy, sizes)) in dy.iter().zip(sizes).enumerate() {
            let shape = (self.tokens, sizes.out_features);
            self.matrix(index, Role::DY, dy, shape, "it has the shape of its y")?;
        }
        Ok(())
    }

    fn matrix<E: Element>(
        &self,
        index: usize,
        tensor: Role,
        matrix: &MatRef<'_, E>,
        expected: (usize, usize),
        because: &'static str,
    ) -> Result<()> {
        let what = self.argument(index, tensor);
        let geometry = matrix.geometry();
        same(what, (geometry.rows, geometry.columns), expected, because)?;
        self.memory(what, matrix)
    }

    fn memory<E: Element>(&self, what: Argument, matrix: &MatRef<'_, E>) -> Result<()> {
        let (geometry, available) = (matrix.geometry(), matrix.elements());
        extent(what, geometry, available)?;
        check::home(self.kernels, what, matrix.home())
    }

    pub fn output<E: Element>(
        &self,
        index: usize,
        tensor: Role,
        matrix: &MatMut<'_, E>,
        expected: (usize, usize),
    ) -> Result<()> {
        let what = self.argument(index, tensor);
        let (geometry, available) = (matrix.geometry(), matrix.elements());
        let because = "a gradient has the shape of its matrix";
        same(what, (geometry.rows, geometry.columns), expected, because)?;
        extent(what, geometry, available)?;
        check::home(self.kernels, what, matrix.home())
    }

    fn argument(&self, index: usize, tensor: Role) -> Argument {
        Argument::Tensor(tensor, self.which(index))
    }

    pub fn which(&self, index: usize) -> Option<usize> {
        self.several.then_some(index)
    }
}

pub(super) fn same(
    tensor: Argument,
    given: (usize, usize),
    expected: (usize, usize),
    because: &'static str,
) -> Result<()> {
    if given == expected {
        return Ok(());
    }
    Err(Error::Fit {
        tensor,
        given,
        expected,
        because,
    })
}

/// Checks that all rows at their stride fit into the memory. The problem checks the stride itself.
pub(super) fn extent(tensor: Argument, geometry: Geometry, available: usize) -> Result<()> {
    let Geometry {
        rows,
        columns,
        row_stride,
    } = geometry;
    let stride = usize::try_from(row_stride).unwrap_or(0);
    let needed = match rows {
        0 => 0,
        rows => (rows - 1).saturating_mul(stride).saturating_add(columns),
    };
    if needed > available {
        return Err(Error::Bounds {
            tensor,
            needed,
            available,
        });
    }
    Ok(())
}
