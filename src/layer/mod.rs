//! The short path: adapted layers that own what a call needs beside its tensors.
//!
//! [`Kernels`] are loaded once per context, plans are made once per shape and layout, and outputs,
//! `saved` and scratch memory come from the caller's stream. The calls below it,
//! [`Kernels::forward`] and [`Kernels::forward_raw`], allocate nothing; these do.

mod backward;
mod cache;
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
pub use inputs::{LoraInputs, LoraProjection};
pub use saved::Saved;

use crate::typed::check;
use crate::{DeviceProps, Kernels, Result};
use cache::PlanCache;

/// Runs adapted linear layers on a stream: one, or several that share x.
///
/// Weights and adapters are arguments of a call, so one of these serves all layers of a model.
/// Clones share the kernels and the plans; cloning costs two reference counts.
///
/// Every call enqueues its work on the stream and returns. Memory is allocated in the stream's
/// order and not cleared, since the kernels write all of it that is read. On a device without
/// memory pools (`CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED`) cudarc waits for the stream whenever
/// it frees memory, and a call frees its scratch memory.
///
/// Results have the same bits on every run.
#[derive(Clone)]
pub struct LoraLinear {
    shared: Arc<Shared>,
    stream: Arc<CudaStream>,
}

/// What all layers of a context have in common.
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

    /// That of the stream's context: loaded where nothing holds it.
    fn of(stream: &Arc<CudaStream>) -> Result<Arc<Self>> {
        static LOADED: Mutex<Vec<Weak<Shared>>> = Mutex::new(Vec::new());
        // A panic elsewhere leaves nothing half done here.
        let mut loaded = LOADED.lock().unwrap_or_else(PoisonError::into_inner);
        loaded.retain(|shared| shared.strong_count() > 0);
        let context = stream.context();
        let of_context = |shared: &Arc<Shared>| {
            // Kernels keep their context alive, so an address stays that context's.
            shared.kernels.context().cu_ctx() == context.cu_ctx()
        };
        if let Some(shared) = loaded.iter().filter_map(Weak::upgrade).find(of_context) {
            return Ok(shared);
        }
        let kernels = Arc::new(Kernels::load(context)?);
        let props = kernels.props().clone();
        let shared = Self::new(kernels, props);
        loaded.push(Arc::downgrade(&shared));
        Ok(shared)
    }
}

impl LoraLinear {
    /// Layers on this stream. The kernels are loaded by the first one of the stream's context and
    /// stay until the last is dropped. Loading takes a while: do it outside of any graph capture.
    ///
    /// # Errors
    /// What [`Kernels::load`] refuses.
    pub fn new(stream: &Arc<CudaStream>) -> Result<Self> {
        Ok(Self {
            shared: Shared::of(stream)?,
            stream: stream.clone(),
        })
    }

    /// Layers with kernels that are loaded already, and plans of their own.
    ///
    /// # Errors
    /// [`crate::Error::Context`] if the stream is of another context than the kernels.
    pub fn with_kernels(kernels: Arc<Kernels>, stream: &Arc<CudaStream>) -> Result<Self> {
        check::bind(&kernels, stream)?;
        let props = kernels.props().clone();
        Ok(Self {
            shared: Shared::new(kernels, props),
            stream: stream.clone(),
        })
    }

    /// The same kernels and plans on another stream of the context.
    ///
    /// # Errors
    /// [`crate::Error::Context`] if the stream is of another context.
    pub fn on_stream(&self, stream: &Arc<CudaStream>) -> Result<Self> {
        check::bind(&self.shared.kernels, stream)?;
        Ok(Self {
            shared: self.shared.clone(),
            stream: stream.clone(),
        })
    }

    /// The same kernels with plans for a device of these properties, such as one of which a part of
    /// the multiprocessors is taken.
    pub fn with_props(&self, props: DeviceProps) -> Self {
        Self {
            shared: Shared::new(self.shared.kernels.clone(), props),
            stream: self.stream.clone(),
        }
    }

    /// The kernels that it launches.
    pub fn kernels(&self) -> &Arc<Kernels> {
        &self.shared.kernels
    }

    /// The stream that its calls are enqueued on.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }
}

impl fmt::Debug for LoraLinear {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LoraLinear(device {})", self.stream.context().ordinal())
    }
}
