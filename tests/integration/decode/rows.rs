//! What calls refuse of rows and their table, before anything is launched.

use half::bf16;
use lora_kernels::cudarc::driver::{CudaSlice, CudaView};
use lora_kernels::{
    AdapterTable, Argument, DType, Error, Flags, Forward, ForwardPlan, ForwardProjection, Lora,
    MatMut, MatRef, Problem, RowAdapters, Rows, Saved, TableLora,
};

use crate::common::device::{gpu, second_context};

const TOKENS: usize = 3;
const K: usize = 40;
const N: usize = 24;
const RANK: usize = 5;
const PER_ROW: usize = 2;
const PLACES: usize = TOKENS * PER_ROW;

fn without_table(rank: usize) -> Problem {
    let problem = Problem::new(TOKENS, K, N, rank, DType::BF16).expect("a problem");
    problem.with_inference(true)
}

fn with_table(rank: usize, slots: usize, per_row: usize) -> Problem {
    let table = RowAdapters::Table { slots, per_row };
    let problem = without_table(rank).with_row_adapters(table);
    problem.expect("a table")
}

fn ones<T: Clone + lora_kernels::cudarc::driver::DeviceRepr>(count: usize, one: T) -> CudaSlice<T> {
    gpu().stream.clone_htod(&vec![one; count]).expect("memory")
}

fn table(problem: &Problem) -> AdapterTable {
    let mut table = AdapterTable::new(&gpu().stream, problem).expect("a table");
    let adapter = TableLora {
        a: ones(RANK * K, bf16::ONE),
        b: ones(N * RANK, bf16::ONE),
        rank: RANK,
        scaling: 1.0,
    };
    table.replace(0, vec![Some(adapter)]).expect("a slot");
    table
}

type RowsOfTable<'a> = Rows<&'a AdapterTable, CudaView<'a, i32>, CudaView<'a, f32>>;

/// A forward with these rows. Its y, if it runs; nothing was written if it doesn't.
fn forward(
    problem: &Problem,
    rows: Option<RowsOfTable<'_>>,
    lora: bool,
) -> Result<Vec<f32>, Error> {
    let stream = &gpu().stream;
    let plan = ForwardPlan::new(problem, gpu().kernels.props()).expect("a plan");
    let (x, weight) = (ones(TOKENS * K, bf16::ONE), ones(N * K, bf16::ZERO));
    let (a, b) = (ones(RANK * K, bf16::ONE), ones(N * RANK, bf16::ONE));
    let mut y = ones(TOKENS * N, bf16::NEG_ONE);
    let mut workspace = ones(plan.workspace_bytes(), 0xFFu8);
    let mut flags = Flags::new(stream, plan.flags_bytes()).expect("memory");
    let args = Forward::<bf16> {
        x: MatRef::new(x.as_view(), TOKENS, K),
        projections: vec![ForwardProjection {
            weight: MatRef::new(weight.as_view(), N, K),
            bias: None,
            lora: lora.then(|| Lora {
                a: MatRef::new(a.as_view(), RANK, K),
                b: MatRef::new(b.as_view(), N, RANK),
                scaling: 1.0,
            }),
            y: MatMut::new(y.as_view_mut(), TOKENS, N),
        }],
        dropout: None,
        saved: Saved::Empty,
        workspace: Some(workspace.as_view_mut()),
        rows,
        flags: Some(&mut flags),
    };
    let result = gpu().kernels.forward(stream, &plan, args);
    let y = stream.clone_dtoh(&y).expect("reading back");
    let y: Vec<f32> = y.into_iter().map(bf16::to_f32).collect();
    if result.is_err() {
        assert!(y.iter().all(|&value| value == -1.0), "y was written");
    }
    result.map(|_| y)
}

/// The first row goes through the adapter, the second through half of it, the third through none.
fn lists() -> (CudaSlice<i32>, CudaSlice<f32>) {
    let stream = &gpu().stream;
    let slots = [0, -1, -1, 0, 0, -1];
    let weights = [1.0, 9.0, 9.0, 0.5, 0.0, 9.0];
    (
        stream.clone_htod(&slots).expect("memory"),
        stream.clone_htod(&weights).expect("memory"),
    )
}

