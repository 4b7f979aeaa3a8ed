//! Punica's and vLLM's kernels for batches with many adapters compute what the formula says, in
//! few launches and with the structure that they are described with.

use std::path::Path;

use half::bf16;
use lora_kernels_baselines::{Buffer, Memory, PeerDevice, PeerLayer, ServingPeer};
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::{Control, Kind};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const SCALING: f32 = 1.7;

struct Batch {
    layer: PeerLayer,
    slots: Vec<i32>,
    x: Vec<bf16>,
    lora_a: Vec<bf16>,
    lora_b: Vec<bf16>,
    y: Vec<bf16>,
}

impl Batch {
    fn random(rng: &mut SmallRng, [tokens, k, n, rank, adapters]: [usize; 5]) -> Self {
        let layer = PeerLayer::new(128, k, n, rank, SCALING)
            .expect("sizes in range")
            .serving(tokens, adapters);
        let mut of = |count: usize, terms: usize| -> Vec<bf16> {
            let most = (3.0 / terms as f32).sqrt();
            let values = (0..count).map(|_| bf16::from_f32(rng.random_range(-most..most)));
            values.collect()
        };
        let (x, lora_a) = (of(tokens * k, 1), of(adapters * rank * k, k));
        let (lora_b, y) = (of(adapters * n * rank, rank), of(tokens * n, 1));
        let slots = (0..tokens)
            .map(|_| rng.random_range(0..adapters as i32))
            .collect();
        Self {
            layer,
            slots,
            x,
            lora_a,
            lora_b,
            y,
        }
    }

    /// y + s·x·Aᵀ·Bᵀ of each token's adapter.
    fn expected(&self) -> Vec<f64> {
        let PeerLayer {
            in_features: k,
            out_features: n,
            rank: r,
            ..
        } = self.layer;
        let dot = |a: &[bf16], b: &[f64]| -> f64 {
            a.iter().zip(b).map(|(a, b)| f64::from(*a) * b).sum()
        };
        let mut y: Vec<f64> = self.y.iter().map(|value| f64::from(*value)).collect();
        for (token, &slot) in self.slots.iter().enumerate() {
            let slot = slot as usize;
            let x: Vec<f64> = self.x[token * k..][..k]
                .iter()
                .map(|value| f64::from(*value))
                .collect();
            let s: Vec<f64> = (0..r)
                .map(|rank| {
                    f64::from(SCALING) * dot(&self.lora_a[(slot * r + rank) * k..][..k], &x)
                })
                .collect();
            for column in 0..n {
                y[token * n + column] += dot(&self.lora_b[(slot * n + column) * r..][..r], &s);
            }
        }
        y
    }

    fn write(&self, memory: &mut Memory, peer: ServingPeer) -> lora_kernels_baselines::Result<()> {
        memory.write(Buffer::X, &self.x)?;
        memory.write(Buffer::LoraA, &self.lora_a)?;
        memory.write(Buffer::LoraB, &self.lora_b)?;
        memory.write(Buffer::Y, &self.y)?;
        match peer {
            ServingPeer::Punica => memory.write(Buffer::Slots, &self.slots),
            ServingPeer::Vllm => {
                let (order, starts) = ServingPeer::sorted(&self.slots, self.layer.adapters);
                memory.write(Buffer::Order, &order)?;
                memory.write(Buffer::Starts, &starts)
            }
        }
    }
}

#[test]
fn adapters_of_a_batch_are_added_to_y() -> lora_kernels_baselines::Result<()> {
    let selection = select()?;
    let control = match selection {
        Selection::Emulated { .. } => Some(Control::loaded()?),
        Selection::Real => None,
    };
    let fatbin = lora_kernels_baselines::fatbin(
        &Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )?;
    let device = PeerDevice::new(&lora_kernels::context(0)?, fatbin)?;
    let mut rng = SmallRng::seed_from_u64(16);
    for sizes in [
        [1, 512, 256, 16, 1],
        [3, 1152, 128, 32, 8],
        [70, 256, 384, 16, 3],
        [7, 128, 128, 64, 2],
    ] {
        let batch = Batch::random(&mut rng, sizes);
        let expected = batch.expected();
        for peer in ServingPeer::ALL {
            let launches = peer.adapters(&batch.layer);
            let mut memory = Memory::new(&device, &batch.layer, &launches, 0xFF)?;
            batch.write(&mut memory, peer)?;
            if let Some(control) = control {
                control.reset()?;
                control.count(true)?;
            }
            device.run(&launches, &memory)?;
            device.stream().synchronize()?;
            let y: Vec<bf16> = memory.read(Buffer::Y)?;
            for (index, (y, expected)) in y.iter().zip(&expected).enumerate() {
                let error = (f64::from(*y) - expected).abs();
                assert!(
                    error <= 0.03 * (1.0 + expected.abs()),
                    "{} {sizes:?} y[{index}]: {y}, not {expected}",
                    peer.name()
                );
            }
            let Some(control) = control else { continue };
            control.count(false)?;
            let kernels = control.read()?.kernels;
            assert_eq!(kernels.len(), 3, "{}", peer.name());
            let shrink = kernels
                .iter()
                .find(|kernel| kernel.kernel.contains("shrink"))
                .expect("a shrink");
            let atomic = shrink.kind(Kind::AtomicGlobal).warp_instructions > 0;
            assert_eq!(
                atomic,
                peer == ServingPeer::Vllm,
                "atomics of {}",
                peer.name()
            );
        }
    }
    Ok(())
}
