//! The memory that a table owns.

use std::any::Any;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, DeviceRepr};

use crate::Result;
use crate::raw::driver_error;

/// Memory of an adapter or of its gradients.
pub(super) struct Memory {
    /// On which it is freed.
    home: Arc<CudaStream>,
    /// Dropped after `home` waits.
    _slice: Box<dyn Any + Send>,
}

impl Memory {
    /// Takes a slice over. `stream` waits for what its home stream has been given.
    pub fn new<A: DeviceRepr + Send + 'static>(
        stream: &CudaStream,
        slice: CudaSlice<A>,
    ) -> Result<Self> {
        let home = slice.stream().clone();
        stream
            .join(&home)
            .map_err(|error| driver_error("ordering an adapter's memory", error))?;
        let _slice: Box<dyn Any + Send> = Box::new(slice);
        Ok(Self { home, _slice })
    }
}

/// Lets memory go, behind all that `stream` has been given. What can't be ordered is never freed.
pub(super) fn release(all: impl Iterator<Item = Memory>, stream: &CudaStream) -> Result<()> {
    let mut result = Ok(());
    for memory in all {
        match memory.home.join(stream) {
            Ok(()) => drop(memory),
            Err(error) => {
                std::mem::forget(memory);
                result = Err(error);
            }
        }
    }
    result.map_err(|error| driver_error("ordering the end of an adapter's memory", error))
}

/// Writes the entries of a slot in the stream's order.
pub(super) fn write(
    stream: &Arc<CudaStream>,
    table: &mut CudaSlice<u8>,
    slot: usize,
    entries: &[u8],
) -> Result<()> {
    let start = slot * entries.len();
    let mut to = table.slice_mut(start..start + entries.len());
    stream
        .memcpy_htod(entries, &mut to)
        .map_err(|error| driver_error("writing an entry of a table", error))
}
