//! Batches whose rows have adapters of a table: random ones, their run, and what y must be.

use std::sync::Arc;

use lora_kernels::cudarc::driver::{CudaSlice, CudaStream};
use lora_kernels::{
    AdapterTable, DType, Flags, Forward, ForwardPlan, ForwardProjection, MatMut, MatRef, Problem,
    Projection, Role, RowAdapters, Rows, Saved, TableLora,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use crate::common::device::{Number, gpu};
use crate::common::memory::are_zero;

/// The most tokens of a batch here.
const MOST_TOKENS: usize = 300;

/// One projection's part of an adapter, dense.
#[derive(Clone)]
pub struct Part<A> {
    pub rank: usize,
    pub scaling: f32,
    /// (rank, in_features)
    pub a: Vec<A>,
    /// (out_features, rank)
    pub b: Vec<A>,
}

/// The adapter of a slot: a part for each projection that it has one for.
pub type Adapter<A> = Vec<Option<Part<A>>>;

/// The slots that a row names, with weights.
pub type List = Vec<(usize, f32)>;

/// Layers that share x, and a table of adapters for them.
#[derive(Clone)]
pub struct Served<T, A> {
    pub in_features: usize,
    /// With the largest ranks.
    pub projections: Vec<Projection>,
    pub per_row: usize,
    /// (out_features, in_features) of each projection
    pub weights: Vec<Vec<T>>,
    pub biases: Option<Vec<Vec<T>>>,
    pub adapters: Vec<Option<Adapter<A>>>,
    pub accumulate: bool,
    pub batch_invariant: bool,
    pub delta_only: bool,
    pub inference: bool,
    pub multiprocessors: u32,
}

/// Rows of x, and the adapters that they go through.
#[derive(Clone)]
pub struct Batch<T> {
    /// (tokens, in_features)
    pub x: Vec<T>,
    pub lists: Vec<List>,
}

pub fn numbers<E: Number>(random: &mut StdRng, count: usize, variance: f64) -> Vec<E> {
    let magnitude = (3.0 * variance).sqrt();
    (0..count)
        .map(|_| E::from_f64(random.random_range(-magnitude..magnitude)))
        .collect()
}

impl<T: Number, A: Number> Served<T, A> {
    /// Layers of these (out_features, largest rank) with empty slots.
    pub fn new(
        random: &mut StdRng,
        in_features: usize,
        projections: &[(usize, usize)],
        slots: usize,
        per_row: usize,
    ) -> Self {
        let projections: Vec<_> = { projections.iter() }
            .map(|&(out_features, rank)| Projection { out_features, rank })
            .collect();
        let weights = { projections.iter() }.map(|projection| {
            let count = projection.out_features * in_features;
            numbers(random, count, 1.0 / in_features as f64)
        });
        let weights = weights.collect();
        let biases =
            { projections.iter() }.map(|projection| numbers(random, projection.out_features, 1.0));
        Self {
            in_features,
            biases: Some(biases.collect()),
            projections,
            per_row,
            weights,
            adapters: vec![None; slots],
            accumulate: false,
            batch_invariant: false,
            delta_only: false,
            inference: true,
            multiprocessors: 3,
        }
    }

    /// Puts an adapter of these ranks into a slot; a projection of rank 0 is left alone.
    pub fn fill(&mut self, random: &mut StdRng, slot: usize, ranks: &[usize]) {
        let parts = self
            .projections
            .iter()
            .zip(ranks)
            .map(|(projection, &rank)| {
                (rank > 0).then(|| Part {
                    rank,
                    scaling: random.random_range(-2.0..2.0),
                    a: numbers(
                        random,
                        rank * self.in_features,
                        1.0 / self.in_features as f64,
                    ),
                    b: numbers(random, projection.out_features * rank, 1.0 / rank as f64),
                })
            });
        let parts = parts.collect();
        self.adapters[slot] = Some(parts);
    }

    pub fn problem(&self, tokens: usize) -> Problem {
        let rows = RowAdapters::Table {
            slots: self.adapters.len(),
            per_row: self.per_row,
        };
        Problem::sharing_x(tokens, self.in_features, &self.projections, T::DTYPE)
            .and_then(|problem| problem.with_adapter_dtype(A::DTYPE))
            .and_then(|problem| problem.with_row_adapters(rows))
            .and_then(|problem| problem.with_accumulate(Role::Y, self.accumulate))
            .expect("sizes in range")
            .with_bias(self.biases.is_some())
            .with_inference(self.inference)
            .with_batch_invariance(self.batch_invariant)
            .with_delta_only(self.delta_only)
    }

    pub fn plan(&self, tokens: usize) -> ForwardPlan {
        let props = gpu()
            .kernels
            .props()
            .with_multiprocessors(self.multiprocessors);
        ForwardPlan::new(&self.problem(tokens), &props).expect("a plan")
    }

    /// The launches of a forward.
    pub fn launches(&self, tokens: usize) -> usize {
        match self.inference && tokens <= Problem::DECODE_TOKENS {
            _ if tokens == 0 => 0,
            true => 1,
            false => 2,
        }
    }

    /// The table with all adapters.
    pub fn table(&self, stream: &Arc<CudaStream>) -> AdapterTable {
        let mut table = AdapterTable::new(stream, &self.problem(1)).expect("a table");
        for (slot, adapter) in self.adapters.iter().enumerate() {
            if let Some(adapter) = adapter {
                table
                    .replace(slot, on_device(stream, adapter))
                    .expect("an adapter");
            }
        }
        table
    }
}

/// An adapter's parts in device memory.
pub fn on_device<A: Number>(
    stream: &Arc<CudaStream>,
    adapter: &Adapter<A>,
) -> Vec<Option<TableLora<A>>> {
    let part = |part: &Part<A>| TableLora {
        a: stream.clone_htod(&part.a).expect("memory"),
        b: stream.clone_htod(&part.b).expect("memory"),
        rank: part.rank,
        scaling: part.scaling,
    };
    adapter
        .iter()
        .map(|given| given.as_ref().map(part))
        .collect()
}

/// The layers and the table in device memory.
pub struct OnDevice<'s, T, A> {
    pub served: &'s Served<T, A>,
    pub stream: Arc<CudaStream>,
    pub table: AdapterTable,
    weights: Vec<CudaSlice<T>>,
    biases: Vec<CudaSlice<T>>,
    flags: Flags,
    workspace: CudaSlice<u8>,
}

