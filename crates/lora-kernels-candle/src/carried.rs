//! Tensors of candle's CPU device, copied to a CUDA device for one call.

use candle_core::{Storage, Tensor};
use lora_kernels::cudarc::driver::{CudaSlice, CudaView};
use lora_kernels::{Element, LoraLinear};

use crate::backend::Carrier;
use crate::device::Resident;
use crate::error::{Error, Result, memory};
use crate::matrix::Matrix;
use crate::number::{Number, cpu_slice};

/// Elements on the device. CUDA has no empty allocations, so there may be more memory than
/// elements.
pub(crate) struct Copied<T> {
    memory: CudaSlice<T>,
    elements: usize,
}

impl Resident for Carrier {
    type Held<'a, T: Number> = Copied<T>;

    fn layer(&self) -> &LoraLinear {
        &self.layer
    }

    /// Copies the rows together with the elements between them, so that the strides of a view stay
    /// valid.
    fn hold<T: Number>(&self, tensor: &Tensor, matrix: Matrix) -> Result<Copied<T>> {
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
        let placeholder = [<T as Element>::from_f64(0.0)];
        let copied = if elements.is_empty() {
            &placeholder
        } else {
            elements
        };
        let memory = self
            .layer
            .stream()
            .clone_htod(copied)
            .map_err(memory("copying to the device", size_of_val(copied)))?;
        Ok(Copied {
            memory,
            elements: elements.len(),
        })
    }

    fn view<'h, T: Number>(held: &'h Copied<T>) -> Result<CudaView<'h, T>> {
        Ok(held.memory.slice(..held.elements))
    }

    /// Waits for the stream, because the result is copied to the host.
    fn give<T: Number>(&self, result: CudaSlice<T>) -> Result<Storage> {
        if result.is_empty() {
            return Ok(Storage::Cpu(T::to_cpu_storage_owned(Vec::new())));
        }
        let elements = self
            .layer
            .stream()
            .clone_dtoh(&result)
            .map_err(memory("copying from the device", result.num_bytes()))?;
        Ok(Storage::Cpu(T::to_cpu_storage_owned(elements)))
    }
}
