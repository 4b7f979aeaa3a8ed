//! Plans: which kernels run for a problem, on which grid, and with which memory. They are pure
//! functions of the problem and the device's properties.
//!
//! A plan can be made on a machine without a GPU, printed (`{}`) and compared. Make it once and use
//! it for any number of calls.

pub(crate) mod access;
mod arch;
mod backward;
mod bound;
mod cost;
mod decode;
mod device;
mod devices;
mod forward;
mod gemm;
mod hopper;
mod launch;
mod memory;
mod merge;
mod packing;
mod raster;
mod rows_backward;
mod rows_forward;
mod stream;
mod variant;

use std::fmt;

pub use backward::BackwardPlan;
pub(crate) use decode::Decode;
pub use device::DeviceProps;
pub use forward::ForwardPlan;
pub use launch::{Launch, LaunchAttribute, Schedule};
pub use memory::{BUFFER_ALIGNMENT, Region, SavedLayout};
pub use merge::MergePlan;
pub(crate) use packing::Packing;
pub(crate) use rows_backward::RowsBackward;
pub(crate) use rows_forward::RowsForward;
pub use variant::{Access, Arch, Operation, Tile, Variant};

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

/// The workspace of a GEMM with split tiles: slabs, f32 (tiles, splits, elements of a tile), and
/// arrival counters, u32 (tiles).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SplitRegions {
    pub slabs: Region,
    pub counters: Region,
    pub count: i32,
}

impl SplitRegions {
    /// Takes no memory and returns `None` if no tile is split.
    fn new(launch: &Launch, workspace: &mut memory::BufferLayout) -> Option<Self> {
        let schedule = launch.schedule.filter(|schedule| schedule.splits > 1)?;
        let (tiles, (rows, columns)) = (schedule.tiles() as usize, launch.variant.block());
        Some(Self {
            slabs: workspace.region(
                &[tiles, schedule.splits as usize, rows, columns],
                size_of::<f32>(),
            ),
            counters: workspace.region(&[tiles], size_of::<u32>()),
            // The number of items, which is larger, was checked to fit 32 bits.
            count: tiles as i32,
        })
    }
}
