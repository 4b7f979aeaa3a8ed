//! Bounds on the memory for every number of tokens up to a maximum.
//!
//! The memory of a plan is not monotone in the tokens, because tiles are split when there are few.
//! So a bound adds up the largest size of each region over every kernel that a plan could choose.

use super::gemm::{self, Product};
use super::memory::BufferLayout;
use super::packing::Packing;
use super::stream::{RowSplit, column_groups};
use super::{
    Access, BackwardPlan, DeviceProps, ForwardPlan, Operation, SavedLayout, Variant, arch, decode,
    rows_backward, rows_forward,
};
use crate::{Problem, Result, Role};

impl ForwardPlan {
    /// The bytes of workspace that are enough for a forward of the problem's layers with any number
    /// of tokens up to `max_tokens`. The problem's own number of tokens is ignored. Use it for a
    /// buffer that serves batches of changing sizes.
    ///
    /// # Errors
    /// [`crate::Error::Dimension`] or [`crate::Error::Stride`] if `max_tokens` is too large,
    /// [`crate::Error::Device`] if the device can't run the kernels.
    pub fn workspace_bound(
        problem: &Problem,
        max_tokens: usize,
        device: &DeviceProps,
    ) -> Result<usize> {
        device.check()?;
        let problem = problem.clone().with_tokens(max_tokens)?;
        let (decode, _) = decode::bound(&problem, device)?;
        let mut workspace = BufferLayout::default();
        if rows_forward::applies(&problem) {
            rows_forward::region(&problem, &mut workspace);
            return Ok(workspace.bytes().max(decode));
        }
        let product = Product::forward(&problem);
        gemm_regions(product, Role::LoraB, &problem, device, &mut workspace);
        if problem.is_inference() {
            let s = [max_tokens, problem.padded_ranks()];
            workspace.region(&s, problem.dtype().size());
        }
        Ok(workspace.bytes().max(decode))
    }

    /// The bytes of flags that are enough for a forward of the problem's layers with any number of
    /// tokens up to `max_tokens`; see [`ForwardPlan::workspace_bound`]. 0 unless the problem is for
    /// inference.
    ///
    /// # Errors
    /// As for [`ForwardPlan::workspace_bound`].
    pub fn flags_bound(
        problem: &Problem,
        max_tokens: usize,
        device: &DeviceProps,
    ) -> Result<usize> {
        device.check()?;
        let problem = problem.clone().with_tokens(max_tokens)?;
        let (_, flags) = decode::bound(&problem, device)?;
        Ok(flags)
    }
}

impl BackwardPlan {
    /// The bytes of workspace that are enough for a backward; see [`ForwardPlan::workspace_bound`].
    ///
    /// # Errors
    /// As for [`ForwardPlan::workspace_bound`].
    pub fn workspace_bound(
        problem: &Problem,
        max_tokens: usize,
        device: &DeviceProps,
    ) -> Result<usize> {
        device.check()?;
        let problem = problem.clone().with_tokens(max_tokens)?;
        if rows_backward::applies(&problem) {
            let mut workspace = BufferLayout::default();
            rows_backward::regions(&problem, &mut workspace);
            if problem.has_input_gradient() {
                let product = Product::grad_x_rows(&problem);
                gemm_regions(product, Role::LoraA, &problem, device, &mut workspace);
            }
            return Ok(workspace.bytes());
        }
        let (float, ranks) = (size_of::<f32>(), problem.padded_ranks());
        let (groups, splits) = most_of(Operation::GradB, &problem, device, |variant| {
            let mut side_by_side = 0;
            let mut most_groups = Vec::new();
            for (_, projection) in problem.adapted() {
                let groups = column_groups(variant, projection.out_features);
                side_by_side += groups * projection.rank.div_ceil(variant.tile.ranks);
                most_groups.push(groups);
            }
            (most_groups, side_by_side)
        });
        let (_, x_splits) = most_of(Operation::GradA, &problem, device, |variant| {
            let groups = column_groups(variant, problem.in_features());
            (Vec::new(), groups * ranks.div_ceil(variant.tile.ranks))
        });
        let mut workspace = BufferLayout::default();
        for (groups, (_, projection)) in groups.into_iter().zip(problem.adapted()) {
            workspace.region(&[groups, max_tokens, projection.padded_rank()], float);
        }
        for (_, projection) in problem.adapted() {
            workspace.region(
                &[splits, projection.out_features, projection.padded_rank()],
                float,
            );
        }
        workspace.region(&[max_tokens, ranks], problem.dtype().size());
        workspace.region(&[x_splits, ranks, problem.in_features()], float);
        if problem.has_input_gradient() {
            let product = Product::grad_x(&problem);
            gemm_regions(product, Role::LoraA, &problem, device, &mut workspace);
        }
        Ok(workspace.bytes())
    }
}

