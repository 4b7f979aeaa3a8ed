//! Runs a recorded layer on the device, forward and, if there is a dy, backward.

use lora_kernels::cudarc::driver::{CudaSlice, DriverError};
use lora_kernels::reference::ShapeError;
use lora_kernels::{Error, Lora, LoraInputs, LoraProjection, MatRef};

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
    let mut expected = Expected::new(case, inputs);
    let outcomes = results(gpu, case, inputs)?.into_iter().map(|result| {
        let values = gpu.stream().clone_dtoh(&result.data)?;
        let scale = if result.name == "y" {
            1.0
        } else {
            inputs.gradient_scale
        };
        let shape = (result.rows, result.cols);
        let outcome = Outcome::new(result.name, shape, &values, scale, &mut expected);
        Ok(outcome.map_err(RunError::from)?)
    });
    outcomes.collect()
}

/// y, and dx, d_lora_A and d_lora_B if there is a dy.
fn results<T: Number>(
    gpu: &Gpu,
    case: &RecordedLayer,
    inputs: &RoundedInputs<T>,
) -> Result<Vec<DeviceMatrix<T>>, Failure> {
    let (layer, device) = (&gpu.layer, OnDevice::new(gpu, case, inputs)?);
    let inputs = device.inputs(case.scaling);
    let plan = layer.forward_plan(&inputs)?;
    show::lines(&plan.to_string())?;
    let mut launches = plan.launches().len();
    let (y, saved) = layer.forward(&inputs)?;
    let of = |name, rows, cols| {
        move |data| DeviceMatrix {
            name,
            rows,
            cols,
            data,
        }
    };
    let (tokens, in_features) = (case.tokens(), case.in_features());
    let (out_features, rank) = (case.out_features(), case.rank());
    let y = y.into_iter().map(of("y", tokens, out_features));
    let mut results: Vec<_> = y.collect();
    if let Some(dy) = &device.dy {
        let dy = [dy.readable()];
        let plan = layer.backward_plan(&inputs, &dy)?;
        show::lines(&plan.to_string())?;
        launches += plan.launches().len();
        let gradients = layer.backward(&inputs, &saved, &dy)?;
        results.extend(gradients.dx.map(of("dx", tokens, in_features)));
        for adapter in gradients.adapters.into_iter().flatten() {
            results.push(of("d_lora_A", rank, in_features)(adapter.a));
            results.push(of("d_lora_B", out_features, rank)(adapter.b));
        }
    }
    show::line(&format!("{launches} launches"))?;
    Ok(results)
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
        gpu: &Gpu,
        case: &RecordedLayer,
        inputs: &RoundedInputs<T>,
    ) -> Result<Self, DriverError> {
        let copy = |matrix: &Matrix, values: &Vec<T>| -> Result<_, DriverError> {
            let data = gpu.stream().clone_htod(values)?;
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

    fn inputs(&self, scaling: f32) -> LoraInputs<'_, T> {
        let lora = Lora {
            a: self.lora_a.readable(),
            b: self.lora_b.readable(),
            scaling,
        };
        let bias = self.bias.as_ref().map(|bias| bias.data.as_view());
        let projection = LoraProjection::new(self.weight.readable(), lora).with_bias(bias);
        LoraInputs::new(self.x.readable(), [projection])
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
}
