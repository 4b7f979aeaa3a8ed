//! What is counted, as tests and JSON see it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Kind;

/// Sums over executions of one or more instructions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// Times that a warp, or a part of one, executed an instruction; with a false guard in all
    /// lanes, too.
    pub warp_instructions: u64,
    /// The executions of these whose guard was false in all lanes.
    pub predicated_off: u64,
    /// Lanes that took part, summed.
    pub lanes: u64,
    /// Multiplications and additions of `mma`.
    pub mma_flops: u64,
    /// Warp instructions that accessed global memory.
    pub global_requests: u64,
    /// Bytes of global memory that lanes asked for.
    pub global_bytes: u64,
    /// 32-byte sectors that these requests touched, each request by itself.
    pub sectors: u64,
    /// The fewest sectors that hold as many different bytes, request by request.
    pub ideal_sectors: u64,
    /// Warp instructions that accessed shared memory.
    pub shared_requests: u64,
    /// Turns that shared memory took to serve them.
    pub wavefronts: u64,
    /// Turns without bank conflicts.
    pub ideal_wavefronts: u64,
    /// 32-byte sectors that multicast brought to blocks of a cluster, each block's by itself. Among
    /// `sectors` they are once: they are read once.
    pub multicast_sectors: u64,
}

impl Tally {
    /// Turns of shared memory beyond the ideal.
    pub fn bank_conflicts(&self) -> u64 {
        self.wavefronts - self.ideal_wavefronts
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        let pairs = [
            (&mut self.warp_instructions, other.warp_instructions),
            (&mut self.predicated_off, other.predicated_off),
            (&mut self.lanes, other.lanes),
            (&mut self.mma_flops, other.mma_flops),
            (&mut self.global_requests, other.global_requests),
            (&mut self.global_bytes, other.global_bytes),
            (&mut self.sectors, other.sectors),
            (&mut self.ideal_sectors, other.ideal_sectors),
            (&mut self.shared_requests, other.shared_requests),
            (&mut self.wavefronts, other.wavefronts),
            (&mut self.ideal_wavefronts, other.ideal_wavefronts),
            (&mut self.multicast_sectors, other.multicast_sectors),
        ];
        for (sum, more) in pairs {
            *sum += more;
        }
    }
}

/// One PTX line's counts. A line that holds several instructions has one entry for each kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PtxLine {
    /// Line of the PTX, from 1.
    pub ptx_line: u32,
    /// What the instruction is.
    pub kind: Kind,
    /// The CUDA source file and line, where the PTX has `.loc`.
    pub file: Option<String>,
    /// Line of it, from 1.
    pub line: u32,
    /// What was counted there.
    #[serde(flatten)]
    pub tally: Tally,
}

/// Bytes between L2 and DRAM under the model that README.md describes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dram {
    /// Launches that the bytes are of; those before the model was switched on are not among them.
    pub launches: u64,
    /// Read from DRAM.
    pub read_bytes: u64,
    /// Written to DRAM.
    pub write_bytes: u64,
}

/// The counts of all launches of one kernel with one shape.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelCounters {
    /// The symbol.
    pub kernel: String,
    /// Blocks along x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block along x, y and z.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block, bytes.
    pub dynamic_shared: u32,
    /// Launches with this grid, block and shared memory.
    pub launches: u64,
    /// Blocks of all these launches.
    pub blocks: u64,
    /// Blocks that were run. Fewer than `blocks`: everything below is of these alone, not scaled.
    pub blocks_run: u64,
    /// Launches that ended in a fault: counted is what ran until then, of blocks that were not
    /// done, too.
    pub faulted: u64,
    /// `None` if the model of DRAM traffic was off.
    pub dram: Option<Dram>,
    /// The sum over all instructions.
    pub total: Tally,
    /// By kind of instruction.
    pub kinds: BTreeMap<Kind, Tally>,
    /// By line of the PTX.
    pub ptx_lines: Vec<PtxLine>,
}

/// One line of CUDA source, all kinds together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceLine {
    /// A source file, as the PTX names it.
    pub file: String,
    /// Line of it, from 1.
    pub line: u32,
    /// What was counted there.
    #[serde(flatten)]
    pub tally: Tally,
}

impl KernelCounters {
    /// The counts of one kind; zeros if there was none.
    pub fn kind(&self, kind: Kind) -> Tally {
        self.kinds.get(&kind).copied().unwrap_or_default()
    }

    /// Whether some blocks were left out.
    pub fn is_sampled(&self) -> bool {
        self.blocks_run < self.blocks
    }

    /// A count of the blocks that ran, scaled to all blocks; `None` if none ran.
    pub fn estimate(&self, count: u64) -> Option<f64> {
        (self.blocks_run > 0).then(|| count as f64 * self.blocks as f64 / self.blocks_run as f64)
    }

    /// The PTX lines that a `.loc` places, summed by CUDA source line.
    pub fn source_lines(&self) -> Vec<SourceLine> {
        let mut sums: BTreeMap<(&str, u32), Tally> = BTreeMap::new();
        for entry in &self.ptx_lines {
            if let (Some(file), true) = (&entry.file, entry.line > 0) {
                sums.entry((file, entry.line))
                    .or_default()
                    .add(&entry.tally);
            }
        }
        let lines = sums.into_iter().map(|((file, line), tally)| SourceLine {
            file: file.to_owned(),
            line,
            tally,
        });
        lines.collect()
    }

    /// Adds another launch of the same kernel with the same shape.
    pub(crate) fn merge(&mut self, other: &KernelCounters) {
        self.launches += other.launches;
        self.blocks += other.blocks;
        self.blocks_run += other.blocks_run;
        self.faulted += other.faulted;
        if let Some(more) = other.dram {
            let sum = self.dram.get_or_insert_default();
            sum.launches += more.launches;
            sum.read_bytes += more.read_bytes;
            sum.write_bytes += more.write_bytes;
        }
        self.total.add(&other.total);
        for (kind, tally) in &other.kinds {
            self.kinds.entry(*kind).or_default().add(tally);
        }
        let mut lines: BTreeMap<(u32, Kind), PtxLine> = BTreeMap::new();
        for entry in std::mem::take(&mut self.ptx_lines) {
            lines.insert((entry.ptx_line, entry.kind), entry);
        }
        for entry in &other.ptx_lines {
            lines
                .entry((entry.ptx_line, entry.kind))
                .and_modify(|own| own.tally.add(&entry.tally))
                .or_insert_with(|| entry.clone());
        }
        self.ptx_lines = lines.into_values().collect();
    }
}
