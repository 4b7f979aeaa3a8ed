//! The arguments of a call, checked against each other and converted to addresses and a signature.

use std::sync::Arc;

use cudarc::driver::{CudaStream, SyncOnDrop};

use super::inputs::{InputProjection, Inputs};
use super::signature::{ProjectionSignature, Signature};
use crate::bind::{Lora, LoraGradients};
use crate::plan::BUFFER_ALIGNMENT;
use crate::raw::{DevicePointer, LoraArgs};
use crate::typed::check;
use crate::typed::matrix::Geometry;
use crate::typed::order::Order;
use crate::{
    Argument, DType, Error, Formats, Hint, Layout, Matrix, Projection, ReadMatrix, Result, Role,
    WeightLayout, WriteMatrix,
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
    pub fn new<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        checks: &mut Checks<'_, '_>,
        stream: &'g Arc<CudaStream>,
        inputs: &'g Inputs<M, B, A>,
    ) -> Result<Self> {
        let sizes = checks.inputs(inputs)?;
        checks.order.join()?;
        let mut guards = Vec::with_capacity(1 + 4 * sizes.len());
        let (x, x_layout) = read(stream, &inputs.x, &mut guards);
        let mut signature = Signature {
            tokens: checks.tokens,
            in_features: checks.in_features,
            formats: checks.formats,
            bias: inputs
                .projections
                .iter()
                .any(|projection| projection.bias.is_some()),
            dropout: inputs.dropout.is_some(),
            mask: inputs.mask,
            weight_layout: inputs.weight_layout,
            batch_invariant: inputs.batch_invariant,
            inference: false,
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
                let (address, guard) = bias.pointer(stream);
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
        // Before anything is allocated.
        checks.order.check()?;
        Ok(Self {
            signature,
            x,
            projections,
            guards,
        })
    }
}

/// The address and the layout of a matrix.
pub(super) fn read<'g>(
    stream: &'g CudaStream,
    matrix: &'g impl ReadMatrix,
    guards: &mut Vec<SyncOnDrop<'g>>,
) -> (DevicePointer, Layout) {
    let (address, guard) = matrix.pointer(stream);
    guards.push(guard);
    (address, layout(matrix.geometry(), address))
}

/// The address and the layout of a matrix to write to.
pub(super) fn write<'g>(
    stream: &'g CudaStream,
    matrix: &'g mut impl WriteMatrix,
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

/// The layout of memory that a call allocates. It is also the one that a new problem assumes.
pub(super) fn contiguous(columns: usize) -> Layout {
    Layout {
        row_stride: columns as i64,
        alignment: BUFFER_ALIGNMENT,
    }
}

/// Checks shapes and types against each other, extents against memory, and memory against the
/// context, and takes it into the call's order.
pub(super) struct Checks<'c, 'a> {
    pub order: &'c mut Order<'a>,
    tokens: usize,
    in_features: usize,
    formats: Formats,
    weight_layout: WeightLayout,
    /// Whether messages must name the projection.
    several: bool,
}

/// The type and the shape that a matrix must have, and the reason for the shape.
struct Expected {
    dtype: DType,
    shape: (usize, usize),
    because: &'static str,
}

