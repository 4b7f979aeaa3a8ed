//! Forward and backward.

use std::ffi::c_void;

use kernels::plan::SavedLayout;
use kernels::raw::{
    BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs, LoraArgs,
    LoraGradientsArgs, Saved,
};
use kernels::{Argument, BackwardPlan, Dropout, ForwardPlan, Kernels, Problem};

use crate::arguments::{
    lora_backward_args, lora_backward_projection, lora_dropout, lora_forward_args,
    lora_forward_projection,
};
use crate::context::Pushed;
use crate::error::{Error, Result};
use crate::handle::lora_kernels;
use crate::handles;
use crate::plan::{lora_backward_plan, lora_forward_plan};
use crate::planned::{Handle, find};
use crate::record::{given_record, record_of};
use crate::status::{lora_status, run};
use crate::structs::{Versioned, check_writable, converted, read, reserved, size, write};

/// The arguments of a call.
pub trait Args: Versioned {
    /// The field without a meaning yet.
    fn reserved(&self) -> u32;
}

impl Args for lora_forward_args {
    fn reserved(&self) -> u32 {
        self.reserved
    }
}

impl Args for lora_backward_args {
    fn reserved(&self) -> u32 {
        self.reserved
    }
}

/// What every call does around its own part: it reads its arguments and makes the handle's context
/// current.
///
/// # Safety
/// `args` is as [`read`] takes it.
pub unsafe fn enqueue<H: Handle, A: Args>(
    kernels: *const lora_kernels,
    plan: *const H,
    args: *const A,
    call: impl FnOnce(&Kernels, &H::Plan, A) -> Result<()>,
) -> lora_status {
    run(|| {
        let (kernels, plan) = (handles::find(kernels, "kernels")?, find(plan)?);
        let (kernels, plan) = (&kernels.inner, &(*plan).as_ref().plan);
        // SAFETY: the caller's promise.
        let args = unsafe { read(args, "args") }?;
        reserved("args", args.reserved())?;
        let _pushed = Pushed::new(kernels.context().cu_ctx())?;
        call(kernels, plan, args)
    })
}

/// Enqueues a forward on a stream: y = x*W^T + bias + scaling*drop(x)*A^T*B^T for every projection.
/// Nothing on the device is allocated or waited for, so the stream may be capturing. The same bits
/// on every run.
///
/// stream: a CUstream or cudaStream_t of the handle's context; null is the default stream.
///
/// Any status but LORA_STATUS_DRIVER and LORA_STATUS_INTERNAL means that nothing was launched. What
/// goes wrong on the device, say by a device address with too little memory behind it, shows when
/// the stream is waited for. No output, saved or workspace may share memory with another argument:
/// that is LORA_STATUS_OVERLAP. Addresses, shapes and strides decide it, so column ranges of one
/// buffer may be outputs. All memory stays valid until the stream has run the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward(
    kernels: *const lora_kernels,
    plan: *const lora_forward_plan,
    args: *const lora_forward_args,
    stream: *mut c_void,
) -> lora_status {
    let call = |kernels: &Kernels, plan: &ForwardPlan, args: lora_forward_args| {
        let convert = |projection: lora_forward_projection| ForwardProjectionArgs {
            weight: projection.weight,
            bias: (projection.bias != 0).then_some(projection.bias),
            lora: lora(projection.lora_a, projection.lora_b, projection.scaling),
            y: projection.y,
        };
        let count = projection_count(args.projection_count, plan.problem())?;
        // SAFETY: the caller's promise: null or valid.
        let (projections, dropout) = unsafe {
            (
                projections(args.projections, count, convert)?,
                dropout(args.dropout)?,
            )
        };
        let workspace_bytes = plan.workspace_bytes();
        check_bytes(Argument::Workspace, args.workspace_bytes, workspace_bytes)?;
        let saved = saved(
            plan.saved(),
            (args.saved, args.saved_bytes),
            (args.saved_s, args.saved_s_bytes),
            (args.saved_mask, args.saved_mask_bytes),
        )?;
        check_bytes(Argument::Flags, args.flags_bytes, plan.flags_bytes())?;
        // SAFETY: the caller's promise: null or valid.
        let rows = unsafe { crate::table::rows(args.rows) }?;
        let wants_record = !args.record.is_null();
        if wants_record {
            // Before anything is launched.
            // SAFETY: the caller's promise: valid.
            unsafe { check_writable(args.record, "args->record") }?;
        }
        let raw = ForwardArgs {
            x: args.x,
            projections: &projections[..count],
            dropout,
            saved,
            workspace: Some(args.workspace),
            rows,
            flags: (args.flags != 0).then_some(args.flags),
        };
        // SAFETY: the context is current; the caller vouches for the addresses and the stream.
        unsafe { kernels.forward_raw(plan, &raw, stream.cast()) }?;
        if !wants_record {
            return Ok(());
        }
        let scalings = projections.iter().map(|projection| projection.lora);
        let scalings = scalings.map(|lora| lora.map_or(0.0, |lora| lora.scaling));
        let record = record_of(plan.problem(), dropout, scalings);
        // SAFETY: the caller's promise: valid.
        unsafe { write(args.record, &record, "args->record") }
    };
    // SAFETY: the caller's promise: null or valid.
    unsafe { enqueue(kernels, plan, args, call) }
}

