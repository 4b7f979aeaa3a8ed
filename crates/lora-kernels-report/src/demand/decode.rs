//! Decode: our one launch, the two launches that it took before, and the peers' launches beside a
//! plain product.

use std::path::Path;

use lora_kernels::cudarc::driver::{CudaSlice, DevicePtr};
use lora_kernels::plan::Launch;
use lora_kernels::raw::{ForwardArgs, ForwardProjectionArgs, LoraArgs, Saved};
use lora_kernels::{
    DType, ForwardPlan, LoraLinear, Problem, Projection, RawTable, RowAdapters, Rows,
};
use lora_kernels_baselines::{Buffer, Memory, PeerDevice, PeerLayer, ServingPeer};
use ptx_emulator::counters::{Blocks, KernelCounters, Kind};
use ptx_emulator::device::DeviceModel;

use super::case::Case;
use super::counts::counts;
use crate::Outcome;
use crate::gpu::Gpu;
use crate::sizes::SCALING;
use lora_kernels_report::bound::{Demand, PLAIN, Waves, Work};
use lora_kernels_report::decode::{BEFORE, Decode, Stream, WITHOUT, wave_efficiency};
use lora_kernels_report::document::OURS;
use lora_kernels_report::rates::Rates;

const DTYPE: DType = DType::BF16;
/// The columns of x of a piece of S, and the ranks of a group: `kernels/decode/low_rank.cuh`.
const SLICE: usize = 512;
const GROUP: usize = 16;

/// A batch of tokens that go through so many adapters, one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    tokens: usize,
    in_features: usize,
    out_features: usize,
    rank: usize,
    adapters: usize,
}

impl Batch {
    const fn new(tokens: usize, in_features: usize, out_features: usize, adapters: usize) -> Self {
        Self {
            tokens,
            in_features,
            out_features,
            rank: 16,
            adapters,
        }
    }

    fn problem(&self) -> Outcome<Problem> {
        let projection = Projection {
            out_features: self.out_features,
            rank: self.rank,
        };
        let problem = Problem::sharing_x(self.tokens, self.in_features, &[projection], DTYPE)?;
        Ok(problem)
    }

    /// The adapter of each token.
    fn slots(&self) -> Vec<i32> {
        let of = |token| (token % self.adapters) as i32;
        (0..self.tokens).map(of).collect()
    }

    fn decode(&self, who: &str, launches: Vec<Work>, kernels: &[KernelCounters]) -> Decode {
        let sum = |of: fn(&KernelCounters) -> u64| kernels.iter().map(of).sum::<u64>() as f64;
        Decode {
            who: who.to_owned(),
            tokens: self.tokens,
            in_features: self.in_features,
            out_features: self.out_features,
            rank: self.rank,
            adapters: self.adapters,
            launches,
            conflicts: sum(|kernel| kernel.total.bank_conflicts()),
            partial_sectors: sum(|kernel| {
                let copies = kernel.kind(Kind::CopyAsync);
                copies.sectors - copies.ideal_sectors
            }),
            weight_reads: None,
            stream: None,
        }
    }
}

const BATCHES: [Batch; 8] = [
    Batch::new(1, 4096, 4096, 1),
    Batch::new(16, 4096, 4096, 8),
    Batch::new(64, 4096, 4096, 64),
    Batch::new(16, 4096, 4096, 1),
    Batch::new(64, 4096, 4096, 1),
    Batch::new(1, 4096, 14336, 1),
    Batch::new(16, 4096, 14336, 1),
    Batch::new(64, 4096, 14336, 1),
];
/// The first of them, with as many adapters as can be, are counted of the peers, too.
const COMPARED: usize = 3;
/// Of the quick form.
const QUICK: usize = 2;

/// What is counted of our kernels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Each projection's one adapter, or a table's.
    Adapters,
    /// A table, of which no row names an adapter.
    NoAdapter,
    /// Each projection's one adapter, in a forward that saves what a backward needs.
    Training,
}

pub fn decodes(gpu: &Gpu, device: &DeviceModel, quick: bool) -> Outcome<Vec<Decode>> {
    let layer = LoraLinear::new(&gpu.stream)?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let program = std::env::current_exe()?;
    let folder = program.parent().ok_or("the program lies in no folder")?;
    let peers = PeerDevice::new(
        &gpu.context,
        lora_kernels_baselines::fatbin(&checkout, folder)?,
    )?;
    let ours = Ours {
        gpu,
        layer,
        device,
        stages: stages(&checkout)?,
    };
    let mut all = Vec::new();
    for batch in BATCHES
        .iter()
        .take(if quick { QUICK } else { BATCHES.len() })
    {
        all.push(ours.count(batch, Form::Adapters)?);
        if batch.adapters == 1 {
            all.push(ours.count(batch, Form::Training)?);
        }
    }
    for batch in BATCHES
        .iter()
        .take(COMPARED.min(if quick { QUICK } else { COMPARED }))
    {
        all.push(ours.count(batch, Form::NoAdapter)?);
        for peer in ServingPeer::ALL {
            all.push(count_peer(gpu, device, &peers, batch, peer)?);
        }
    }
    Ok(all)
}

