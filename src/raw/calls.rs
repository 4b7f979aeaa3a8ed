//! Forward, backward and merge on device addresses.

use cudarc::driver::sys::CUstream;

use super::{BackwardArgs, ForwardArgs, Kernels, MergeArgs, encode_tensor_map};
use crate::bind::{self, ForwardRecord};
use crate::plan::Launch;
use crate::{BackwardPlan, DeviceProps, ForwardPlan, MergePlan, Result};

impl Kernels {
    /// Refuses a plan that can't be run as a whole, before its first launch.
    #[inline]
    pub(super) fn check_runs(&self, planned: &DeviceProps, launches: &[Launch]) -> Result<()> {
        self.props().check_planned(planned)?;
        launches
            .iter()
            .try_for_each(|launch| self.function(launch).map(|_| ()))
    }

    /// Enqueues a forward: the plan's two launches. Returns what backward can be checked against.
    ///
    /// # Errors
    /// [`crate::Error::OtherDevice`], [`crate::Error::ProjectionCount`], [`crate::Error::Null`],
    /// [`crate::Error::Alignment`], [`crate::Error::BufferAlignment`], [`crate::Error::Optional`],
    /// [`crate::Error::Overlap`], [`crate::Error::AddressRange`], [`crate::Error::Scaling`] or
    /// [`crate::Error::DropoutProbability`] before anything is launched; [`crate::Error::Driver`]
    /// if a launch fails.
    ///
    /// # Safety
    /// The context is current on this thread and `stream` belongs to it. Every pointer is a device
    /// address of that context with the extent that the plan's problem gives it, and all stay valid
    /// until the stream has run the call. What a call writes shares no memory with anything else of
    /// the call: by their addresses this is checked, but memory that is mapped at two addresses is
    /// the caller's to keep apart.
    pub unsafe fn forward_raw(
        &self,
        plan: &ForwardPlan,
        args: &ForwardArgs<'_>,
        stream: CUstream,
    ) -> Result<ForwardRecord> {
        self.check_runs(plan.device(), plan.launches())?;
        bind::forward(plan, args, encode_tensor_map, |launch, params| {
            // SAFETY: the caller vouches for the pointers, the plan for the grid and the shared
            // memory, and binding gives each kernel the struct that it takes.
            unsafe { self.launch(launch, params, stream) }
        })
    }

    /// Enqueues a backward: the plan's three launches; without tokens the two that write zero
    /// gradients.
    ///
    /// # Errors
    /// As [`Kernels::forward_raw`], and [`crate::Error::OtherForward`] if it doesn't fit the record
    /// of a forward.
    ///
    /// # Safety
    /// As [`Kernels::forward_raw`]; `saved` is what the forward of the same problem and inputs
    /// left. A record tells whether the sizes, formats, dropout and scalings are the same; nobody
    /// can check that x, lora_A and `saved` hold what they held then.
    pub unsafe fn backward_raw(
        &self,
        plan: &BackwardPlan,
        args: &BackwardArgs<'_>,
        stream: CUstream,
    ) -> Result<()> {
        self.check_runs(plan.device(), plan.launches())?;
        bind::backward(plan, args, encode_tensor_map, |launch, params| {
            // SAFETY: as in forward.
            unsafe { self.launch(launch, params, stream) }
        })
    }

    /// Enqueues a merge: one launch; two with a report; three if it is safe.
    ///
    /// # Errors
    /// [`crate::Error::OtherDevice`], [`crate::Error::AdapterCount`], [`crate::Error::Null`],
    /// [`crate::Error::Alignment`], [`crate::Error::BufferAlignment`], [`crate::Error::Optional`],
    /// [`crate::Error::Overlap`], [`crate::Error::AddressRange`], [`crate::Error::InPlace`] or
    /// [`crate::Error::Scaling`] before anything is launched; [`crate::Error::Driver`] if a launch
    /// fails.
    ///
    /// # Safety
    /// The context is current on this thread and `stream` belongs to it. Every pointer is a device
    /// address of that context with the extent that the plan's problem gives it, and all stay valid
    /// until the stream has run the call. Memory that is mapped at two addresses is kept apart as
    /// in [`Kernels::forward_raw`]; merging in place is the exception.
    pub unsafe fn merge_raw(
        &self,
        plan: &MergePlan,
        args: &MergeArgs<'_>,
        stream: CUstream,
    ) -> Result<()> {
        self.check_runs(plan.device(), plan.launches())?;
        bind::merge(plan, args, |launch, params| {
            // SAFETY: as in forward.
            unsafe { self.launch(launch, params, stream) }
        })
    }
}
