//! Serves many adapters on one base model: every request of a batch goes through an adapter of its
//! own, and a layer takes one launch. docs/serving.md explains the steps.
//!
//! The layers are recorded ones of MiniLM, and the 64 adapters are made from the recorded one. Run
//! it in the repository's root, with `cargo run --example serve_batch`; `cargo xtask demo` does,
//! too. Without a GPU it runs on the emulated one.

use std::collections::BTreeSet;
use std::error::Error;
use std::path::Path;
use std::sync::Arc;

use half::bf16;
use lora_kernels::cudarc::driver::sys::{CUgraphInstantiate_flags, CUstreamCaptureMode};
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, CudaView, DevicePtr, DevicePtrMut};
use lora_kernels::raw::{ForwardArgs, ForwardProjectionArgs};
use lora_kernels::{
    AdapterTable, DType, Flags, Forward, ForwardPlan, ForwardProjection, Kernels, Lora, LoraInputs,
    LoraLinear, LoraProjection, MatMut, MatRef, Problem, RowAdapters, RowLists, Rows, Saved,
    TableLora,
};
use lora_kernels_cases::{RecordedLayer, RoundedInputs};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

const LAYERS: [&str; 2] = [
    "tests/fixtures/encoder.layer.0.attention.self.query.safetensors",
    "tests/fixtures/encoder.layer.2.output.dense.safetensors",
];
const ADAPTERS: usize = 64;
/// The ranks of the adapters.
const RANKS: [usize; 6] = [8, 1, 3, 16, 4, 32];
/// Tokens of a batch, one of each request.
const TOKENS: usize = 16;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// An adapter of a layer, in the host's memory.
struct Adapter {
    rank: usize,
    scaling: f32,
    /// (rank, in_features)
    a: Vec<bf16>,
    /// (out_features, rank)
    b: Vec<bf16>,
}

/// The adapter that a request names, by its slot, and the weight of its delta; or none.
type Request = Option<(usize, f32)>;

fn main() -> Result<()> {
    lora_kernels_test_device::select()?;
    let stream = lora_kernels::context(0)?.new_stream()?;
    let kernels = Arc::new(Kernels::load(stream.context())?);
    for path in LAYERS {
        serve(&kernels, &stream, &RecordedLayer::read(Path::new(path))?)?;
    }
    Ok(())
}

