//! Forward and backward on matrices.

use std::sync::Arc;

use cudarc::driver::CudaStream;

use super::check::{self, Checks};
use super::matrix::{DynMatMut, DynMatRef, MatMut, MatRef};
use super::order::Order;
use super::views::{Addresses, Dynamic, Typed, Views};
use crate::bind::{self, ForwardRecord, Raw};
use crate::{BackwardPlan, ForwardPlan, Kernels, Problem, Result, Role};

/// One adapter, with elements of type `A`.
pub type Lora<'a, A> = bind::Lora<MatRef<'a, A>>;

/// One adapter whose element type is known at run time only.
pub type DynLora<'a> = bind::Lora<DynMatRef<'a>>;

/// Its gradients.
pub type DynLoraGradients<'a> = bind::LoraGradients<DynMatMut<'a>>;

/// The gradients of one adapter, with elements of type `A`.
pub type LoraGradients<'a, A> = bind::LoraGradients<MatMut<'a, A>>;

/// Arguments of [`Kernels::forward`]: tensors of type `T`, adapters of type `A`.
pub type Forward<'a, T, A = T> = bind::Forward<Typed<'a, T, A>>;

/// One projection of [`Forward`].
pub type ForwardProjection<'a, T, A = T> = bind::ForwardProjection<Typed<'a, T, A>>;

/// Arguments of [`Kernels::backward`]: tensors of type `T`, adapters of type `A`.
pub type Backward<'a, T, A = T> = bind::Backward<Typed<'a, T, A>>;

/// One projection of [`Backward`].
pub type BackwardProjection<'a, T, A = T> = bind::BackwardProjection<Typed<'a, T, A>>;

/// Arguments of [`Kernels::forward`] with element types that are known at run time only.
pub type DynForward<'a> = bind::Forward<Dynamic<'a>>;

/// One projection of [`DynForward`].
pub type DynForwardProjection<'a> = bind::ForwardProjection<Dynamic<'a>>;

/// Arguments of [`Kernels::backward`] with element types that are known at run time only.
pub type DynBackward<'a> = bind::Backward<Dynamic<'a>>;

/// One projection of [`DynBackward`].
pub type DynBackwardProjection<'a> = bind::BackwardProjection<Dynamic<'a>>;