/// The pass of a case that is among the batches.
pub fn demand(case: &Case, decodes: &[Decode], device: &DeviceModel) -> Outcome<Demand> {
    let same = |decode: &&Decode| {
        let given = (decode.tokens, decode.in_features, decode.rank);
        decode.is_ours()
            && decode.adapters == 1
            && given == (case.tokens, case.in_features, case.rank)
            && *case.out_features == [decode.out_features]
    };
    let decode = decodes.iter().find(same);
    let decode = decode.ok_or_else(|| format!("{} is not among the batches", case.name()))?;
    let rates = Rates::by_key(device.key).ok_or("a device without rates")?;
    Ok(Demand {
        who: OURS.to_owned(),
        layer: case.name(),
        pass: "decode".to_owned(),
        launches: decode.launches.clone(),
        waits_us: decode.us(rates) - decode.work_us(rates),
    })
}

/// The stages of our kernels, by symbol.
fn stages(checkout: &Path) -> Outcome<Vec<(String, u32)>> {
    let text = std::fs::read_to_string(checkout.join(lora_kernels_build::table::PATH))?;
    Ok(lora_kernels_build::table::parse(&text)?.stages())
}

struct Ours<'a> {
    gpu: &'a Gpu,
    layer: LoraLinear,
    device: &'a DeviceModel,
    stages: Vec<(String, u32)>,
}

/// An entry of a table of adapters: `AdapterEntry` of kernels/common/rows.cuh.
fn entry(a: u64, b: u64, batch: &Batch) -> [u64; 6] {
    const PRESENT_AND_VECTORISED: u32 = 1 | 2 | 4;
    let pair = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    [
        a,
        b,
        batch.in_features as u64,
        batch.rank as u64,
        pair(batch.rank as u32, SCALING.to_bits()),
        pair(PRESENT_AND_VECTORISED, 0),
    ]
}

