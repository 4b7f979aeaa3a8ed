//! Prepared launches: the launches of a call with their parameters bound. The host cost of a call
//! is measured against them.

use cudarc::driver::sys::{CUfunction, CUresult, CUstream};

use super::launch::launch_function;
use super::{BackwardArgs, ForwardArgs, Kernels, encode_tensor_map};
use crate::bind;
use crate::plan::Launch;
use crate::{BackwardPlan, ForwardPlan, Result};

/// A launch with its parameters.
#[doc(hidden)]
pub struct PreparedLaunch {
    function: CUfunction,
    launch: Launch,
    overlaps: bool,
    params: Vec<u8>,
}

impl PreparedLaunch {
    /// Calls cuLaunchKernelEx and nothing else.
    ///
    /// # Safety
    /// As for the call that it was made from.
    #[inline]
    pub unsafe fn launch(&self, stream: CUstream) -> CUresult {
        // SAFETY: the caller promises that the call is valid; the function and the parameters
        // belong to the launch.
        unsafe {
            launch_function(
                self.function,
                &self.launch,
                self.overlaps,
                &self.params,
                stream,
            )
        }
    }
}

impl Kernels {
    /// The launches that [`Kernels::forward_raw`] makes.
    #[doc(hidden)]
    pub fn prepare_forward(
        &self,
        plan: &ForwardPlan,
        args: &ForwardArgs<'_>,
    ) -> Result<Vec<PreparedLaunch>> {
        self.check_runs(plan.device(), plan.launches())?;
        let mut prepared = Vec::new();
        bind::forward(plan, args, encode_tensor_map, |launch, params| {
            prepared.push(self.prepare(launch, params)?);
            Ok(())
        })?;
        Ok(prepared)
    }

    /// The launches that [`Kernels::backward_raw`] makes.
    #[doc(hidden)]
    pub fn prepare_backward(
        &self,
        plan: &BackwardPlan,
        args: &BackwardArgs<'_>,
    ) -> Result<Vec<PreparedLaunch>> {
        self.check_runs(plan.device(), plan.launches())?;
        let mut prepared = Vec::new();
        bind::backward(plan, args, encode_tensor_map, |launch, params| {
            prepared.push(self.prepare(launch, params)?);
            Ok(())
        })?;
        Ok(prepared)
    }

    fn prepare(&self, launch: &Launch, params: &[u8]) -> Result<PreparedLaunch> {
        Ok(PreparedLaunch {
            function: self.function(launch)?,
            launch: launch.clone(),
            overlaps: self.overlaps,
            params: params.to_vec(),
        })
    }
}
