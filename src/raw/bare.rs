//! The launches of a call without the call: what its cost on the host is measured against.

use std::ffi::c_void;

use bytemuck::Pod;
use cudarc::driver::sys::{self, CUfunction, CUresult, CUstream};

use super::{BackwardArgs, ForwardArgs, Kernels, calls};
use crate::plan::Launch;
use crate::{BackwardPlan, Error, ForwardPlan, Result};

/// One launch with its parameters, ready.
#[doc(hidden)]
pub struct BareLaunch {
    function: CUfunction,
    blocks: u32,
    threads: u32,
    shared_bytes: u32,
    params: Vec<u64>,
}

impl BareLaunch {
    /// cuLaunchKernel, and nothing else.
    ///
    /// # Safety
    /// As for the call it was made from.
    #[inline]
    pub unsafe fn launch(&self, stream: CUstream) -> CUresult {
        let mut arguments = [self.params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: the driver copies the parameters during the call and does not write to them; the
        // rest is the caller's promise.
        unsafe {
            sys::cuLaunchKernel(
                self.function,
                self.blocks,
                1,
                1,
                self.threads,
                1,
                1,
                self.shared_bytes,
                stream,
                arguments.as_mut_ptr(),
                std::ptr::null_mut(),
            )
        }
    }
}

impl Kernels {
    /// The launches that [`Kernels::forward_raw`] makes.
    #[doc(hidden)]
    pub fn bare_forward(
        &self,
        plan: &ForwardPlan,
        args: &ForwardArgs<'_>,
    ) -> Result<Vec<BareLaunch>> {
        let dropout = calls::check_forward(plan, args)?;
        let [shrink, forward] = &plan.launches;
        Ok(vec![
            self.bare(shrink, &calls::shrink_params(plan, args, dropout))?,
            self.bare(forward, &calls::forward_params(plan, args))?,
        ])
    }

    /// The launches that [`Kernels::backward_raw`] makes.
    #[doc(hidden)]
    pub fn bare_backward(
        &self,
        plan: &BackwardPlan,
        args: &BackwardArgs<'_>,
    ) -> Result<Vec<BareLaunch>> {
        let dropout = calls::check_backward(plan, args)?;
        let [grad_b, grad_a, grad_x] = &plan.launches;
        Ok(vec![
            self.bare(grad_b, &calls::grad_b_params(plan, args))?,
            self.bare(grad_a, &calls::grad_a_params(plan, args, dropout))?,
            self.bare(grad_x, &calls::grad_x_params(plan, args, dropout))?,
        ])
    }

    fn bare<P: Pod>(&self, launch: &Launch, params: &P) -> Result<BareLaunch> {
        Ok(BareLaunch {
            function: self.function(launch).ok_or(Error::KernelsNotBuilt)?,
            blocks: launch.blocks,
            threads: launch.threads,
            shared_bytes: launch.shared_bytes,
            params: bytemuck::cast_slice(std::slice::from_ref(params)).to_vec(),
        })
    }
}
