//! Complete plans with their reasons. A change of heuristics or wording shows as a change of these
//! snapshots. `of_models` has a line for each of many more plans.

use std::fmt::Write;

use lora_kernels::{
    BackwardPlan, DType, DeviceProps, ForwardPlan, Layout, Mask, Problem, Projection, Role,
    WeightLayout,
};

fn problem(
    tokens: usize,
    in_features: usize,
    out_features: usize,
    rank: usize,
    dtype: DType,
) -> Problem {
    Problem::new(tokens, in_features, out_features, rank, dtype).unwrap()
}

/// A problem with projections of these (out_features, rank).
fn sharing_x(tokens: usize, in_features: usize, projections: &[(usize, usize)]) -> Problem {
    let projections: Vec<_> = projections
        .iter()
        .map(|&(out_features, rank)| Projection { out_features, rank })
        .collect();
    Problem::sharing_x(tokens, in_features, &projections, DType::BF16).unwrap()
}

/// The plans of forward and backward of every problem for a device.
fn plans(device: &DeviceProps, problems: &[Problem]) -> String {
    let mut text = String::new();
    for problem in problems {
        writeln!(text, "{}", ForwardPlan::new(problem, device).unwrap()).unwrap();
        writeln!(text, "{}\n", BackwardPlan::new(problem, device).unwrap()).unwrap();
    }
    text
}

#[test]
fn training_shapes() {
    let problems = [
        problem(4096, 4096, 4096, 16, DType::BF16).with_dropout(true),
        problem(4096, 4096, 14336, 64, DType::BF16),
        problem(4096, 14336, 4096, 64, DType::F16).with_bias(true),
        problem(192, 384, 1536, 8, DType::F32).with_bias(true),
        sharing_x(4096, 4096, &[(4096, 16), (1024, 0), (1024, 16)])
            .with_dropout(true)
            .with_mask(Mask::Redrawn),
        sharing_x(300, 4096, &[(14336, 64), (14336, 8)]).with_input_gradient(false),
    ];
    for (name, device) in [
        ("a100", DeviceProps::a100()),
        ("rtx4090", DeviceProps::rtx4090()),
        ("h100", DeviceProps::h100()),
    ] {
        insta::assert_snapshot!(format!("training_{name}"), plans(&device, &problems));
    }
}

#[test]
fn sizes_at_the_edges() {
    let problems = [
        problem(1, 1, 1, 1, DType::F32),
        problem(1, 4096, 3696, 320, DType::BF16),
        problem(17, 896, 50257, 8, DType::F16),
        problem(4097, 896, 128, 17, DType::BF16).with_dropout(true),
        problem(100_000, 128, 100_000, 16, DType::BF16),
    ];
    insta::assert_snapshot!(plans(&DeviceProps::a100(), &problems));
}

/// Each of these layouts keeps a kernel from wide loads, and the plan names the tensor that is the
/// reason.
#[test]
fn layouts_that_cost_wide_loads() {
    let base = || problem(256, 1024, 1024, 16, DType::BF16);
    let layout = |row_stride, alignment| Layout {
        row_stride,
        alignment,
    };
    let problems = [
        problem(256, 1023, 1024, 16, DType::BF16),
        base().with_layout(Role::X, layout(1024, 2)).unwrap(),
        base().with_layout(Role::X, layout(1025, 16)).unwrap(),
        base().with_layout(Role::Weight, layout(1028, 16)).unwrap(),
        base().with_layout(Role::DY, layout(2048, 8)).unwrap(),
        base().with_layout(Role::X, layout(4096, 16)).unwrap(),
        base().with_weight_layout(WeightLayout::InOut),
        // Rows of the weight start at multiples of 16 bytes but don't end at them. Forward reads
        // along N, backward doesn't.
        problem(256, 1024, 1020, 16, DType::BF16)
            .with_weight_layout(WeightLayout::InOut)
            .with_layout(Role::Weight, layout(1024, 16))
            .and_then(|problem| problem.with_layout(Role::DY, layout(1024, 16)))
            .unwrap(),
        sharing_x(256, 1024, &[(1024, 16), (1028, 16)])
            .with_layout_of(1, Role::DY, layout(1028, 16))
            .unwrap(),
    ];
    insta::assert_snapshot!(plans(&DeviceProps::a100(), &problems));
}

/// Forward and backward agree on the saved data even if their plans are for different devices.
#[test]
fn forward_and_backward_agree_on_what_is_saved() {
    for dropout in [false, true] {
        let problem = problem(300, 1000, 2000, 24, DType::F16).with_dropout(dropout);
        let forward = ForwardPlan::new(&problem, &DeviceProps::a100()).unwrap();
        let backward = BackwardPlan::new(&problem, &DeviceProps::h100()).unwrap();
        assert_eq!(forward.saved(), backward.saved());
        assert_eq!(forward.saved().mask.is_some(), dropout);
    }
}

/// `saved` contains the mask only if backward reads it.
#[test]
fn a_redrawn_mask_takes_no_memory() {
    let stored = problem(300, 1000, 2000, 24, DType::F16).with_dropout(true);
    let redrawn = stored.clone().with_mask(Mask::Redrawn);
    let saved = |problem| {
        *ForwardPlan::new(problem, &DeviceProps::a100())
            .unwrap()
            .saved()
    };
    assert_eq!(
        saved(&stored).mask.unwrap().bytes,
        1000_usize.div_ceil(64) * 300 * 8
    );
    assert_eq!(saved(&redrawn).mask, None);
    assert!(saved(&redrawn).bytes() < saved(&stored).bytes());
}

/// The emulated GPU's traffic model finds 128 of 132 multiprocessors and bands of eight tiles best
/// for a layer of Llama.
#[test]
fn a_training_layer_on_an_h100_runs_in_square_turns() {
    let problem = problem(8192, 4096, 4096, 16, DType::BF16);
    let forward = ForwardPlan::new(&problem, &DeviceProps::h100()).unwrap();
    let schedule = forward.launches()[1].schedule.unwrap();
    assert_eq!(
        (schedule.blocks, schedule.group_n, schedule.splits),
        (128, 8, 1)
    );
    assert!(schedule.serpentine && schedule.wave_efficiency() > 0.96);
}

/// If there are too few tokens for a second tile row, blocks split K.
#[test]
fn few_tiles_are_split() {
    for tokens in [65, 128, 256] {
        let problem = problem(tokens, 4096, 1024, 16, DType::BF16);
        let forward = ForwardPlan::new(&problem, &DeviceProps::h100()).unwrap();
        let schedule = forward.launches()[1].schedule.unwrap();
        assert!(schedule.splits > 1 && schedule.blocks >= 120, "{schedule}");
        assert!(forward.workspace_bytes() > 0);
    }
}
