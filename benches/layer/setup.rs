//! Device, memory and calls of the benchmark.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cudarc::driver::sys::CUevent_flags;
use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};
use lora_kernels::{
    Backward, BackwardPlan, BackwardProjection, Dropout, Element, Forward, ForwardPlan, ForwardProjection, Kernels,
    Lora, LoraGradients, MatMut, MatRef, Problem, Tensor,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// A benchmark can't go on without its device: any failure ends it with the error's own text.
fn must<T, E: Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}

pub struct Device {
    pub emulated: bool,
    pub name: String,
    kernels: Kernels,
    stream: Arc<CudaStream>,
}

impl Device {
    pub fn open(emulated: bool) -> Self {
        let context = must(lora_kernels::context(0));
        let name = must(context.name());
        let stream = must(context.new_stream());
        Self {
            emulated,
            name,
            kernels: must(Kernels::load(&context)),
            stream,
        }
    }

    /// How long `calls` calls take: between CUDA events on a GPU, on the CPU's clock where the device is the CPU.
    pub fn time(&self, calls: u64, mut call: impl FnMut(&Device)) -> Duration {
        must(self.stream.synchronize());
        if self.emulated {
            let start = Instant::now();
            (0..calls).for_each(|_| call(self));
            must(self.stream.synchronize());
            return start.elapsed();
        }
        let start = must(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)));
        (0..calls).for_each(|_| call(self));
        let end = must(self.stream.record_event(Some(CUevent_flags::CU_EVENT_DEFAULT)));
        Duration::from_secs_f32(must(start.elapsed_ms(&end)) / 1e3)
    }
}

/// One layer with its tensors on the device. Random, since a GPU draws less power, and clocks higher, on zeros.
pub struct Layer<T> {
    problem: Problem,
    forward: ForwardPlan,
    backward: BackwardPlan,
    inputs: Inputs<T>,
    y: CudaSlice<T>,
    dx: CudaSlice<T>,
    d_lora_a: CudaSlice<T>,
    d_lora_b: CudaSlice<T>,
    saved: CudaSlice<u8>,
    /// Enough for either call.
    workspace: CudaSlice<u8>,
}

struct Inputs<T> {
    x: CudaSlice<T>,
    weight: CudaSlice<T>,
    lora_a: CudaSlice<T>,
    lora_b: CudaSlice<T>,
    dy: CudaSlice<T>,
}

const SCALING: f32 = 2.0;
const DROPOUT: Option<Dropout> = Some(Dropout {
    p: 0.1,
    seed: 42,
    offset: 0,
});

impl<T: Element + DeviceRepr> Layer<T> {
    pub fn random(device: &Device, problem: &Problem) -> Self {
        let mut rng = StdRng::seed_from_u64(7);
        let mut random = |tensor| {
            let (rows, columns) = problem.shape(tensor);
            let data: Vec<T> = (0..rows * columns)
                .map(|_| T::from_f64(rng.random_range(-1.0..1.0)))
                .collect();
            must(device.stream.clone_htod(&data))
        };
        let inputs = Inputs {
            x: random(Tensor::X),
            weight: random(Tensor::Weight),
            lora_a: random(Tensor::LoraA),
            lora_b: random(Tensor::LoraB),
            dy: random(Tensor::DY),
        };
        let forward = must(ForwardPlan::new(problem, device.kernels.props()));
        let backward = must(BackwardPlan::new(problem, device.kernels.props()));
        let bytes = |bytes| must(device.stream.alloc_zeros::<u8>(bytes));
        Self {
            y: random(Tensor::Y),
            dx: random(Tensor::DX),
            d_lora_a: random(Tensor::DLoraA),
            d_lora_b: random(Tensor::DLoraB),
            saved: bytes(forward.saved().bytes()),
            workspace: bytes(forward.workspace_bytes().max(backward.workspace_bytes())),
            inputs,
            forward,
            backward,
            problem: problem.clone(),
        }
    }

    pub fn forward(&mut self, device: &Device) {
        let projection = ForwardProjection {
            weight: self.problem.read(&self.inputs.weight, Tensor::Weight),
            bias: None,
            lora: Some(self.inputs.lora(&self.problem)),
            y: self.problem.write(&mut self.y, Tensor::Y),
        };
        let args = Forward {
            x: self.problem.read(&self.inputs.x, Tensor::X),
            projections: vec![projection],
            dropout: DROPOUT,
            saved: self.saved.as_view_mut(),
            workspace: self.workspace.as_view_mut(),
        };
        must(device.kernels.forward(&device.stream, &self.forward, args));
    }

    pub fn backward(&mut self, device: &Device) {
        let projection = BackwardProjection {
            dy: self.problem.read(&self.inputs.dy, Tensor::DY),
            weight: self.problem.read(&self.inputs.weight, Tensor::Weight),
            lora: Some(self.inputs.lora(&self.problem)),
            gradients: Some(LoraGradients {
                a: self.problem.write(&mut self.d_lora_a, Tensor::DLoraA),
                b: self.problem.write(&mut self.d_lora_b, Tensor::DLoraB),
            }),
        };
        let args = Backward {
            x: self.problem.read(&self.inputs.x, Tensor::X),
            projections: vec![projection],
            dropout: DROPOUT,
            saved: self.saved.as_view(),
            dx: Some(self.problem.write(&mut self.dx, Tensor::DX)),
            workspace: self.workspace.as_view_mut(),
        };
        must(device.kernels.backward(&device.stream, &self.backward, args));
    }
}

impl<T> Inputs<T> {
    fn lora(&self, problem: &Problem) -> Lora<'_, T> {
        Lora {
            a: problem.read(&self.lora_a, Tensor::LoraA),
            b: problem.read(&self.lora_b, Tensor::LoraB),
            scaling: SCALING,
        }
    }
}

/// Contiguous matrices of a problem's shapes.
trait Matrices {
    fn read<'a, T>(&self, data: &'a CudaSlice<T>, tensor: Tensor) -> MatRef<'a, T>;
    fn write<'a, T>(&self, data: &'a mut CudaSlice<T>, tensor: Tensor) -> MatMut<'a, T>;
}

impl Matrices for Problem {
    fn read<'a, T>(&self, data: &'a CudaSlice<T>, tensor: Tensor) -> MatRef<'a, T> {
        let (rows, columns) = self.shape(tensor);
        MatRef::new(data.as_view(), rows, columns)
    }
    fn write<'a, T>(&self, data: &'a mut CudaSlice<T>, tensor: Tensor) -> MatMut<'a, T> {
        let (rows, columns) = self.shape(tensor);
        MatMut::new(data.as_view_mut(), rows, columns)
    }
}
