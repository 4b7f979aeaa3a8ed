//! Forward and backward on raw pointers.

use cudarc::driver::sys::CUstream;

use super::params::{ForwardParams, GradAParams, GradBParams, GradXParams, ReduceParams, ShrinkParams};
use super::{BackwardArgs, DevicePointer, ForwardArgs, Kernels, check};
use crate::plan::Region;
use crate::{BackwardPlan, ForwardPlan, Problem, Result, Tensor};

impl Kernels {
    /// Enqueues a forward: the plan's two launches.
    ///
    /// # Errors
    /// [`crate::Error::Null`], [`crate::Error::Alignment`], [`crate::Error::BufferAlignment`], [`crate::Error::Optional`], [`crate::Error::Scaling`] or [`crate::Error::DropoutProbability`] before
    /// anything is launched; [`crate::Error::Driver`] if a launch fails.
    ///
    /// # Safety
    /// The context is current on this thread and `stream` belongs to it. Every pointer is a device address of that context with the extent
    /// that the plan's problem gives it; outputs and `saved` overlap nothing else; all stay valid until the stream has run the call.
    pub unsafe fn forward_raw(&self, plan: &ForwardPlan, args: &ForwardArgs, stream: CUstream) -> Result<()> {
        let problem = plan.problem();
        check::scaling(args.scaling)?;
        check::optional("bias", args.bias != 0, problem.has_bias(), "see Problem::with_bias")?;
        let dropout = check::dropout(args.dropout, problem)?;
        for (tensor, pointer) in [
            (Tensor::X, args.x),
            (Tensor::Weight, args.weight),
            (Tensor::LoraA, args.lora_a),
            (Tensor::LoraB, args.lora_b),
            (Tensor::Y, args.y),
        ] {
            check::pointer(problem, tensor, pointer)?;
        }
        if problem.has_bias() {
            check::pointer(problem, Tensor::Bias, args.bias)?;
        }
        check::buffer("saved", args.saved, plan.saved().bytes())?;

        let sizes = Sizes::new(problem);
        let stride = |tensor| problem.layout(tensor).row_stride;
        let s = at(args.saved, plan.saved().s);
        let [shrink, forward] = &plan.launches;
        let params = ShrinkParams {
            x: args.x,
            lora_a: args.lora_a,
            s,
            mask: plan.saved().mask.map_or(0, |mask| at(args.saved, mask)),
            x_stride: stride(Tensor::X),
            lora_a_stride: stride(Tensor::LoraA),
            mask_row_bytes: plan.saved().mask_row_bytes as i64,
            m: sizes.m,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            scaling: args.scaling,
            lora_vectorised: plan.lora_a_vectorised.into(),
            dropout,
        };
        // SAFETY: the caller vouches for the pointers, the plan for grid and shared memory, and ShrinkParams is what this kernel takes.
        unsafe { self.launch(shrink, &params, stream)? };
        let params = ForwardParams {
            x: args.x,
            weight: args.weight,
            bias: args.bias,
            s,
            lora_b: args.lora_b,
            y: args.y,
            x_stride: stride(Tensor::X),
            weight_stride: stride(Tensor::Weight),
            lora_b_stride: stride(Tensor::LoraB),
            y_stride: stride(Tensor::Y),
            m: sizes.m,
            n: sizes.n,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            lora_vectorised: plan.lora_b_vectorised.into(),
            out_paired: plan.y_paired.into(),
            pad: 0,
        };
        // SAFETY: as above, with ForwardParams.
        unsafe { self.launch(forward, &params, stream) }
    }

