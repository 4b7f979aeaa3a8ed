//! Shards of a layer, each a call of its own, whose results add up to those of the whole layer with
//! the same dropout mask: what docs/sharding.md says.

use std::ops::Range;

use half::bf16;
use lora_kernels::reference::{Bounded, Intermediates, KeepMask, cosine_difference};
use lora_kernels::{BackwardPlan, Dropout, Error, ForwardPlan};

use crate::common::data::{Placed, Placement};
use crate::common::device::Number;
use crate::common::layer::{LayerCase, Lora, TestLayer};

/// What one rank has of the layer.
#[derive(Debug, Clone)]
struct Shard {
    tokens: Range<usize>,
    in_features: Range<usize>,
    out_features: Range<usize>,
    ranks: Range<usize>,
    /// Adds the bias and, where ranks are split, the base product
    first: bool,
}

const TOKENS: usize = 75;
const IN: usize = 200;
const OUT: usize = 72;
const RANK: usize = 20;

impl Shard {
    fn whole() -> Self {
        Self {
            tokens: 0..TOKENS,
            in_features: 0..IN,
            out_features: 0..OUT,
            ranks: 0..RANK,
            first: true,
        }
    }

    /// Shards whose range `of` is cut at multiples of `unit`.
    fn split(count: usize, unit: usize, of: fn(&mut Self) -> &mut Range<usize>) -> Vec<Self> {
        let total = of(&mut Self::whole()).end;
        let cut = |i: usize| (total * i / count).next_multiple_of(unit).min(total);
        let shard = |i| {
            let mut shard = Self::whole();
            *of(&mut shard) = cut(i)..cut(i + 1);
            shard.first = i == 0;
            shard
        };
        (0..count).map(shard).collect()
    }
}

fn part<T: Number>(of: &Placed<T>, rows: &Range<usize>, columns: &Range<usize>) -> Placed<T> {
    let all = of.rows();
    let lines = all.chunks_exact(of.cols).take(rows.end).skip(rows.start);
    let values: Vec<T> = lines
        .flat_map(|line| &line[columns.clone()])
        .copied()
        .collect();
    Placed::from_rows(&values, rows.len(), columns.len(), Placement::Dense)
}

/// The call of one rank.
fn layer_of<T: Number>(whole: &TestLayer<T>, shard: &Shard) -> TestLayer<T> {
    let Shard {
        tokens,
        in_features,
        out_features,
        ranks,
        first,
    } = shard;
    let whole_rank = ranks.len() == RANK;
    let whole_input = in_features.len() == IN;
    let mut case = LayerCase::new(
        tokens.len(),
        in_features.len(),
        out_features.len(),
        ranks.len(),
    );
    case.dropout = whole.case.dropout;
    case.bias = *first || (whole_rank && whole_input);
    let mut layer = TestLayer::random(&case.redrawn(whole.case.redrawn));
    let from = &whole.projections[0];
    let lora = from.lora.as_ref().expect("an adapter");
    let to = &mut layer.projections[0];
    layer.x = part(&whole.x, tokens, in_features);
    to.weight = part(&from.weight, out_features, in_features);
    if !whole_rank && !first {
        to.weight = to.weight.map(|_, _, _| 0.0);
    }
    to.bias = (to.bias.as_ref())
        .and(from.bias.as_ref())
        .map(|bias| part(bias, &(0..1), out_features));
    to.lora = Some(Lora {
        a: part(&lora.a, ranks, in_features),
        b: part(&lora.b, out_features, ranks),
    });
    to.dy = part(&from.dy, tokens, out_features);
    layer
}

/// A result of the whole layer that shards add to.
struct Sum {
    cols: usize,
    values: Vec<f64>,
}

impl Sum {
    fn new(rows: usize, cols: usize) -> Self {
        let values = vec![0.0; rows * cols];
        Self { cols, values }
    }