impl<'s, T: Number, A: Number> OnDevice<'s, T, A> {
    pub fn new(served: &'s Served<T, A>, stream: &Arc<CudaStream>) -> Self {
        let copied = |all: &[Vec<T>]| {
            let all = all
                .iter()
                .map(|one| stream.clone_htod(one).expect("memory"));
            all.collect::<Vec<_>>()
        };
        let props = (gpu().kernels.props()).with_multiprocessors(served.multiprocessors);
        let problem = served.problem(1);
        let bytes = ForwardPlan::workspace_bound(&problem, MOST_TOKENS, &props).expect("a bound");
        let flags = ForwardPlan::flags_bound(&problem, MOST_TOKENS, &props).expect("a bound");
        Self {
            served,
            table: served.table(stream),
            weights: copied(&served.weights),
            biases: copied(served.biases.as_deref().unwrap_or_default()),
            flags: Flags::new(stream, flags).expect("flags"),
            // What is there before doesn't matter.
            workspace: stream
                .clone_htod(&vec![0xFF; bytes.max(1)])
                .expect("memory"),
            stream: stream.clone(),
        }
    }

    /// y of each projection; `previous` is what y held before.
    pub fn run(&mut self, batch: &Batch<T>, previous: f32) -> Vec<Vec<T>> {
        let lists: Vec<&[(usize, f32)]> = batch.lists.iter().map(Vec::as_slice).collect();
        let lists = self.table.lists(&lists).expect("slots with adapters");
        self.run_slots(batch, lists.slots(), lists.weights(), previous)
    }

