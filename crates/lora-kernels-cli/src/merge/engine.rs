//! Where pieces of weights are computed, and how the device adds adapters to them.

use std::sync::Arc;

use lora_kernels::cudarc::driver::CudaContext;
use lora_kernels::{Lora, MatRef, MergeReport, WeightLayout};

use super::factors::Factors;
use crate::device::{Choice, Gpu, or_cpu};
use crate::failure::Failure;
use crate::replay::Number;

/// Streams that work at the same time, so that the transfers of one overlap the kernels of another.
const STREAMS: usize = 3;
/// The most threads that compute on the CPU. Each holds a piece of a weight in memory.
const MOST_THREADS: usize = 16;
/// Bytes that the adapters' factors may have in all pieces that are computed on the CPU.
const FACTORS: usize = 512 << 20;

pub enum Engine {
    Gpu(Gpu),
    Cpu,
}

impl Engine {
    pub fn open(choice: Choice) -> Result<Self, Failure> {
        match choice {
            Choice::Cpu => Ok(Engine::Cpu),
            Choice::Gpu(ordinal) => Ok(Engine::Gpu(Gpu::open(ordinal).map_err(or_cpu)?)),
        }
    }

    pub fn name(&self) -> Result<String, Failure> {
        match self {
            Engine::Cpu => Ok("CPU".into()),
            Engine::Gpu(gpu) => gpu.name(),
        }
    }

    /// Where pieces are computed at the same time: streams of the device, or threads, whose pieces
    /// need up to `factor_bytes` of the adapters' factors.
    pub fn lanes(&self, factor_bytes: usize) -> Result<Vec<Lane>, Failure> {
        match self {
            Engine::Cpu => {
                let threads = std::thread::available_parallelism().map_or(1, usize::from);
                let fitting = (FACTORS / factor_bytes.max(1)).max(1);
                Ok(vec![Lane::Cpu; threads.min(MOST_THREADS).min(fitting)])
            }
            Engine::Gpu(gpu) => (0..STREAMS)
                .map(|_| Ok(Lane::Gpu(Arc::new(gpu.on_another_stream()?))))
                .collect(),
        }
    }

    /// The blocks of a weight that one piece has. A device needs larger ones to be kept busy.
    pub fn blocks_at_once(&self) -> usize {
        match self {
            Engine::Cpu => 1,
            Engine::Gpu(_) => 4,
        }
    }

    /// The context whose transfers page-locked memory makes asynchronous.
    pub fn context(&self) -> Option<Arc<CudaContext>> {
        match self {
            Engine::Cpu => None,
            Engine::Gpu(gpu) => Some(gpu.stream().context().clone()),
        }
    }
}

/// One of the places that compute at the same time.
#[derive(Clone)]
pub enum Lane {
    Cpu,
    Gpu(Arc<Gpu>),
}

/// Rows of a matrix, dense.
#[derive(Clone, Copy)]
pub struct Block {
    pub rows: usize,
    pub columns: usize,
    pub layout: WeightLayout,
}

impl Block {
    /// (out_features, in_features)
    fn features(&self) -> (usize, usize) {
        match self.layout {
            WeightLayout::OutIn => (self.rows, self.columns),
            WeightLayout::InOut => (self.columns, self.rows),
        }
    }
}

/// values += Σ scaling·B·A, summed in f32 and rounded once. The bits don't depend on the device.
pub fn add<T: Number, A: Number>(
    gpu: &Gpu,
    values: &mut [T],
    block: Block,
    factors: &[Factors<A>],
) -> Result<MergeReport, Failure> {
    let report = queue(gpu, values, block, factors);
    // Copies from and to page-locked memory may still run, also after an error.
    let waited = gpu.stream().synchronize();
    let report = report?;
    waited?;
    Ok(report)
}

fn queue<T: Number, A: Number>(
    gpu: &Gpu,
    values: &mut [T],
    block: Block,
    factors: &[Factors<A>],
) -> Result<MergeReport, Failure> {
    let (out_features, in_features) = block.features();
    let stream = gpu.stream();
    let weight = stream.clone_htod(&*values)?;
    let on_device = factors.iter().map(|factors| {
        Ok((
            stream.clone_htod(&factors.a[..])?,
            stream.clone_htod(&factors.b[..])?,
        ))
    });
    let on_device = on_device.collect::<Result<Vec<_>, Failure>>()?;
    let adapters = factors
        .iter()
        .zip(&on_device)
        .map(|(factors, (a, b))| Lora {
            a: MatRef::new(a.as_view(), factors.rank, in_features),
            b: MatRef::new(b.as_view(), out_features, factors.rank),
            scaling: factors.scaling,
        });
    let (merged, report) = gpu.layer.merge_with_report(
        &MatRef::new(weight.as_view(), block.rows, block.columns),
        &adapters.collect::<Vec<_>>(),
        block.layout,
    )?;
    stream.memcpy_dtoh(&merged, values)?;
    Ok(report)
}
