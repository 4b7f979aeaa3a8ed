//! The peers' launches, from the structure that lora-kernels-baselines gives them.
//!
//! Their products are cuBLAS's: each at its published rate, or at DRAM's, whichever takes longer.
//! Neither L2, shared memory nor the instructions of a peer's launch are held against it.

use lora_kernels::Dropout;
use lora_kernels_baselines::{Launch, LayerWork, Peer, PeerLayer};
use ptx_emulator::device::DeviceModel;

use super::case::Case;
use crate::Outcome;
use crate::sizes::{DROPOUT, SCALING};
use lora_kernels_report::bound::{Demand, LIMIT, PEFT, PLAIN, THREE_LAUNCHES, Work};

/// The passes by each peer. PEFT has dropout in training; Unsloth leaves such layers to PEFT, so
/// its way is modelled without.
pub fn passes(case: &Case, names: &[&str], device: &DeviceModel) -> Outcome<Vec<Demand>> {
    let mut all = Vec::new();
    for &pass in names {
        let dropout = (pass != "decode").then_some(DROPOUT);
        let three = launches(case, Peer::Unsloth, None, pass, device)?;
        let plain = three.iter().map(|launches| base(launches)).collect();
        let peft = launches(case, Peer::Peft, dropout, pass, device)?;
        let by = |who: &str, launches: Vec<Work>| Demand {
            who: who.to_owned(),
            layer: case.name(),
            pass: pass.to_owned(),
            launches,
            waits_us: 0.0,
        };
        let works = |layers: Vec<Vec<Launch>>| -> Vec<Work> {
            layers.iter().flatten().map(|l| work(l, device)).collect()
        };
        all.extend([
            by(PLAIN, works(plain)),
            by(THREE_LAUNCHES, works(three)),
            by(PEFT, works(peft)),
            by(LIMIT, limit(case, pass)?),
        ]);
    }
    Ok(all)
}

/// The launches of each projection, which the peers compute one after the other.
fn launches(
    case: &Case,
    peer: Peer,
    dropout: Option<Dropout>,
    pass: &str,
    device: &DeviceModel,
) -> Outcome<Vec<Vec<Launch>>> {
    let of = |&out_features: &usize| {
        // The peers' kernels take no single token. Nothing is run here, so sizes are enough.
        let layer = PeerLayer::new(128, case.in_features, out_features, case.rank, SCALING)?;
        let layer = PeerLayer {
            tokens: case.tokens,
            ..layer
                .with_dropout(dropout)
                .on_device_with(device.max_shared_optin as usize)
        };
        match pass {
            "backward" => peer.backward(&layer),
            _ => peer.forward(&layer),
        }
    };
    case.out_features.iter().map(of).collect()
}

/// The product with W, which has most work.
fn base(launches: &[Launch]) -> Vec<Launch> {
    let base = launches.iter().max_by_key(|launch| launch.mma_flops);
    base.cloned().into_iter().collect()
}

fn work(launch: &Launch, device: &DeviceModel) -> Work {
    Work {
        what: launch.does.to_owned(),
        blocks: launch.grid.into(),
        dram_bytes: launch.traffic(device).total() as f64,
        library_flops: launch.mma_flops as f64,
        ..Work::default()
    }
}

/// One launch for each projection.
fn limit(case: &Case, pass: &str) -> Outcome<Vec<Work>> {
    let each = case.each().map(|case| {
        let work = LayerWork::of(&case.problem(false)?);
        let asked = match pass {
            "backward" => work.backward,
            _ => work.forward,
        };
        Outcome::Ok(Work {
            what: "every product and every tensor once".to_owned(),
            dram_bytes: asked.bytes as f64,
            library_flops: asked.flops as f64,
            ..Work::default()
        })
    });
    each.collect()
}
