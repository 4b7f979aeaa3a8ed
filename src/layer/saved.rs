//! The data that a forward saves for its backward.

use std::fmt;

use cudarc::driver::CudaSlice;

use crate::raw::ForwardRecord;

/// The data that [`LoraLinear::forward`](crate::LoraLinear::forward) saves for backward: S, the
/// dropout mask if it is stored, and the record of the forward. x, the weights and the adapters are
/// not saved: pass the same ones to backward.
pub struct SavedForward {
    /// The layout is that of [`SavedLayout`](crate::plan::SavedLayout). `None` for a forward
    /// without tokens.
    pub(super) memory: Option<CudaSlice<u8>>,
    pub(super) record: ForwardRecord,
}

impl SavedForward {
    /// The size of its device memory in bytes.
    pub fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, CudaSlice::num_bytes)
    }
}

impl fmt::Debug for SavedForward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "SavedForward({} bytes of {:?})",
            self.bytes(),
            self.record
        )
    }
}
