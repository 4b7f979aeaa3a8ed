//! The short path: adapted layers that own everything that a call needs besides its tensors.
//!
//! [`Kernels`] are loaded once per context, plans are made once per shape and layout, and outputs,
//! `saved` and scratch memory come from the caller's stream. These calls allocate; the calls below
//! them, [`Kernels::forward`] and [`Kernels::forward_raw`], don't.

mod backward;
mod cache;
mod flags;
mod forward;
mod inputs;
mod memory;
mod merge;
mod operands;
mod saved;
mod signature;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use cudarc::driver::CudaStream;

pub use backward::{AdapterGradients, BackwardOptions, Gradients};
pub use inputs::{
    DynLoraInputs, DynLoraProjection, InputProjection, Inputs, LayerMatrix, LoraInputs,
    LoraProjection,
};
pub use saved::SavedForward;

use crate::typed::order::same_context;
use crate::{Argument, DeviceProps, Kernels, Result};
use cache::PlanCache;
use flags::StreamFlags;

/// Runs an adapted linear layer, or several that share x, on a stream.
///
/// Weights and adapters are arguments of a call, so one `LoraLinear` serves all layers of a model.
/// Clones share the kernels, the plans and the flags of the stream, and cloning only increments
/// three reference counts.
///
/// Every call enqueues its work on the stream and returns. It is ordered as [`Kernels::forward`]
/// says, and refused while the stream is being captured. Memory is allocated in the stream's order.
/// It is not cleared, because the kernels write everything that is read. On a device without memory
/// pools (`CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED`) cudarc waits for the stream whenever it
/// frees memory, and a call frees its scratch memory.
///
/// Results have the same bits on every run.
#[derive(Clone)]
pub struct LoraLinear {
    shared: Arc<Shared>,
    stream: Arc<CudaStream>,
    flags: Arc<StreamFlags>,
}

/// The state shared by all `LoraLinear`s of a context.
struct Shared {
    kernels: Arc<Kernels>,
    /// The device that plans are made for.
    props: DeviceProps,
    plans: PlanCache,
}

impl Shared {
    fn new(kernels: Arc<Kernels>, props: DeviceProps) -> Arc<Self> {
        Arc::new(Self {
            kernels,
            props,
            plans: PlanCache::default(),
        })
    }

    /// The shared state of the stream's context. The kernels are loaded if no other `LoraLinear`
    /// holds them.
    fn of(stream: &Arc<CudaStream>) -> Result<Arc<Self>> {
        static LOADED: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());
        // Another context's state may lose its last owner elsewhere while it is looked at here. Its
        // kernels then wait for that context when this is dropped, which is after the lock.
        let mut others = Vec::new();
        // The list is consistent even if a thread panicked while it held the lock.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|shared| shared.strong_count() > 0);
        let context = stream.context();
        let of_context = |shared: &Arc<Shared>| {
            // Kernels keep their context alive, so its address can't belong to another context.
            shared.kernels.context() == context
        };
        for shared in loaded.iter().filter_map(Weak::upgrade) {
            if of_context(&shared) {
                return Ok(shared);
            }
            others.push(shared);
        }
        let kernels = Arc::new(Kernels::load(context)?);
        let props = *kernels.props();
        let shared = Self::new(kernels, props);
        loaded.push(Arc::downgrade(&shared));
        Ok(shared)
    }
}

impl LoraLinear {
    /// Layers on this stream. The first `LoraLinear` of the stream's context loads the kernels,
    /// which stay until the last one is dropped. Loading takes a while.
    ///
    /// # Errors
    /// The errors of [`Kernels::load`].
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self {
            shared: Shared::of(stream)?,
            stream: stream.clone(),
            flags: Arc::default(),
        })
    }

    /// Layers with kernels that are loaded already and a plan cache of their own.
    ///
    /// # Errors
    /// [`crate::Error::Context`] if the stream belongs to another context than the kernels.
    pub fn with_kernels(kernels: Arc<Kernels>, stream: &Arc<CudaStream>) -> Result<Self> {
        same_context(&kernels, Argument::Stream, stream)?;
        let props = *kernels.props();
        Ok(Self {
            shared: Shared::new(kernels, props),
            stream: stream.clone(),
            flags: Arc::default(),
        })
    }

    /// The same kernels and plans on another stream of the context.
    ///
    /// # Errors
    /// [`crate::Error::Context`] if the stream belongs to another context.
    pub fn on_stream(&self, stream: &Arc<CudaStream>) -> Result<Self> {
        same_context(&self.shared.kernels, Argument::Stream, stream)?;
        Ok(Self {
            shared: self.shared.clone(),
            stream: stream.clone(),
            flags: Arc::default(),
        })
    }

    /// The same kernels with plans for a device with these properties, for example with fewer
    /// multiprocessors. Plans for another device can be looked at
    /// ([`LoraLinear::forward_plan`]); calls refuse them with [`crate::Error::OtherDevice`].
    pub fn with_props(&self, props: DeviceProps) -> Self {
        Self {
            shared: Shared::new(self.shared.kernels.clone(), props),
            stream: self.stream.clone(),
            flags: self.flags.clone(),
        }
    }

    /// Refuses a call whose plan would be for another device, before it takes memory.
    fn check_device(&self) -> Result<()> {
        self.shared
            .kernels
            .props()
            .check_planned(&self.shared.props)
    }

    /// The kernels that calls launch.
    pub fn kernels(&self) -> &Arc<Kernels> {
        &self.shared.kernels
    }

    /// The stream that calls are enqueued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl fmt::Debug for LoraLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoraLinear(device {})", self.stream.context().ordinal())
    }
}
