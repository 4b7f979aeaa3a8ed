//! Every element of y against the reference and its bound.

use half::{bf16, f16};
use lora_kernels::reference::{self, Intermediates};
use lora_kernels::{DType, Problem, Role};

use crate::common::call::ForwardCall;
use crate::common::data::Placed;
use crate::common::data::Placement::{AlignedView, OddView};
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer, assert_same_bits};

/// One layer for each number of tokens around those of the tiles. The depths have a part of a step,
/// of a slice of S or of both left over, and the widths a part of a tile.
fn by_tokens() -> Vec<LayerCase> {
    vec![
        LayerCase::new(1, 1100, 200, 16),
        LayerCase::new(2, 1025, 77, 3).placed(OddView),
        LayerCase::new(3, 520, 264, 8).placed(AlignedView),
        LayerCase::new(4, 64, 64, 1).bias(false),
        LayerCase::new(5, 33, 51, 24),
        LayerCase::new(8, 1032, 130, 64).multiprocessors(1000),
        LayerCase::new(16, 520, 136, 320),
        LayerCase::new(17, 264, 72, 24).bias(false),
        LayerCase::new(33, 519, 136, 8).with_placement(Role::X, OddView),
        LayerCase::new(64, 1032, 200, 16),
    ]
}

/// What else a problem can ask for.
fn others() -> Vec<LayerCase> {
    let mut eight = [(24, 0); 8];
    eight[7] = (40, 6);
    let qkv = LayerCase::sharing_x(7, 264, &[(136, 16), (40, 0), (72, 35)]);
    vec![
        qkv.clone(),
        qkv.clone().multiprocessors(1000).accumulate(&[Role::Y]),
        qkv.clone().multiprocessors(1).placed(OddView),
        qkv.with_placement_of(2, Role::LoraB, OddView)
            .with_placement_of(0, Role::LoraA, OddView)
            .with_placement_of(1, Role::Y, OddView),
        LayerCase::sharing_x(2, 96, &eight),
        LayerCase::new(9, 72, 1032, 5).accumulate(&[Role::Y]),
        // A single step, and a tile for each block.
        LayerCase::new(1, 8, 200, 4).multiprocessors(1000),
        LayerCase::new(1, 1, 1, 1),
    ]
}

/// Whether blocks may share a tile or not.
fn both_ways(case: LayerCase) -> [LayerCase; 2] {
    let case = case.inference();
    [case.clone(), case.batch_invariant()]
}

fn runs_in_one_launch<T: Number, A: Number>(case: &LayerCase) -> TestLayer<T, A> {
    let layer = TestLayer::<T, A>::random(case);
    let plan = layer.forward_plan();
    assert_eq!(plan.launches().len(), 1, "{plan}");
    assert_eq!(plan.saved().bytes(), 0, "{plan}");
    layer
}

fn is_the_references_with<T: Number, A: Number>(cases: Vec<LayerCase>) {
    for case in cases.into_iter().flat_map(both_ways) {
        let layer = runs_in_one_launch::<T, A>(&case);
        layer.check_forward(&layer.forward());
    }
}

fn each_number_of_tokens<T: Number>() {
    is_the_references_with::<T, T>(by_tokens());
}

fn each_kind_of_problem<T: Number>() {
    is_the_references_with::<T, T>(others());
}

fn with_f32_adapters<T: Number>() {
    let some = by_tokens().into_iter().step_by(3);
    is_the_references_with::<T, f32>(some.chain(others().into_iter().take(4)).collect());
}

/// The weight is NaN, which would show in y.
fn the_adapters_alone<T: Number>() {
    for case in [
        LayerCase::new(1, 1100, 200, 16),
        LayerCase::new(17, 519, 77, 24).placed(OddView),
        LayerCase::sharing_x(64, 136, &[(136, 16), (40, 0), (72, 35)]),
    ] {
        let case = case.bias(false).inference().delta_only();
        let mut layer = runs_in_one_launch::<T, T>(&case);
        let given = {
            let mut layer = layer.clone();
            for (i, projection) in layer.projections.iter_mut().enumerate() {
                let (rows, columns) = case.shape_of(i, Role::Weight);
                let placement = case.placement_of(i, Role::Weight);
                projection.weight = Placed::poisoned(rows, columns, placement);
            }
            layer.forward()
        };
        for projection in &mut layer.projections {
            projection.weight = projection.weight.map(|_, _, _| 0.0);
        }
        layer.check_forward(&given);
    }
}

