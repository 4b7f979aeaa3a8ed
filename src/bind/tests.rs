//! Arguments to parameters, without CUDA.

mod decode;
mod maps;
mod overlaps;

use super::params::{
    ForwardParams, GradAParams, GradBParams, GradXParams, MergeParams, ShrinkParams,
};
use super::{
    Backward, BackwardProjection, BoxedMatrix, DevicePointer, Forward, ForwardProjection,
    ForwardRecord, Lora, LoraGradients, Merge, MergeWeight, Raw, Saved, TensorMap, backward,
    forward, merge,
};
use crate::{
    BackwardPlan, DType, DeviceProps, Dropout, Error, ForwardPlan, Mask, MergePlan, MergeProblem,
    Problem, Projection, Result, Role,
};

const X: DevicePointer = 0x1_0000_0000;
const SAVED: DevicePointer = 0x2_0000_0000;
const MASK: DevicePointer = 0x3_0000_0000;
const WORKSPACE: DevicePointer = 0x4_0000_0000;
const DX: DevicePointer = 0x5_0000_0000;

const DROPOUT: Dropout = Dropout {
    p: 0.25,
    seed: 7,
    offset: 9,
};

/// Addresses of one projection's tensors.
fn at(projection: usize, tensor: Role) -> DevicePointer {
    (0x10 * (1 + projection as u64) + tensor as u64) << 32
}

fn lora(projection: usize) -> Lora<DevicePointer> {
    Lora {
        a: at(projection, Role::LoraA),
        b: at(projection, Role::LoraB),
        scaling: 2.0 + projection as f32,
    }
}

/// q without an adapter, k and v with one each.
fn problem(tokens: usize) -> Problem {
    let layer = |out_features, rank| Projection { out_features, rank };
    let projections = [layer(256, 0), layer(64, 8), layer(64, 24)];
    Problem::sharing_x(tokens, 4096, &projections, DType::BF16).expect("a problem")
}

fn forward_projections(problem: &Problem) -> Vec<ForwardProjection<Raw>> {
    let projections = problem.projections().iter().enumerate();
    projections
        .map(|(index, planned)| ForwardProjection {
            weight: at(index, Role::Weight),
            bias: problem.has_bias().then(|| at(index, Role::Bias)),
            lora: (planned.rank > 0).then(|| lora(index)),
            y: at(index, Role::Y),
        })
        .collect()
}

fn forward_args<'a>(
    problem: &Problem,
    projections: &'a [ForwardProjection<Raw>],
) -> Forward<Raw, &'a [ForwardProjection<Raw>]> {
    Forward {
        x: X,
        projections,
        dropout: problem.has_dropout().then_some(DROPOUT),
        saved: SAVED.into(),
        workspace: Some(WORKSPACE),
        rows: None,
        flags: None,
    }
}

fn backward_projections(problem: &Problem) -> Vec<BackwardProjection<Raw>> {
    let projections = problem.projections().iter().enumerate();
    projections
        .map(|(index, planned)| BackwardProjection {
            dy: at(index, Role::DY),
            weight: at(index, Role::Weight),
            lora: (planned.rank > 0).then(|| lora(index)),
            gradients: (planned.rank > 0).then(|| LoraGradients {
                a: at(index, Role::DLoraA),
                b: at(index, Role::DLoraB),
            }),
        })
        .collect()
}

fn backward_args<'a>(
    problem: &Problem,
    projections: &'a [BackwardProjection<Raw>],
) -> Backward<Raw, &'a [BackwardProjection<Raw>]> {
    Backward {
        x: X,
        projections,
        dropout: problem.has_dropout().then_some(DROPOUT),
        saved: SAVED.into(),
        record: None,
        dx: problem.has_input_gradient().then_some(DX),
        workspace: Some(WORKSPACE),
        rows: None,
    }
}

/// A tensor map that is what it was made of, where the driver would make one.
fn encode(matrix: &BoxedMatrix) -> Result<TensorMap> {
    matrix.check()?;
    let mut words = [0; 16];
    words[..8].copy_from_slice(&[
        matrix.address,
        matrix.dtype.size() as u64,
        matrix.rows,
        matrix.columns,
        matrix.row_stride,
        matrix.box_rows.into(),
        matrix.box_columns.into(),
        matrix.swizzle as u64,
    ]);
    Ok(bytemuck::cast(words))
}

