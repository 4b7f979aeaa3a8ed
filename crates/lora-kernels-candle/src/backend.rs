//! Where a call computes.

use std::fmt;
use std::sync::Arc;

use candle_core::{Device, Tensor};
use lora_kernels::cudarc::driver::CudaContext;
use lora_kernels::{LoraLinear, Role};

use crate::error::{Error, Result};
use crate::problem::{Names, operands};
use crate::{Options, Projection};

/// Where a call computes. There is no fallback: if a call can't run there, it is an error.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Backend {
    /// Compute where the tensors are.
    ///
    /// On a CUDA device (feature `cuda`) the kernels run on candle's own stream and memory, without
    /// a copy. The first call for a device loads them. If the device has memory pools
    /// (`CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED`), a call never waits for it. Without pools,
    /// cudarc waits for the stream whenever it frees memory, and every call frees its scratch
    /// memory. A call on a stream that is being captured into a CUDA graph is an error.
    ///
    /// `Device::new_cuda` has a stream per thread. A call runs after the work of all threads on its
    /// tensors, and their memory is freed after the call, in whatever thread. candle's own
    /// operations of two threads on the same tensors are not ordered: keep those in one thread.
    /// `Device::new_cuda_with_stream` has one stream, which orders the work of all threads.
    ///
    /// On candle's CPU device the core crate's reference computes: sums in f64, with every stored
    /// value rounded where the kernels round it. It is slow, because it also computes error bounds,
    /// and meant for tests and small models.
    #[default]
    Local,
    /// Copy tensors of candle's CPU device to a CUDA device and the results back, in every call. It
    /// is meant for models whose other layers candle computes on the CPU, and for tests on an
    /// emulated device.
    Carried(Carrier),
}

/// A CUDA device to which tensors of candle's CPU device are copied. Clones share the loaded
/// kernels.
#[derive(Clone)]
pub struct Carrier {
    pub(crate) layer: LoraLinear,
}

impl Carrier {
    /// Loads the kernels into a context ([`lora_kernels::context`] opens a device's). Loading takes
    /// a while: do it once.
    ///
    /// # Errors
    /// The errors of [`lora_kernels::Kernels::load`].
    pub fn new(context: &Arc<CudaContext>) -> candle_core::Result<Self> {
        let layer = LoraLinear::new(&context.default_stream()).map_err(Error::from)?;
        Ok(Self { layer })
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let context = self.layer.stream().context();
        write!(f, "Carrier(device {})", context.ordinal())
    }
}

/// The backend chosen for the tensors of one call.
pub(crate) enum CallBackend {
    Reference,
    Carried(Carrier),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Local),
}

impl CallBackend {
    /// # Errors
    /// [`Error::Device`] if the tensors are not all on the device of `first`, which messages call
    /// `role`, or if the options don't support that device.
    pub fn of(
        role: Role,
        first: &Tensor,
        projections: &[Projection],
        options: &Options,
    ) -> Result<Self> {
        let names = Names {
            count: projections.len(),
        };
        for (index, projection) in projections.iter().enumerate() {
            for (other, tensor) in operands(projection) {
                if !tensor.device().same_device(first.device()) {
                    return Err(Error::Device {
                        tensor: names.of(other, index),
                        given: describe(tensor.device()),
                        hint: format!(
                            "{role} is on {}, and all must be on one device",
                            describe(first.device())
                        ),
                    });
                }
            }
        }
        let refuse = |hint: &str| Error::Device {
            tensor: role.to_string(),
            given: describe(first.device()),
            hint: hint.to_owned(),
        };
        match (first.device(), &options.backend) {
            (Device::Cpu, Backend::Local) => Ok(Self::Reference),
            (Device::Cpu, Backend::Carried(carrier)) => Ok(Self::Carried(carrier.clone())),
            #[cfg(feature = "cuda")]
            (Device::Cuda(device), Backend::Local) => {
                Ok(Self::Cuda(crate::cuda::Local::new(device)?))
            }
            (Device::Cuda(_), Backend::Carried(_)) => Err(refuse(
                "Backend::Carried is for tensors of the CPU; take Backend::Local",
            )),
            _ => Err(refuse(
                "the kernels run on CUDA devices (feature cuda) and, by Backend, for the CPU",
            )),
        }
    }
}

fn describe(device: &Device) -> String {
    match device {
        Device::Cpu => "the CPU".to_owned(),
        other => format!("{:?}", other.location()),
    }
}
