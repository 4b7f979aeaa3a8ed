//! The peers of benches/peers compute what the crate's reference does, with the work that their descriptions say. Counters belong to the
//! process, so what launches is one test.

#[path = "../benches/peers/mod.rs"]
mod peers;

use std::path::Path;

use half::bf16;
use lora_kernels::reference::{self, Bounded, Intermediates, View};
use lora_kernels::{DType, Dropout};
use lora_kernels_emulator::counters::{Control, Kind};
use lora_kernels_emulator::device::H100;
use lora_kernels_emulator::select::{Selection, select};
use peers::{Buffer, Device, Launch, Layer, Memory, Peer};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DROPOUT: Dropout = Dropout {
    p: 0.1,
    seed: 0x5EED_0000_0001_0203,
    offset: 0x0FF5_0000_0000_0007,
};

/// Large enough for the large tile, and too small for it.
const SHARED: [usize; 2] = [163 << 10, 99 << 10];

fn layer(sizes: [usize; 4], dropout: bool, shared: usize) -> Layer {
    let [tokens, in_features, out_features, rank] = sizes;
    Layer::new(tokens, in_features, out_features, rank, 1.7)
        .expect("sizes in range")
        .with_dropout(dropout.then_some(DROPOUT))
        .on_device_with(shared)
}

/// The tensors that a layer is given.
struct Inputs {
    x: Vec<bf16>,
    weight: Vec<bf16>,
    lora_a: Vec<bf16>,
    lora_b: Vec<bf16>,
    dy: Vec<bf16>,
}

impl Inputs {
    /// Every sum stays around 1.
    fn random(layer: &Layer) -> Self {
        let mut rng = SmallRng::seed_from_u64(7);
        let mut random = |buffer, terms: usize| {
            let (rows, columns) = layer.shape(buffer);
            let magnitude = (3.0 / terms as f32).sqrt();
            (0..rows * columns)
                .map(|_| bf16::from_f32(rng.random_range(-magnitude..magnitude)))
                .collect()
        };
        Self {
            x: random(Buffer::X, 1),
            weight: random(Buffer::Weight, layer.in_features),
            lora_a: random(Buffer::LoraA, layer.in_features),
            lora_b: random(Buffer::LoraB, layer.rank),
            dy: random(Buffer::Dy, layer.out_features),
        }
    }

    fn write(&self, memory: &mut Memory) -> peers::Result<()> {
        memory.write(Buffer::X, &self.x)?;
        memory.write(Buffer::Weight, &self.weight)?;
        memory.write(Buffer::LoraA, &self.lora_a)?;
        memory.write(Buffer::LoraB, &self.lora_b)?;
        memory.write(Buffer::Dy, &self.dy)
    }

    /// y, dx, dA and dB.
    fn expected(&self, layer: &Layer) -> [(Buffer, Bounded); 4] {
        let view = |values, buffer| {
            let (rows, columns) = layer.shape(buffer);
            View::new(values, rows, columns).expect("a dense matrix")
        };
        let reference = reference::Layer {
            x: view(&self.x, Buffer::X),
            weight: view(&self.weight, Buffer::Weight),
            bias: None,
            lora_a: view(&self.lora_a, Buffer::LoraA),
            lora_b: view(&self.lora_b, Buffer::LoraB),
            scaling: layer.scaling,
            dropout: layer.dropout,
        };
        let forward = reference::forward(&reference, DType::BF16, Intermediates::Exact).expect("shapes fit");
        let backward = reference::backward(
            &reference,
            view(&self.dy, Buffer::Dy),
            DType::BF16,
            Intermediates::Exact,
        )
        .expect("shapes fit");
        [
            (Buffer::Y, forward.y),
            (Buffer::Dx, backward.dx),
            (Buffer::DLoraA, backward.d_lora_a),
            (Buffer::DLoraB, backward.d_lora_b),
        ]
    }
}

/// A peer rounds more often than the reference's bound has it: a few units in the last place of bf16, of an element or of a typical one.
fn assert_close(what: &str, given: &[bf16], expected: &Bounded) {
    let typical = (expected.value.iter().map(|value| value * value).sum::<f64>() / expected.value.len() as f64).sqrt();
    for (index, (given, expected)) in given.iter().zip(&expected.value).enumerate() {
        let given = f64::from(*given);
        let allowed = 6.0 * 2f64.powi(-8) * expected.abs().max(typical);
        assert!(
            (given - expected).abs() <= allowed,
            "{what}, element {index}: {given}, the reference is {expected} ± {allowed}"
        );
    }
    let difference = reference::cosine_difference(given, &expected.value);
    assert!(difference < 1e-5, "{what} differs by {difference:e} as a whole");
}

