//! The peers compute the same results as lora-kernels' reference, with the work and the traffic
//! that their descriptions state.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use half::bf16;
use lora_kernels::Dropout;
use lora_kernels::cudarc::driver::sys::CUdevice_attribute;
use lora_kernels::reference::{self, Adapter, Bounded, Intermediates, Projection, View};
use lora_kernels_baselines::{Buffer, Launch, Memory, Peer, PeerDevice, PeerLayer, Tiled};
use lora_kernels_test_device::{Selection, select};
use ptx_emulator::counters::{Control, KernelCounters, Kind};
use ptx_emulator::device::{A100, H100};
use ptx_emulator::l2::{Raster, Schedule, Traffic};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

const DROPOUT: Dropout = Dropout {
    p: 0.1,
    seed: 0x5EED_0000_0001_0203,
    offset: 0x0FF5_0000_0000_0007,
};

/// Shared memory per block that fits the large tile, and that doesn't.
const SHARED: [usize; 2] = [163 << 10, 99 << 10];

fn layer(sizes: [usize; 4], dropout: bool, shared: usize) -> PeerLayer {
    let [tokens, in_features, out_features, rank] = sizes;
    PeerLayer::new(tokens, in_features, out_features, rank, 1.7)
        .expect("sizes in range")
        .with_dropout(dropout.then_some(DROPOUT))
        .on_device_with(shared)
}

/// The inputs of a layer.
struct Inputs {
    x: Vec<bf16>,
    weight: Vec<bf16>,
    lora_a: Vec<bf16>,
    lora_b: Vec<bf16>,
    dy: Vec<bf16>,
}

impl Inputs {
    /// Random inputs, scaled so that every sum is around 1.
    fn random(layer: &PeerLayer) -> Self {
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

    fn write(&self, memory: &mut Memory) -> lora_kernels_baselines::Result<()> {
        memory.write(Buffer::X, &self.x)?;
        memory.write(Buffer::Weight, &self.weight)?;
        memory.write(Buffer::LoraA, &self.lora_a)?;
        memory.write(Buffer::LoraB, &self.lora_b)?;
        memory.write(Buffer::Dy, &self.dy)
    }

    /// The reference's y, dx, dA and dB.
    fn expected(&self, layer: &PeerLayer) -> [(Buffer, Bounded); 4] {
        let view = |values, buffer| {
            let (rows, columns) = layer.shape(buffer);
            View::new(values, rows, columns).expect("a dense matrix")
        };
        let reference = reference::Layer {
            x: view(&self.x, Buffer::X),
            projections: vec![Projection {
                weight: view(&self.weight, Buffer::Weight),
                bias: None,
                adapter: Some(Adapter {
                    a: view(&self.lora_a, Buffer::LoraA),
                    b: view(&self.lora_b, Buffer::LoraB),
                    scaling: layer.scaling,
                }),
            }],
            dropout: layer.dropout,
        };
        let mut forward = reference::forward(&reference, Intermediates::Exact).expect("shapes fit");
        let dy = [view(&self.dy, Buffer::Dy)];
        let mut backward =
            reference::backward(&reference, &dy, Intermediates::Exact).expect("shapes fit");
        let adapter = backward.adapters.remove(0).expect("an adapter");
        [
            (Buffer::Y, forward.y.remove(0)),
            (Buffer::Dx, backward.dx),
            (Buffer::DLoraA, adapter.d_lora_a),
            (Buffer::DLoraB, adapter.d_lora_b),
        ]
    }
}

/// Peers round more often than the reference's bound assumes. The error may be a few units in the
/// last place of bf16, of the element or of a typical element.
fn assert_close(what: &str, given: &[bf16], expected: &Bounded) {
    let typical = (expected
        .value
        .iter()
        .map(|value| value * value)
        .sum::<f64>()
        / expected.value.len() as f64)
        .sqrt();
    for (index, (given, expected)) in given.iter().zip(&expected.value).enumerate() {
        let given = f64::from(*given);
        let allowed = 6.0 * 2f64.powi(-8) * expected.abs().max(typical);
        assert!(
            (given - expected).abs() <= allowed,
            "{what}, element {index}: {given}, the reference is {expected} ± {allowed}"
        );
    }
    let difference = reference::cosine_difference(given, &expected.value);
    assert!(
        difference < 1e-5,
        "{what} differs by {difference:e} as a whole"
    );
}

/// The device, and its counters if it is emulated. The counters belong to the process, so only one
/// test uses them at a time.
struct Gpu {
    device: PeerDevice,
    shared_per_block: usize,
    multiprocessors: u64,
    control: Option<Control>,
    _alone: MutexGuard<'static, ()>,
}

impl Gpu {
    fn open() -> lora_kernels_baselines::Result<Self> {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let selection = select()?;
        let fatbin = lora_kernels_baselines::fatbin(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."),
            Path::new(env!("CARGO_TARGET_TMPDIR")),
        )?;
        let context = lora_kernels::context(0)?;
        let attribute = |attribute| {
            lora_kernels_baselines::Result::Ok(u32::try_from(context.attribute(attribute)?)?)
        };
        let shared =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?;
        let multiprocessors =
            attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?;
        Ok(Self {
            device: PeerDevice::new(&context, fatbin)?,
            shared_per_block: shared as usize,
            multiprocessors: multiprocessors.into(),
            control: match selection {
                Selection::Emulated { .. } => Some(Control::loaded()?),
                Selection::Real => None,
            },
            _alone: alone,
        })
    }

