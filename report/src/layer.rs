//! One layer on the emulated device, counted.

use std::error::Error;
use std::sync::Arc;

use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, DeviceRepr, ValidAsZeroBits};
use lora_kernels::{
    Backward, BackwardPlan, Dropout, Element, Forward, ForwardPlan, Kernels, MatMut, MatRef, Problem, Tensor,
};
use lora_kernels_emulator::counters::{Control, Counters, KernelCounters, Kind, Tally};
use lora_kernels_emulator::select;

use crate::document::{Counted, Run, Shape};
use crate::{Sizes, problem};

pub struct Device {
    stream: Arc<CudaStream>,
    kernels: Kernels,
    control: Control,
}

type Outcome<T> = Result<T, Box<dyn Error>>;

impl Device {
    pub fn open() -> Outcome<Self> {
        select::emulated()?;
        let context = lora_kernels::context(0)?;
        Ok(Self {
            stream: context.default_stream(),
            kernels: Kernels::load(&context)?,
            control: Control::loaded()?,
        })
    }

    /// Forward and backward with dropout, every block of them. What a kernel does does not depend on the numbers: they are all zero.
    pub fn run<T: Element + DeviceRepr + ValidAsZeroBits>(
        &self,
        sizes: Sizes,
        multiprocessors: u32,
    ) -> Outcome<[Run; 2]> {
        let problem = problem(sizes, T::DTYPE)?;
        let props = self.kernels.props().clone().with_multiprocessors(multiprocessors);
        let forward = ForwardPlan::new(&problem, &props)?;
        let backward = BackwardPlan::new(&problem, &props)?;
        let mut layer = Layer::<T>::new(&self.stream, &problem)?;
        let mut saved = self.stream.alloc_zeros::<u8>(forward.saved().bytes())?;
        let mut workspace = self.stream.alloc_zeros::<u8>(backward.workspace_bytes())?;

        let first = self.count(|| layer.forward(self, &forward, &mut saved))?;
        let second = self.count(|| layer.backward(self, &backward, &saved, &mut workspace))?;

        let work = Work::of(&problem);
        let run = |pass: &str, counters: &Counters, algorithm_flops, compulsory_bytes| Run {
            shape: Shape::new(sizes, T::DTYPE, true),
            multiprocessors,
            pass: pass.to_owned(),
            launches: counters.kernels.iter().map(counted).collect(),
            algorithm_flops,
            base_flops: work.base_flops,
            compulsory_bytes,
        };
        Ok([
            run(
                "forward",
                &first,
                work.base_flops + work.adapter_flops,
                work.forward_bytes,
            ),
            run(
                "backward",
                &second,
                work.base_flops + 2 * work.adapter_flops,
                work.backward_bytes,
            ),
        ])
    }

    fn count(&self, call: impl FnOnce() -> Outcome<()>) -> Outcome<Counters> {
        self.control.reset()?;
        self.control.count(true)?;
        let result = call();
        self.stream.synchronize()?;
        self.control.count(false)?;
        result?;
        Ok(self.control.read()?)
    }
}

/// What the formulas ask for.
pub struct Work {
    /// The product with the weight.
    pub base_flops: u64,
    /// The adapter's products in forward; backward has twice as many.
    pub adapter_flops: u64,
    /// Bytes of what each pass is given and gives back, each tensor once.
    pub forward_bytes: u64,
    pub backward_bytes: u64,
}

impl Work {
    pub fn of(problem: &Problem) -> Self {
        let [m, k, n, r] = [
            problem.tokens(),
            problem.in_features(),
            problem.out_features(),
            problem.rank(),
        ]
        .map(|size| size as u64);
        let size = problem.dtype().size() as u64;
        Self {
            base_flops: 2 * m * n * k,
            adapter_flops: 2 * m * r * (n + k),
            forward_bytes: size * (m * k + n * k + r * (k + n) + m * n),
            backward_bytes: size * (m * n + m * k + n * k + r * (k + n) + m * k + r * (k + n)),
        }
    }
}