impl Ours<'_> {
    fn zeros(&self, bytes: usize) -> Outcome<CudaSlice<u8>> {
        Ok(self.gpu.stream.alloc_zeros(bytes.max(1))?)
    }

    /// Every block runs, and the emulator's model of L2 replays what they access, from an empty L2.
    /// All numbers are zero.
    fn count(&self, batch: &Batch, form: Form) -> Outcome<Decode> {
        let table = form == Form::NoAdapter || batch.adapters > 1;
        let mut problem = batch.problem()?.with_inference(form != Form::Training);
        if table {
            problem = problem.with_row_adapters(RowAdapters::Table {
                slots: batch.adapters,
                per_row: 1,
            })?;
        }
        let plan = ForwardPlan::new(&problem, self.layer.kernels().props())?;
        let Batch {
            tokens: m,
            in_features: k,
            out_features: n,
            rank: r,
            adapters: d,
        } = *batch;
        let stream = &self.gpu.stream;
        let tensors = [m * k, n * k, d * r * k, d * n * r, m * n].map(|count| 2 * count);
        let tensors: Vec<CudaSlice<u8>> = tensors
            .iter()
            .map(|&bytes| self.zeros(bytes))
            .collect::<Outcome<_>>()?;
        let address = |slice: &CudaSlice<u8>| slice.device_ptr(stream).0;
        let at: Vec<u64> = tensors.iter().map(address).collect();
        let [x, weight, a, b, y] = at[..] else {
            return Err("five tensors were allocated".into());
        };
        let saved = self.zeros(plan.saved().bytes())?;
        let workspace = self.zeros(plan.workspace_bytes())?;
        let flags = self.zeros(plan.flags_bytes())?;
        let entries = (0..d as u64).flat_map(|slot| {
            let (rank, k, n) = (r as u64, k as u64, n as u64);
            entry(a + 2 * slot * rank * k, b + 2 * slot * n * rank, batch)
        });
        let entries = stream.clone_htod(&entries.collect::<Vec<u64>>())?;
        let slots = match form {
            Form::NoAdapter => vec![-1; m],
            _ => batch.slots(),
        };
        let slots = stream.clone_htod(&slots)?;
        let projection = ForwardProjectionArgs {
            weight,
            bias: None,
            lora: (!table).then_some(LoraArgs {
                a,
                b,
                scaling: SCALING,
            }),
            y,
        };
        let args = ForwardArgs {
            x,
            projections: &[projection],
            dropout: None,
            saved: match plan.saved().bytes() {
                0 => Saved::Empty,
                _ => Saved::Whole(address(&saved)),
            },
            workspace: Some(address(&workspace)),
            rows: table.then(|| Rows {
                table: RawTable {
                    entries: entries.device_ptr(stream).0,
                    ..RawTable::default()
                },
                slots: slots.device_ptr(stream).0,
                weights: None,
            }),
            flags: Some(address(&flags)),
        };
        stream.synchronize()?;
        self.gpu.count_dram(true)?;
        let run = || {
            // SAFETY: the tensors above are as large as the plan's problem says and stay alive
            // until the stream is synchronized; the context is current.
            unsafe {
                let kernels = self.layer.kernels();
                Ok(kernels.forward_raw(&plan, &args, stream.cu_stream())?)
            }
        };
        let (kernels, _) = self.gpu.counters(&Blocks::All, run)?;
        self.gpu.count_dram(false)?;
        let launches = plan.launches().iter().zip(&kernels);
        let works = launches.map(|(launch, kernel)| self.work(launch, kernel));
        let who = match form {
            Form::Adapters => OURS,
            Form::NoAdapter => WITHOUT,
            Form::Training => BEFORE,
        };
        let mut decode = batch.decode(who, works.collect(), &kernels);
        if let ([launch], true, [kernel]) = (plan.launches(), form != Form::Training, &kernels[..])
        {
            let stream = self.stream(launch, batch, form)?;
            if form == Form::NoAdapter {
                let tiles = n.div_ceil(launch.variant.tile.columns);
                let x = (tiles * m * k * 2) as f64;
                let copied = 32.0 * kernel.kind(Kind::CopyAsync).sectors as f64;
                decode.weight_reads = Some((copied - x) / decode.weight_bytes());
            }
            decode.stream = Some(stream);
        }
        Ok(decode)
    }

    fn stream(&self, launch: &Launch, batch: &Batch, form: Form) -> Outcome<Stream> {
        let tile = launch.variant.tile;
        let symbol = launch.variant.symbol();
        let stages = self.stages.iter().find(|(known, _)| known == symbol);
        let stages = stages
            .ok_or_else(|| format!("the table of kernels has no {symbol}"))?
            .1;
        let resident = resident(self.device, launch);
        let steps =
            batch.out_features.div_ceil(tile.columns) * batch.in_features.div_ceil(tile.depth);
        let items = batch.adapters * batch.rank.div_ceil(GROUP) * batch.in_features.div_ceil(SLICE);
        // Stages of the warp of S: kLowRankStages.
        let ahead: usize = if tile.rows > 32 { 1 } else { 2 };
        Ok(Stream {
            steps: steps as u64,
            blocks: launch.blocks.into(),
            places: resident * u64::from(self.device.multiprocessors),
            resident: resident.min(u64::from(launch.blocks)),
            ahead: u64::from(stages - 1) * (tile.columns * tile.depth * 2) as u64,
            items: if form == Form::NoAdapter {
                0
            } else {
                items as u64
            },
            dram_trips: (SLICE.min(batch.in_features).div_ceil(tile.depth)).div_ceil(ahead) as f64,
            l2_trips: 3.0,
            shared: true,
        })
    }

    /// Blocks are equal but for what a few of them have to sum.
    fn work(&self, launch: &Launch, kernel: &KernelCounters) -> Work {
        work(
            self.device,
            launch.variant.symbol(),
            launch.blocks.into(),
            kernel,
        )
    }
}

/// Blocks of a launch that a multiprocessor holds.
fn resident(device: &DeviceModel, launch: &Launch) -> u64 {
    let by_shared = device.blocks_per_multiprocessor(launch.threads, launch.shared_bytes);
    by_shared
        .min(launch.variant.resident_blocks())
        .max(1)
        .into()
}

fn work(device: &DeviceModel, what: &str, blocks: u64, kernel: &KernelCounters) -> Work {
    let all = counts(kernel, 1);
    let multiprocessors = u64::from(device.multiprocessors);
    let busiest = blocks.div_ceil(multiprocessors) as f64 / blocks.max(1) as f64;
    let dram = kernel.dram.unwrap_or_default();
    Work {
        what: what.to_owned(),
        blocks,
        dram_bytes: (dram.read_bytes + dram.write_bytes) as f64,
        library_flops: 0.0,
        all,
        busiest: all.times(busiest),
    }
}

