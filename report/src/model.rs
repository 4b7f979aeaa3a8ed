//! Plans for sizes that are too large to run, on every virtual device, and their DRAM traffic under the emulator's L2 model.
//!
//! A product with the weight goes through the model; everything else that a launch reads or writes is counted once, and nothing is taken
//! to be left in L2 by the launch before.

use lora_kernels::plan::{DeviceProps, Launch, Operation};
use lora_kernels::{BackwardPlan, DType, ForwardPlan, Problem};
use lora_kernels_emulator::device::DeviceModel;
use lora_kernels_emulator::l2::{self, Raster, Schedule};

use crate::document::{OURS, Plan, Planned, Product};
use crate::work::Sizes;

/// Forward and backward on a device.
pub fn plans(sizes: Sizes, dtype: DType, device: &DeviceModel) -> lora_kernels::Result<[Plan; 2]> {
    let problem = sizes.problem(dtype)?;
    let work = sizes.work(dtype);
    let props = DeviceProps::new(
        device.compute_capability,
        device.multiprocessors,
        device.max_shared_optin,
    );
    let forward = ForwardPlan::new(&problem, &props)?;
    let backward = BackwardPlan::new(&problem, &props)?;
    let workspace = backward.workspace_bytes() as u64;
    let saved = forward.saved().bytes() as u64;
    let plan = |pass: &str, launches: &[Launch], compulsory_bytes| {
        let launches = launches.iter();
        Plan {
            who: OURS.to_owned(),
            device: device.key.to_owned(),
            shape: sizes.shape(dtype),
            pass: pass.to_owned(),
            launches: launches
                .map(|l| planned(l, &problem, device, saved, workspace))
                .collect(),
            compulsory_bytes,
        }
    };
    Ok([
        plan("forward", forward.launches(), work.forward.bytes),
        plan("backward", backward.launches(), work.backward.bytes),
    ])
}

/// What a launch moves. `saved` holds S and the mask; `workspace` all partial sums and T, each of which one launch of a backward writes and
/// another reads: both are put down to the launch that streams dy, where most of them come from.
fn planned(launch: &Launch, problem: &Problem, device: &DeviceModel, saved: u64, workspace: u64) -> Planned {
    let [m, k, n, r] = [
        problem.tokens(),
        problem.in_features(),
        problem.out_features(),
        problem.rank(),
    ]
    .map(|size| size as u64);
    let size = problem.dtype().size() as u64;
    let s = m * problem.padded_rank() as u64 * size;
    let mask = saved - s.min(saved);
    let product = |columns, depth| product(launch, (m, columns, depth), size, device);
    let (product, read, written) = match launch.variant.operation {
        Operation::Shrink => (None, size * (m * k + r * k), saved),
        Operation::Forward => (Some(product(n, k)), s + size * r * n, 0),
        Operation::GradB => (None, size * (m * n + r * n) + s + workspace, workspace),
        Operation::GradA => (None, size * m * k + mask, size * r * n),
        Operation::GradX => (Some(product(k, n)), mask + size * r * k, size * r * k),
    };
    Planned {
        symbol: launch.variant.symbol(),
        read: read + product.as_ref().map_or(0, |product| product.read),
        written: written + product.as_ref().map_or(0, |product| product.written),
        product,
    }
}

/// The product (m, columns) = (m, depth) * (depth, columns) of a launch.
fn product(launch: &Launch, (m, n, k): (u64, u64, u64), element_bytes: u64, device: &DeviceModel) -> Product {
    let schedule = schedule(launch, device);
    let shape = l2::Product { m, n, k, element_bytes };
    let traffic = shape.traffic(&schedule, l2::usable_bytes(device.l2_bytes));
    let compulsory = shape.compulsory();
    Product {
        tile: (schedule.tile_m, schedule.tile_n, schedule.tile_k),
        tiles: m.div_ceil(schedule.tile_m) * n.div_ceil(schedule.tile_n),
        blocks: schedule.blocks,
        multiprocessors: device.multiprocessors.into(),
        raster: format!(
            "{:?}{}",
            schedule.raster,
            if schedule.serpentine { ", serpentine" } else { "" }
        ),
        read: traffic.read,
        written: traffic.written,
        compulsory_read: compulsory.read,
        compulsory_written: compulsory.written,
    }
}

/// How a launch goes through its tiles.
fn schedule(launch: &Launch, device: &DeviceModel) -> Schedule {
    let (tile_m, tile_n) = launch.variant.block();
    let resident = device.blocks_per_multiprocessor(launch.threads, launch.shared_bytes);
    Schedule {
        tile_m: tile_m as u64,
        tile_n: tile_n as u64,
        tile_k: depth(&launch.variant.symbol()).unwrap_or(64),
        blocks: u64::from(resident.max(1)) * u64::from(device.multiprocessors),
        raster: Raster::GroupM(8),
        serpentine: false,
    }
}

/// 32 of `..._m128n128k32_vec`.
fn depth(symbol: &str) -> Option<u64> {
    let tile = symbol
        .split('_')
        .find(|part| part.starts_with('m') && part.contains('k'))?;
    tile.rsplit_once('k')?.1.parse().ok()
}