fn serve(kernels: &Arc<Kernels>, stream: &Arc<CudaStream>, recorded: &RecordedLayer) -> Result<()> {
    let (k, n) = (recorded.in_features(), recorded.out_features());
    println!(
        "{}: {k} -> {n}",
        recorded.module.as_deref().unwrap_or("layer")
    );
    let layer = Layer::new(kernels, stream, recorded)?;

    // The plan knows the sizes of the table, not what is in it. Batch invariance is not needed for
    // adapters: here it makes a row comparable, bit by bit, with its adapter applied alone.
    let most_ranks = RANKS.into_iter().max().unwrap_or(1);
    let rows = RowAdapters::Table {
        slots: ADAPTERS,
        per_row: 1,
    };
    let problem = Problem::new(TOKENS, k, n, most_ranks, DType::BF16)?
        .with_row_adapters(rows)?
        .with_bias(true)
        .with_inference(true)
        .with_batch_invariance(true);
    let plan = ForwardPlan::new(&problem, kernels.props())?;

    // The table owns the adapters' memory. `serving` is the host's copy, for the checks.
    let adapters: Vec<_> = (0..=ADAPTERS).map(|index| layer.adapter(index)).collect();
    let (newcomer, first) = adapters.split_last().ok_or("no adapters")?;
    let mut table = AdapterTable::new(stream, &problem)?;
    for adapter in first {
        table.insert(vec![Some(layer.upload(adapter)?)])?;
    }
    let mut serving: Vec<_> = first.iter().map(Some).collect();

    // A batch of requests for random adapters: the first for the recorded one, two for the same,
    // the last for none.
    let random = &mut StdRng::seed_from_u64(16);
    let mut requests: Vec<Request> = (0..TOKENS)
        .map(|_| {
            Some((
                random.random_range(0..ADAPTERS),
                random.random_range(0.25..2.0),
            ))
        })
        .collect();
    requests[0] = Some((0, 1.0));
    requests[2] = requests[1];
    requests[TOKENS - 1] = None;
    let chosen = lists(&table, &requests)?;

    // What a call needs besides: it could serve all layers of a model, one after the other.
    let x = stream.clone_htod(&layer.inputs.x[..TOKENS * k])?;
    let mut slots = stream.clone_htod(chosen.slots())?;
    let mut weights = stream.clone_htod(chosen.weights())?;
    let mut y = stream.alloc_zeros::<bf16>(TOKENS * n)?;
    let mut workspace = stream.alloc_zeros::<u8>(plan.workspace_bytes().max(1))?;
    let mut flags = Flags::new(stream, plan.flags_bytes())?;

    // One call. Everything is checked.
    let call = Forward::<bf16> {
        x: MatRef::new(x.as_view(), TOKENS, k),
        projections: vec![ForwardProjection {
            weight: MatRef::new(layer.weight.as_view(), n, k),
            bias: Some(layer.bias.as_view()),
            lora: None,
            y: MatMut::new(y.as_view_mut(), TOKENS, n),
        }],
        dropout: None,
        saved: Saved::Empty,
        workspace: Some(workspace.as_view_mut()),
        rows: Some(Rows {
            table: &table,
            slots: slots.as_view(),
            weights: Some(weights.as_view()),
        }),
        flags: Some(&mut flags),
    };
    kernels.forward(stream, &plan, call)?;
    layer.check(&serving, &requests, &x, &stream.clone_dtoh(&y)?)?;
    layer.compare_with_peft(&stream.clone_dtoh(&y)?[..n])?;
    layer.print_costs(&plan, &serving, &requests);

    // The same call in a CUDA graph: it holds addresses, so all of this has to outlive it. `table`
    // and `flags` keep their memory for life.
    let projection = ForwardProjectionArgs {
        weight: layer.weight.device_ptr(stream).0,
        bias: Some(layer.bias.device_ptr(stream).0),
        lora: None,
        y: y.device_ptr_mut(stream).0,
    };
    let raw = ForwardArgs {
        x: x.device_ptr(stream).0,
        projections: &[projection],
        dropout: None,
        saved: Saved::Empty,
        workspace: Some(workspace.device_ptr_mut(stream).0),
        rows: Some(Rows {
            table: table.raw(),
            slots: slots.device_ptr(stream).0,
            weights: Some(weights.device_ptr(stream).0),
        }),
        flags: Some(flags.words().device_ptr(stream).0),
    };
    stream.begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
    // SAFETY: the addresses are of slices with the plan's sizes, which live as long as the graph.
    let captured = unsafe { kernels.forward_raw(&plan, &raw, stream.cu_stream()) };
    let flag = CUgraphInstantiate_flags::CUDA_GRAPH_INSTANTIATE_FLAG_AUTO_FREE_ON_LAUNCH;
    let graph = stream.end_capture(flag)?.ok_or("nothing was captured")?;
    captured?;

    // An adapter comes in the place of another, and other requests: the graph stays as it is.
    let slot = requests[1].ok_or("a request for an adapter")?.0;
    table.replace(slot, vec![Some(layer.upload(newcomer)?)])?;
    serving[slot] = Some(newcomer);
    requests.reverse();
    requests[5] = Some((slot, 1.5));
    let swapped = lists(&table, &requests)?;
    stream.memcpy_htod(swapped.slots(), &mut slots)?;
    stream.memcpy_htod(swapped.weights(), &mut weights)?;
    graph.launch()?;
    layer.check(&serving, &requests, &x, &stream.clone_dtoh(&y)?)?;
    println!("  adapter {ADAPTERS} came into slot {slot} under a captured graph");

    // It goes again. Nobody can ask for it now: its requests get the base model.
    table.remove(slot)?;
    serving[slot] = None;
    let Err(refused) = lists(&table, &requests) else {
        return Err("an empty slot was given out".into());
    };
    println!("  and left; then: {refused}");
    for request in &mut requests {
        *request = request.filter(|&(named, _)| named != slot);
    }
    let without = lists(&table, &requests)?;
    stream.memcpy_htod(without.slots(), &mut slots)?;
    stream.memcpy_htod(without.weights(), &mut weights)?;
    graph.launch()?;
    layer.check(&serving, &requests, &x, &stream.clone_dtoh(&y)?)?;
    if table.take_wrong()? {
        return Err("a row named an empty slot".into());
    }
    Ok(())
}

/// The requests as the kernels read them.
fn lists(table: &AdapterTable, requests: &[Request]) -> Result<RowLists> {
    let lists: Vec<_> = requests.iter().map(Option::as_slice).collect();
    Ok(table.lists(&lists)?)
}

/// A recorded layer in device memory.
struct Layer<'r> {
    recorded: &'r RecordedLayer,
    inputs: RoundedInputs<bf16>,
    short_path: LoraLinear,
    stream: Arc<CudaStream>,
    weight: CudaSlice<bf16>,
    bias: CudaSlice<bf16>,
}

impl<'r> Layer<'r> {
    fn new(
        kernels: &Arc<Kernels>,
        stream: &Arc<CudaStream>,
        recorded: &'r RecordedLayer,
    ) -> Result<Self> {
        let inputs = RoundedInputs::<bf16>::new(recorded)?;
        let bias = inputs.bias.as_deref().ok_or("the layer has no bias")?;
        Ok(Self {
            recorded,
            short_path: LoraLinear::with_kernels(kernels.clone(), stream)?,
            weight: stream.clone_htod(&inputs.weight)?,
            bias: stream.clone_htod(bias)?,
            stream: stream.clone(),
            inputs,
        })
    }

