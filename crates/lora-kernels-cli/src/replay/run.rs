//! Runs a recorded layer on the device, forward and, if there is a dy, backward.

use std::sync::Arc;

use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, DriverError};
use lora_kernels::reference::ShapeError;
use lora_kernels::{
    Backward, BackwardPlan, BackwardProjection, Error, Forward, ForwardPlan, ForwardProjection,
    ForwardRecord, Kernels, Lora, LoraGradients, MatMut, MatRef, Problem,
};

use lora_kernels_cases::{Matrix, RecordedLayer, RoundedInputs};

use super::Number;
use super::expected::Expected;
use super::report::Outcome;
use crate::device::Gpu;
use crate::failure::Failure;
use crate::show;

/// Why a recorded layer could not be run. Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Kernels(#[from] Error),
    #[error("the device failed: {0}")]
    Device(#[from] DriverError),
    #[error("the reference refused the case: {0}")]
    Reference(#[from] ShapeError),
}

/// Computes with `T`, prints the plans, and compares every result.
pub fn run<T: Number>(
    gpu: &Gpu,
    case: &RecordedLayer,
    inputs: &RoundedInputs<T>,
) -> Result<Vec<Outcome>, Failure> {
    Run {
        stream: &gpu.stream,
        kernels: &gpu.kernels,
    }
    .run(case, inputs)
}

struct Run<'a> {
    stream: &'a Arc<CudaStream>,
    kernels: &'a Kernels,
}

impl Run<'_> {
    fn run<T: Number>(
        &self,
        case: &RecordedLayer,
        inputs: &RoundedInputs<T>,
    ) -> Result<Vec<Outcome>, Failure> {
        let problem = Problem::new(
            case.tokens(),
            case.in_features(),
            case.out_features(),
            case.rank(),
            T::DTYPE,
        )?
        .with_bias(case.bias.is_some());
        let on_device = OnDevice::new(self, case, inputs)?;

        let plan = ForwardPlan::new(&problem, self.kernels.props())?;
        show::line(&plan.to_string())?;
        let mut saved = self.stream.alloc_zeros::<u8>(plan.saved().bytes())?;
        let (y, record) = self.forward(&plan, case, &on_device, &mut saved)?;
        let mut results = vec![y];
        let mut launches = plan.launches().len();
        if let Some(dy) = &on_device.dy {
            let plan = BackwardPlan::new(&problem, self.kernels.props())?;
            show::line(&plan.to_string())?;
            results.extend(self.backward(&plan, case, &on_device, dy, (&saved, record))?);
            launches += plan.launches().len();
        }
        show::line(&format!("{launches} launches"))?;

        let mut expected = Expected::new(case, inputs);
        let mut outcomes = Vec::new();
        for result in results {
            let values = self.stream.clone_dtoh(&result.data)?;
            let scale = if result.name == "y" {
                1.0
            } else {
                inputs.gradient_scale
            };
            let shape = (result.rows, result.cols);
            let outcome = Outcome::new(result.name, shape, &values, scale, &mut expected);
            outcomes.push(outcome.map_err(RunError::from)?);
        }
        Ok(outcomes)
    }

    fn forward<T: Number>(
        &self,
        plan: &ForwardPlan,
        case: &RecordedLayer,
        inputs: &OnDevice<T>,
        saved: &mut CudaSlice<u8>,
    ) -> Result<(DeviceMatrix<T>, ForwardRecord), RunError> {
        let mut y = self.output("y", case.tokens(), case.out_features())?;
        let mut workspace = self
            .stream
            .alloc_zeros::<u8>(plan.workspace_bytes().max(1))?;
        let projection = ForwardProjection {
            weight: inputs.weight.readable(),
            bias: inputs.bias.as_ref().map(|bias| bias.data.as_view()),
            lora: Some(inputs.lora(case.scaling)),
            y: y.writable(),
        };
        let arguments = Forward {
            x: inputs.x.readable(),
            projections: vec![projection],
            dropout: None,
            saved: saved.as_view_mut().into(),
            workspace: Some(workspace.as_view_mut()),
        };
        let record = self.kernels.forward(self.stream, plan, arguments)?;
        Ok((y, record))
    }

    fn backward<T: Number>(
        &self,
        plan: &BackwardPlan,
        case: &RecordedLayer,
        inputs: &OnDevice<T>,
        dy: &DeviceMatrix<T>,
        (saved, record): (&CudaSlice<u8>, ForwardRecord),
    ) -> Result<[DeviceMatrix<T>; 3], RunError> {
        let mut dx = self.output("dx", case.tokens(), case.in_features())?;
        let mut d_lora_a = self.output("d_lora_A", case.rank(), case.in_features())?;
        let mut d_lora_b = self.output("d_lora_B", case.out_features(), case.rank())?;
        let mut workspace = self.stream.alloc_zeros::<u8>(plan.workspace_bytes())?;
        let projection = BackwardProjection {
            dy: dy.readable(),
            weight: inputs.weight.readable(),
            lora: Some(inputs.lora(case.scaling)),
            gradients: Some(LoraGradients {
                a: d_lora_a.writable(),
                b: d_lora_b.writable(),
            }),
        };
        let arguments = Backward {
            x: inputs.x.readable(),
            projections: vec![projection],
            dropout: None,
            saved: saved.as_view().into(),
            record,
            dx: Some(dx.writable()),
            workspace: Some(workspace.as_view_mut()),
        };
        self.kernels.backward(self.stream, plan, arguments)?;
        Ok([dx, d_lora_a, d_lora_b])
    }

    fn output<T: Number>(
        &self,
        name: &'static str,
        rows: usize,
        cols: usize,
    ) -> Result<DeviceMatrix<T>, RunError> {
        Ok(DeviceMatrix {
            name,
            rows,
            cols,
            data: self.stream.alloc_zeros(rows * cols)?,
        })
    }
}