    fn add<T: Number>(&mut self, given: &Placed<T>, row0: usize, column0: usize) {
        for (row, line) in given.rows().chunks_exact(given.cols).enumerate() {
            let at = (row0 + row) * self.cols + column0;
            for (sum, value) in self.values[at..].iter_mut().zip(line) {
                *sum += value.to_f64();
            }
        }
    }

    #[track_caller]
    fn assert_is<T: Number>(&self, expected: &Bounded, what: &str) {
        let rounded: Vec<f32> = self.values.iter().map(|&value| value as f32).collect();
        let difference = cosine_difference(&rounded, &expected.value);
        let allowed = if size_of::<T>() == 4 { 1e-11 } else { 1e-5 };
        assert!(difference < allowed, "{what} differs by {difference:e}");
    }
}

/// The mask that a forward saved.
fn mask(plan: &ForwardPlan, saved: &[u8]) -> Option<Vec<u64>> {
    let region = plan.saved().mask?;
    let words = saved[region.offset..][..region.bytes].chunks_exact(8);
    Some(words.map(bytemuck::pod_read_unaligned).collect())
}

fn assert_sum_is_the_whole<T: Number>(shards: &[Shard], redrawn: bool) {
    let case = LayerCase::new(TOKENS, IN, OUT, RANK)
        .dropout(0.3)
        .redrawn(redrawn);
    let whole = TestLayer::<T>::random(&case);
    let dropout = case.dropout.expect("dropout");
    let [mut y, mut dx] = [(TOKENS, OUT), (TOKENS, IN)].map(|(r, c)| Sum::new(r, c));
    let [mut d_a, mut d_b] = [(RANK, IN), (OUT, RANK)].map(|(r, c)| Sum::new(r, c));
    for shard in shards {
        let layer = layer_of(&whole, shard);
        let (row, column) = (shard.tokens.start, shard.in_features.start);
        let problem = layer.case.problem::<T>();
        let problem = problem
            .with_mask_origin(row as u64, column as u64)
            .expect("an origin");
        let device = layer.case.device();
        let plan = ForwardPlan::new(&problem, &device).expect("a plan");
        let forward = layer.try_forward(&plan).expect("forward runs");
        if let Some(words) = mask(&plan, &forward.saved) {
            let (tokens, columns) = (shard.tokens.clone(), shard.in_features.clone());
            let expected = KeepMask::of_shard(tokens, columns, &dropout);
            assert!(words == expected.words(), "the mask of {shard:?}");
        }
        let plan = BackwardPlan::new(&problem, &device).expect("a plan");
        let backward = layer
            .try_backward(&plan, &forward.saved)
            .expect("backward runs");
        let (out, rank) = (shard.out_features.start, shard.ranks.start);
        y.add(&forward.y[0], row, out);
        dx.add(backward.dx(), row, column);
        d_a.add(&backward.lora().a, rank, column);
        d_b.add(&backward.lora().b, out, rank);
    }
    let what = |name| format!("{name} of {shards:?} in {}", T::DTYPE);
    let expected = whole.expected_forward(Intermediates::Exact);
    y.assert_is::<T>(&expected.y[0], &what("y"));
    let expected = whole.expected_backward(Intermediates::Exact);
    let gradients = expected.adapters[0].as_ref().expect("an adapter");
    dx.assert_is::<T>(&expected.dx, &what("dx"));
    d_a.assert_is::<T>(&gradients.d_lora_a, &what("dA"));
    d_b.assert_is::<T>(&gradients.d_lora_b, &what("dB"));
}

fn on_two_and_three<T: Number>(unit: usize, of: fn(&mut Shard) -> &mut Range<usize>) {
    for (count, redrawn) in [(2, false), (3, true)] {
        assert_sum_is_the_whole::<T>(&Shard::split(count, unit, of), redrawn);
    }
}

fn column_parallel<T: Number>() {
    on_two_and_three::<T>(1, |shard| &mut shard.out_features);
}