/// The parameters of each launch, as bytes.
fn run_forward(
    plan: &ForwardPlan,
    args: &Forward<Raw, &[ForwardProjection<Raw>]>,
) -> Result<(Vec<Vec<u8>>, ForwardRecord)> {
    let mut launched = Vec::new();
    let record = forward(plan, args, encode, |_, params| {
        launched.push(params.to_vec());
        Ok(())
    })?;
    Ok((launched, record))
}

fn run_backward(
    plan: &BackwardPlan,
    args: &Backward<Raw, &[BackwardProjection<Raw>]>,
) -> Result<Vec<Vec<u8>>> {
    let mut launched = Vec::new();
    backward(plan, args, encode, |_, params| {
        launched.push(params.to_vec());
        Ok(())
    })?;
    Ok(launched)
}

fn read<P: bytemuck::Pod>(bytes: &[u8]) -> P {
    bytemuck::pod_read_unaligned(bytes)
}

fn device() -> DeviceProps {
    DeviceProps::a100()
}

#[test]
fn a_forward_finds_its_tensors_and_regions() {
    let problem = problem(40).with_bias(true).with_dropout(true);
    let plan = ForwardPlan::new(&problem, &device()).expect("a plan");
    let split = plan.split.expect("so few tokens split tiles");
    let mask = plan.saved().mask.expect("a stored mask");
    let projections = forward_projections(&problem);
    let (launched, _) = run_forward(&plan, &forward_args(&problem, &projections)).expect("bound");

    let shrink: ShrinkParams = read(&launched[0]);
    assert_eq!((shrink.x, shrink.s), (X, SAVED));
    assert_eq!(shrink.mask, SAVED + mask.offset as u64);
    assert_eq!(shrink.counters, WORKSPACE + split.counters.offset as u64);
    assert_eq!((shrink.adapters, shrink.ranks), (2, 16 + 32));
    assert_eq!((shrink.dropout.seed, shrink.dropout.offset), (7, 9));
    for (slot, projection) in [1, 2].into_iter().enumerate() {
        let given = shrink.lora_a[slot];
        assert_eq!(given.data, at(projection, Role::LoraA));
        assert_eq!(given.scaling, 2.0 + projection as f32);
        assert_eq!(given.rank0, problem.rank_offset(projection) as i32);
    }

    let gemm: ForwardParams = read(&launched[1]);
    assert_eq!((gemm.x, gemm.s, gemm.projections), (X, SAVED, 3));
    assert_eq!(gemm.schedule.partial, WORKSPACE + split.slabs.offset as u64);
    for (index, given) in gemm.projection[..3].iter().enumerate() {
        assert_eq!(given.weight, at(index, Role::Weight));
        assert_eq!(given.bias, at(index, Role::Bias));
        assert_eq!(given.y, at(index, Role::Y));
    }
    // Without an adapter there is no lora_B.
    assert_eq!(
        (gemm.projection[0].lora_b.data, gemm.projection[0].lora_b.r),
        (0, 0)
    );
    assert_eq!(gemm.projection[1].lora_b.data, at(1, Role::LoraB));
}

#[test]
fn what_is_absent_is_null_to_the_kernels() {
    let problem = Problem::new(8192, 4096, 4096, 16, DType::BF16).expect("a problem");
    let plan = ForwardPlan::new(&problem, &device()).expect("a plan");
    assert_eq!(plan.workspace_bytes(), 0);
    let projections = forward_projections(&problem);
    let mut args = forward_args(&problem, &projections);
    args.workspace = None;
    let (launched, _) = run_forward(&plan, &args).expect("bound");
    let (shrink, gemm): (ShrinkParams, ForwardParams) = (read(&launched[0]), read(&launched[1]));
    assert_eq!((shrink.mask, shrink.counters), (0, 0));
    assert_eq!((gemm.schedule.partial, gemm.projection[0].bias), (0, 0));
}

