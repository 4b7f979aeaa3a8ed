//! Runs calls with the kernels on a CUDA device, for tensors of either owner.

use candle_core::{Storage, Tensor};
use lora_kernels::cudarc::driver::{CudaSlice, CudaView};
use lora_kernels::layer::{BackwardOptions, LoraInputs, LoraProjection};
use lora_kernels::{Lora, LoraLinear, MatRef, MergeProblem, MergeReport, Role};

use crate::Projection;
use crate::call::{Call, Gradients, Saved};
use crate::error::{BACKWARD, Error, Result};
use crate::matrix::Matrix;
use crate::number::Number;

/// How tensors reach the device and results leave it.
pub(crate) trait Resident {
    /// Keeps the memory of a tensor on the device alive.
    type Held<'a, T: Number>;

    /// The layers that compute, on the stream of the tensors.
    fn layer(&self) -> &LoraLinear;

    /// Makes the elements of a tensor, from its first to its last, available on the device.
    fn hold<'a, T: Number>(&self, tensor: &'a Tensor, matrix: Matrix) -> Result<Self::Held<'a, T>>;

    /// The elements on the device.
    fn view<'h, T: Number>(held: &'h Self::Held<'_, T>) -> Result<CudaView<'h, T>>;

    /// Turns a result into candle's storage.
    fn give<T: Number>(&self, result: CudaSlice<T>) -> Result<Storage>;
}

pub(crate) fn device_forward<T: Number, A: Number>(
    resident: &impl Resident,
    call: &Call,
) -> Result<(Vec<Storage>, Saved)> {
    let operands = Inputs::<_, T, A>::new(resident, call)?;
    let inputs = operands.inputs(call)?;
    let (y, saved) = if call.tracked {
        let (y, saved) = resident.layer().forward(&inputs)?;
        (y, Saved::Device(Box::new(saved)))
    } else {
        (resident.layer().infer(&inputs)?, Saved::Nothing)
    };
    let y = y.into_iter().map(|y| resident.give(y));
    Ok((y.collect::<Result<_>>()?, saved))
}

pub(crate) fn device_backward<T: Number, A: Number>(
    resident: &impl Resident,
    call: &Call,
    dy: &[Tensor],
    saved: &Saved,
) -> Result<Gradients> {
    let Saved::Device(saved) = saved else {
        return Err(Error::Unexpected { what: BACKWARD });
    };
    let operands = Inputs::<_, T, A>::new(resident, call)?;
    let inputs = operands.inputs(call)?;
    let dy = dy
        .iter()
        .map(|dy| Input::<_, T>::new(resident, Role::DY, dy));
    let dy: Vec<_> = dy.collect::<Result<_>>()?;
    let dy: Vec<_> = dy.iter().map(Input::matrix).collect::<Result<_>>()?;
    let options = BackwardOptions::default().with_input_gradient(call.problem.has_input_gradient());
    let gradients = resident
        .layer()
        .backward_with(&inputs, saved, &dy, options)?;

    let dx = gradients
        .dx
        .map(|dx| Ok::<_, Error>(Tensor::from((resident.give(dx)?, call.x.shape()))));
    let in_features = call.problem.in_features();
    let projections = call.problem.projections();
    let lora = gradients
        .adapters
        .into_iter()
        .zip(projections)
        .map(|(gradients, sizes)| {
            let both = gradients.map(|gradients| {
                Ok([
                    Tensor::from((resident.give(gradients.a)?, (sizes.rank, in_features))),
                    Tensor::from((
                        resident.give(gradients.b)?,
                        (sizes.out_features, sizes.rank),
                    )),
                ])
            });
            both.transpose()
        });
    Ok(Gradients {
        x: dx.transpose()?,
        lora: lora.collect::<Result<_>>()?,
    })
}

pub(crate) fn device_merge<T: Number, A: Number>(
    resident: &impl Resident,
    problem: &MergeProblem,
    projection: &Projection,
) -> Result<(Storage, MergeReport)> {
    let operands = ProjectionInputs::<_, T, A>::new(resident, projection)?;
    let (weight, adapters) = (operands.weight.matrix()?, Vec::from_iter(operands.lora()?));
    let (layer, layout) = (resident.layer(), problem.weight_layout());
    let (merged, report) = if problem.has_report() {
        layer.merge_with_report(&weight, &adapters, layout)?
    } else {
        let merged = layer.merge(&weight, &adapters, layout)?;
        (merged, MergeReport::default())
    };
    Ok((resident.give(merged)?, report))
}