    fn counted(
        &self,
        control: Control,
        launch: &Launch,
        memory: &Memory,
    ) -> lora_kernels_baselines::Result<KernelCounters> {
        control.reset()?;
        control.count(true)?;
        self.device.run(std::slice::from_ref(launch), memory)?;
        self.device.stream().synchronize()?;
        control.count(false)?;
        let mut kernels = control.read()?.kernels;
        assert_eq!(kernels.len(), 1, "one launch of {}", launch.symbol);
        Ok(kernels.remove(0))
    }

    /// Runs the launches, one by one if they can be counted.
    fn run(&self, launches: &[Launch], memory: &Memory) -> lora_kernels_baselines::Result<()> {
        let Some(control) = self.control else {
            return self.device.run(launches, memory);
        };
        for launch in launches {
            let kernel = self.counted(control, launch, memory)?;
            let symbol = &launch.symbol;
            assert_eq!(&kernel.kernel, symbol);
            assert_eq!(kernel.total.mma_flops, launch.mma_flops, "{symbol}");
            assert_eq!(kernel.total.bank_conflicts(), 0, "{symbol}");
            // Atomic additions are left out: each lane adds four bytes.
            for kind in [Kind::CopyAsync, Kind::LoadGlobal, Kind::StoreGlobal] {
                let tally = kernel.kind(kind);
                assert_eq!(tally.sectors, tally.ideal_sectors, "{symbol} {kind:?}");
            }
            // Each block of a plain product reads its own operands.
            if let (Some(product), []) = (launch.product, &launch.streams[..]) {
                let (tile_m, tile_n, _) = product.tile;
                let operands = u64::from(launch.grid) * (tile_m + tile_n) * product.k * 2;
                assert_eq!(
                    32 * kernel.kind(Kind::CopyAsync).sectors,
                    operands,
                    "{symbol}"
                );
            }
        }
        Ok(())
    }
}

#[test]
fn peers_compute_what_the_reference_does() -> lora_kernels_baselines::Result<()> {
    let gpu = Gpu::open()?;
    for (sizes, dropout, shared) in [
        ([256, 512, 256, 16], true, SHARED[0]),
        ([128, 256, 384, 64], true, SHARED[1]),
        ([128, 384, 256, 32], false, SHARED[0]),
        ([128, 128, 128, 128], false, SHARED[1]),
    ] {
        let layer = layer(sizes, dropout, shared.min(gpu.shared_per_block));
        let inputs = Inputs::random(&layer);
        let expected = inputs.expected(&layer);
        for peer in Peer::ALL.into_iter().filter(|peer| peer.takes(&layer)) {
            let (forward, backward) = (peer.forward(&layer)?, peer.backward(&layer)?);
            let mut memory =
                Memory::new(&gpu.device, &layer, forward.iter().chain(&backward), 0xFF)?;
            inputs.write(&mut memory)?;
            gpu.run(&forward, &memory)?;
            gpu.run(&backward, &memory)?;
            for (buffer, expected) in &expected {
                let what = format!("{buffer:?} of {} {layer:?}", peer.name());
                assert_close(&what, &memory.read(*buffer)?, expected);
            }
        }
    }
    Ok(())
}

/// Replays the blocks' accesses through an L2, each launch by itself.
fn replay(
    gpu: &Gpu,
    l2_bytes: u64,
    layer: &PeerLayer,
    launches: &[Launch],
) -> lora_kernels_baselines::Result<Vec<Traffic>> {
    let Some(control) = gpu.control else {
        return Err("traffic can be replayed on the emulated device only".into());
    };
    let memory = Memory::new(&gpu.device, layer, launches, 0)?;
    control.l2_bytes(Some(l2_bytes))?;
    let mut all = Vec::new();
    for launch in launches {
        control.dram(true)?;
        control.flush_l2()?;
        let dram = gpu
            .counted(control, launch, &memory)?
            .dram
            .unwrap_or_default();
        control.dram(false)?;
        all.push(Traffic {
            read: dram.read_bytes,
            written: dram.write_bytes,
        });
    }
    control.l2_bytes(None)?;
    Ok(all)
}

#[test]
fn what_is_read_and_written_is_what_is_described() -> lora_kernels_baselines::Result<()> {
    let gpu = Gpu::open()?;
    if gpu.control.is_none() {
        println!("traffic can be replayed on the emulated device only");
        return Ok(());
    }
    for dropout in [false, true] {
        let layer = layer([256, 256, 512, 16], dropout, gpu.shared_per_block);
        for peer in Peer::ALL.into_iter().filter(|peer| peer.takes(&layer)) {
            let launches = [peer.forward(&layer)?, peer.backward(&layer)?].concat();
            // With this L2 everything fits.
            let found = replay(&gpu, A100.l2_bytes, &layer, &launches)?;
            for (launch, found) in launches.iter().zip(found) {
                assert_eq!(
                    found,
                    launch.traffic(&A100),
                    "{}: {}",
                    peer.name(),
                    launch.symbol
                );
                assert_eq!(
                    found,
                    launch.compulsory(),
                    "{}: {}",
                    peer.name(),
                    launch.symbol
                );
            }
        }
    }
    Ok(())
}

/// There are many more tile columns than rows, and the L2 holds few of them: any other order would
/// read the columns again and again.
#[test]
fn tiles_are_taken_in_the_order_that_is_described() -> lora_kernels_baselines::Result<()> {
    const L2_BYTES: u64 = 128 << 10;
    let gpu = Gpu::open()?;
    let Some(control) = gpu.control else {
        println!("traffic can be replayed on the emulated device only");
        return Ok(());
    };
    let layer = layer([1024, 128, 8192, 16], false, gpu.shared_per_block);
    let mut launches = Peer::Peft.forward(&layer)?;
    launches.retain(|launch| launch.symbol.ends_with("expand"));
    control.blocks_per_multiprocessor(Some(1))?;
    let found = replay(&gpu, L2_BYTES, &layer, &launches)?;
    control.blocks_per_multiprocessor(None)?;
    let ([launch], [found]) = (&launches[..], &found[..]) else {
        panic!("one product of depth {}: {launches:?}", layer.rank);
    };
    let tiled = launch.product.expect("a product");
    let under = |raster| {
        let schedule = Schedule {
            raster,
            ..tiled.schedule(gpu.multiprocessors)
        };
        tiled.product().traffic(&schedule, L2_BYTES).read as f64
    };
    let described = under(Raster::GroupM(Tiled::GROUP_M));
    println!(
        "{found:?} {described} {} {}",
        under(Raster::GroupM(1)),
        under(Raster::GroupN(1))
    );
    assert!(
        (found.read as f64 / described - 1.0).abs() < 0.05,
        "{found:?}, {described}"
    );
    assert!(under(Raster::GroupM(1)) > 2.0 * described);
    Ok(())
}

#[test]
fn launches_are_as_many_as_the_peers_make() -> lora_kernels_baselines::Result<()> {
    let counts = |peer: Peer, dropout| {
        let layer = layer([256, 256, 256, 16], dropout, SHARED[0]);
        lora_kernels_baselines::Result::Ok((
            peer.forward(&layer)?.len(),
            peer.backward(&layer)?.len(),
        ))
    };
    assert_eq!(counts(Peer::Unsloth, false)?, (3, 7));
    assert_eq!(counts(Peer::Peft, false)?, (5, 7));
    assert_eq!(counts(Peer::Peft, true)?, (6, 8));
    assert_eq!(counts(Peer::LoraFusion, false)?, (2, 7));
    assert_eq!(counts(Peer::LoraFusion, true)?, (3, 7));
    assert!(counts(Peer::Unsloth, true).is_err());
    Ok(())
}

/// DRAM bytes of forward and backward that NCU measured on an H100 (LoRAFusion, arXiv 2510.00206,
/// evaluation figure 7), for 8192 tokens and square weights. Its `torch` has PEFT's operators.
#[test]
fn traffic_is_near_what_was_measured() -> lora_kernels_baselines::Result<()> {
    const GIB: f64 = (1_u64 << 30) as f64;
    for (width, peft, lora_fusion) in [
        (4096, 2.008, 1.258),
        (5120, 2.771, 1.836),
        (8192, 5.289, 4.044),
    ] {
        let layer = layer(
            [8192, width, width, 16],
            true,
            H100.max_shared_optin as usize,
        );
        for (peer, measured) in [(Peer::Peft, peft), (Peer::LoraFusion, lora_fusion)] {
            let launches = [peer.forward(&layer)?, peer.backward(&layer)?].concat();
            let bytes: u64 = launches
                .iter()
                .map(|launch| launch.traffic(&H100).total())
                .sum();
            let gib = bytes as f64 / GIB;
            println!("{} {width}: {gib:.3} GiB, measured {measured}", peer.name());
            assert!(
                (gib / measured - 1.0).abs() < 0.1,
                "{} {width}: {gib} GiB",
                peer.name()
            );
        }
    }
    Ok(())
}
