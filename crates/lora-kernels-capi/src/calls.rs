//! Forward and backward.

use std::ffi::c_void;

use kernels::raw::{BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs};
use kernels::{Argument, Dropout, Problem};

use crate::arguments::{lora_backward_args, lora_dropout, lora_forward_args};
use crate::context::Pushed;
use crate::error::Result;
use crate::handle::lora_kernels;
use crate::plan::{lora_backward_plan, lora_forward_plan};
use crate::status::{lora_status, run};
use crate::structs::{Versioned, borrow, elements, read, reserved};

const PLACE: &str = "args";

/// Enqueues a forward on a stream: y = x*W^T + bias + scaling*drop(x)*A^T*B^T for every projection.
/// Nothing on the device is allocated or waited for, so the stream may be capturing. The same bits
/// on every run.
///
/// stream: a CUstream or cudaStream_t of the handle's context; null is the default stream.
///
/// Any status but LORA_STATUS_DRIVER and LORA_STATUS_INTERNAL means that nothing was launched. What
/// goes wrong on the device, say by a device address with too little memory behind it, shows when
/// the stream is waited for. Outputs, saved and workspace overlap nothing else; all memory stays
/// valid until the stream has run the call.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_forward(
    kernels: *const lora_kernels,
    plan: *const lora_forward_plan,
    args: *const lora_forward_args,
    stream: *mut c_void,
) -> lora_status {
    run(|| {
        // SAFETY: the caller's promise: null or valid.
        let (kernels, plan, args) = unsafe {
            (
                &borrow(kernels, "kernels")?.inner,
                &borrow(plan, "plan")?.inner,
                read(args, PLACE)?,
            )
        };
        reserved(PLACE, args.reserved)?;
        let fill = |one: crate::arguments::lora_forward_projection| ForwardProjectionArgs {
            weight: one.weight,
            bias: one.bias,
            lora_a: one.lora_a,
            lora_b: one.lora_b,
            scaling: one.scaling,
            y: one.y,
        };
        // SAFETY: the caller's promise: null or valid.
        let (projections, dropout) = unsafe {
            (
                projections(
                    args.projections,
                    args.projection_count,
                    plan.problem(),
                    fill,
                )?,
                dropout(args.dropout)?,
            )
        };
        room(Argument::Saved, args.saved_bytes, plan.saved().bytes())?;
        room(
            Argument::Workspace,
            args.workspace_bytes,
            plan.workspace_bytes(),
        )?;
        let raw = ForwardArgs {
            x: args.x,
            projections: &projections[..args.projection_count],
            dropout,
            saved: args.saved,
            workspace: args.workspace,
        };
        let _pushed = Pushed::new(kernels.context().cu_ctx())?;
        // SAFETY: the context is current; the caller vouches for the addresses and the stream.
        Ok(unsafe { kernels.forward_raw(plan, &raw, stream.cast()) }?)
    })
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
    run(|| {
        // SAFETY: the caller's promise: null or valid.
        let (kernels, plan, args) = unsafe {
            (
                &borrow(kernels, "kernels")?.inner,
                &borrow(plan, "plan")?.inner,
                read(args, PLACE)?,
            )
        };
        reserved(PLACE, args.reserved)?;
        let fill = |one: crate::arguments::lora_backward_projection| BackwardProjectionArgs {
            dy: one.dy,
            weight: one.weight,
            lora_a: one.lora_a,
            lora_b: one.lora_b,
            scaling: one.scaling,
            d_lora_a: one.d_lora_a,
            d_lora_b: one.d_lora_b,
        };
        // SAFETY: the caller's promise: null or valid.
        let (projections, dropout) = unsafe {
            (
                projections(
                    args.projections,
                    args.projection_count,
                    plan.problem(),
                    fill,
                )?,
                dropout(args.dropout)?,
            )
        };
        room(Argument::Saved, args.saved_bytes, plan.saved().bytes())?;
        room(
            Argument::Workspace,
            args.workspace_bytes,
            plan.workspace_bytes(),
        )?;
        let raw = BackwardArgs {
            x: args.x,
            projections: &projections[..args.projection_count],
            dropout,
            saved: args.saved,
            dx: args.dx,
            workspace: args.workspace,
        };
        let _pushed = Pushed::new(kernels.context().cu_ctx())?;
        // SAFETY: the context is current; the caller vouches for the addresses and the stream.
        Ok(unsafe { kernels.backward_raw(plan, &raw, stream.cast()) }?)
    })
}

/// As many projections as the plan has, without an allocation.
///
/// # Safety
/// As [`elements`].
unsafe fn projections<T: Versioned, R: Copy + Default>(
    pointer: *const T,
    count: usize,
    problem: &Problem,
    fill: impl Fn(T) -> R,
) -> Result<[R; Problem::MAX_PROJECTIONS]> {
    let planned = problem.projections().len();
    if count != planned {
        return Err(kernels::Error::ProjectionCount {
            given: count,
            planned,
        }
        .into());
    }
    let mut filled = [R::default(); Problem::MAX_PROJECTIONS];
    // SAFETY: the caller's promise.
    let given = unsafe { elements(pointer, count, "args->projections") }?;
    for (slot, one) in filled.iter_mut().zip(given) {
        *slot = fill(one?);
    }
    Ok(filled)
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

pub fn room(buffer: Argument, given: usize, needed: usize) -> Result<()> {
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