    /// Enqueues a backward: the plan's three launches.
    ///
    /// # Errors
    /// As [`Kernels::forward_raw`].
    ///
    /// # Safety
    /// As [`Kernels::forward_raw`]; `saved` is what the forward of the same problem and inputs left.
    pub unsafe fn backward_raw(&self, plan: &BackwardPlan, args: &BackwardArgs, stream: CUstream) -> Result<()> {
        let problem = plan.problem();
        check::scaling(args.scaling)?;
        let dropout = check::dropout(args.dropout, problem)?;
        for (tensor, pointer) in [
            (Tensor::DY, args.dy),
            (Tensor::X, args.x),
            (Tensor::Weight, args.weight),
            (Tensor::LoraA, args.lora_a),
            (Tensor::LoraB, args.lora_b),
            (Tensor::DX, args.dx),
            (Tensor::DLoraA, args.d_lora_a),
            (Tensor::DLoraB, args.d_lora_b),
        ] {
            check::pointer(problem, tensor, pointer)?;
        }
        check::buffer("saved", args.saved, plan.saved().bytes())?;
        check::buffer("workspace", args.workspace, plan.workspace_bytes())?;

        let sizes = Sizes::new(problem);
        let stride = |tensor| problem.layout(tensor).row_stride;
        let regions = &plan.regions;
        let mask = plan.saved().mask.map_or(0, |mask| at(args.saved, mask));
        let mask_row_bytes = plan.saved().mask_row_bytes as i64;
        let [grad_b, grad_a, grad_x] = &plan.launches;

        let params = GradBParams {
            dy: args.dy,
            lora_b: args.lora_b,
            s: at(args.saved, plan.saved().s),
            t_partial: at(args.workspace, regions.t_partial),
            lora_b_partial: at(args.workspace, regions.lora_b_partial),
            dy_stride: stride(Tensor::DY),
            lora_b_stride: stride(Tensor::LoraB),
            m: sizes.m,
            n: sizes.n,
            r: sizes.r,
            r_pad: sizes.r_pad,
            rows_per_split: plan.dy_split.rows_per_split as i32,
            column_groups: plan.dy_split.column_groups as i32,
            m_splits: plan.dy_split.row_splits as i32,
            scaling: args.scaling,
            lora_vectorised: plan.lora_b_vectorised.into(),
            pad: 0,
        };
        // SAFETY: the caller vouches for the pointers, the plan for grid and shared memory, and GradBParams is what this kernel takes.
        unsafe { self.launch(grad_b, &params, stream)? };
        let params = GradAParams {
            x: args.x,
            mask,
            t_partial: at(args.workspace, regions.t_partial),
            t: at(args.workspace, regions.t),
            lora_a_partial: at(args.workspace, regions.lora_a_partial),
            x_stride: stride(Tensor::X),
            mask_row_bytes,
            m: sizes.m,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            t_partials: plan.dy_split.column_groups as i32,
            rows_per_split: plan.x_split.rows_per_split as i32,
            column_groups: plan.x_split.column_groups as i32,
            m_splits: plan.x_split.row_splits as i32,
            keep_scale: dropout.keep_scale,
            pad: 0,
            reduce_b: ReduceParams {
                partial: at(args.workspace, regions.lora_b_partial),
                out: args.d_lora_b,
                out_stride: stride(Tensor::DLoraB),
                partial_stride: i64::from(sizes.r_pad),
                split_stride: i64::from(sizes.n) * i64::from(sizes.r_pad),
                splits: plan.dy_split.row_splits as i32,
                rows: sizes.n,
                columns: sizes.r,
                blocks: plan.reduce_b_blocks as i32,
            },
        };
        // SAFETY: as above, with GradAParams.
        unsafe { self.launch(grad_a, &params, stream)? };
        let params = GradXParams {
            dy: args.dy,
            weight: args.weight,
            t: at(args.workspace, regions.t),
            lora_a: args.lora_a,
            mask,
            dx: args.dx,
            dy_stride: stride(Tensor::DY),
            weight_stride: stride(Tensor::Weight),
            lora_a_stride: stride(Tensor::LoraA),
            dx_stride: stride(Tensor::DX),
            mask_row_bytes,
            m: sizes.m,
            n: sizes.n,
            k: sizes.k,
            r: sizes.r,
            r_pad: sizes.r_pad,
            keep_scale: dropout.keep_scale,
            lora_vectorised: plan.lora_a_vectorised.into(),
            out_paired: plan.dx_paired.into(),
            reduce_a: ReduceParams {
                partial: at(args.workspace, regions.lora_a_partial),
                out: args.d_lora_a,
                out_stride: stride(Tensor::DLoraA),
                partial_stride: i64::from(sizes.k),
                split_stride: i64::from(sizes.k) * i64::from(sizes.r_pad),
                splits: plan.x_split.row_splits as i32,
                rows: sizes.r,
                columns: sizes.k,
                blocks: plan.reduce_a_blocks as i32,
            },
        };
        // SAFETY: as above, with GradXParams.
        unsafe { self.launch(grad_x, &params, stream) }
    }
}

struct Sizes {
    m: i32,
    n: i32,
    k: i32,
    r: i32,
    r_pad: i32,
}

impl Sizes {
    /// `Problem` keeps every dimension below 2^31, the padded rank included.
    fn new(problem: &Problem) -> Self {
        Self {
            m: problem.tokens() as i32,
            n: problem.out_features() as i32,
            k: problem.in_features() as i32,
            r: problem.rank() as i32,
            r_pad: problem.padded_rank() as i32,
        }
    }
}

fn at(buffer: DevicePointer, region: Region) -> DevicePointer {
    buffer + region.offset as u64
}