/// A tensor on the device.
struct Input<'a, R: Resident, T: Number> {
    held: R::Held<'a, T>,
    matrix: Matrix,
}

impl<'a, R: Resident, T: Number> Input<'a, R, T> {
    fn new(resident: &R, role: Role, tensor: &'a Tensor) -> Result<Self> {
        let matrix = Matrix::of(&|| role.to_string(), tensor)?;
        Ok(Self {
            held: resident.hold(tensor, matrix)?,
            matrix,
        })
    }

    fn view(&self) -> Result<CudaView<'_, T>> {
        R::view(&self.held)
    }

    fn matrix(&self) -> Result<MatRef<'_, T>> {
        let Matrix {
            rows,
            columns,
            row_stride,
            ..
        } = self.matrix;
        Ok(MatRef::new(self.view()?, rows, columns).with_row_stride(row_stride as i64))
    }
}

struct Inputs<'a, R: Resident, T: Number, A: Number> {
    x: Input<'a, R, T>,
    projections: Vec<ProjectionInputs<'a, R, T, A>>,
}

struct ProjectionInputs<'a, R: Resident, T: Number, A: Number> {
    weight: Input<'a, R, T>,
    bias: Option<Input<'a, R, T>>,
    lora: Option<AdapterInputs<'a, R, A>>,
}

struct AdapterInputs<'a, R: Resident, A: Number> {
    a: Input<'a, R, A>,
    b: Input<'a, R, A>,
    scaling: f32,
}

impl<'a, R: Resident, T: Number, A: Number> Inputs<'a, R, T, A> {
    fn new(resident: &R, call: &'a Call) -> Result<Self> {
        let projections = call
            .projections
            .iter()
            .map(|projection| ProjectionInputs::new(resident, projection));
        Ok(Self {
            x: Input::new(resident, Role::X, &call.x)?,
            projections: projections.collect::<Result<_>>()?,
        })
    }
}

impl<R: Resident, T: Number, A: Number> Inputs<'_, R, T, A> {
    fn inputs(&self, call: &Call) -> Result<LoraInputs<'_, T, A>> {
        let projections = self.projections.iter().map(|input| {
            let weight = input.weight.matrix()?;
            let projection = match input.lora()? {
                Some(lora) => LoraProjection::new(weight, lora),
                None => LoraProjection::without_adapter(weight),
            };
            let bias = input.bias.as_ref().map(Input::view).transpose()?;
            Ok(projection.with_bias(bias))
        });
        let projections = projections.collect::<Result<Vec<_>>>()?;
        Ok(LoraInputs::new(self.x.matrix()?, projections)
            .with_dropout(call.dropout)
            .with_mask(call.mask)
            .with_weight_layout(call.problem.weight_layout()))
    }
}

impl<'a, R: Resident, T: Number, A: Number> ProjectionInputs<'a, R, T, A> {
    fn new(resident: &R, projection: &'a Projection) -> Result<Self> {
        let bias = projection.bias.as_ref();
        let lora = projection.lora.as_ref().map(|lora| {
            Ok::<_, Error>(AdapterInputs {
                a: Input::new(resident, Role::LoraA, &lora.a)?,
                b: Input::new(resident, Role::LoraB, &lora.b)?,
                scaling: lora.scaling,
            })
        });
        Ok(Self {
            weight: Input::new(resident, Role::Weight, &projection.weight)?,
            bias: bias
                .map(|bias| Input::new(resident, Role::Bias, bias))
                .transpose()?,
            lora: lora.transpose()?,
        })
    }

    fn lora(&self) -> Result<Option<Lora<'_, A>>> {
        let lora = self.lora.as_ref().map(|AdapterInputs { a, b, scaling }| {
            Ok(Lora {
                a: a.matrix()?,
                b: b.matrix()?,
                scaling: *scaling,
            })
        });
        lora.transpose()
    }
}
