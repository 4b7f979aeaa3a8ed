//! What stops a launch, and the report a person reads.

use std::fmt;

use super::count::KernelCounters;
use crate::ast::Place;

/// The class of a fault: it decides the driver's error code.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// An access outside every live allocation or variable (`CUDA_ERROR_ILLEGAL_ADDRESS`).
    IllegalAddress,
    /// An access whose address is no multiple of its size (`CUDA_ERROR_MISALIGNED_ADDRESS`).
    Misaligned,
    /// An instruction that may not run in this state (`CUDA_ERROR_ILLEGAL_INSTRUCTION`).
    IllegalInstruction,
    /// `assert` failed (`CUDA_ERROR_ASSERT`).
    Assert,
    /// Anything else, deadlock and `trap` included (`CUDA_ERROR_LAUNCH_FAILED`).
    LaunchFailed,
    /// The launch itself is impossible: nothing ran (`CUDA_ERROR_INVALID_VALUE`).
    InvalidLaunch,
}

/// A launch that failed. `Display` gives the whole report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What kind of fault.
    pub kind: FaultKind,
    /// The kernel's symbol.
    pub kernel: String,
    /// Where in the PTX text, and in the CUDA source where a `.loc` says so.
    pub place: Place,
    /// The CUDA source file's path, where known.
    pub file: Option<String>,
    /// `blockIdx`.
    pub block: [u32; 3],
    /// `threadIdx`.
    pub thread: [u32; 3],
    /// What happened, in a sentence.
    pub message: String,
    /// What ran until then, where counters were asked for.
    pub counters: Option<Box<KernelCounters>>,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            FaultKind::IllegalAddress => "illegal address",
            FaultKind::Misaligned => "misaligned address",
            FaultKind::IllegalInstruction => "illegal instruction",
            FaultKind::Assert => "assertion failed",
            FaultKind::LaunchFailed => "launch failed",
            FaultKind::InvalidLaunch => "invalid launch",
        };
        write!(f, "{what} in kernel {}: {}", self.kernel, self.message)?;
        if self.kind == FaultKind::InvalidLaunch {
            return Ok(());
        }
        let ([bx, by, bz], [tx, ty, tz]) = (self.block, self.thread);
        write!(f, "\n  at PTX line {}", self.place.ptx_line)?;
        match &self.file {
            Some(file) if self.place.line > 0 => write!(f, " ({file}:{})", self.place.line)?,
            _ => {}
        }
        write!(f, "\n  block ({bx}, {by}, {bz}), thread ({tx}, {ty}, {tz})")
    }
}

impl std::error::Error for Fault {}