/// Enqueues a backward on a stream, as lora_forward does a forward: with T = scaling*dy*B of every
/// projection, dx = sum of dy*W + mask o (sum of T*A)/(1-p), d_lora_A = T^T*drop(x), d_lora_B =
/// scaling*dy^T*(drop(x)*A^T).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_backward(
    kernels: *const lora_kernels,
    plan: *const lora_backward_plan,
    args: *const lora_backward_args,
    stream: *mut c_void,
) -> lora_status {
    let call = |kernels: &Kernels, plan: &BackwardPlan, args: lora_backward_args| {
        let convert = |projection: lora_backward_projection| BackwardProjectionArgs {
            dy: projection.dy,
            weight: projection.weight,
            lora: lora(projection.lora_a, projection.lora_b, projection.scaling),
            gradients: gradients(projection.d_lora_a, projection.d_lora_b),
        };
        let count = projection_count(args.projection_count, plan.problem())?;
        // SAFETY: the caller's promise: null or valid.
        let (projections, dropout, record) = unsafe {
            (
                projections(args.projections, count, convert)?,
                dropout(args.dropout)?,
                given_record(args.record)?,
            )
        };
        let workspace_bytes = plan.workspace_bytes();
        check_bytes(Argument::Workspace, args.workspace_bytes, workspace_bytes)?;
        let saved = saved(
            plan.saved(),
            (args.saved, args.saved_bytes),
            (args.saved_s, args.saved_s_bytes),
            (args.saved_mask, args.saved_mask_bytes),
        )?;
        // SAFETY: the caller's promise: null or valid.
        let rows = unsafe { crate::table::rows(args.rows) }?;
        let raw = BackwardArgs {
            x: args.x,
            projections: &projections[..count],
            dropout,
            saved,
            record,
            dx: (args.dx != 0).then_some(args.dx),
            workspace: Some(args.workspace),
            rows,
        };
        // SAFETY: the context is current; the caller vouches for the addresses and the stream.
        Ok(unsafe { kernels.backward_raw(plan, &raw, stream.cast()) }?)
    };
    // SAFETY: the caller's promise: null or valid.
    unsafe { enqueue(kernels, plan, args, call) }
}

/// An adapter where there is an address of one.
fn lora(a: u64, b: u64, scaling: f32) -> Option<LoraArgs> {
    (a != 0 || b != 0).then_some(LoraArgs { a, b, scaling })
}

/// Gradients where there is an address of one.
fn gradients(a: u64, b: u64) -> Option<LoraGradientsArgs> {
    (a != 0 || b != 0).then_some(LoraGradientsArgs { a, b })
}

/// The number of projections of a call, which is its plan's.
fn projection_count(given: usize, problem: &Problem) -> Result<usize> {
    let status = lora_status::ProjectionCount;
    let given = size("args.projection_count", given, status)?;
    let planned = problem.projections().len();
    if given != planned {
        return Err(kernels::Error::ProjectionCount { given, planned }.into());
    }
    Ok(given)
}

/// # Safety
/// As [`converted`].
unsafe fn projections<T: Versioned, R: Copy + Default>(
    pointer: *const T,
    count: usize,
    convert: impl Fn(T) -> R,
) -> Result<[R; Problem::MAX_PROJECTIONS]> {
    // SAFETY: the caller's promise.
    unsafe { converted(pointer, count, "args->projections", convert) }
}

/// # Safety
/// `pointer` is null, or as [`read`] takes it.
unsafe fn dropout(pointer: *const lora_dropout) -> Result<Option<Dropout>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let given = unsafe { read(pointer, "args->dropout") }?;
    Ok(Some(Dropout {
        p: given.p,
        seed: given.seed,
        offset: given.offset,
    }))
}

/// A buffer of a call: its address and its bytes.
type Buffer = (u64, usize);

/// The memory for S and the mask: `whole`, or `s` and `mask`.
fn saved(layout: &SavedLayout, whole: Buffer, s: Buffer, mask: Buffer) -> Result<Saved<u64>> {
    let is_split = s.0 != 0 || mask.0 != 0;
    if is_split && whole.0 != 0 {
        return Err(Error::SavedTwice);
    }
    if !is_split {
        check_bytes(Argument::Saved, whole.1, layout.bytes())?;
        return Ok(Saved::Whole(whole.0));
    }
    check_bytes(Argument::SavedS, s.1, layout.s.bytes)?;
    if let (Some(region), true) = (layout.mask, mask.0 != 0) {
        check_bytes(Argument::SavedMask, mask.1, region.bytes)?;
    }
    Ok(Saved::Split {
        s: s.0,
        mask: (mask.0 != 0).then_some(mask.0),
    })
}

/// An error if a buffer has fewer bytes than a plan needs.
pub fn check_bytes(buffer: Argument, given: usize, needed: usize) -> Result<()> {
    let field = match buffer {
        Argument::SavedS => "saved_s",
        Argument::SavedMask => "saved_mask",
        Argument::Report => "report",
        Argument::Workspace => "workspace",
        Argument::Flags => "flags",
        _ => "saved",
    };
    let name = format_args!("args.{field}_bytes");
    let given = size(name, given, lora_status::Buffer)?;
    if given < needed {
        return Err(kernels::Error::Buffer {
            buffer,
            given,
            needed,
        }
        .into());
    }
    Ok(())
}
