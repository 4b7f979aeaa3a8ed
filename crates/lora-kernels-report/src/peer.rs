//! Counts the peers' launches (lora-kernels-baselines) on the same shapes.

use std::path::Path;

use lora_kernels::DType;
use ptx_emulator::device::DeviceModel;
use ptx_emulator::l2;

use crate::Outcome;
use crate::gpu::Gpu;
use crate::sizes::{SCALING, Sizes};
use lora_kernels_baselines::{Launch, LayerWork, Memory, Peer, PeerDevice, PeerLayer};
use lora_kernels_report::document::{Plan, Planned, Product, Run};

/// The peers' kernels support only bf16.
const DTYPE: DType = DType::BF16;

/// Every peer without dropout and, if it supports it, with dropout.
fn layers(sizes: Sizes, device: &DeviceModel) -> Outcome<Vec<(Peer, Sizes, PeerLayer)>> {
    let mut all = Vec::new();
    for dropout in [false, true] {
        let sizes = sizes.with_dropout(dropout);
        let layer = PeerLayer::new(
            sizes.tokens,
            sizes.in_features,
            sizes.out_features,
            sizes.rank,
            SCALING,
        )?;
        let layer = layer
            .with_dropout(sizes.dropout())
            .on_device_with(device.max_shared_optin as usize);
        let takers = Peer::ALL.into_iter().filter(|peer| peer.takes(&layer));
        all.extend(takers.map(|peer| (peer, sizes, layer.clone())));
    }
    Ok(all)
}

/// Runs and counts the forward and backward of each peer. All numbers are zero.
pub fn runs(gpu: &Gpu, sizes: Sizes) -> Outcome<Vec<Run>> {
    let program = std::env::current_exe()?;
    let folder = program.parent().ok_or("the program lies in no folder")?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let device = PeerDevice::new(
        &gpu.context,
        lora_kernels_baselines::fatbin(&checkout, folder)?,
    )?;
    let mut runs = Vec::new();
    for (peer, sizes, layer) in layers(sizes, &crate::COMPARED_ON)? {
        let (forward, backward) = (peer.forward(&layer)?, peer.backward(&layer)?);
        let memory = Memory::new(&device, &layer, forward.iter().chain(&backward), 0)?;
        let work = LayerWork::of(&sizes.problem(DTYPE)?);
        for (pass, launches, asked) in [
            ("forward", forward, work.forward),
            ("backward", backward, work.backward),
        ] {
            runs.push(Run {
                who: peer.name().to_owned(),
                shape: sizes.shape(DTYPE),
                multiprocessors: None,
                pass: pass.to_owned(),
                launches: gpu.count(|| device.run(&launches, &memory))?.0,
                algorithm_flops: asked.flops,
                base_flops: work.base_flops,
                compulsory_bytes: asked.bytes,
            });
        }
    }
    Ok(runs)
}

/// The DRAM traffic of each peer under the model that is used for our kernels.
pub fn plans(sizes: Sizes, device: &DeviceModel) -> Outcome<Vec<Plan>> {
    let mut plans = Vec::new();
    for (peer, sizes, layer) in layers(sizes, device)? {
        let work = LayerWork::of(&sizes.problem(DTYPE)?);
        let passes = [
            ("forward", peer.forward(&layer)?, work.forward),
            ("backward", peer.backward(&layer)?, work.backward),
        ];
        for (pass, launches, asked) in passes {
            plans.push(Plan {
                who: peer.name().to_owned(),
                device: device.key.to_owned(),
                shape: sizes.shape(DTYPE),
                pass: pass.to_owned(),
                launches: launches
                    .iter()
                    .map(|launch| planned(launch, device))
                    .collect(),
                compulsory_bytes: asked.bytes,
            });
        }
    }
    Ok(plans)
}

fn planned(launch: &Launch, device: &DeviceModel) -> Planned {
    let traffic = launch.traffic(device);
    let product = launch.product.map(|tiled| {
        let schedule = tiled.schedule(launch.resident_blocks(device));
        let shape = tiled.product();
        let traffic = shape.traffic(&schedule, l2::usable_bytes(device.l2_bytes));
        let compulsory = shape.compulsory();
        Product {
            tile: tiled.tile,
            tiles: launch.grid.into(),
            blocks: schedule.blocks,
            multiprocessors: device.multiprocessors.into(),
            raster: format!("{:?}", schedule.raster),
            read: traffic.read,
            written: traffic.written,
            compulsory_read: compulsory.read,
            compulsory_written: compulsory.written,
        }
    });
    Planned {
        symbol: launch.symbol.clone(),
        read: traffic.read,
        written: traffic.written,
        product,
    }
}
