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

/// Where a call computes. Nothing falls back: what can't run where it should is an error.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Backend {
    /// Where the tensors are.
    ///
    /// On a CUDA device (feature `cuda`) the kernels run on candle's own stream and memory, without
    /// a copy; the first call for a device loads them, so make it outside of a graph capture.
    /// Nothing waits for the device where it has memory pools
    /// (`CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED`); on one without, cudarc waits for the stream
    /// whenever it frees memory, and a call frees its scratch memory.
    ///
    /// The stream of `Device::new_cuda` is each thread's own, so nothing orders what two threads do
    /// with the same tensors: forward, backward and the drop of a graph and its tensors belong in
    /// one thread. `Device::new_cuda_with_stream` has one stream, in whose order all threads work.
    ///
    /// On candle's CPU device it is the core crate's reference: sums in f64, every stored value
    /// rounded where the kernels round it; right, slow (it computes error bounds on the side) and
    /// meant for tests and small models.
    #[default]
    Local,
    /// Tensors of candle's CPU device are carried to a CUDA device and the results back, in every
    /// call: for models of which candle computes the rest on the CPU, and for tests on an emulated
    /// device.
    Carried(Carrier),
}

/// A CUDA device that tensors of candle's CPU device are carried to. Clones share the loaded
/// kernels.
#[derive(Clone)]
pub struct Carrier {
    pub(crate) engine: Arc<Engine>,
    pub(crate) stream: Arc<CudaStream>,
}

impl Carrier {
    /// Loads the kernels into a context ([`lora_kernels::context`] opens a device's). Takes a
    /// while: do it once.
    ///
    /// # Errors
    /// What [`Kernels::load`] refuses.
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

/// What a problem's calls launch.
pub(crate) struct Plans {
    pub forward: ForwardPlan,
    backward: OnceLock<BackwardPlan>,
}

impl Plans {
    /// Made when it is first asked for: inference needs none.
    pub fn backward(&self, props: &DeviceProps) -> Result<&BackwardPlan> {
        if let Some(plan) = self.backward.get() {
            return Ok(plan);
        }
        let plan = BackwardPlan::new(self.forward.problem(), props)?;
        Ok(self.backward.get_or_init(|| plan))
    }
}

/// Problems whose plans are kept, some kilobytes each: the layers of a large model at a few batch
/// sizes.
const PLANS: NonZeroUsize = NonZeroUsize::new(256).unwrap();

impl Engine {
    pub fn load(context: &Arc<CudaContext>) -> Result<Self> {
        Ok(Self {
            kernels: Kernels::load(context)?,
            plans: Mutex::new(LruCache::new(PLANS)),
        })
    }

    pub fn plans(&self, problem: &Problem) -> Result<Arc<Plans>> {
        // A panic elsewhere leaves nothing half done in the cache.
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

/// A backend for the tensors of one call.
pub(crate) enum Place {
    Reference,
    Carried(Carrier),
    #[cfg(feature = "cuda")]
    Cuda(crate::cuda::Local),
}

impl Place {
    /// # Errors
    /// [`Error::Device`] where tensors are on several devices, or on one that the options don't
    /// take: all must be where `first` is, which `role` names.
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