#[test]
fn s_and_the_mask_may_be_two_buffers() {
    let problem = problem(40).with_dropout(true);
    let (forward_plan, backward_plan) = (
        ForwardPlan::new(&problem, &device()).expect("a plan"),
        BackwardPlan::new(&problem, &device()).expect("a plan"),
    );
    let saved = Saved::Split {
        s: SAVED,
        mask: Some(MASK),
    };
    let projections = forward_projections(&problem);
    let mut args = forward_args(&problem, &projections);
    args.saved = saved;
    let (launched, _) = run_forward(&forward_plan, &args).expect("bound");
    let shrink: ShrinkParams = read(&launched[0]);
    assert_eq!((shrink.s, shrink.mask), (SAVED, MASK));

    let projections = backward_projections(&problem);
    let mut args = backward_args(&problem, &projections);
    args.saved = saved;
    let launched = run_backward(&backward_plan, &args).expect("bound");
    let (grad_b, grad_a): (GradBParams, GradAParams) = (read(&launched[0]), read(&launched[1]));
    assert_eq!((grad_b.s, grad_a.mask), (SAVED, MASK));

    args.saved = Saved::Split {
        s: SAVED,
        mask: None,
    };
    let error = run_backward(&backward_plan, &args).expect_err("a mask is missing");
    assert!(matches!(error, Error::Optional { .. }), "{error}");
    assert!(error.to_string().contains("saved mask"), "{error}");
}

#[test]
fn a_backward_finds_its_tensors_and_regions() {
    let problem = problem(300).with_dropout(true);
    let plan = BackwardPlan::new(&problem, &device()).expect("a plan");
    let projections = backward_projections(&problem);
    let launched = run_backward(&plan, &backward_args(&problem, &projections)).expect("bound");
    let at_region =
        |region: Option<crate::plan::Region>| WORKSPACE + region.expect("a region").offset as u64;

    let grad_b: GradBParams = read(&launched[0]);
    assert_eq!((grad_b.s, grad_b.projections), (SAVED, 2));
    let grad_a: GradAParams = read(&launched[1]);
    assert_eq!((grad_a.x, grad_a.adapters), (X, 2));
    assert_eq!(grad_a.t, at_region(plan.regions.t));
    for (slot, projection) in [1, 2].into_iter().enumerate() {
        let regions = plan.regions.of_dy[slot];
        let given = grad_b.projection[slot];
        assert_eq!(given.dy, at(projection, Role::DY));
        assert_eq!(given.t_partial, at_region(regions.t_partial));
        assert_eq!(given.lora_b.data, at(projection, Role::LoraB));
        // What one launch leaves is what the next one reads.
        assert_eq!(grad_a.t_source[slot].partial, given.t_partial);
        assert_eq!(grad_a.reduce_b.job[slot].partial, given.lora_b_partial);
        assert_eq!(grad_a.reduce_b.job[slot].out, at(projection, Role::DLoraB));
    }

    let grad_x: GradXParams = read(&launched[2]);
    assert_eq!((grad_x.dx, grad_x.t, grad_x.projections), (DX, grad_a.t, 3));
    let bytes_of_k = 16 * 4096 * size_of::<f32>() as u64;
    let jobs = grad_x.reduce_a.job;
    assert_eq!(jobs[0].partial, grad_a.lora_a_partial);
    assert_eq!(jobs[1].partial, grad_a.lora_a_partial + bytes_of_k);
    assert_eq!(jobs[1].out, at(2, Role::DLoraA));
}

#[test]
fn without_tokens_a_forward_launches_nothing_and_gradients_are_sums_of_nothing() {
    let problem = problem(0).with_dropout(true);
    let plan = ForwardPlan::new(&problem, &device()).expect("a plan");
    let mut projections = forward_projections(&problem);
    projections
        .iter_mut()
        .for_each(|projection| projection.y = 0);
    let mut args = forward_args(&problem, &projections);
    (args.x, args.saved, args.workspace) = (0, Saved::Empty, None);
    let (launched, record) = run_forward(&plan, &args).expect("bound");
    assert!(launched.is_empty());

    let plan = BackwardPlan::new(&problem, &device()).expect("a plan");
    assert_eq!((plan.workspace_bytes(), plan.saved().bytes()), (0, 0));
    let mut projections = backward_projections(&problem);
    projections
        .iter_mut()
        .for_each(|projection| projection.dy = 0);
    let mut args = backward_args(&problem, &projections);
    (args.x, args.dx, args.saved, args.workspace) = (0, Some(0), Saved::Empty, None);
    args.record = Some(record);
    let launched = run_backward(&plan, &args).expect("bound");
    let (grad_a, grad_x): (GradAParams, GradXParams) = (read(&launched[0]), read(&launched[1]));
    for (job, out) in [
        (grad_a.reduce_b.job[0], at(1, Role::DLoraB)),
        (grad_x.reduce_a.job[1], at(2, Role::DLoraA)),
    ] {
        assert_eq!((job.splits, job.out), (0, out));
        assert!(job.rows > 0 && job.columns > 0);
    }
    // Every block of both grids sums.
    let blocks = plan.launches().iter().map(|launch| launch.blocks as i32);
    assert!(blocks.eq([grad_a.reduce_b.blocks, grad_x.reduce_a.blocks]));
}

