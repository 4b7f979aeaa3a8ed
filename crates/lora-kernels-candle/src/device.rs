//! Runs calls with the kernels on a CUDA device, for tensors of either owner.

use std::sync::Arc;

use candle_core::{Storage, Tensor};
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, CudaView, DeviceRepr};
use lora_kernels::{
    Backward, BackwardProjection, Forward, ForwardProjection, Lora, LoraGradients, MatMut, MatRef,
    Merge, MergePlan, MergeProblem, MergeReport, MergeWeight, Role,
};

use crate::Projection;
use crate::backend::Engine;
use crate::call::{Call, Gradients, Saved};
use crate::error::{BACKWARD, Error, Result, memory, non_finite};
use crate::matrix::Matrix;
use crate::number::Number;

/// How tensors reach the device and results leave it.
pub(crate) trait Resident {
    /// Keeps the memory of a tensor on the device alive.
    type Held<'a, T: Number>;

    fn engine(&self) -> &Engine;

    fn stream(&self) -> &Arc<CudaStream>;

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
    let (engine, stream, problem) = (resident.engine(), resident.stream(), &call.problem);
    let plans = engine.plans(problem)?;
    let plan = &plans.forward;
    if call.tracked {
        // Backward's plan is made now so that forward refuses what backward would refuse.
        plans.backward(engine.kernels.props())?;
    }
    let inputs = Inputs::<_, T, A>::new(resident, call)?;
    let (tokens, sizes) = (problem.tokens(), problem.projections());
    let y = sizes
        .iter()
        .map(|one| uninitialised(stream, tokens * one.out_features));
    let mut y: Vec<CudaSlice<T>> = y.collect::<Result<_>>()?;
    let mut saved = uninitialised(stream, plan.saved().bytes())?;
    let mut workspace = uninitialised(stream, plan.workspace_bytes())?;
    let projections = inputs.projections.iter().zip(&mut y).zip(sizes);
    let projections = projections.map(|((input, y), one)| {
        Ok(ForwardProjection {
            weight: input.weight.matrix()?,
            bias: input.bias.as_ref().map(Input::view).transpose()?,
            lora: input.lora()?,
            y: MatMut::new(y.as_view_mut(), tokens, one.out_features),
        })
    });
    let arguments = Forward {
        x: inputs.x.matrix()?,
        projections: projections.collect::<Result<_>>()?,
        dropout: call.dropout,
        saved: saved.as_view_mut(),
        workspace: workspace.as_view_mut(),
    };
    engine.kernels.forward(stream, plan, arguments)?;
    let y = y
        .into_iter()
        .map(|y| resident.give(y))
        .collect::<Result<_>>()?;
    Ok((y, Saved::Device(saved)))
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
    let (engine, stream, problem) = (resident.engine(), resident.stream(), &call.problem);
    let plans = engine.plans(problem)?;
    let plan = plans.backward(engine.kernels.props())?;
    let inputs = Inputs::<_, T, A>::new(resident, call)?;
    let dy = dy
        .iter()
        .map(|dy| Input::<_, T>::new(resident, Role::DY, dy));
    let dy: Vec<_> = dy.collect::<Result<_>>()?;

    let (tokens, in_features) = (problem.tokens(), problem.in_features());
    let wanted = problem.has_input_gradient();
    let mut dx = wanted
        .then(|| uninitialised::<T>(stream, tokens * in_features))
        .transpose()?;
    let lora = problem.projections().iter().map(|one| {
        let allocate = |elements| uninitialised::<A>(stream, elements);
        let adapted = (one.rank > 0).then_some(one);
        let both = adapted.map(|one| {
            Ok([
                allocate(one.rank * in_features)?,
                allocate(one.out_features * one.rank)?,
            ])
        });
        both.transpose()
    });
    let mut lora: Vec<Option<[CudaSlice<A>; 2]>> = lora.collect::<Result<_>>()?;
    let mut workspace = uninitialised(stream, plan.workspace_bytes())?;

