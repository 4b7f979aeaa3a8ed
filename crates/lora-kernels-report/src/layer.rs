//! Runs and counts lora-kernels' own kernels on the emulated device.

use std::sync::Arc;

use lora_kernels::cudarc::driver::{CudaSlice, CudaStream};
use lora_kernels::{Element, Lora, LoraInputs, LoraLinear, LoraProjection, MatRef, Problem, Role};

use crate::Outcome;
use crate::gpu::Gpu;
use crate::sizes::{SCALING, Sizes};
use lora_kernels_baselines::{LayerWork, PassWork};
use lora_kernels_report::document::{OURS, Run};

pub struct Ours<'a> {
    gpu: &'a Gpu,
    layer: LoraLinear,
}

impl<'a> Ours<'a> {
    pub fn load(gpu: &'a Gpu) -> Outcome<Self> {
        Ok(Self {
            gpu,
            layer: LoraLinear::new(&gpu.stream)?,
        })
    }

    /// Runs every block of forward and backward. All numbers are zero, because the counts don't
    /// depend on them.
    pub fn run<T: Element>(&self, sizes: Sizes, multiprocessors: u32) -> Outcome<[Run; 2]> {
        let problem = sizes.problem(T::DTYPE)?;
        let props = *self.layer.kernels().props();
        let layer = self
            .layer
            .with_props(props.with_multiprocessors(multiprocessors));
        let tensors = Tensors::<T>::new(&self.gpu.stream, &problem)?;
        let inputs = tensors.inputs(&problem, sizes);

        let work = LayerWork::of(&problem);
        let run = |pass: &str, launches, asked: PassWork| Run {
            who: OURS.to_owned(),
            shape: sizes.shape(T::DTYPE),
            multiprocessors: Some(multiprocessors),
            pass: pass.to_owned(),
            launches,
            algorithm_flops: asked.flops,
            base_flops: work.base_flops,
            compulsory_bytes: asked.bytes,
        };
        let (forward, (_y, saved)) = self.gpu.count(|| Ok(layer.forward(&inputs)?))?;
        let dy = [matrix(&problem, &tensors.dy, Role::DY)];
        let (backward, _) = self
            .gpu
            .count(|| Ok(layer.backward(&inputs, &saved, &dy)?))?;
        Ok([
            run("forward", forward, work.forward),
            run("backward", backward, work.backward),
        ])
    }
}

/// The inputs of a layer on the device: all zero, contiguous.
struct Tensors<T> {
    x: CudaSlice<T>,
    weight: CudaSlice<T>,
    lora_a: CudaSlice<T>,
    lora_b: CudaSlice<T>,
    dy: CudaSlice<T>,
}

impl<T: Element> Tensors<T> {
    fn new(stream: &Arc<CudaStream>, problem: &Problem) -> Outcome<Self> {
        let zeros = |tensor| {
            let (rows, columns) = problem.shape(tensor);
            stream.alloc_zeros(rows * columns)
        };
        Ok(Self {
            x: zeros(Role::X)?,
            weight: zeros(Role::Weight)?,
            lora_a: zeros(Role::LoraA)?,
            lora_b: zeros(Role::LoraB)?,
            dy: zeros(Role::DY)?,
        })
    }

    fn inputs(&self, problem: &Problem, sizes: Sizes) -> LoraInputs<'_, T> {
        let lora = Lora {
            a: matrix(problem, &self.lora_a, Role::LoraA),
            b: matrix(problem, &self.lora_b, Role::LoraB),
            scaling: SCALING,
        };
        let weight = matrix(problem, &self.weight, Role::Weight);
        let x = matrix(problem, &self.x, Role::X);
        LoraInputs::new(x, [LoraProjection::new(weight, lora)]).with_dropout(sizes.dropout())
    }
}

fn matrix<'a, T>(problem: &Problem, data: &'a CudaSlice<T>, tensor: Role) -> MatRef<'a, T> {
    let (rows, columns) = problem.shape(tensor);
    MatRef::new(data.as_view(), rows, columns)
}