impl SavedLayout {
    /// The bytes of `saved` that are enough for the problem's layers with any number of tokens up
    /// to `max_tokens`. The problem's own number of tokens is ignored.
    ///
    /// # Errors
    /// [`crate::Error::Dimension`] or [`crate::Error::Stride`] if so many tokens can't be.
    pub fn bound(problem: &Problem, max_tokens: usize) -> Result<usize> {
        // Both regions grow with the tokens.
        let problem = problem.clone().with_tokens(max_tokens)?;
        Ok(Self::new(&problem).bytes())
    }
}

/// The regions of a GEMM that reads this tensor of every adapter.
fn gemm_regions(
    product: Product,
    adapter: Role,
    problem: &Problem,
    device: &DeviceProps,
    workspace: &mut BufferLayout,
) {
    let (operation, dtype) = (product.operation, problem.dtype());
    let mut kernels = [Access::Vectorised, Access::VectorisedKn, Access::Any]
        .into_iter()
        .flat_map(|access| arch::gemm(device, operation, dtype, access));
    if kernels.any(|variant| arch::maps_operands(&variant)) {
        // The number of threads decides on blocks, not on memory.
        Packing::new(problem, adapter, 1, device, workspace);
    }
    if let Some((tiles, slabs)) = gemm::split_bound(product, dtype, device) {
        let bytes = |n: u64| usize::try_from(n).unwrap_or(usize::MAX);
        workspace.region(&[bytes(slabs)], 1);
        workspace.region(&[bytes(tiles)], size_of::<u32>());
    }
}