    let projections = inputs
        .projections
        .iter()
        .zip(&dy)
        .zip(lora.iter_mut().zip(problem.projections()));
    let projections = projections.map(|((input, dy), (gradients, one))| {
        Ok(BackwardProjection {
            dy: dy.matrix()?,
            weight: input.weight.matrix()?,
            lora: input.lora()?,
            gradients: gradients.as_mut().map(|[a, b]| LoraGradients {
                a: MatMut::new(a.as_view_mut(), one.rank, in_features),
                b: MatMut::new(b.as_view_mut(), one.out_features, one.rank),
            }),
        })
    });
    let arguments = Backward {
        x: inputs.x.matrix()?,
        projections: projections.collect::<Result<_>>()?,
        dropout: call.dropout,
        saved: saved.as_view(),
        dx: dx
            .as_mut()
            .map(|dx| MatMut::new(dx.as_view_mut(), tokens, in_features)),
        workspace: workspace.as_view_mut(),
    };
    engine.kernels.backward(stream, plan, arguments)?;

    let dx = dx.map(|dx| Ok::<_, Error>(Tensor::from((resident.give(dx)?, call.x.shape()))));
    let lora = lora
        .into_iter()
        .zip(problem.projections())
        .map(|(gradients, one)| {
            let Some([a, b]) = gradients else {
                return Ok(None);
            };
            Ok(Some([
                Tensor::from((resident.give(a)?, (one.rank, in_features))),
                Tensor::from((resident.give(b)?, (one.out_features, one.rank))),
            ]))
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
    let (engine, stream) = (resident.engine(), resident.stream());
    let plan = MergePlan::new(problem, engine.kernels.props())?;
    let inputs = ProjectionInputs::<_, T, A>::new(resident, projection)?;
    let (rows, columns) = problem.shape(Role::Merged);
    let mut merged = uninitialised(stream, rows * columns)?;
    let mut report = problem
        .has_report()
        .then(|| uninitialised(stream, MergeReport::BYTES))
        .transpose()?;
    let mut workspace = uninitialised(stream, plan.workspace_bytes())?;
    let arguments = Merge {
        weight: MergeWeight::Apart {
            weight: inputs.weight.matrix()?,
            merged: MatMut::new(merged.as_view_mut(), rows, columns),
        },
        adapters: inputs.lora()?.into_iter().collect(),
        report: report.as_mut().map(CudaSlice::as_view_mut),
        workspace: workspace.as_view_mut(),
    };
    engine.kernels.merge(stream, &plan, arguments)?;
    let report = report.map(|report| {
        let bytes = stream
            .clone_dtoh(&report)
            .map_err(memory("copying from the device", MergeReport::BYTES))?;
        MergeReport::from_bytes(&bytes).ok_or(Error::Unexpected {
            what: "a merge's report had another size",
        })
    });
    let report = report.transpose()?.unwrap_or_default();
    if problem.is_safe() && report.non_finite > 0 {
        return Err(non_finite(projection, &report));
    }
    Ok((resident.give(merged)?, report))
}

/// Allocates in the stream's order. At least one element is allocated, because CUDA has no empty
/// allocations.
fn uninitialised<T: DeviceRepr>(stream: &Arc<CudaStream>, elements: usize) -> Result<CudaSlice<T>> {
    let elements = elements.max(1);
    // SAFETY: every bit pattern is a valid value of these types. The kernels write each element of
    // an output before it is read; the output of a refused merge is never read; scratch memory may
    // hold anything.
    unsafe { stream.alloc(elements) }.map_err(memory(
        "allocating on the device",
        elements * size_of::<T>(),
    ))
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
    lora: Option<LoraInputs<'a, R, A>>,
}

struct LoraInputs<'a, R: Resident, A: Number> {
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

impl<'a, R: Resident, T: Number, A: Number> ProjectionInputs<'a, R, T, A> {
    fn new(resident: &R, projection: &'a Projection) -> Result<Self> {
        let bias = projection.bias.as_ref();
        let lora = projection.lora.as_ref().map(|lora| {
            Ok::<_, Error>(LoraInputs {
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
        let lora = self.lora.as_ref().map(|LoraInputs { a, b, scaling }| {
            Ok(Lora {
                a: a.matrix()?,
                b: b.matrix()?,
                scaling: *scaling,
            })
        });
        lora.transpose()
    }
}
