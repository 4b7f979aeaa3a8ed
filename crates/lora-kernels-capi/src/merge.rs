//! Merging, and what it reports.

use std::ffi::c_void;

use kernels::raw::{LoraArgs, MergeArgs, MergeWeight};
use kernels::{Argument, Kernels, MergePlan, MergeProblem, MergeReport};

use crate::calls::{Args, check_bytes, enqueue};
use crate::error::{Error, Result};
use crate::handle::lora_kernels;
use crate::merge_plan::lora_merge_plan;
use crate::status::{lora_status, run};
use crate::structs::{Versioned, converted, size, write};

/// Bytes of a report in device memory.
pub const LORA_MERGE_REPORT_BYTES: usize = 48;

const _: () = assert!(LORA_MERGE_REPORT_BYTES == MergeReport::BYTES);

/// One adapter of lora_merge_args.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_merge_adapter {
    /// sizeof(lora_merge_adapter)
    pub struct_size: u32,
    /// lora_alpha / rank or lora_alpha / sqrt(rank), times the adapter's own weight among several;
    /// negative to take it out.
    pub scaling: f32,
    /// (rank, in_features).
    pub lora_a: u64,
    /// (out_features, rank).
    pub lora_b: u64,
}

/// Device addresses and numbers of a merge. Shapes, strides and alignments are those of the plan's
/// problem.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_merge_args {
    /// sizeof(lora_merge_args)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// (out_features, in_features), or transposed as the problem says.
    pub weight: u64,
    /// Out: as the weight; the weight's own address to merge in place, else apart from it.
    pub merged: u64,
    /// As many as the problem has.
    pub adapters: *const lora_merge_adapter,
    /// How many.
    pub adapter_count: usize,
    /// Out: for lora_merge_report_read once it is copied to the host; 0 where the problem has no
    /// report.
    pub report: u64,
    /// Bytes of report: at least LORA_MERGE_REPORT_BYTES.
    pub report_bytes: usize,
    /// Scratch; may be 0 where the plan's workspace_bytes is.
    pub workspace: u64,
    /// Bytes of workspace: at least the plan's workspace_bytes.
    pub workspace_bytes: usize,
}

/// What merging changed, and what storing the result in the weight's type lost of it.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct lora_merge_report {
    /// sizeof(lora_merge_report)
    pub struct_size: u32,
    /// 0
    pub reserved: u32,
    /// Elements of the weight.
    pub elements: u64,
    /// Elements with a delta, sum of scaling*B*A, that is not 0.
    pub nonzero: u64,
    /// Of those, elements that the merge leaves as they were: the delta was rounded away.
    pub unchanged: u64,
    /// Elements with a merged value that is a NaN or an infinity. A safe merge has then written
    /// nothing.
    pub non_finite: u64,
    /// Sum of delta^2, over elements with a finite merged value.
    pub delta_squares: f64,
    /// Sum of (stored merged - W - delta)^2, over elements with a finite merged value.
    pub error_squares: f64,
    /// unchanged / nonzero; 0 where there are none.
    pub unchanged_share: f64,
    /// |stored change - delta| / |delta|: 0 is exact, 1 as if nothing had been merged; 0 where
    /// there is no delta.
    pub relative_error: f64,
}

// SAFETY: repr(C), an integer and a float of 4 bytes, integers of 8.
unsafe impl Versioned for lora_merge_adapter {
    const NAME: &'static str = "lora_merge_adapter";
    const SIZES: &[u32] = &[24];
}

// SAFETY: repr(C), two integers of 4 bytes, integers and pointers of 8.
unsafe impl Versioned for lora_merge_args {
    const NAME: &'static str = "lora_merge_args";
    const SIZES: &[u32] = &[72];
}

// SAFETY: repr(C), two integers of 4 bytes, integers and floats of 8.
unsafe impl Versioned for lora_merge_report {
    const NAME: &'static str = "lora_merge_report";
    const SIZES: &[u32] = &[72];
}

impl Args for lora_merge_args {
    fn reserved(&self) -> u32 {
        self.reserved
    }
}

/// Enqueues a merge on a stream, as lora_forward does a forward: merged = W + sum of scaling*B*A,
/// every bit determined. merged, report and workspace may share memory with no other argument, but
/// merged with weight if both have one address and layout: in place.
///
/// stream: a CUstream or cudaStream_t of the handle's context; null is the default stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge(
    kernels: *const lora_kernels,
    plan: *const lora_merge_plan,
    args: *const lora_merge_args,
    stream: *mut c_void,
) -> lora_status {
    let call = |kernels: &Kernels, plan: &MergePlan, args: lora_merge_args| {
        let count = adapter_count(args.adapter_count, plan.problem())?;
        let convert = |adapter: lora_merge_adapter| LoraArgs {
            a: adapter.lora_a,
            b: adapter.lora_b,
            scaling: adapter.scaling,
        };
        // SAFETY: the caller's promise: null or valid.
        let adapters: [LoraArgs; MergeProblem::MAX_ADAPTERS] =
            unsafe { converted(args.adapters, count, "args->adapters", convert) }?;
        if args.report != 0 && plan.problem().has_report() {
            check_bytes(Argument::Report, args.report_bytes, MergeReport::BYTES)?;
        }
        let workspace_bytes = plan.workspace_bytes();
        check_bytes(Argument::Workspace, args.workspace_bytes, workspace_bytes)?;
        let raw = MergeArgs {
            weight: MergeWeight::Apart {
                weight: args.weight,
                merged: args.merged,
            },
            adapters: &adapters[..count],
            report: (args.report != 0).then_some(args.report),
            workspace: Some(args.workspace),
        };
        // SAFETY: the context is current; the caller vouches for the addresses and the stream.
        Ok(unsafe { kernels.merge_raw(plan, &raw, stream.cast()) }?)
    };
    // SAFETY: the caller's promise: null or valid.
    unsafe { enqueue(kernels, plan, args, call) }
}

/// The number of adapters of a call, which is its plan's.
fn adapter_count(given: usize, problem: &MergeProblem) -> Result<usize> {
    let given = size("args.adapter_count", given, lora_status::AdapterCount)?;
    let planned = problem.ranks().len();
    if given != planned {
        return Err(kernels::Error::AdapterCount { given, planned }.into());
    }
    Ok(given)
}

/// Makes a report of the LORA_MERGE_REPORT_BYTES that a merge wrote, after they were copied to the
/// host.
///
/// bytes: the copy, of any alignment.
/// report: out, its struct_size set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_merge_report_read(
    bytes: *const c_void,
    report: *mut lora_merge_report,
) -> lora_status {
    run(|| {
        if bytes.is_null() {
            return Err(Error::NullArgument {
                argument: "bytes".into(),
            });
        }
        // SAFETY: not null, so that many by the caller's promise.
        let written = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), MergeReport::BYTES) };
        let read = MergeReport::from_bytes(written).unwrap_or_default();
        let value = lora_merge_report {
            struct_size: size_of::<lora_merge_report>() as u32,
            reserved: 0,
            elements: read.elements,
            nonzero: read.nonzero,
            unchanged: read.unchanged,
            non_finite: read.non_finite,
            delta_squares: read.delta_squares,
            error_squares: read.error_squares,
            unchanged_share: read.unchanged_share(),
            relative_error: read.relative_error(),
        };
        // SAFETY: the caller's promise: null or valid.
        unsafe { write(report, &value, "report") }
    })
}
