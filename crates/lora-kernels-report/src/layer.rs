//! Runs and counts lora-kernels' own kernels on the emulated device.

use std::sync::Arc;

use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use lora_kernels::{
    Backward, BackwardPlan, BackwardProjection, Dropout, Element, Forward, ForwardPlan,
    ForwardProjection, ForwardRecord, Kernels, Lora, LoraGradients, MatMut, MatRef, Problem, Role,
};

use crate::Outcome;
use crate::gpu::Gpu;
use crate::sizes::{SCALING, Sizes};
use lora_kernels_baselines::{LayerWork, PassWork};
use lora_kernels_report::document::{OURS, Run};

pub struct Ours<'a> {
    gpu: &'a Gpu,
    kernels: Kernels,
}

impl<'a> Ours<'a> {
    pub fn load(gpu: &'a Gpu) -> Outcome<Self> {
        Ok(Self {
            gpu,
            kernels: Kernels::load(&gpu.context)?,
        })
    }

    /// Runs every block of forward and backward. All numbers are zero, because the counts don't
    /// depend on them.
    pub fn run<T: Element + DeviceRepr + ValidAsZeroBits>(
        &self,
        sizes: Sizes,
        multiprocessors: u32,
    ) -> Outcome<[Run; 2]> {
        let Self { gpu, kernels } = self;
        let problem = sizes.problem(T::DTYPE)?;
        let props = kernels
            .props()
            .clone()
            .with_multiprocessors(multiprocessors);
        let forward = ForwardPlan::new(&problem, &props)?;
        let backward = BackwardPlan::new(&problem, &props)?;
        let mut layer = LayerOnDevice::<T>::new(&gpu.stream, &problem, sizes.dropout())?;
        let mut saved = gpu.stream.alloc_zeros::<u8>(forward.saved().bytes())?;
        let workspace = forward.workspace_bytes().max(backward.workspace_bytes());
        let mut workspace = gpu.stream.alloc_zeros::<u8>(workspace)?;

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
        let mut record = None;
        let launches = gpu.count(|| {
            record = Some(layer.forward(self, &forward, &mut saved, &mut workspace)?);
            Ok(())
        })?;
        let record = record.ok_or("the forward left no record")?;
        let first = run("forward", launches, work.forward);
        let launches =
            gpu.count(|| layer.backward(self, &backward, (&saved, record), &mut workspace))?;
        Ok([first, run("backward", launches, work.backward)])
    }
}

/// The tensors of a layer on the device: all zero, contiguous.
struct LayerOnDevice<T> {
    problem: Problem,
    dropout: Option<Dropout>,
    x: CudaSlice<T>,
    weight: CudaSlice<T>,
    lora_a: CudaSlice<T>,
    lora_b: CudaSlice<T>,
    dy: CudaSlice<T>,
    y: CudaSlice<T>,
    dx: CudaSlice<T>,
    d_lora_a: CudaSlice<T>,
    d_lora_b: CudaSlice<T>,
}

impl<T: Element + DeviceRepr + ValidAsZeroBits> LayerOnDevice<T> {
    fn new(stream: &Arc<CudaStream>, problem: &Problem, dropout: Option<Dropout>) -> Outcome<Self> {
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
            y: zeros(Role::Y)?,
            dx: zeros(Role::DX)?,
            d_lora_a: zeros(Role::DLoraA)?,
            d_lora_b: zeros(Role::DLoraB)?,
            problem: problem.clone(),
            dropout,
        })
    }

    fn forward(
        &mut self,
        device: &Ours,
        plan: &ForwardPlan,
        saved: &mut CudaSlice<u8>,
        workspace: &mut CudaSlice<u8>,
    ) -> Outcome<ForwardRecord> {
        let problem = &self.problem;
        let projection = ForwardProjection {
            weight: input(problem, &self.weight, Role::Weight),
            bias: None,
            lora: Some(lora(problem, &self.lora_a, &self.lora_b)),
            y: output(problem, &mut self.y, Role::Y),
        };
        let arguments = Forward {
            x: input(problem, &self.x, Role::X),
            projections: vec![projection],
            dropout: self.dropout,
            saved: saved.as_view_mut().into(),
            workspace: Some(workspace.as_view_mut()),
        };
        Ok(device
            .kernels
            .forward(&device.gpu.stream, plan, arguments)?)
    }

    fn backward(
        &mut self,
        device: &Ours,
        plan: &BackwardPlan,
        (saved, record): (&CudaSlice<u8>, ForwardRecord),
        workspace: &mut CudaSlice<u8>,
    ) -> Outcome<()> {
        let problem = &self.problem;
        let projection = BackwardProjection {
            dy: input(problem, &self.dy, Role::DY),
            weight: input(problem, &self.weight, Role::Weight),
            lora: Some(lora(problem, &self.lora_a, &self.lora_b)),
            gradients: Some(LoraGradients {
                a: output(problem, &mut self.d_lora_a, Role::DLoraA),
                b: output(problem, &mut self.d_lora_b, Role::DLoraB),
            }),
        };
        let arguments = Backward {
            x: input(problem, &self.x, Role::X),
            projections: vec![projection],
            dropout: self.dropout,
            saved: saved.as_view().into(),
            record,
            dx: Some(output(problem, &mut self.dx, Role::DX)),
            workspace: Some(workspace.as_view_mut()),
        };
        Ok(device
            .kernels
            .backward(&device.gpu.stream, plan, arguments)?)
    }
}

fn lora<'a, T>(problem: &Problem, a: &'a CudaSlice<T>, b: &'a CudaSlice<T>) -> Lora<'a, T> {
    Lora {
        a: input(problem, a, Role::LoraA),
        b: input(problem, b, Role::LoraB),
        scaling: SCALING,
    }
}

fn input<'a, T>(problem: &Problem, data: &'a CudaSlice<T>, tensor: Role) -> MatRef<'a, T> {
    let (rows, columns) = problem.shape(tensor);
    MatRef::new(data.as_view(), rows, columns)
}

fn output<'a, T>(problem: &Problem, data: &'a mut CudaSlice<T>, tensor: Role) -> MatMut<'a, T> {
    let (rows, columns) = problem.shape(tensor);
    MatMut::new(data.as_view_mut(), rows, columns)
}
