//! Problems and calls that are refused. Nothing is written when a call is refused.

use lora_kernels::cudarc::driver::DevicePtr;
use lora_kernels::raw::{LoraArgs, MergeArgs};
use lora_kernels::{
    DType, Error, Layout, Lora, MatRef, Merge, MergePlan, MergeProblem, MergeReport, MergeWeight,
    Role,
};

use crate::common::device::gpu;

#[test]
fn problems_that_are_none_are_refused() {
    let new = |ranks: &[usize]| MergeProblem::new(8, 8, ranks, DType::F16);
    let message = |result: Result<MergeProblem, Error>| result.expect_err("refused").to_string();
    assert!(message(new(&[])).starts_with("0 adapters: there must be between 1 and 8"));
    assert!(message(new(&[1; 9])).starts_with("9 adapters"));
    assert!(message(new(&[4, 0])).contains("rank is 0"));
    assert!(message(MergeProblem::new(0, 8, &[1], DType::F16)).contains("out_features is 0"));
    assert!(message(new(&[4]).unwrap().with_adapter_dtype(DType::BF16)).contains("bf16"));
    let layout = Layout {
        row_stride: 7,
        alignment: 2,
    };
    assert!(
        message(new(&[4]).unwrap().with_layout(Role::Weight, layout)).contains("row stride of 7")
    );
    let layout = Layout {
        row_stride: 8,
        alignment: 16,
    };
    assert!(
        message(new(&[4]).unwrap().with_layout(Role::X, layout))
            .contains("x has no part in a merge")
    );
    let refused = new(&[4])
        .unwrap()
        .with_adapter_layout(1, Role::LoraA, layout);
    assert!(message(refused).contains("adapter 1: the problem has 1"));
}

#[test]
fn calls_that_disagree_with_their_plan_are_refused_and_write_nothing() {
    let (stream, kernels) = (&gpu().stream, &gpu().kernels);
    let problem = MergeProblem::new(16, 24, &[2], DType::F32)
        .unwrap()
        .with_safe(true);
    let plan = MergePlan::new(&problem, kernels.props()).unwrap();
    let ones = |elements: usize| stream.clone_htod(&vec![1f32; elements]).unwrap();
    let (mut weight, a, b) = (ones(16 * 24), ones(2 * 24), ones(2 * 16));
    let mut bytes = stream.alloc_zeros::<u8>(plan.workspace_bytes()).unwrap();
    let mut report = stream.alloc_zeros::<u8>(MergeReport::BYTES).unwrap();
    let lora = |scaling| Lora {
        a: MatRef::new(a.as_view(), 2, 24),
        b: MatRef::new(b.as_view(), 16, 2),
        scaling,
    };

    let mut refused = |adapters, reports: bool, wrong_shape: bool, expected: &str| {
        let matrix = |view| lora_kernels::MatMut::new(view, 16, if wrong_shape { 12 } else { 24 });
        let args = Merge {
            weight: MergeWeight::InPlace(matrix(weight.as_view_mut())),
            adapters,
            report: reports.then(|| report.as_view_mut()),
            workspace: Some(bytes.as_view_mut()),
        };
        let message = kernels
            .merge(stream, &plan, args)
            .expect_err("refused")
            .to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(
        vec![],
        true,
        false,
        "0 adapters were given, the plan was made for 1",
    );
    refused(vec![lora(1.0)], false, false, "report was not given");
    refused(vec![lora(f32::NAN)], true, false, "scaling NaN");
    refused(
        vec![lora(1.0)],
        true,
        true,
        "weight is 16 x 12, the plan's problem has 16 x 24",
    );
    let other = Lora {
        a: MatRef::new(b.as_view(), 2, 16),
        b: MatRef::new(b.as_view(), 16, 2),
        scaling: 1.0,
    };
    refused(vec![other], true, false, "lora_A of adapter 0 is 2 x 16");

    let weights = |weight, merged| lora_kernels::raw::MergeWeight::Apart { weight, merged };
    let pointer = |slice: &lora_kernels::cudarc::driver::CudaSlice<f32>| slice.device_ptr(stream).0;
    let adapters = [LoraArgs {
        a: pointer(&a),
        b: pointer(&b),
        scaling: 1.0,
    }];
    let workspace = bytes.device_ptr(stream).0;
    let args = MergeArgs {
        weight: weights(pointer(&weight), 0),
        adapters: &adapters,
        report: None,
        workspace: Some(workspace),
    };
    let address = pointer(&weight);
    for (args, expected) in [
        (args, "merged is a null pointer"),
        (
            MergeArgs {
                weight: weights(address, address + 4),
                ..args
            },
            "merged starts at an address that is a multiple of 4 bytes only",
        ),
        (
            MergeArgs {
                weight: weights(address, address),
                ..args
            },
            "report was not given",
        ),
        (
            MergeArgs {
                weight: weights(address, address),
                report: Some(workspace + 8),
                ..args
            },
            "report buffer starts at",
        ),
        (
            MergeArgs {
                weight: weights(address, address),
                report: Some(workspace),
                workspace: Some(0),
                ..args
            },
            "workspace is a null pointer",
        ),
    ] {
        // SAFETY: every call is refused before a pointer is used.
        let message = unsafe { kernels.merge_raw(&plan, &args, stream.cu_stream()) }
            .expect_err("refused")
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(stream.clone_dtoh(&weight).unwrap(), vec![1.0; 16 * 24]);
}
