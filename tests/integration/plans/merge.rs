//! Plans for merges.

use lora_kernels::{DType, DeviceProps, MergePlan, MergeProblem, WeightLayout};

#[test]
fn a_plan_says_what_runs_and_why() {
    let device = DeviceProps::new((9, 0), 132, 227 << 10, 228 << 10, 50 << 20);
    let problem = MergeProblem::new(4096, 14336, &[16, 64], DType::BF16)
        .unwrap()
        .with_adapter_dtype(DType::F32)
        .unwrap();
    let plan = MergePlan::new(&problem.with_safe(true), &device).unwrap();
    insta::assert_snapshot!(plan.to_string());
    let odd = MergeProblem::new(3, 5, &[1], DType::F16)
        .unwrap()
        .with_weight_layout(WeightLayout::InOut);
    insta::assert_snapshot!(MergePlan::new(&odd, &device).unwrap().to_string());
}
