//! Which kernels will run for a problem, on which grid, with which memory: pure functions of the
//! problem and the device's properties.
//!
//! A plan can be made on a machine without a GPU, printed (`{}`) and compared. It is made once and
//! used for any number of calls.

mod access;
mod arch;
mod backward;
mod buffer;
mod device;
mod forward;
mod gemm;
mod launch;
mod merge;
pub(crate) mod params;
mod raster;
mod stream;
mod variant;

use std::fmt;

pub use backward::BackwardPlan;
pub use buffer::{BUFFER_ALIGNMENT, Region, SavedLayout};
pub use device::DeviceProps;
pub use forward::ForwardPlan;
pub use launch::{Launch, Schedule};
pub use merge::MergePlan;
pub use variant::{Access, Arch, Operation, Tile, Variant};

use crate::{Mask, Problem, Role};
use params::{AdapterParams, ScheduleParams, mask_source};

fn fmt_plan(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    problem: &dyn fmt::Display,
    launches: &[Launch],
    saved: Option<usize>,
    workspace: usize,
) -> fmt::Result {
    writeln!(f, "{name} of {problem}")?;
    for (index, launch) in launches.iter().enumerate() {
        writeln!(f, "  {}. {launch}", index + 1)?;
    }
    f.write_str("  ")?;
    if let Some(saved) = saved {
        write!(f, "saved {saved} B, ")?;
    }
    write!(f, "workspace {workspace} B")
}

/// Memory of a GEMM whose tiles are split: slabs f32 (tiles, splits, elements of a tile) and
/// counters u32 (tiles).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SplitRegions {
    slabs: Region,
    counters: Region,
    count: i32,
}

impl SplitRegions {
    /// Takes nothing where no tile is split.
    fn new(launch: &Launch, carver: &mut buffer::Carver) -> Option<Self> {
        let schedule = launch.schedule.filter(|schedule| schedule.splits > 1)?;
        let (tiles, (rows, columns)) = (schedule.tiles() as usize, launch.variant.block());
        Some(Self {
            slabs: carver.take(
                &[tiles, schedule.splits as usize, rows, columns],
                size_of::<f32>(),
            ),
            counters: carver.take(&[tiles], size_of::<u32>()),
            // Items, which are more, are counted in 32 bits.
            count: tiles as i32,
        })
    }
}

/// The schedule as the kernels take it, addresses counted from the start of the workspace.
fn schedule_params(launch: &Launch, regions: Option<&SplitRegions>) -> ScheduleParams {
    let Some(schedule) = launch.schedule else {
        return bytemuck::Zeroable::zeroed();
    };
    ScheduleParams {
        tiles_m: schedule.tiles_m as i32,
        tiles_n: schedule.tiles_n as i32,
        group_n: schedule.group_n as i32,
        splits: schedule.splits as i32,
        partial: regions.map_or(0, |regions| regions.slabs.offset as u64),
        arrived: regions.map_or(0, |regions| regions.counters.offset as u64),
    }
}

/// An adapter's matrix, without its address and scaling.
fn adapter_params(problem: &Problem, projection: usize, tensor: Role) -> AdapterParams {
    AdapterParams {
        data: 0,
        stride: problem.layout_of(projection, tensor).row_stride,
        rank0: problem.rank_offset(projection) as i32,
        r: problem.projections()[projection].rank as i32,
        vectorised: access::adapter_aligned(problem, projection, tensor).into(),
        scaling: 0.0,
    }
}

fn adapter_f32(problem: &Problem) -> i32 {
    (problem.adapter_dtype() != problem.dtype()).into()
}

/// Where backward's kernels find the mask.
fn backward_mask(problem: &Problem) -> i32 {
    match (problem.has_dropout(), problem.mask()) {
        (false, _) => mask_source::NONE,
        (true, Mask::Stored) => mask_source::STORED,
        (true, Mask::Redrawn) => mask_source::DRAWN,
    }
}