#[test]
fn lists_of_exactly_the_rows_are_enough() {
    let problem = with_table(RANK, 4, PER_ROW);
    let table = table(&problem);
    let (slots, weights) = lists();
    let rows = |weights| Rows {
        table: &table,
        slots: slots.as_view(),
        weights,
    };
    let weighted = rows(Some(weights.as_view()));
    let y = forward(&problem, Some(weighted), false).expect("forward runs");
    let delta = (K * RANK) as f32;
    for (row, expected) in [delta, delta / 2.0, 0.0].into_iter().enumerate() {
        let row = &y[row * N..][..N];
        assert!(row.iter().all(|&value| value == expected), "{row:?}");
    }
    // Without weights each is 1.
    let y = forward(&problem, Some(rows(None)), false).expect("forward runs");
    assert!(y.iter().all(|&value| value == delta), "{y:?}");
}

#[test]
fn lists_that_are_too_short_are_refused() {
    let problem = with_table(RANK, 4, PER_ROW);
    let table = table(&problem);
    let (slots, weights) = lists();
    let rows = |slots_given: usize, weights_given: usize| Rows {
        table: &table,
        slots: slots.slice(..slots_given),
        weights: Some(weights.slice(..weights_given)),
    };
    assert_error!(
        forward(&problem, Some(rows(PLACES - 1, PLACES)), false),
        Error::Bounds {
            tensor: Argument::RowSlots,
            ..
        },
        "needs 6 elements",
        "has 5"
    );
    assert_error!(
        forward(&problem, Some(rows(PLACES, PLACES - 1)), false),
        Error::Bounds {
            tensor: Argument::RowWeights,
            ..
        },
        "needs 6 elements",
        "has 5"
    );
}

#[test]
fn rows_are_given_exactly_if_the_problem_has_a_table() {
    let problem = with_table(RANK, 4, PER_ROW);
    let table = table(&problem);
    let (slots, _weights) = lists();
    let rows = || Rows {
        table: &table,
        slots: slots.as_view(),
        weights: None,
    };
    assert_error!(
        forward(&problem, None, false),
        Error::Optional {
            what: Argument::Rows,
            given: false,
            ..
        },
        "rows was not given",
        "with_row_adapters"
    );
    assert_error!(
        forward(&without_table(RANK), Some(rows()), true),
        Error::Optional {
            what: Argument::Rows,
            given: true,
            ..
        },
        "rows was given"
    );
    // The adapters are those of the table.
    assert_error!(
        forward(&problem, Some(rows()), true),
        Error::Optional {
            what: Argument::Lora(None),
            given: true,
            ..
        },
        "lora was given"
    );
}

#[test]
fn the_table_is_one_for_this_problem() {
    let (slots, _weights) = lists();
    for (other, what) in [
        (with_table(RANK, 3, PER_ROW), "slots"),
        (with_table(RANK + 1, 4, PER_ROW), "rank 6"),
        (with_table(RANK, 4, PER_ROW + 1), "adapters per row"),
    ] {
        let table = table(&other);
        let rows = Rows {
            table: &table,
            slots: slots.as_view(),
            weights: None,
        };
        assert_error!(
            forward(&with_table(RANK, 4, PER_ROW), Some(rows), false),
            Error::OtherTable { .. },
            what
        );
    }
}

#[test]
fn lists_of_another_context_are_refused() {
    let problem = with_table(RANK, 4, PER_ROW);
    let table = table(&problem);
    let (slots, weights) = lists();
    let elsewhere = second_context().default_stream();
    let other_slots = elsewhere.alloc_zeros::<i32>(PLACES).expect("memory");
    let other_weights = elsewhere.alloc_zeros::<f32>(PLACES).expect("memory");
    for (slots, weights, what) in [
        (&other_slots, &weights, Argument::RowSlots),
        (&slots, &other_weights, Argument::RowWeights),
    ] {
        gpu().kernels.context().bind_to_thread().expect("bound");
        let rows = Rows {
            table: &table,
            slots: slots.as_view(),
            weights: Some(weights.as_view()),
        };
        match forward(&problem, Some(rows), false) {
            Err(Error::Context { what: refused }) => assert_eq!(refused, what),
            other => panic!("{what}: {other:?}"),
        }
    }
}