/// Each shard's y and S are parts of sums. y is linear in S, so the shards' y can be summed as they
/// are.
fn row_parallel<T: Number>() {
    on_two_and_three::<T>(8, |shard| &mut shard.in_features);
}

fn sequence_parallel<T: Number>() {
    on_two_and_three::<T>(1, |shard| &mut shard.tokens);
}

fn fully_sharded_adapters<T: Number>() {
    on_two_and_three::<T>(1, |shard| &mut shard.ranks);
}

for_each_dtype!(
    column_parallel,
    row_parallel,
    sequence_parallel,
    fully_sharded_adapters,
);

/// Rows are counted in 32 bits without a sign.
#[test]
fn a_shard_begins_at_any_row() {
    let layer = TestLayer::<bf16>::random(&LayerCase::new(70, 72, 16, 8).dropout(0.5));
    let dropout = layer.case.dropout.expect("dropout");
    for (row, column) in [(1 << 31, 0), ((1 << 32) - 70, 8), ((1 << 31) - 1, 1 << 34)] {
        let problem = layer.case.problem::<bf16>();
        let problem = problem.with_mask_origin(row, column).expect("an origin");
        let plan = ForwardPlan::new(&problem, &layer.case.device()).expect("a plan");
        let saved = layer.try_forward(&plan).expect("forward runs").saved;
        let rows = row as usize..row as usize + 70;
        let columns = column as usize..column as usize + 72;
        let expected = KeepMask::of_shard(rows, columns, &dropout);
        let words = mask(&plan, &saved).expect("a mask");
        assert!(words == expected.words(), "from ({row}, {column}) on");
    }
}

#[test]
fn origins_that_no_shard_has_are_refused() {
    for ((row, column), message) in [
        (
            (0, 12),
            "a dropout mask's first column is 12: it must be a multiple of 8: one draw gives eight columns; shard in_features there",
        ),
        (
            ((1 << 32) - 69, 0),
            "a dropout mask's first row is 4294967227: it must be at most 2^32 less the tokens: the rows are counted in 2^32",
        ),
        (
            (1 << 40, 0),
            "a dropout mask's first row is 1099511627776: it must be at most 2^32 less the tokens: the rows are counted in 2^32",
        ),
        (
            (0, 1 << 35),
            "a dropout mask's first column is 34359738368: it must be below 2^35 - 2^31: the columns are counted in 2^35",
        ),
    ] {
        let problem = LayerCase::new(70, 72, 16, 8).dropout(0.5).problem::<bf16>();
        let error = problem.with_mask_origin(row, column).expect_err("refused");
        assert_eq!(error.to_string(), message);
    }
}

/// A backward draws or reads the mask that the forward had.
#[test]
fn a_backward_of_another_shard_is_refused() {
    let layer = TestLayer::<bf16>::random(&LayerCase::new(70, 72, 16, 8).dropout(0.5));
    let of = |row, column| {
        let problem = layer.case.problem::<bf16>();
        problem.with_mask_origin(row, column).expect("an origin")
    };
    let dropout = Some(Dropout {
        p: 0.5,
        seed: 1,
        offset: 2,
    });
    let record = |row, column| lora_kernels::ForwardRecord::new(&of(row, column), dropout, [1.7]);
    assert_eq!(record(70, 8), record(70, 8));
    assert_ne!(record(70, 8), record(0, 8));
    assert_ne!(record(70, 8), record(70, 0));

    let saved = layer.forward().saved;
    let plan = BackwardPlan::new(&of(70, 8), &layer.case.device()).expect("a plan");
    let mut call = crate::common::call::BackwardCall::new(&layer, &plan, &saved);
    call.record = lora_kernels::ForwardRecord::new(&of(0, 0), layer.case.dropout, [1.7]);
    let error = call
        .run(&crate::common::device::gpu().stream, &plan)
        .expect_err("refused");
    assert!(matches!(error, Error::OtherForward { .. }), "{error}");
}
