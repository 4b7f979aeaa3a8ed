//! The flags between the blocks of a launch.

use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream};

use crate::Result;
use crate::raw::driver_error;

/// Words in device memory that the blocks of a launch for inference tell each other by. They are
/// zero between calls.
#[derive(Debug)]
pub struct Flags {
    pub(super) words: CudaSlice<u32>,
}

impl Flags {
    /// Allocates flags on a stream for plans that need up to so many bytes:
    /// [`crate::ForwardPlan::flags_bytes`].
    ///
    /// # Errors
    /// [`crate::Error::Driver`] if the allocation fails.
    pub fn new(stream: &Arc<CudaStream>, bytes: usize) -> Result<Self> {
        let words = stream
            .alloc_zeros(bytes.div_ceil(size_of::<u32>()).max(1))
            .map_err(|error| driver_error("allocating flags", error))?;
        Ok(Self { words })
    }

    /// The size in bytes.
    pub fn bytes(&self) -> usize {
        self.words.len() * size_of::<u32>()
    }

    /// The words, for who looks whether they are zero.
    pub fn words(&self) -> &CudaSlice<u32> {
        &self.words
    }

    pub(crate) fn words_mut(&mut self) -> &mut CudaSlice<u32> {
        &mut self.words
    }
}
