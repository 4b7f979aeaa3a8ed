//! Runs calls on candle's CPU device with the core crate's reference.

use candle_core::{Storage, StorageRef, Tensor};
use lora_kernels::reference::{self, Adapter, Bounded, Intermediates, Layer, View};
use lora_kernels::{MergeProblem, MergeReport, WeightLayout};

use crate::Projection;
use crate::call::{Call, Gradients, Saved};
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::number::{Number, cpu_slice};

/// Intermediate values are rounded where the kernels round them.
const ROUNDED: Intermediates = Intermediates::Rounded;

pub(crate) fn reference_forward<T: Number, A: Number>(
    call: &Call,
) -> Result<(Vec<Storage>, Saved)> {
    let operands = Operands::new(call)?;
    let results = reference::forward(&operands.layer::<T, A>(call)?, ROUNDED)?;
    Ok((results.y.iter().map(storage::<T>).collect(), Saved::Nothing))
}

pub(crate) fn reference_backward<T: Number, A: Number>(
    call: &Call,
    dy: &[Tensor],
) -> Result<Gradients> {
    let operands = Operands::new(call)?;
    let dy: Vec<Operand> = dy
        .iter()
        .map(|dy| Operand::new("dy", dy))
        .collect::<Result<_>>()?;
    let dy: Vec<View<T>> = dy.iter().map(Operand::view).collect::<Result<_>>()?;
    let results = reference::backward(&operands.layer::<T, A>(call)?, &dy, ROUNDED)?;
    let wanted = call.problem.has_input_gradient();
    let lora = results.adapters.iter().map(|adapter| {
        let adapter = adapter.as_ref()?;
        Some([&adapter.d_lora_a, &adapter.d_lora_b].map(|matrix| {
            let shape = (matrix.rows, matrix.cols);
            Tensor::from((storage::<A>(matrix), shape))
        }))
    });
    Ok(Gradients {
        x: wanted.then(|| Tensor::from((storage::<T>(&results.dx), call.x.shape()))),
        lora: lora.collect(),
    })
}

pub(crate) fn reference_merge<T: Number, A: Number>(
    problem: &MergeProblem,
    projection: &Projection,
) -> Result<(Storage, MergeReport)> {
    let operands = ProjectionOperands::new(projection)?;
    let adapter = operands.adapter::<A>().transpose()?;
    let adapters: Vec<Adapter<'_, A>> = adapter.into_iter().collect();
    let merged = reference::merge(
        operands.weight.view::<T>()?,
        problem.weight_layout(),
        &adapters,
    )?;
    Ok((
        Storage::Cpu(T::to_cpu_storage_owned(merged.weight)),
        merged.report,
    ))
}

fn storage<T: Number>(matrix: &Bounded) -> Storage {
    let rounded = matrix
        .value
        .iter()
        .map(|&value| <T as lora_kernels::Element>::from_f64(value));
    Storage::Cpu(T::to_cpu_storage_owned(rounded.collect()))
}

/// A tensor whose storage is locked for reading.
struct Operand<'a> {
    storage: StorageRef<'a>,
    matrix: Matrix,
}

impl<'a> Operand<'a> {
    fn new(name: &str, tensor: &'a Tensor) -> Result<Self> {
        Ok(Self {
            matrix: Matrix::of(&|| name.to_owned(), tensor)?,
            storage: tensor.storage_and_layout().0,
        })
    }

    /// The elements from the first to the last.
    fn elements<T: Number>(&self) -> Result<&[T]> {
        let Storage::Cpu(storage) = &*self.storage else {
            return Err(Error::Unexpected {
                what: "a tensor of the CPU had its memory elsewhere",
            });
        };
        let elements = cpu_slice::<T>(storage)?;
        let Matrix { offset, .. } = self.matrix;
        // If there are too few elements, making the view fails.
        Ok(elements
            .get(offset..offset + self.matrix.span())
            .unwrap_or_default())
    }

    fn view<T: Number>(&self) -> Result<View<'_, T>> {
        let Matrix {
            rows,
            columns,
            row_stride,
            ..
        } = self.matrix;
        Ok(View::with_row_stride(
            self.elements()?,
            rows,
            columns,
            row_stride,
        )?)
    }
}

struct Operands<'a> {
    x: Operand<'a>,
    projections: Vec<ProjectionOperands<'a>>,
}

struct ProjectionOperands<'a> {
    weight: Operand<'a>,
    bias: Option<Operand<'a>>,
    lora: Option<(Operand<'a>, Operand<'a>, f32)>,
}

impl<'a> Operands<'a> {
    fn new(call: &'a Call) -> Result<Self> {
        Ok(Self {
            x: Operand::new("x", &call.x)?,
            projections: call
                .projections
                .iter()
                .map(ProjectionOperands::new)
                .collect::<Result<_>>()?,
        })
    }

    fn layer<T: Number, A: Number>(&self, call: &Call) -> Result<Layer<'_, T, A>> {
        let projections = self.projections.iter().map(|projection| {
            let weight = projection.weight.view()?;
            Ok(reference::Projection {
                weight: match call.problem.weight_layout() {
                    WeightLayout::OutIn => weight,
                    WeightLayout::InOut => weight.transposed(),
                },
                bias: projection
                    .bias
                    .as_ref()
                    .map(Operand::elements)
                    .transpose()?,
                adapter: projection.adapter().transpose()?,
            })
        });
        Ok(Layer {
            x: self.x.view()?,
            projections: projections.collect::<Result<_>>()?,
            dropout: call.dropout,
        })
    }
}

impl<'a> ProjectionOperands<'a> {
    fn new(projection: &'a Projection) -> Result<Self> {
        let lora = projection.lora.as_ref().map(|lora| {
            let (a, b) = (
                Operand::new("lora_A", &lora.a)?,
                Operand::new("lora_B", &lora.b)?,
            );
            Ok::<_, Error>((a, b, lora.scaling))
        });
        Ok(Self {
            weight: Operand::new("weight", &projection.weight)?,
            bias: projection
                .bias
                .as_ref()
                .map(|bias| Operand::new("bias", bias))
                .transpose()?,
            lora: lora.transpose()?,
        })
    }

    fn adapter<A: Number>(&self) -> Option<Result<Adapter<'_, A>>> {
        let (a, b, scaling) = self.lora.as_ref()?;
        let views = a.view().and_then(|a| Ok((a, b.view()?)));
        Some(views.map(|(a, b)| Adapter {
            a,
            b,
            scaling: *scaling,
        }))
    }
}