#[test]
fn a_backward_that_does_not_fit_its_forward_is_refused() {
    let base = problem(40).with_dropout(true);
    let projections = forward_projections(&base);
    let plan = ForwardPlan::new(&base, &device()).expect("a plan");
    let (_, record) = run_forward(&plan, &forward_args(&base, &projections)).expect("bound");

    type Change = fn(&mut Backward<Raw, &[BackwardProjection<Raw>]>);
    let calls: [(Problem, Change, &str); 8] = [
        (base.clone(), |_| (), ""),
        (problem(41).with_dropout(true), |_| (), "tokens"),
        (problem(40), |_| (), "dropout"),
        (base.clone().with_mask(Mask::Redrawn), |_| (), "mask"),
        (
            base.clone().with_adapter_dtype(DType::F32).expect("types"),
            |_| (),
            "formats",
        ),
        (
            base.clone(),
            |args| args.dropout.as_mut().expect("dropout").p = 0.5,
            "dropout",
        ),
        (
            base.clone(),
            |args| args.dropout.as_mut().expect("dropout").seed = 8,
            "dropout",
        ),
        (
            base.clone(),
            |args| args.dropout.as_mut().expect("dropout").offset = 8,
            "dropout",
        ),
    ];
    for (problem, change, differs) in calls {
        let plan = BackwardPlan::new(&problem, &device()).expect("a plan");
        let projections = backward_projections(&problem);
        let mut args = backward_args(&problem, &projections);
        args.record = Some(record);
        change(&mut args);
        match run_backward(&plan, &args) {
            Ok(_) => assert_eq!(differs, ""),
            Err(error) => {
                assert!(matches!(error, Error::OtherForward { .. }), "{error}");
                assert!(
                    !differs.is_empty() && error.to_string().contains(differs),
                    "{error}"
                );
            }
        }
    }

    let plan = BackwardPlan::new(&base, &device()).expect("a plan");
    let mut projections = backward_projections(&base);
    projections[1].lora.as_mut().expect("adapted").scaling = 1.0;
    let mut args = backward_args(&base, &projections);
    args.record = Some(record);
    let text = run_backward(&plan, &args).expect_err("refused").to_string();
    assert!(text.contains("scaling"), "{text}");
}

#[test]
fn nothing_is_launched_if_anything_is_refused() {
    let problem = problem(40).with_dropout(true);
    let plan = ForwardPlan::new(&problem, &device()).expect("a plan");
    let mut projections = forward_projections(&problem);
    projections[2].lora.as_mut().expect("adapted").b += 2;
    let args = forward_args(&problem, &projections);
    let mut launched = 0;
    let result = forward(&plan, &args, encode, |_, _| {
        launched += 1;
        Ok(())
    });
    let error = result.expect_err("misaligned");
    assert!(matches!(error, Error::Alignment { .. }), "{error}");
    assert!(error.to_string().contains("with_layout_of(2, "), "{error}");
    assert_eq!(launched, 0);
}

#[test]
fn a_safe_merge_counts_then_writes() {
    let problem = MergeProblem::new(256, 512, &[8, 16], DType::BF16).expect("a problem");
    let plan = MergePlan::new(&problem.with_safe(true), &device()).expect("a plan");
    let adapters = [lora(0), lora(1)];
    let args: Merge<Raw, &[Lora<DevicePointer>]> = Merge {
        weight: MergeWeight::InPlace(X),
        adapters: &adapters,
        report: Some(DX),
        workspace: Some(WORKSPACE),
    };
    let mut launched = Vec::new();
    merge(&plan, &args, |_, params| {
        launched.push(read::<MergeParams>(params));
        Ok(())
    })
    .expect("bound");
    let [counts, totals, writes] = launched.as_slice() else {
        panic!("three launches: {}", launched.len());
    };
    assert_eq!((counts.weight, counts.merged, counts.totals), (X, X, DX));
    assert_eq!(
        (counts.partial, totals.partial, writes.partial),
        (WORKSPACE, WORKSPACE, 0)
    );
    assert_ne!(counts.writing, writes.writing);
    assert_eq!(counts.adapter[1].lora_b.data, at(1, Role::LoraB));
    assert_eq!(counts.adapter[1].lora_a.scaling, 3.0);
}