/// Runs the launches, one by one where they are counted.
fn run(device: &Device, launches: &[Launch], memory: &Memory, control: Option<Control>) -> peers::Result<()> {
    let Some(control) = control else {
        return device.run(launches, memory);
    };
    for launch in launches {
        control.reset()?;
        control.count(true)?;
        device.run(std::slice::from_ref(launch), memory)?;
        device.stream().synchronize()?;
        control.count(false)?;
        let counters = control.read()?;
        let [kernel] = &counters.kernels[..] else {
            panic!("one launch of {}: {} kernels", launch.symbol, counters.kernels.len());
        };
        assert_eq!(kernel.kernel, launch.symbol);
        assert_eq!(kernel.total.mma_flops, launch.mma_flops, "{}", launch.symbol);
        // Neighbouring lanes' atomic additions are four bytes each, two instructions for a pair.
        for kind in [Kind::CopyAsync, Kind::LoadMatrix, Kind::LoadGlobal, Kind::StoreGlobal] {
            let tally = kernel.kind(kind);
            assert_eq!(tally.sectors, tally.ideal_sectors, "{} {kind:?}", launch.symbol);
        }
        assert_eq!(kernel.total.bank_conflicts(), 0, "{}", launch.symbol);
        // Each block reads its operands for itself.
        if let Some(product) = launch.product {
            let (tile_m, tile_n, _) = product.tile;
            let operands = (product.m / tile_m) * (product.n / tile_n) * (tile_m + tile_n) * product.k * 2;
            let read = 32 * kernel.kind(Kind::CopyAsync).sectors;
            assert!(read >= operands, "{}: {read} bytes of {operands}", launch.symbol);
        }
    }
    Ok(())
}

#[test]
fn peers_compute_what_the_reference_does() -> peers::Result<()> {
    let selection = select()?;
    let context = lora_kernels::context(0)?;
    let fatbin = peers::fatbin(
        Path::new(env!("CARGO_MANIFEST_DIR")),
        Path::new(env!("CARGO_TARGET_TMPDIR")),
    )?;
    let device = Device::new(&context, fatbin)?;
    let control = match selection {
        Selection::Emulated { .. } => Some(Control::loaded()?),
        Selection::Real => None,
    };
    for (sizes, dropout, shared) in [
        ([256, 512, 256, 16], true, SHARED[0]),
        ([128, 256, 384, 64], true, SHARED[1]),
        ([128, 384, 256, 32], false, SHARED[0]),
        ([128, 128, 128, 128], false, SHARED[1]),
    ] {
        let layer = layer(sizes, dropout, shared);
        let inputs = Inputs::random(&layer);
        let expected = inputs.expected(&layer);
        for peer in Peer::ALL.into_iter().filter(|peer| peer.takes(&layer)) {
            let (forward, backward) = (peer.forward(&layer)?, peer.backward(&layer)?);
            let mut memory = Memory::new(&device, &layer, forward.iter().chain(&backward), 0xFF)?;
            inputs.write(&mut memory)?;
            run(&device, &forward, &memory, control)?;
            run(&device, &backward, &memory, control)?;
            for (buffer, expected) in &expected {
                let what = format!("{buffer:?} of {} {layer:?}", peer.name());
                assert_close(&what, &memory.read(*buffer)?, expected);
            }
        }
    }
    Ok(())
}

#[test]
fn launches_are_as_many_as_the_peers_make() -> peers::Result<()> {
    let counts = |peer: Peer, dropout| {
        let layer = layer([256, 256, 256, 16], dropout, SHARED[0]);
        peers::Result::Ok((peer.forward(&layer)?.len(), peer.backward(&layer)?.len()))
    };
    assert_eq!(counts(Peer::Unsloth, false)?, (3, 7));
    assert_eq!(counts(Peer::Peft, false)?, (5, 7));
    assert_eq!(counts(Peer::Peft, true)?, (6, 8));
    assert_eq!(counts(Peer::LoraFusion, false)?, (2, 7));
    assert_eq!(counts(Peer::LoraFusion, true)?, (3, 7));
    assert!(counts(Peer::Unsloth, true).is_err());
    Ok(())
}

/// NCU's DRAM bytes of forward and backward on an H100 (LoRAFusion, arXiv 2510.00206, evaluation figure 7), 8192 tokens, square weights: `torch`
/// there has PEFT's operators.
#[test]
fn traffic_is_near_what_was_measured() -> peers::Result<()> {
    const GIB: f64 = (1_u64 << 30) as f64;
    for (width, peft, lora_fusion) in [(4096, 2.008, 1.258), (5120, 2.771, 1.836), (8192, 5.289, 4.044)] {
        let layer = layer([8192, width, width, 16], true, H100.max_shared_optin as usize);
        for (peer, measured) in [(Peer::Peft, peft), (Peer::LoraFusion, lora_fusion)] {
            let launches = [peer.forward(&layer)?, peer.backward(&layer)?].concat();
            let bytes: u64 = launches.iter().map(|launch| launch.traffic(&H100).total()).sum();
            let gib = bytes as f64 / GIB;
            println!("{} {width}: {gib:.3} GiB, measured {measured}", peer.name());
            assert!((gib / measured - 1.0).abs() < 0.1, "{} {width}: {gib} GiB", peer.name());
        }
    }
    Ok(())
}