/// A row has the same bits alone, with others before it, and in a tile for more tokens.
fn rows_do_not_depend_on_the_batch<T: Number>() {
    let case = LayerCase::sharing_x(64, 520, &[(136, 16), (40, 0), (72, 35)]);
    let case = case.inference().batch_invariant();
    let all = TestLayer::<T>::random(&case);
    let expected = all.forward();
    for (first, tokens) in [(0, 1), (63, 1), (5, 16), (30, 17), (1, 63)] {
        // On another device tiles would be shared otherwise, if they were.
        let case = LayerCase {
            tokens,
            ..case
                .clone()
                .multiprocessors(if tokens == 1 { 1000 } else { 3 })
        };
        let mut part = TestLayer::<T>::random(&case);
        let columns = all.x.cols;
        let rows = &all.x.rows()[first * columns..][..tokens * columns];
        part.x = Placed::from_rows(rows, tokens, columns, case.placement_of(0, Role::X));
        let given = part.forward();
        for (i, (given, expected)) in given.y.iter().zip(&expected.y).enumerate() {
            let columns = expected.cols;
            let expected = &expected.rows()[first * columns..][..tokens * columns];
            assert!(
                bytemuck::cast_slice::<T, u8>(&given.rows())
                    == bytemuck::cast_slice::<T, u8>(expected),
                "y {i} of {tokens} rows from {first} on"
            );
        }
    }
}

for_each_dtype!(
    each_number_of_tokens,
    each_kind_of_problem,
    the_adapters_alone,
    rows_do_not_depend_on_the_batch,
);

mod wide {
    use super::with_f32_adapters;
    for_each_narrow_dtype!(with_f32_adapters);
}

/// The same call twice in the same memory, and in memory that was used before.
#[test]
fn calls_follow_each_other_in_the_same_memory() {
    let case = LayerCase::new(3, 1032, 200, 24).multiprocessors(1000);
    let layer = TestLayer::<bf16>::random(&case.inference());
    let plan = layer.forward_plan();
    let mut call = ForwardCall::new(&layer, &plan);
    let mut first = None;
    for _ in 0..3 {
        call.run(&gpu().stream, &plan).expect("forward runs");
        let run = call.read_back();
        layer.check_forward(&run);
        let first = first.get_or_insert_with(|| run.bits());
        assert_same_bits(&run.bits(), first, "again");
    }
}

/// Problems that one launch can't compute have S in the workspace instead.
#[test]
fn other_forwards_for_inference_save_nothing() {
    for (case, launches) in [
        (LayerCase::new(65, 136, 72, 20), 2),
        (LayerCase::new(5, 136, 72, 20).dropout(0.25), 2),
        (LayerCase::new(5, 136, 72, 20).transposed(true), 2),
        (LayerCase::new(64, 136, 72, 20), 1),
    ] {
        let layer = TestLayer::<f16>::random(&case.clone().inference());
        let plan = layer.forward_plan();
        assert_eq!(plan.launches().len(), launches, "{plan}");
        assert_eq!(plan.saved().bytes(), 0, "{plan}");
        assert_eq!(plan.flags_bytes() > 0, launches == 1, "{plan}");
        let run = layer.forward();
        layer.check_forward(&run);
        if launches == 2 {
            let trained = TestLayer::<f16>::random(&case).forward();
            assert_same_bits(&run.bits()[..1], &trained.bits()[..1], "as in training");
        }
    }
}

/// An S that overflows f16, and an infinity in x: they reach the rows that they belong to, and no
/// other.
#[test]
fn a_row_that_is_not_finite_spoils_no_other() {
    let case = LayerCase::new(20, 264, 72, 24).inference();
    let mut layer = TestLayer::<f16>::random(&case);
    layer.x = layer.x.map(|row, _, x| match row {
        3 => 60_000.0_f64.copysign(x),
        7 => f64::INFINITY,
        _ => x,
    });
    let run = layer.forward();
    let expected = reference::forward(&layer.reference(), Intermediates::Rounded).expect("fits");
    let columns = run.y[0].cols;
    for (i, value) in run.y[0].rows().iter().enumerate() {
        let (row, expected, bound) = (i / columns, expected.y[0].value[i], expected.y[0].bound[i]);
        match row {
            3 => {}
            7 => assert!(!value.to_f64().is_finite(), "row 7: {value}"),
            _ => assert!(
                (value.to_f64() - expected).abs() <= bound,
                "row {row}: {value} for {expected}"
            ),
        }
    }
}

#[test]
fn without_tokens_nothing_is_launched() {
    let problem = Problem::new(0, 64, 48, 8, DType::BF16).expect("a problem");
    let problem = problem.with_inference(true);
    let plan = lora_kernels::ForwardPlan::new(&problem, gpu().kernels.props()).expect("a plan");
    assert!(plan.launches().is_empty());
    assert_eq!(
        (
            plan.saved().bytes(),
            plan.workspace_bytes(),
            plan.flags_bytes()
        ),
        (0, 0, 0)
    );
}