impl Kernels {
    /// Enqueues a forward on `stream`, and returns what backward takes to check that it fits.
    ///
    /// The result is a function of the arguments and the plan alone: the same bits on every run.
    /// Sums are in f32 (for f32 tensors with fused multiply-adds, not TF32), rounded once per
    /// stored value; S is stored in the tensors' dtype, as PEFT does.
    ///
    /// The arguments' memory may belong to other streams of the context: the kernels run after all
    /// that was enqueued there, and what is enqueued there afterwards, such as freeing the memory,
    /// runs after the kernels. What cudarc itself does with the memory on further streams is
    /// ordered as far as cudarc orders it.
    ///
    /// # Errors
    /// [`crate::Error::Capturing`] if the stream, or one that memory belongs to, is being captured
    /// into a CUDA graph, which could be launched when the memory is gone. Capture
    /// [`Kernels::forward_raw`]. A capture that another thread begins during the call is refused as
    /// far as it can be noticed.
    /// [`crate::Error::Length`] for a slice with more bytes than an address space, for which cudarc
    /// allocates fewer. A part of such a slice can't be told from a part of a sound one.
    /// Any of [`crate::Error`]'s argument errors before anything is launched,
    /// [`crate::Error::Driver`] if a launch fails.
    pub fn forward<'a, V: Views<'a>>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &ForwardPlan,
        mut args: bind::Forward<V>,
    ) -> Result<ForwardRecord> {
        check::projections(plan.problem(), args.projections.len())?;
        check::dropout(plan.problem())?;
        let mut order = Order::new(self, stream)?;
        let mut checks = Checks::new(&mut order, plan.problem());
        checks.matrix(0, Role::X, &args.x)?;
        for (index, projection) in args.projections.iter().enumerate() {
            checks.weight(index, &projection.weight)?;
            checks.matrix(index, Role::Y, &projection.y)?;
            if let Some(bias) = &projection.bias {
                checks.matrix(index, Role::Bias, bias)?;
            }
            checks.lora(index, projection.lora.as_ref())?;
        }
        checks.saved(&args.saved, plan.saved())?;
        checks.workspace(args.workspace.as_ref(), plan.workspace_bytes())?;
        checks.rows(args.rows.as_ref())?;
        checks.flags(args.flags.as_deref(), plan.flags_bytes())?;
        order.join()?;

        let mut addresses = Addresses::new(stream);
        let mut projections = [bind::ForwardProjection::<Raw>::default(); Problem::MAX_PROJECTIONS];
        let count = args.projections.len();
        let x = addresses.read(&args.x);
        for (raw, projection) in projections.iter_mut().zip(&mut args.projections) {
            *raw = addresses.forward_projection(projection, plan.problem());
        }
        let raw = bind::Forward {
            x,
            projections: &projections[..count],
            dropout: args.dropout,
            saved: addresses.saved_mut(&mut args.saved),
            workspace: args
                .workspace
                .as_mut()
                .map(|buffer| addresses.bytes_mut(buffer)),
            rows: args.rows.as_ref().map(|rows| addresses.rows(rows)),
            flags: args.flags.as_mut().map(|flags| addresses.flags(flags)),
        };
        order.check()?;
        // SAFETY: the context was made current; every matrix lies in a slice of it at the plan's
        // strides, and borrows keep the outputs apart. Borrows also keep the slices alive until the
        // call is enqueued. Then their home streams, on which they are freed, wait for it, and
        // nothing was captured that could run again.
        let launched = unsafe { self.forward_raw(plan, &raw, stream.cu_stream()) };
        order.end(launched)
    }

    /// Enqueues a backward on `stream`.
    ///
    /// Deterministic as [`Kernels::forward`]. Without tokens, dA and dB are zero, or stay as they
    /// are where they are accumulated into.
    ///
    /// # Errors
    /// [`crate::Error::OtherForward`] if it doesn't fit the forward whose record it is given, and
    /// any other of [`crate::Error`]'s argument errors, before anything is launched;
    /// [`crate::Error::Driver`] if a launch fails.
    pub fn backward<'a, V: Views<'a>>(
        &self,
        stream: &Arc<CudaStream>,
        plan: &BackwardPlan,
        mut args: bind::Backward<V>,
    ) -> Result<()> {
        check::projections(plan.problem(), args.projections.len())?;
        check::dropout(plan.problem())?;
        let mut order = Order::new(self, stream)?;
        let mut checks = Checks::new(&mut order, plan.problem());
        checks.matrix(0, Role::X, &args.x)?;
        if let Some(dx) = &args.dx {
            checks.matrix(0, Role::DX, dx)?;
        }
        for (index, projection) in args.projections.iter().enumerate() {
            checks.matrix(index, Role::DY, &projection.dy)?;
            checks.weight(index, &projection.weight)?;
            checks.lora(index, projection.lora.as_ref())?;
            checks.gradients(index, projection.gradients.as_ref())?;
        }
        checks.saved(&args.saved, plan.saved())?;
        checks.workspace(args.workspace.as_ref(), plan.workspace_bytes())?;
        checks.rows_with_gradients(args.rows.as_mut())?;
        order.join()?;

        let mut addresses = Addresses::new(stream);
        let mut projections =
            [bind::BackwardProjection::<Raw>::default(); Problem::MAX_PROJECTIONS];
        let count = args.projections.len();
        let x = addresses.read(&args.x);
        for (raw, projection) in projections.iter_mut().zip(&mut args.projections) {
            *raw = addresses.backward_projection(projection, plan.problem());
        }
        let raw = bind::Backward {
            x,
            projections: &projections[..count],
            dropout: args.dropout,
            saved: addresses.saved(&args.saved),
            record: Some(args.record),
            dx: args.dx.as_mut().map(|dx| addresses.write(dx)),
            workspace: args
                .workspace
                .as_mut()
                .map(|buffer| addresses.bytes_mut(buffer)),
            rows: args
                .rows
                .as_ref()
                .map(|rows| addresses.rows_with_gradients(rows)),
        };
        order.check()?;
        // SAFETY: as in forward.
        let launched = unsafe { self.backward_raw(plan, &raw, stream.cu_stream()) };
        order.end(launched)
    }
}
