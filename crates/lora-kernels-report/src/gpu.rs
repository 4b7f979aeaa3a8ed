//! The emulated device and the counters of its launches.

use std::sync::Arc;

use lora_kernels::cudarc::driver::{CudaContext, CudaStream};
use ptx_emulator::counters::{Blocks, Control, KernelCounters, Kind, Tally};
use ptx_emulator::device::DeviceModel;
use ptx_emulator::select;

use crate::Outcome;
use lora_kernels_report::document::Counted;

pub struct Gpu {
    pub context: Arc<CudaContext>,
    pub stream: Arc<CudaStream>,
    control: Control,
}

impl Gpu {
    pub fn open() -> Outcome<Self> {
        select::emulated()?;
        let context = lora_kernels::context(0)?;
        Ok(Self {
            stream: context.default_stream(),
            control: Control::loaded()?,
            context,
        })
    }

    /// Counts the launches of `call`, and returns what it returns.
    pub fn count<R>(&self, call: impl FnOnce() -> Outcome<R>) -> Outcome<(Vec<Counted>, R)> {
        let (counters, result) = self.counters(&Blocks::All, call)?;
        Ok((counters.iter().map(counted).collect(), result))
    }

    /// The counters of the launches of `call`, of which only these blocks run.
    pub fn counters<R>(
        &self,
        blocks: &Blocks,
        call: impl FnOnce() -> Outcome<R>,
    ) -> Outcome<(Vec<KernelCounters>, R)> {
        self.control.reset()?;
        self.control.run_blocks(blocks)?;
        self.control.count(true)?;
        let result = call();
        self.stream.synchronize()?;
        self.control.count(false)?;
        self.control.run_blocks(&Blocks::All)?;
        let result = result?;
        Ok((self.control.read()?.kernels, result))
    }

    /// The virtual device, whose launches are from now on run in an order that every run repeats.
    pub fn device(&self) -> Outcome<DeviceModel> {
        self.control.schedule("one-ahead")?;
        let key = self.control.read()?.device;
        let device = DeviceModel::by_name(&key);
        Ok(device.ok_or(format!("the emulated driver names a device {key}"))?)
    }

    /// Counts the DRAM traffic of later launches, too, from an L2 that is empty at first.
    pub fn count_dram(&self, on: bool) -> Outcome<()> {
        Ok(self.control.dram(on)?)
    }
}

/// The launches of a kernel.
pub fn counted(kernel: &KernelCounters) -> Counted {
    let scaled = |count: u64| kernel.estimate(count).unwrap_or_default();
    let sum = |kinds: &[Kind], of: fn(Tally) -> u64| {
        scaled(kinds.iter().map(|&kind| of(kernel.kind(kind))).sum())
    };
    let tile = [Kind::LoadMatrix, Kind::CopyAsync];
    let bulk = [Kind::BulkLoad, Kind::BulkStore, Kind::BulkReduce];
    let (taken, ideal) = (
        |tally: Tally| tally.wavefronts,
        |tally: Tally| tally.ideal_wavefronts,
    );
    Counted {
        symbol: kernel.kernel.clone(),
        launches: kernel.launches,
        blocks: kernel.blocks,
        blocks_run: kernel.blocks_run,
        mma_flops: scaled(kernel.total.mma_flops),
        sectors: scaled(kernel.total.sectors),
        ideal_sectors: scaled(kernel.total.ideal_sectors),
        multicast_sectors: scaled(kernel.total.multicast_sectors),
        wgmma_flops: sum(&[Kind::Wgmma], |tally| tally.mma_flops),
        wgmma_wavefronts: sum(&[Kind::Wgmma], taken),
        bulk_wavefronts: sum(&bulk, taken),
        tile_wavefronts: sum(&tile, taken),
        tile_ideal_wavefronts: sum(&tile, ideal),
        other_wavefronts: scaled(kernel.total.wavefronts) - sum(&tile, taken),
        other_ideal_wavefronts: scaled(kernel.total.ideal_wavefronts) - sum(&tile, ideal),
    }
}