fn counted(kernel: &KernelCounters) -> Counted {
    let scaled = |count: u64| kernel.estimate(count).unwrap_or_default();
    let sum = |kinds: &[Kind], of: fn(Tally) -> u64| scaled(kinds.iter().map(|&kind| of(kernel.kind(kind))).sum());
    let tile = [Kind::LoadMatrix, Kind::CopyAsync];
    let (taken, ideal) = (|tally: Tally| tally.wavefronts, |tally: Tally| tally.ideal_wavefronts);
    Counted {
        symbol: kernel.kernel.clone(),
        launches: kernel.launches,
        blocks: kernel.blocks,
        blocks_run: kernel.blocks_run,
        mma_flops: scaled(kernel.total.mma_flops),
        sectors: scaled(kernel.total.sectors),
        ideal_sectors: scaled(kernel.total.ideal_sectors),
        tile_wavefronts: sum(&tile, taken),
        tile_ideal_wavefronts: sum(&tile, ideal),
        other_wavefronts: scaled(kernel.total.wavefronts) - sum(&tile, taken),
        other_ideal_wavefronts: scaled(kernel.total.ideal_wavefronts) - sum(&tile, ideal),
    }
}

const SCALING: f32 = 2.0;
const DROPOUT: Option<Dropout> = Some(Dropout {
    p: 0.1,
    seed: 42,
    offset: 0,
});

/// The tensors of a layer on the device: all zero, contiguous.
struct Layer<T> {
    problem: Problem,
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

impl<T: Element + DeviceRepr + ValidAsZeroBits> Layer<T> {
    fn new(stream: &Arc<CudaStream>, problem: &Problem) -> Outcome<Self> {
        let zeros = |tensor| {
            let (rows, columns) = problem.shape(tensor);
            stream.alloc_zeros(rows * columns)
        };
        Ok(Self {
            x: zeros(Tensor::X)?,
            weight: zeros(Tensor::Weight)?,
            lora_a: zeros(Tensor::LoraA)?,
            lora_b: zeros(Tensor::LoraB)?,
            dy: zeros(Tensor::DY)?,
            y: zeros(Tensor::Y)?,
            dx: zeros(Tensor::DX)?,
            d_lora_a: zeros(Tensor::DLoraA)?,
            d_lora_b: zeros(Tensor::DLoraB)?,
            problem: problem.clone(),
        })
    }

    fn forward(&mut self, device: &Device, plan: &ForwardPlan, saved: &mut CudaSlice<u8>) -> Outcome<()> {
        let problem = &self.problem;
        let arguments = Forward {
            x: input(problem, &self.x, Tensor::X),
            weight: input(problem, &self.weight, Tensor::Weight),
            bias: None,
            lora_a: input(problem, &self.lora_a, Tensor::LoraA),
            lora_b: input(problem, &self.lora_b, Tensor::LoraB),
            scaling: SCALING,
            dropout: DROPOUT,
            y: output(problem, &mut self.y, Tensor::Y),
            saved: saved.as_view_mut(),
        };
        Ok(device.kernels.forward(&device.stream, plan, arguments)?)
    }

    fn backward(
        &mut self,
        device: &Device,
        plan: &BackwardPlan,
        saved: &CudaSlice<u8>,
        workspace: &mut CudaSlice<u8>,
    ) -> Outcome<()> {
        let problem = &self.problem;
        let arguments = Backward {
            dy: input(problem, &self.dy, Tensor::DY),
            x: input(problem, &self.x, Tensor::X),
            weight: input(problem, &self.weight, Tensor::Weight),
            lora_a: input(problem, &self.lora_a, Tensor::LoraA),
            lora_b: input(problem, &self.lora_b, Tensor::LoraB),
            scaling: SCALING,
            dropout: DROPOUT,
            saved: saved.as_view(),
            dx: output(problem, &mut self.dx, Tensor::DX),
            d_lora_a: output(problem, &mut self.d_lora_a, Tensor::DLoraA),
            d_lora_b: output(problem, &mut self.d_lora_b, Tensor::DLoraB),
            workspace: workspace.as_view_mut(),
        };
        Ok(device.kernels.backward(&device.stream, plan, arguments)?)
    }
}

fn input<'a, T>(problem: &Problem, data: &'a CudaSlice<T>, tensor: Tensor) -> MatRef<'a, T> {
    let (rows, columns) = problem.shape(tensor);
    MatRef::new(data.as_view(), rows, columns)
}

fn output<'a, T>(problem: &Problem, data: &'a mut CudaSlice<T>, tensor: Tensor) -> MatMut<'a, T> {
    let (rows, columns) = problem.shape(tensor);
    MatMut::new(data.as_view_mut(), rows, columns)
}
