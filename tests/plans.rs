//! The plans of problems that matter, as text: a change of heuristics shows as a change of these snapshots.

use std::fmt::Write;

use lora_kernels::{BackwardPlan, DType, DeviceProps, ForwardPlan, Layout, Problem, Tensor};

fn problem(tokens: usize, in_features: usize, out_features: usize, rank: usize, dtype: DType) -> Problem {
    Problem::new(tokens, in_features, out_features, rank, dtype).unwrap()
}

/// Forward and backward of every problem on one device.
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

/// Each of these leaves some kernel without wide loads, and the plan says because of which tensor.
#[test]
fn layouts_that_cost_wide_loads() {
    let base = || problem(256, 1024, 1024, 16, DType::BF16);
    let layout = |row_stride, alignment| Layout { row_stride, alignment };
    let problems = [
        problem(256, 1023, 1024, 16, DType::BF16),
        base().with_layout(Tensor::X, layout(1024, 2)).unwrap(),
        base().with_layout(Tensor::X, layout(1025, 16)).unwrap(),
        base().with_layout(Tensor::Weight, layout(1028, 16)).unwrap(),
        base().with_layout(Tensor::DY, layout(2048, 8)).unwrap(),
        base().with_layout(Tensor::X, layout(4096, 16)).unwrap(),
    ];
    insta::assert_snapshot!(plans(&DeviceProps::a100(), &problems));
}

/// What forward saves is what backward reads, whatever the devices the plans are for.
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
