//! Tensors of candle's CUDA devices, used in candle's memory and on its stream.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use candle_core::{CudaDevice, CudaStorage, Storage, StorageRef, Tensor};
use lora_kernels::LoraLinear;
use lora_kernels::cudarc::driver::{CudaSlice, CudaView};

use crate::device::Resident;
use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::number::Number;

/// A candle device with the kernels loaded into its context.
pub(crate) struct Local {
    layer: LoraLinear,
    device: CudaDevice,
}

/// One for each context, keyed by its address: kernels stay loaded between calls. They keep their
/// context alive, so the address can't belong to another one.
static LAYERS: Mutex<Option<HashMap<usize, LoraLinear>>> = Mutex::new(None);

impl Local {
    /// The first call for a context loads the kernels.
    pub fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        // The map is consistent even if a thread panicked while it held the lock.
        let mut layers = LAYERS.lock().unwrap_or_else(PoisonError::into_inner);
        let layers = layers.get_or_insert_default();
        let address = stream.context().cu_ctx() as usize;
        let layer = match layers.get(&address) {
            Some(layer) => layer.on_stream(&stream)?,
            None => {
                let layer = LoraLinear::new(&stream)?;
                layers.insert(address, layer.clone());
                layer
            }
        };
        Ok(Self {
            layer,
            device: device.clone(),
        })
    }
}

/// A tensor whose storage is kept alive while the kernels are enqueued. Afterwards the call's order
/// keeps the memory from being freed before they have run, in whatever thread.
pub(crate) struct Held<'a> {
    storage: StorageRef<'a>,
    matrix: Matrix,
}

impl Resident for Local {
    type Held<'a, T: Number> = Held<'a>;

    fn layer(&self) -> &LoraLinear {
        &self.layer
    }

    fn hold<'a, T: Number>(&self, tensor: &'a Tensor, matrix: Matrix) -> Result<Held<'a>> {
        Ok(Held {
            storage: tensor.storage_and_layout().0,
            matrix,
        })
    }

    fn view<'h, T: Number>(held: &'h Held<'_>) -> Result<CudaView<'h, T>> {
        let Storage::Cuda(storage) = &*held.storage else {
            return Err(Error::Unexpected {
                what: "a tensor of a CUDA device had its memory elsewhere",
            });
        };
        let Matrix { offset, .. } = held.matrix;
        let elements = storage.as_cuda_slice::<T>()?;
        let view = elements.try_slice(offset..offset + held.matrix.span());
        view.ok_or(Error::Unexpected {
            what: "a view reached beyond its memory",
        })
    }

    fn give<T: Number>(&self, result: CudaSlice<T>) -> Result<Storage> {
        Ok(Storage::Cuda(CudaStorage::wrap_cuda_slice(
            result,
            self.device.clone(),
        )))
    }
}