impl<'c, 'a> Checks<'c, 'a> {
    pub fn new<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        order: &'c mut Order<'a>,
        inputs: &Inputs<M, B, A>,
    ) -> Self {
        let (x, activations) = (inputs.x.geometry(), inputs.x.dtype());
        let mut adapters = inputs
            .projections
            .iter()
            .filter_map(|projection| projection.lora.as_ref());
        let adapters = adapters.next().map_or(activations, |lora| lora.a.dtype());
        Self {
            order,
            tokens: x.rows,
            in_features: x.columns,
            formats: Formats {
                adapters,
                gradients: adapters,
                ..Formats::uniform(activations)
            },
            weight_layout: inputs.weight_layout,
            several: inputs.projections.len() > 1,
        }
    }

    /// Checks all inputs and returns the sizes of each projection.
    fn inputs<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        &mut self,
        inputs: &Inputs<M, B, A>,
    ) -> Result<Vec<Projection>> {
        if let Some(dropout) = inputs.dropout {
            dropout.check()?;
        }
        memory(self.order, Argument::Tensor(Role::X, None), &inputs.x)?;
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

    fn projection<M: ReadMatrix, B: ReadMatrix, A: ReadMatrix>(
        &mut self,
        index: usize,
        projection: &InputProjection<M, B, A>,
    ) -> Result<Projection> {
        let weight = projection.weight.geometry();
        let (out_features, shape, because) = match self.weight_layout {
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
        let expected = Expected {
            dtype: self.formats.activations,
            shape,
            because,
        };
        self.matrix(index, Role::Weight, &projection.weight, expected)?;
        if let Some(bias) = &projection.bias {
            let expected = Expected {
                dtype: self.formats.activations,
                shape: (1, out_features),
                because: "the weight has as many out_features",
            };
            self.matrix(index, Role::Bias, bias, expected)?;
        }
        let Some(Lora { a, b, scaling }) = &projection.lora else {
            return Ok(Projection {
                out_features,
                rank: 0,
            });
        };
        let rank = a.geometry().rows;
        let expected = Expected {
            dtype: self.formats.adapters,
            shape: (rank.max(1), self.in_features),
            because: "it is (rank, in_features), x has in_features columns, and a rank is at least 1",
        };
        self.matrix(index, Role::LoraA, a, expected)?;
        let expected = Expected {
            dtype: self.formats.adapters,
            shape: (out_features, rank),
            because: "it is (out_features, rank), as the weight and lora_A have them",
        };
        self.matrix(index, Role::LoraB, b, expected)?;
        crate::bind::check_scaling(*scaling)?;
        Ok(Projection { out_features, rank })
    }

    /// Checks the gradients of all y.
    pub fn dy(&mut self, dy: &[impl Matrix], sizes: &[Projection]) -> Result<()> {
        let (given, planned) = (dy.len(), sizes.len());
        if given != planned {
            return Err(Error::ProjectionCount { given, planned });
        }
        for (index, (dy, sizes)) in dy.iter().zip(sizes).enumerate() {
            let expected = Expected {
                dtype: self.formats.activations,
                shape: (self.tokens, sizes.out_features),
                because: "it has the shape of its y",
            };
            self.matrix(index, Role::DY, dy, expected)?;
        }
        Ok(())
    }

    /// Checks gradients to add to: there must be a pair exactly for the projections that have an
    /// adapter.
    pub fn gradients<M: Matrix>(
        &mut self,
        gradients: &[Option<LoraGradients<M>>],
        sizes: &[Projection],
    ) -> Result<()> {
        let (given, planned) = (gradients.len(), sizes.len());
        if given != planned {
            return Err(Error::ProjectionCount { given, planned });
        }
        for (index, (gradients, sizes)) in gradients.iter().zip(sizes).enumerate() {
            if gradients.is_some() != (sizes.rank > 0) {
                return Err(Error::Optional {
                    what: Argument::Gradients(self.which(index)),
                    given: gradients.is_some(),
                    hint: Hint::GradientsOfAdapters,
                });
            }
            let Some(LoraGradients { a, b }) = gradients else {
                continue;
            };
            let dtype = self.formats.gradients;
            let expected = |shape| Expected {
                dtype,
                shape,
                because: "a gradient has the shape of its matrix",
            };
            let (rank, out_features) = (sizes.rank, sizes.out_features);
            self.matrix(index, Role::DLoraA, a, expected((rank, self.in_features)))?;
            self.matrix(index, Role::DLoraB, b, expected((out_features, rank)))?;
        }
        Ok(())
    }

    fn matrix(
        &mut self,
        index: usize,
        tensor: Role,
        matrix: &impl Matrix,
        expected: Expected,
    ) -> Result<()> {
        let what = Argument::Tensor(tensor, self.which(index));
        if matrix.dtype() != expected.dtype {
            return Err(Error::PlannedDType {
                tensor: what,
                given: matrix.dtype(),
                planned: expected.dtype,
            });
        }
        same(what, matrix, expected.shape, expected.because)?;
        memory(self.order, what, matrix)
    }

    fn which(&self, index: usize) -> Option<usize> {
        self.several.then_some(index)
    }
}

pub(super) fn same(
    tensor: Argument,
    matrix: &impl Matrix,
    expected: (usize, usize),
    because: &'static str,
) -> Result<()> {
    let Geometry { rows, columns, .. } = matrix.geometry();
    if (rows, columns) == expected {
        return Ok(());
    }
    Err(Error::Fit {
        tensor,
        given: (rows, columns),
        expected,
        because,
    })
}

/// Checks that all rows at their stride fit into the memory, and its context. The problem checks
/// the stride itself.
pub(super) fn memory(order: &mut Order<'_>, tensor: Argument, matrix: &impl Matrix) -> Result<()> {
    let Geometry {
        rows,
        columns,
        row_stride,
    } = matrix.geometry();
    let stride = usize::try_from(row_stride).unwrap_or(0);
    let needed = match rows {
        0 => 0,
        rows => (rows - 1).saturating_mul(stride).saturating_add(columns),
    };
    let available = matrix.elements();
    if needed > available {
        return Err(Error::Bounds {
            tensor,
            needed,
            available,
        });
    }
    check::length(tensor, matrix)?;
    order.admit(tensor, matrix.home())
}
