//! Where a call computes.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use candle_core::{Device, Tensor};
use lora_kernels::cudarc::driver::{CudaContext, CudaStream};
use lora_kernels::{BackwardPlan, DeviceProps, ForwardPlan, Kernels, Problem, Role};
use lru::LruCache;

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
    /// a copy. The first call for a device loads them, so make that call outside of a graph
    /// capture. If the device has memory pools (`CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED`), a
    /// call never waits for it. Without pools, cudarc waits for the stream whenever it frees
    /// memory, and every call frees its scratch memory.
    ///
    /// `Device::new_cuda` has a stream per thread, so the work of two threads on the same tensors
    /// is not ordered: run forward and backward and drop the graph and its tensors in one thread.
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
    pub(crate) engine: Arc<Engine>,
    pub(crate) stream: Arc<CudaStream>,
}

impl Carrier {
    /// Loads the kernels into a context ([`lora_kernels::context`] opens a device's). Loading takes
    /// a while: do it once.
    ///
    /// # Errors
    /// The errors of [`Kernels::load`].
    pub fn new(context: &Arc<CudaContext>) -> candle_core::Result<Self> {
        let engine = Engine::load(context)?;
        Ok(Self {
            engine: Arc::new(engine),
            stream: context.default_stream(),
        })
    }
}

impl fmt::Debug for Carrier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Carrier(device {})", self.stream.context().ordinal())
    }
}

/// Loaded kernels and the plans made with them.
pub(crate) struct Engine {
    pub kernels: Kernels,
    plans: Mutex<LruCache<Problem, Arc<Plans>>>,
}

/// The plans for the calls of one problem.
pub(crate) struct Plans {
    pub forward: ForwardPlan,
    backward: OnceLock<BackwardPlan>,
}

impl Plans {
    /// The plan for backward, made when it is first needed: inference needs none.
    pub fn backward(&self, props: &DeviceProps) -> Result<&BackwardPlan> {
        if let Some(plan) = self.backward.get() {
            return Ok(plan);
        }
        let plan = BackwardPlan::new(self.forward.problem(), props)?;
        Ok(self.backward.get_or_init(|| plan))
    }
}

/// The number of problems whose plans are kept: enough for the layers of a large model at a few
/// batch sizes. Plans take a few kilobytes each.
const PLANS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

impl Engine {
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self {
            kernels: Kernels::load(context)?,
            plans: Mutex::new(LruCache::new(PLANS)),
        })
    }

    pub fn plans(&self, problem: &Problem) -> Result<Arc<Plans>> {
        // The cache is consistent even if a thread panicked while it held the lock.
        let mut plans = self.plans.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(plans) = plans.get(problem) {
            return Ok(plans.clone());
        }
        let made = Arc::new(Plans {
            forward: ForwardPlan::new(problem, self.kernels.props())?,
            backward: OnceLock::new(),
        });
        plans.put(problem.clone(), made.clone());
        Ok(made)
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