    /// Adapter 0 is the recorded one. The others repeat some of its ranks, with other factors.
    fn adapter(&self, index: usize) -> Adapter {
        let (k, ranks) = (self.recorded.in_features(), self.recorded.rank());
        let rank = RANKS[index % RANKS.len()];
        let taken = |place: usize| (index + place) % ranks;
        let factor = 1.0 - index as f32 / 50.0;
        let a = (0..rank).flat_map(|place| &self.inputs.lora_a[taken(place) * k..][..k]);
        let b = { self.inputs.lora_b.chunks_exact(ranks) }
            .flat_map(|row| (0..rank).map(move |place| row[taken(place)]));
        Adapter {
            rank,
            scaling: self.recorded.scaling * factor,
            a: a.copied().collect(),
            b: b.map(|b| bf16::from_f32(b.to_f32() * factor)).collect(),
        }
    }

    fn upload(&self, adapter: &Adapter) -> Result<TableLora<bf16>> {
        Ok(TableLora {
            a: self.stream.clone_htod(&adapter.a)?,
            b: self.stream.clone_htod(&adapter.b)?,
            rank: adapter.rank,
            scaling: adapter.scaling,
        })
    }

    /// y of one token with one adapter, by a call without a table.
    fn alone(&self, x: CudaView<'_, bf16>, adapter: &Adapter, weight: f32) -> Result<Vec<bf16>> {
        let (k, n) = (self.recorded.in_features(), self.recorded.out_features());
        let uploaded = self.upload(adapter)?;
        let lora = Lora {
            a: MatRef::new(uploaded.a.as_view(), adapter.rank, k),
            b: MatRef::new(uploaded.b.as_view(), n, adapter.rank),
            scaling: adapter.scaling * weight,
        };
        let projection = LoraProjection::new(MatRef::new(self.weight.as_view(), n, k), lora)
            .with_bias(self.bias.as_view());
        let inputs =
            LoraInputs::new(MatRef::new(x, 1, k), [projection]).with_batch_invariance(true);
        let y = self.short_path.infer(&inputs)?;
        Ok(self.stream.clone_dtoh(&y[0])?)
    }

    /// Every row of the batch has the bits that its adapter alone gives.
    fn check(
        &self,
        serving: &[Option<&Adapter>],
        requests: &[Request],
        x: &CudaSlice<bf16>,
        y: &[bf16],
    ) -> Result<()> {
        let (k, n) = (self.recorded.in_features(), self.recorded.out_features());
        for (row, (request, y)) in requests.iter().zip(y.chunks_exact(n)).enumerate() {
            // For a request without an adapter, any adapter with weight 0
            let (slot, weight) = request.unwrap_or((0, 0.0));
            let adapter = serving[slot].ok_or("a request for an empty slot")?;
            let alone = self.alone(x.slice(row * k..(row + 1) * k), adapter, weight)?;
            if y != alone {
                return Err(format!("row {row}, {request:?}: not what its adapter gives").into());
            }
        }
        Ok(())
    }

    /// The first token through the recorded adapter: PEFT's y was recorded.
    fn compare_with_peft(&self, y: &[bf16]) -> Result<()> {
        let expected = self.recorded.results.y.as_ref().ok_or("no recorded y")?;
        let pairs = { y.iter().zip(&expected.data) }
            .map(|(y, &expected)| (f64::from(y.to_f32()), f64::from(expected)));
        let (mut error, mut size) = (0.0, 0.0);
        for (y, expected) in pairs {
            error += (y - expected).powi(2);
            size += expected.powi(2);
        }
        let relative = f64::sqrt(error / size);
        println!("  the recorded adapter's row is {relative:.1e} from PEFT's, which is in f32");
        match relative < 0.01 {
            true => Ok(()),
            false => Err("that is too far".into()),
        }
    }

    fn print_costs(&self, plan: &ForwardPlan, serving: &[Option<&Adapter>], requests: &[Request]) {
        let (k, n) = (self.recorded.in_features(), self.recorded.out_features());
        let named: BTreeSet<_> = requests.iter().flatten().map(|&(slot, _)| slot).collect();
        let adapters = named.iter().filter_map(|&slot| serving[slot]);
        let in_adapters: usize = adapters.map(|adapter| (k + n) * adapter.rank).sum();
        // One call for each adapter, and one for the rows without any
        let calls = named.len() + usize::from(requests.contains(&None));
        let bytes = |bases: usize| {
            size_of::<bf16>() * (bases * (k + 1) * n + in_adapters + TOKENS * (k + n))
        };
        println!(
            "  {TOKENS} requests for {} of {ADAPTERS} adapters: {} launch, {} bytes\n  \
             with one call per adapter: {calls} launches, {} bytes",
            named.len(),
            plan.launches().len(),
            bytes(1),
            bytes(calls)
        );
    }
}
