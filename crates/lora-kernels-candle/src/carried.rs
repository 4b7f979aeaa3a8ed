//! Tensors of candle's CPU device, copied to a CUDA device for one call.

use std::sync::Arc;

use candle_core::{Storage, Tensor};
use lora_kernels::cudarc::driver::{CudaSlice, CudaStream, CudaView};

use crate::backend::{Carrier, Engine};
use crate::device::Resident;
use crate::error::{Error, Result, memory};
use crate::matrix::Matrix;
use crate::number::{Number, cpu_slice};

impl Resident for Carrier {
    type Held<'a, T: Number> = CudaSlice<T>;

    fn engine(&self) -> &Engine {
        &self.engine
    }

    fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// Copies the rows together with the elements between them, so that the strides of a view stay
    /// valid.
    fn hold<T: Number>(&self, tensor: &Tensor, matrix: Matrix) -> Result<CudaSlice<T>> {
        let (storage, _) = tensor.storage_and_layout();
        let Storage::Cpu(storage) = &*storage else {
            return Err(Error::Unexpected {
                what: "a tensor of the CPU had its memory elsewhere",
            });
        };
        let elements = cpu_slice::<T>(storage)?;
        let elements = elements
            .get(matrix.offset..matrix.offset + matrix.span())
            .unwrap_or_default();
        let held = self.stream.clone_htod(elements);
        held.map_err(memory("copying to the device", size_of_val(elements)))
    }

    fn view<'h, T: Number>(held: &'h CudaSlice<T>) -> Result<CudaView<'h, T>> {
        Ok(held.as_view())
    }

    /// Waits for the stream, because the result is copied to the host.
    fn give<T: Number>(&self, result: CudaSlice<T>) -> Result<Storage> {
        let elements = self
            .stream
            .clone_dtoh(&result)
            .map_err(memory("copying from the device", result.num_bytes()))?;
        Ok(Storage::Cpu(T::to_cpu_storage_owned(elements)))
    }
}