/// The inputs on the device.
struct OnDevice<T> {
    x: DeviceMatrix<T>,
    weight: DeviceMatrix<T>,
    bias: Option<DeviceMatrix<T>>,
    lora_a: DeviceMatrix<T>,
    lora_b: DeviceMatrix<T>,
    dy: Option<DeviceMatrix<T>>,
}

impl<T: Number> OnDevice<T> {
    fn new(
        device: &Run<'_>,
        case: &RecordedLayer,
        inputs: &RoundedInputs<T>,
    ) -> Result<Self, DriverError> {
        let copy = |matrix: &Matrix, values: &Vec<T>| -> Result<_, DriverError> {
            let data = device.stream.clone_htod(values)?;
            Ok(DeviceMatrix {
                name: matrix.name,
                rows: matrix.rows,
                cols: matrix.cols,
                data,
            })
        };
        let copy_optional = |matrix: &Option<Matrix>, values: &Option<Vec<T>>| {
            matrix
                .as_ref()
                .zip(values.as_ref())
                .map(|(matrix, values)| copy(matrix, values))
                .transpose()
        };
        Ok(Self {
            x: copy(&case.x, &inputs.x)?,
            weight: copy(&case.weight, &inputs.weight)?,
            bias: copy_optional(&case.bias, &inputs.bias)?,
            lora_a: copy(&case.lora_a, &inputs.lora_a)?,
            lora_b: copy(&case.lora_b, &inputs.lora_b)?,
            dy: copy_optional(&case.dy, &inputs.dy)?,
        })
    }

    fn lora(&self, scaling: f32) -> Lora<'_, T> {
        Lora {
            a: self.lora_a.readable(),
            b: self.lora_b.readable(),
            scaling,
        }
    }
}

struct DeviceMatrix<T> {
    name: &'static str,
    rows: usize,
    cols: usize,
    data: CudaSlice<T>,
}

impl<T> DeviceMatrix<T> {
    fn readable(&self) -> MatRef<'_, T> {
        MatRef::new(self.data.as_view(), self.rows, self.cols)
    }

    fn writable(&mut self) -> MatMut<'_, T> {
        MatMut::new(self.data.as_view_mut(), self.rows, self.cols)
    }
}