    /// The same with slots that nobody has checked.
    pub fn run_slots(
        &mut self,
        batch: &Batch<T>,
        slots: &[i32],
        weights: &[f32],
        previous: f32,
    ) -> Vec<Vec<T>> {
        let tokens = batch.lists.len();
        let (served, stream) = (self.served, self.stream.clone());
        let plan = served.plan(tokens);
        assert_eq!(plan.launches().len(), served.launches(tokens), "{plan}");
        assert!(plan.workspace_bytes() <= self.workspace.len(), "{plan}");
        let saved_bytes = plan.saved().bytes();
        assert_eq!(saved_bytes > 0, tokens > 0 && !served.inference, "{plan}");
        let mut saved = stream
            .clone_htod(&vec![0xFF_u8; saved_bytes.max(1)])
            .expect("memory");
        let copied = |values: &[T]| stream.clone_htod(values).expect("memory");
        // No slice is empty.
        let padded = |values: &[T]| copied(&[values, &[T::from_f64(0.0)]].concat());
        let x = padded(&batch.x);
        let mut y: Vec<CudaSlice<T>> = { served.projections.iter() }
            .map(|projection| {
                let count = tokens * projection.out_features + 1;
                copied(&vec![T::from_f64(previous.into()); count])
            })
            .collect();
        let slots = stream.clone_htod(&[slots, &[0]].concat()).expect("memory");
        let row_weights = stream
            .clone_htod(&[weights, &[0.0]].concat())
            .expect("memory");
        let mut projections = Vec::new();
        for (index, (y, sizes)) in y.iter_mut().zip(&served.projections).enumerate() {
            let n = sizes.out_features;
            projections.push(ForwardProjection {
                weight: MatRef::new(self.weights[index].as_view(), n, served.in_features),
                bias: self.biases.get(index).map(|bias| bias.as_view()),
                lora: None,
                y: MatMut::new(y.as_view_mut(), tokens, n),
            });
        }
        let args = Forward::<T, A> {
            x: MatRef::new(x.as_view(), tokens, served.in_features),
            projections,
            dropout: None,
            saved: match saved_bytes {
                0 => Saved::Empty,
                _ => saved.as_view_mut().into(),
            },
            workspace: Some(self.workspace.as_view_mut()),
            rows: Some(Rows {
                table: &self.table,
                slots: slots.as_view(),
                weights: Some(row_weights.as_view()),
            }),
            flags: Some(&mut self.flags),
        };
        gpu()
            .kernels
            .forward(&stream, &plan, args)
            .expect("a forward runs");
        assert!(are_zero(&self.flags), "flags stay set");
        let read = y.iter().map(|y| {
            let mut all = stream.clone_dtoh(y).expect("y");
            let guard = all.pop().expect("a guard");
            assert_eq!(guard.to_f64(), f64::from(previous), "written behind y");
            all
        });
        read.collect()
    }
}

/// Panics unless every element of y is within its bound of what f64 makes of it.
#[track_caller]
pub fn assert_right<T: Number, A: Number>(
    served: &Served<T, A>,
    batch: &Batch<T>,
    y: &[Vec<T>],
    previous: f32,
) {
    let unit = 2f64.powi(-24);
    let (rounding, smallest) = match T::DTYPE {
        DType::BF16 => (2f64.powi(-8), 2f64.powi(-134)),
        DType::F16 => (2f64.powi(-11), 2f64.powi(-25)),
        DType::F32 => (2f64.powi(-24), 2f64.powi(-150)),
    };
    let k = served.in_features;
    let dot = |a: &[f64], b: &[f64]| -> (f64, f64) {
        let products = a.iter().zip(b).map(|(a, b)| a * b);
        products.fold((0.0, 0.0), |(sum, size), product| {
            (sum + product, size + f64::abs(product))
        })
    };
    let wide = |values: &[T]| -> Vec<f64> { values.iter().map(|value| value.to_f64()).collect() };
    // An f32 adapter is rounded to the tensors' type when it is used.
    let narrow = |values: &[A]| -> Vec<f64> {
        let used = values
            .iter()
            .map(|value| T::from_f64(value.to_f64()).to_f64());
        used.collect()
    };
    for (token, list) in batch.lists.iter().enumerate() {
        let x = wide(&batch.x[token * k..][..k]);
        for (index, sizes) in served.projections.iter().enumerate() {
            let n = sizes.out_features;
            // (factor, S, its error, the part) of each adapter
            let mut deltas = Vec::new();
            for &(slot, weight) in list {
                let adapter = served.adapters[slot].as_ref().expect("an adapter");
                let Some(part) = &adapter[index] else {
                    continue;
                };
                let a = narrow(&part.a);
                let s = a.chunks_exact(k).map(|row| {
                    let (sum, size) = dot(&x, row);
                    (
                        sum,
                        1.5 * k as f64 * unit * size + rounding * sum.abs() + smallest,
                    )
                });
                let s: Vec<_> = s.collect();
                deltas.push((f64::from(part.scaling) * f64::from(weight), s, part));
            }
            for column in 0..n {
                let given = y[index][token * n + column].to_f64();
                let (mut sum, mut size, mut error) = (0.0, 0.0, 0.0);
                let mut terms = k as f64 + 8.0;
                if !served.delta_only {
                    let weight = wide(&served.weights[index][column * k..][..k]);
                    let (base, base_size) = dot(&x, &weight);
                    sum += base;
                    size += base_size;
                }
                if let Some(biases) = &served.biases {
                    let bias = biases[index][column].to_f64();
                    sum += bias;
                    size += bias.abs();
                }
                if served.accumulate || served.delta_only {
                    sum += f64::from(previous);
                    size += f64::from(previous.abs());
                }
                for (factor, s, part) in &deltas {
                    let b = narrow(&part.b[column * part.rank..][..part.rank]);
                    terms += part.rank as f64;
                    for (&(s, s_error), b) in s.iter().zip(b) {
                        sum += factor * s * b;
                        size += f64::abs(factor * s * b);
                        error += f64::abs(factor * b) * s_error;
                    }
                }
                let bound = 1.5 * terms * unit * (size + error)
                    + error
                    + rounding * (sum.abs() + error)
                    + smallest;
                let difference = (given - sum).abs();
                assert!(
                    difference <= bound,
                    "y {index} ({token}, {column}) is {given}, not {sum}: {difference:e} off, \
                     {bound:e} allowed; list {list:?}"
                );
            }
        }
    }
}