/// The largest numbers of column groups and row splits over all kernels of an operation. `sizes`
/// returns for a kernel the column groups of each matrix, and the number of blocks for the same
/// rows.
fn most_of(
    operation: Operation,
    problem: &Problem,
    device: &DeviceProps,
    sizes: impl Fn(Variant) -> (Vec<usize>, usize),
) -> (Vec<usize>, usize) {
    let mut most: (Vec<usize>, usize) = (Vec::new(), 0);
    for access in [Access::Vectorised, Access::VectorisedKn, Access::Any] {
        for variant in arch::weight_grads(operation, problem.dtype(), access) {
            let (groups, side_by_side) = sizes(variant);
            let splits = RowSplit::most(problem.tokens(), side_by_side, device);
            most.1 = most.1.max(splits);
            most.0.resize(groups.len(), 0);
            for (most, groups) in most.0.iter_mut().zip(groups) {
                *most = (*most).max(groups);
            }
        }
    }
    most
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{DType, Layout, Projection, Role, RowAdapters, WeightLayout};

    /// Random layers.
    fn problems() -> impl Strategy<Value = Problem> {
        let size = prop_oneof![1..9000usize, Just(4096), Just(896), Just(11008)];
        let projection = (size.clone(), prop_oneof![1..80usize, Just(16), Just(320)])
            .prop_map(|(out_features, rank)| Projection { out_features, rank });
        let projections = proptest::collection::vec(projection, 1..4);
        let choices = (
            any::<[bool; 5]>(),
            0..3usize,
            prop_oneof![Just(16usize), Just(4)],
        );
        (size, projections, choices).prop_map(
            |(in_features, projections, (flags, dtype, aligned))| {
                let [dropout, dx, in_out, f32_adapters, inference] = flags;
                let dtype = DType::ALL[dtype];
                let problem = Problem::sharing_x(1, in_features, &projections, dtype)
                    .expect("a problem")
                    .with_dropout(dropout)
                    .with_input_gradient(dx)
                    .with_inference(inference)
                    .with_weight_layout(if in_out {
                        WeightLayout::InOut
                    } else {
                        WeightLayout::OutIn
                    });
                let adapters = if f32_adapters { DType::F32 } else { dtype };
                let layout = Layout {
                    row_stride: in_features as i64 + i64::from(aligned == 4),
                    alignment: aligned,
                };
                problem
                    .with_adapter_dtype(adapters)
                    .and_then(|problem| problem.with_layout(Role::X, layout))
                    .expect("a problem")
            },
        )
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(400))]

        #[test]
        #[cfg_attr(miri, ignore = "thousands of plans")]
        fn no_number_of_tokens_needs_more(
            problem in problems(),
            max_tokens in prop_oneof![1..300usize, 1..20_000usize],
            parts in proptest::collection::vec(0.0..1.0f64, 24),
            device in 0..11usize,
        ) {
            let (_, device) = DeviceProps::named()[device];
            let forward = ForwardPlan::workspace_bound(&problem, max_tokens, &device).unwrap();
            let backward = BackwardPlan::workspace_bound(&problem, max_tokens, &device).unwrap();
            let flags = ForwardPlan::flags_bound(&problem, max_tokens, &device).unwrap();
            let saved = SavedLayout::bound(&problem, max_tokens).unwrap();
            let few = 0..=max_tokens.min(4);
            let some = parts.iter().map(|part| (part * max_tokens as f64) as usize);
            for tokens in few.chain(some).chain([max_tokens]) {
                let problem = problem.clone().with_tokens(tokens).unwrap();
                let plan = ForwardPlan::new(&problem, &device).unwrap();
                prop_assert!(plan.workspace_bytes() <= forward, "forward of {problem}");
                prop_assert!(plan.flags_bytes() <= flags, "flags of {problem}");
                prop_assert!(plan.saved().bytes() <= saved, "saved of {problem}");
                if problem.is_inference() {
                    continue;
                }
                let plan = BackwardPlan::new(&problem, &device).unwrap();
                prop_assert!(
                    plan.workspace_bytes() <= backward,
                    "backward of {problem}: {} > {backward}",
                    plan.workspace_bytes()
                );
            }
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hundreds of plans")]
    fn one_launch_for_few_tokens_has_a_bound_too() {
        let problem = Problem::new(1, 4104, 3000, 40, DType::BF16).unwrap();
        let table = RowAdapters::Table {
            slots: 100,
            per_row: 3,
        };
        let device = DeviceProps::a100();
        for problem in [
            problem.clone(),
            problem.clone().with_batch_invariance(true),
            problem.clone().with_delta_only(true),
            problem.with_row_adapters(table).unwrap(),
        ] {
            let problem = problem.with_inference(true);
            let most = Problem::DECODE_TOKENS;
            let (bytes, flags) =
                decode::bound(&problem.clone().with_tokens(most).unwrap(), &device).unwrap();
            let plans = (1..=most).map(|tokens| {
                let problem = problem.clone().with_tokens(tokens).unwrap();
                let plan = ForwardPlan::new(&problem, &device).unwrap();
                (plan.workspace_bytes(), plan.flags_bytes())
            });
            let plans: Vec<_> = plans.collect();
            // No more than the largest plan needs.
            assert_eq!(plans.iter().map(|plan| plan.0).max(), Some(bytes));
            assert_eq!(plans.iter().map(|plan| plan.1).max(), Some(flags));
            // Beyond, no block waits for another.
            let bound = ForwardPlan::flags_bound(&problem, 9000, &device).unwrap();
            assert_eq!(bound, flags);
        }
    }

    #[test]
    #[cfg_attr(miri, ignore = "hundreds of plans")]
    fn bounds_hold_where_fewer_tokens_need_more() {
        let problem = Problem::new(8192, 4096, 4096, 16, DType::BF16).unwrap();
        let device = DeviceProps::h100();
        let bytes = |tokens| {
            let problem = problem.clone().with_tokens(tokens).unwrap();
            BackwardPlan::new(&problem, &device)
                .unwrap()
                .workspace_bytes()
        };
        let most = (1..=8192).step_by(31).map(bytes).max().unwrap();
        let bound = BackwardPlan::workspace_bound(&problem, 8192, &device).unwrap();
        assert!(most <= bound, "{most} {bound}");
        assert!(bound < 2 * most, "a bound of use: {most} {bound}");
    }
}
