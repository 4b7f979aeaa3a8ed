//! Layers at the edges of Hopper's kernels, compared with the reference.

use std::collections::HashSet;

use half::{bf16, f16};
use lora_kernels::plan::{Arch, Launch, Operation, Variant};
use lora_kernels::{BackwardPlan, DType, DeviceProps, ForwardPlan};

use super::{H100, H200, cases, run_on};
use crate::common::device::{Number, gpu};
use crate::common::layer::{LayerCase, TestLayer};

fn check<T: Number, A: Number>(cases: Vec<LayerCase>) {
    assert_eq!(gpu().kernels.props().compute_capability(), (9, 0));
    for case in cases {
        TestLayer::<T, A>::random(&case).check();
    }
}

fn every_edge_in_bf16() {
    check::<bf16, bf16>(cases::all());
    check::<bf16, bf16>(cases::far_scaled());
}

fn every_edge_in_f16() {
    check::<f16, f16>(cases::all());
}

/// Adapters in f32 are rounded to a padded copy that maps can describe.
fn adapters_in_f32() {
    check::<bf16, f32>([cases::shared(), cases::scaled()].concat());
    check::<f16, f32>([cases::unmapped(), cases::scaled()].concat());
}

super::on_h100!(every_edge_in_bf16, every_edge_in_f16, adapters_in_f32);

fn a_few() -> Vec<LayerCase> {
    [cases::shared(), cases::turns()].concat()
}

/// An H200 has an H100's multiprocessors, and its plans.
#[test]
fn on_an_h200() {
    let test = concat!(module_path!(), "::on_an_h200");
    run_on(H200, &[], test, || check::<bf16, bf16>(a_few()));
}

/// How the tensor cores sum is no part of what the kernels promise.
#[test]
fn with_every_model_of_the_tensor_cores() {
    let test = concat!(module_path!(), "::with_every_model_of_the_tensor_cores");
    for model in ["f32fma", "ampere", "hopper"] {
        let variables = [("PTX_EMULATOR_NUMERICS", model)];
        run_on(H100, &variables, test, || {
            check::<bf16, bf16>(cases::whole());
            check::<f16, f16>(cases::scaled());
        });
    }
}

/// The launches of a case on an H100, or on one with the case's number of multiprocessors.
fn launches(case: &LayerCase, dtype: DType, adapters: DType) -> Vec<Launch> {
    let problem = match (dtype, adapters) {
        (DType::F16, DType::F32) => case.problem_with::<f16, f32>(),
        (DType::F16, _) => case.problem::<f16>(),
        (_, DType::F32) => case.problem_with::<bf16, f32>(),
        _ => case.problem::<bf16>(),
    };
    let device = DeviceProps::h100();
    let multiprocessors = case.multiprocessors.unwrap_or(device.multiprocessors());
    let device = device.with_multiprocessors(multiprocessors);
    let forward = ForwardPlan::new(&problem, &device).expect("a plan");
    let backward = BackwardPlan::new(&problem, &device).expect("a plan");
    [forward.launches(), backward.launches()].concat()
}

fn all_launches() -> Vec<Launch> {
    let types = [DType::BF16, DType::F16];
    let cases = cases::all();
    let of = |dtype| {
        cases
            .iter()
            .flat_map(move |case| launches(case, dtype, dtype))
    };
    types.into_iter().flat_map(of).collect()
}

/// Every kernel of Hopper's that the build has, but those for rows, is launched by a case that
/// runs.
#[test]
fn the_cases_launch_every_kernel() {
    let launched: HashSet<Variant> = all_launches().iter().map(|launch| launch.variant).collect();
    let own = Variant::all().filter(|variant| {
        variant.arch == Arch::Sm90a && variant.operation != Operation::ForwardRows
    });
    let missing = own.filter(|variant| !launched.contains(variant));
    let missing: Vec<&str> = missing.map(Variant::symbol).collect();
    assert!(missing.is_empty(), "no case launches {missing:#?}");
}

/// The cases cover clusters whose last block has no rows, slices of the depth, and both directions
/// through it, of both products.
#[test]
fn the_cases_take_every_way_through_a_schedule() {
    let all = all_launches();
    for operation in [Operation::Forward, Operation::GradX] {
        let own = || {
            let own = all.iter().filter(move |launch| {
                launch.variant.arch == Arch::Sm90a && launch.variant.operation == operation
            });
            own.filter_map(|launch| launch.schedule)
        };
        if own().next().is_none() {
            let built = Variant::all().any(|variant| variant.arch == Arch::Sm90a);
            assert!(
                !built,
                "{operation:?} has kernels of its own that no plan chooses"
            );
            continue;
        }
        let ragged = |cluster: u32, rows: u32| !rows.is_multiple_of(cluster);
        let taken = [
            own().any(|schedule| ragged(schedule.cluster, schedule.tiles_m)),
            own().any(|schedule| schedule.cluster == 1),
            own().any(|schedule| schedule.splits > 1),
            own().any(|schedule| schedule.serpentine),
            own().any(|schedule| schedule.serpentine && schedule.splits > 1),
        ];
        let all: Vec<String> = own().map(|schedule| schedule.to_string()).collect();
        assert_eq!(taken, [true; 5], "{operation:?}: {all:#?}");
    }
}