/// A random served layer with some adapters, and a batch for it.
pub fn random<T: Number, A: Number>(seed: u64) -> (Served<T, A>, Batch<T>) {
    let random = &mut StdRng::seed_from_u64(seed);
    let vectors = random.random_bool(0.6);
    let in_features = match vectors {
        true => 8 * random.random_range(1..=20),
        false => random.random_range(1..=100),
    };
    let most_ranks = match random.random_range(0..12) {
        0 => 512,
        1 | 2 => 64,
        _ => 20,
    };
    let projections: Vec<(usize, usize)> = (0..random.random_range(1..=3))
        .map(|index| {
            let out_features = match vectors {
                true => 8 * random.random_range(1..=12),
                false => random.random_range(1..=90),
            };
            // At least the first has adapters.
            let rank = if index > 0 && random.random_bool(0.2) {
                0
            } else {
                most_ranks
            };
            (out_features, rank)
        })
        .collect();
    let slots = random.random_range(1..=12);
    let per_row = random.random_range(1..=RowAdapters::MOST_PER_ROW);
    let mut served = Served::new(random, in_features, &projections, slots, per_row);
    for slot in 0..slots {
        if random.random_bool(0.8) {
            let ranks: Vec<_> = { projections.iter() }
                .map(|&(_, most)| match random.random_bool(0.15) {
                    true => 0,
                    false => random.random_range(most.min(1)..=most),
                })
                .collect();
            served.fill(random, slot, &ranks);
        }
    }
    if random.random_bool(0.3) {
        served.biases = None;
    }
    served.accumulate = random.random_bool(0.2);
    served.batch_invariant = random.random_bool(0.3);
    served.delta_only = random.random_bool(0.1);
    served.inference = random.random_bool(0.8);
    if served.delta_only {
        served.biases = None;
    }
    served.multiprocessors = random.random_range(1..=2);
    let tokens = match random.random_range(0..20) {
        0 => 0,
        1 => random.random_range(17..=64),
        2 => random.random_range(65..=MOST_TOKENS),
        _ => random.random_range(1..=9),
    };
    let filled: Vec<_> = (0..slots)
        .filter(|&slot| served.adapters[slot].is_some())
        .collect();
    let one_for_all = filled.first().copied().filter(|_| random.random_bool(0.1));
    let lists = (0..tokens).map(|_| {
        if let Some(slot) = one_for_all {
            return vec![(slot, 1.0)];
        }
        let count = random.random_range(0..=per_row);
        let named = (0..count).filter(|_| !filled.is_empty());
        let named = named.map(|_| {
            let slot = filled[random.random_range(0..filled.len())];
            let weight = match random.random_range(0..6) {
                0 => 0.0,
                1 => -0.7,
                2 => random.random_range(-2.0..2.0),
                _ => 1.0,
            };
            (slot, weight)
        });
        named.collect()
    });
    let lists: Vec<List> = lists.collect();
    let x = numbers(random, tokens * in_features, 1.0);
    (served, Batch { x, lists })
}