/// The product with W as by [`PLAIN`], then the launches for the adapters, counted.
fn count_peer(
    gpu: &Gpu,
    device: &DeviceModel,
    peers: &PeerDevice,
    batch: &Batch,
    peer: ServingPeer,
) -> Outcome<Decode> {
    let layer = PeerLayer::new(
        128,
        batch.in_features,
        batch.out_features,
        batch.rank,
        SCALING,
    )?
    .serving(batch.tokens, batch.adapters);
    let launches = peer.adapters(&layer);
    let mut memory = Memory::new(peers, &layer, &launches, 0)?;
    let slots = batch.slots();
    match peer {
        ServingPeer::Punica => memory.write(Buffer::Slots, &slots)?,
        ServingPeer::Vllm => {
            let (order, starts) = ServingPeer::sorted(&slots, batch.adapters);
            memory.write(Buffer::Order, &order)?;
            memory.write(Buffer::Starts, &starts)?;
        }
    }
    gpu.stream.synchronize()?;
    gpu.count_dram(true)?;
    let (kernels, ()) = gpu.counters(&Blocks::All, || peers.run(&launches, &memory))?;
    gpu.count_dram(false)?;
    let plain = batch.decode(PLAIN, Vec::new(), &[]);
    let mut works = vec![Work {
        what: "y = x·Wᵀ".to_owned(),
        dram_bytes: plain.plain_bytes(),
        library_flops: 2.0 * (batch.tokens * batch.in_features * batch.out_features) as f64,
        all: lora_kernels_report::bound::Counts {
            sectors: plain.plain_bytes() / 32.0,
            ..Default::default()
        },
        ..Work::default()
    }];
    for launch in &launches {
        let counted = kernels.iter().find(|kernel| kernel.kernel == launch.symbol);
        let counted = counted.ok_or_else(|| format!("{} was not counted", launch.symbol))?;
        works.push(work(device, launch.does, launch.grid.into(), counted));
    }
    Ok(batch.decode(peer.name(), works, &kernels))
}

/// Models, and (in_features, out_features) of their projections.
type Model = (&'static str, [(&'static str, usize, usize); 6]);
const MODELS: [Model; 4] = [
    (
        "Llama-3-8B",
        [
            ("q", 4096, 4096),
            ("k, v", 4096, 1024),
            ("o", 4096, 4096),
            ("gate, up", 4096, 14336),
            ("down", 14336, 4096),
            ("q + k + v", 4096, 6144),
        ],
    ),
    (
        "Qwen2.5-7B",
        [
            ("q", 3584, 3584),
            ("k, v", 3584, 512),
            ("o", 3584, 3584),
            ("gate, up", 3584, 18944),
            ("down", 18944, 3584),
            ("q + k + v", 3584, 4608),
        ],
    ),
    (
        "Mistral-7B",
        [
            ("q", 4096, 4096),
            ("k, v", 4096, 1024),
            ("o", 4096, 4096),
            ("gate, up", 4096, 14336),
            ("down", 14336, 4096),
            ("q + k + v", 4096, 6144),
        ],
    ),
    (
        "Gemma-2-9b",
        [
            ("q", 3584, 4096),
            ("k, v", 3584, 2048),
            ("o", 4096, 3584),
            ("gate, up", 3584, 14336),
            ("down", 14336, 3584),
            ("q + k + v", 3584, 8192),
        ],
    ),
];
const TOKENS: [usize; 4] = [1, 4, 16, 64];

/// How evenly the plans of real projections share their steps out; nothing runs. The sizes of tiles
/// divide all these widths.
pub fn waves(gpu: &Gpu, device: &DeviceModel) -> Outcome<Vec<Waves>> {
    let layer = LoraLinear::new(&gpu.stream)?;
    let mut all = Vec::new();
    for (model, projections) in MODELS {
        for (name, in_features, out_features) in projections {
            for tokens in TOKENS {
                let batch = Batch::new(tokens, in_features, out_features, 1);
                let problem = batch.problem()?.with_inference(true);
                let plan = ForwardPlan::new(&problem, layer.kernels().props())?;
                let [launch] = plan.launches() else {
                    return Err(
                        format!("{model} {name}: {} launches", plan.launches().len()).into(),
                    );
                };
                let tile = launch.variant.tile;
                let steps = out_features.div_ceil(tile.columns) * in_features.div_ceil(tile.depth);
                let places = resident(device, launch) * u64::from(device.multiprocessors);
                all.push(Waves {
                    model: model.to_owned(),
                    projection: format!("{name} {in_features}x{out_features}"),
                    tokens,
                    blocks: launch.blocks.into(),
                    efficiency_percent: wave_efficiency(steps as u64, launch.blocks.into(), places),
                });
            }
        }
    }
    Ok(all)
}
