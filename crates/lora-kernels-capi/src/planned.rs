//! What the plans of a forward, a backward and a merge have in common: they are made, asked for
//! their memory and their text, and freed in the same way.

use std::ffi::{CString, c_char};
use std::fmt::Display;
use std::ptr;
use std::sync::Arc;

use kernels::plan::SavedLayout;

use crate::error::Result;
use crate::handles::{self, Object};
use crate::status::{attempt, lora_status, run};
use crate::structs::{Versioned, check_out, put, write};

/// What the addresses of saved, workspace and report must be a multiple of, in bytes.
pub const LORA_BUFFER_ALIGNMENT: usize = 16;

const _: () = assert!(LORA_BUFFER_ALIGNMENT == kernels::plan::BUFFER_ALIGNMENT);

/// The memory that calls with a plan need.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_plan_info {
    /// sizeof(lora_plan_info)
    pub struct_size: u32,
    /// Kernels that a call launches.
    pub launches: u32,
    /// Bytes of the buffer that carries S and the dropout mask from forward to backward. A forward
    /// needs it without a backward too, a merge has none.
    pub saved_bytes: usize,
    /// Bytes of scratch memory; may be 0. Neither buffer needs initialising, and nothing of this
    /// one is needed after the call.
    pub workspace_bytes: usize,
    /// Columns of S: the ranks of all projections, each rounded up to 16.
    pub padded_ranks: usize,
    /// Where in saved S = drop(x)*A^T lies, in bytes: (tokens, padded_ranks) in the
    /// problem's dtype, rows contiguous.
    pub s_offset: usize,
    /// Bytes of S.
    pub s_bytes: usize,
    /// Where in saved the dropout mask lies, in bytes: 64-bit words (ceil(in_features / 64),
    /// tokens); bit c of word (b, row) is set where x (row, 64*b + c) is kept, and clear beyond the
    /// last column.
    pub mask_offset: usize,
    /// Bytes of the mask; 0 if none is stored.
    pub mask_bytes: usize,
    /// Bytes of a forward's flags; may be 0.
    pub flags_bytes: usize,
}

// SAFETY: repr(C), plain integers: two of 4 bytes, the others of 8.
unsafe impl Versioned for lora_plan_info {
    const NAME: &'static str = "lora_plan_info";
    const SIZES: &[u32] = &[64, 72];
}

impl lora_plan_info {
    /// Of a plan that saves nothing.
    pub fn new(launches: usize, workspace_bytes: usize) -> Self {
        Self {
            struct_size: size_of::<Self>() as u32,
            launches: launches as u32,
            saved_bytes: 0,
            workspace_bytes,
            padded_ranks: 0,
            s_offset: 0,
            s_bytes: 0,
            mask_offset: 0,
            mask_bytes: 0,
            flags_bytes: 0,
        }
    }

    /// With what goes from forward to backward.
    pub fn with_saved(self, saved: &SavedLayout, padded_ranks: usize) -> Self {
        Self {
            saved_bytes: saved.bytes(),
            padded_ranks,
            s_offset: saved.s.offset,
            s_bytes: saved.s.bytes,
            mask_offset: saved.mask.map_or(0, |mask| mask.offset),
            mask_bytes: saved.mask.map_or(0, |mask| mask.bytes),
            ..self
        }
    }
}

/// A plan of the core.
pub trait Plan: Display {
    /// The memory that a call with it needs.
    fn info(&self) -> lora_plan_info;
}

/// A plan with its text, which C reads for as long as the plan lives.
pub struct Planned<P> {
    pub plan: P,
    description: CString,
}

/// An opaque type of the header that holds a plan.
pub trait Handle: Object + From<Planned<Self::Plan>> + AsRef<Planned<Self::Plan>> {
    /// What it holds.
    type Plan: Plan;
}

/// Defines the conversions between an opaque type of the header and the plan it holds.
macro_rules! handle {
    ($handle:ty, $plan:ty, $kind:expr) => {
        impl Object for $handle {
            const KIND: Kind = $kind;
        }

        impl From<Planned<$plan>> for $handle {
            fn from(planned: Planned<$plan>) -> Self {
                Self(planned)
            }
        }

        impl AsRef<Planned<$plan>> for $handle {
            fn as_ref(&self) -> &Planned<$plan> {
                &self.0
            }
        }

        impl Handle for $handle {
            type Plan = $plan;
        }
    };
}
pub(crate) use handle;

/// Puts a new plan where `out` points; nothing is written if it can't be made.
///
/// # Safety
/// `out` is null or valid for writing.
pub unsafe fn create<H: Handle>(
    out: *mut *mut H,
    make: impl FnOnce() -> Result<H::Plan>,
) -> lora_status {
    run(|| {
        check_out(out, "plan")?;
        let plan = make()?;
        let description = CString::new(plan.to_string()).unwrap_or_default();
        let handle = handles::insert(H::from(Planned { plan, description }));
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(out, handle, "plan") }
    })
}

/// # Safety
/// `out` is null, or a writable struct of the size that it says.
pub unsafe fn info<H: Handle>(plan: *const H, out: *mut lora_plan_info) -> lora_status {
    run(|| {
        let info = (*find(plan)?).as_ref().plan.info();
        // SAFETY: the caller's promise.
        unsafe { write(out, &info, "info") }
    })
}

/// The plan's text, which stays where it is until the plan is freed.
pub fn description<H: Handle>(plan: *const H) -> *const c_char {
    let text = attempt(|| Ok((*find(plan)?).as_ref().description.as_ptr()));
    text.unwrap_or(ptr::null())
}

/// Frees a plan, unless it is null.
pub fn free<H: Handle>(plan: *mut H) {
    run(|| {
        if !plan.is_null() {
            drop(handles::remove(plan, "plan")?);
        }
        Ok(())
    });
}

/// The plan of a handle.
pub fn find<H: Handle>(plan: *const H) -> Result<Arc<H>> {
    handles::find(plan, "plan")
}
