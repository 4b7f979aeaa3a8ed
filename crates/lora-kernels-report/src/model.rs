//! Plans for sizes that are too large to run, for every virtual device, and their DRAM traffic
//! under the emulator's L2 model.
//!
//! A product with the weight goes through the L2 model. Everything else that a launch reads or
//! writes is counted once, as if the previous launch left nothing in L2.

use lora_kernels::plan::{DeviceProps, Launch, Operation};
use lora_kernels::{BackwardPlan, DType, ForwardPlan, Problem, Projection};
use ptx_emulator::device::DeviceModel;
use ptx_emulator::l2::{self, Raster, Schedule};

use crate::sizes::Sizes;
use lora_kernels_baselines::LayerWork;
use lora_kernels_report::document::{OURS, Plan, Planned, Product};

/// The plans of forward and backward for a device.
pub fn plans(sizes: Sizes, dtype: DType, device: &DeviceModel) -> lora_kernels::Result<[Plan; 2]> {
    let problem = sizes.problem(dtype)?;
    let work = LayerWork::of(&problem);
    let props = DeviceProps::new(
        device.compute_capability,
        device.multiprocessors,
        device.max_shared_optin,
        device.shared_per_multiprocessor,
        device.l2_bytes,
    );
    let forward = ForwardPlan::new(&problem, &props)?;
    let backward = BackwardPlan::new(&problem, &props)?;
    let saved = forward.saved().bytes() as u64;
    let plan = |pass: &str, launches: &[Launch], workspace: usize, compulsory_bytes| {
        let launches = launches.iter();
        Plan {
            who: OURS.to_owned(),
            device: device.key.to_owned(),
            shape: sizes.shape(dtype),
            pass: pass.to_owned(),
            launches: launches
                .map(|l| planned(l, &problem, device, saved, workspace as u64))
                .collect(),
            compulsory_bytes,
        }
    };
    Ok([
        plan(
            "forward",
            forward.launches(),
            forward.workspace_bytes(),
            work.forward.bytes,
        ),
        plan(
            "backward",
            backward.launches(),
            backward.workspace_bytes(),
            work.backward.bytes,
        ),
    ])
}

/// The bytes that a launch moves. `saved` holds S and the mask. `workspace` belongs to the launch's
/// pass and holds partial sums and, in backward, T; one launch writes them and another reads them.
/// For a backward, both are attributed to the launch that streams dy, which writes most of them.
pub fn planned(
    launch: &Launch,
    problem: &Problem,
    device: &DeviceModel,
    saved: u64,
    workspace: u64,
) -> Planned {
    let sum = |of: fn(&Projection) -> usize| problem.projections().iter().map(of).sum();
    let [m, k, n, r] = [
        problem.tokens(),
        problem.in_features(),
        sum(|projection| projection.out_features),
        sum(|projection| projection.rank),
    ]
    .map(|size| size as u64);
    let size = problem.dtype().size() as u64;
    let s = m * problem.padded_ranks() as u64 * size;
    let mask = saved - s.min(saved);
    let product = |columns, depth| product(launch, (m, columns, depth), size, device);
    let (product, read, written) = match launch.variant.operation {
        Operation::Shrink => (None, size * (m * k + r * k), saved),
        Operation::Forward => (product(n, k), s + size * r * n + workspace, workspace),
        Operation::GradB => (None, size * (m * n + r * n) + s + workspace, workspace),
        Operation::GradA => (None, size * m * k + mask, size * r * n),
        Operation::GradX => (product(k, n), mask + size * r * k, size * r * k),
        // Neither forward nor backward merges.
        Operation::Merge | Operation::Decode => (None, 0, 0),
        // The report has no rows of several adapters.
        Operation::ShrinkRows
        | Operation::ForwardRows
        | Operation::GradTRows
        | Operation::GradAbRows
        | Operation::GradXRows => (None, 0, 0),
    };
    Planned {
        symbol: launch.variant.symbol().to_owned(),
        read: read + product.as_ref().map_or(0, |product| product.read),
        written: written + product.as_ref().map_or(0, |product| product.written),
        product,
    }
}

/// The product (m, n) = (m, k) · (k, n) of a launch, if it has one.
fn product(
    launch: &Launch,
    (m, n, k): (u64, u64, u64),
    element_bytes: u64,
    device: &DeviceModel,
) -> Option<Product> {
    let (tile, blocks) = (launch.schedule?.tile, launch.schedule?.blocks);
    let [rows, columns, depth] = [tile.rows, tile.columns, tile.depth].map(|size| size as u64);
    let schedule = schedule(launch)?;
    let shape = l2::Product {
        m,
        n,
        k,
        element_bytes,
    };
    let traffic = shape.traffic(&schedule, l2::usable_bytes(device.l2_bytes));
    let compulsory = shape.compulsory();
    Some(Product {
        tile: (rows, columns, depth),
        tiles: m.div_ceil(rows) * n.div_ceil(columns),
        blocks: blocks.into(),
        multiprocessors: device.multiprocessors.into(),
        raster: format!(
            "{:?}{}",
            schedule.raster,
            if schedule.serpentine {
                ", serpentine"
            } else {
                ""
            }
        ),
        read: traffic.read,
        written: traffic.written,
        compulsory_read: compulsory.read,
        compulsory_written: compulsory.written,
    })
}

/// The order in which a launch computes its tiles. A cluster counts as one block, whose tile is as
/// high as those of its blocks together.
fn schedule(launch: &Launch) -> Option<Schedule> {
    let (tile_m, tile_n) = launch.variant.block();
    let schedule = launch.schedule?;
    let cluster = u64::from(schedule.cluster);
    Some(Schedule {
        tile_m: tile_m as u64 * cluster,
        tile_n: tile_n as u64,
        tile_k: schedule.tile.depth as u64,
        blocks: u64::from(schedule.blocks) / cluster,
        raster: Raster::GroupN(schedule.group_n.into()),
        serpentine: schedule.serpentine,
    })
}

#[cfg(test)]
mod tests {
    use ptx_emulator::device::{H100, H200};

    use super::*;

    /// Pairs of blocks go through the output as single ones would, so the last turn's operands are
    /// found in L2 as often.
    #[test]
    fn hopper_reads_a_large_layer_from_dram_little_more_than_twice() {
        for device in [H100, H200] {
            let sizes = Sizes::new(8192, 4096, 4096, 16).with_dropout(true);
            for plan in plans(sizes, DType::BF16, &device).expect("plans") {
                let (_, product) = plan.product().expect("a product");
                assert_eq!(product.tile, (128, 256, 64), "{}", plan.name());
                assert_eq!((product.tiles, product.blocks), (1024, 128));
                let reads = product.reads_over_compulsory();
                assert!(reads > 1.0 && reads <= 2.4, "{}: {reads}", plan.name());
            }
        }
    }
}
