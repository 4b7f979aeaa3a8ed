//! Calls as nodes of candle's graph.
//!
//! A candle operation has one result and at most three arguments. A call has one result per
//! projection, and its arguments are x and two matrices per adapter. A single adapted projection is
//! a `CustomOp3` of x, lora_A and lora_B. Several projections are a chain of such operations, one
//! per adapter. The result of each is a token, a single number that stands for the call. Each y is
//! an operation on the last token:
//!
//! ```text
//! x, A₀, B₀ ─ link ─ token, A₁, B₁ ─ link ─ token ┬ output ─ y₀
//!                                                 ├ output ─ y₁
//!                                                 └ output ─ y₂ (no adapter)
//! ```
//!
//! candle walks the graph backwards from the loss and visits a node after all nodes that use its
//! result. So the backward of each output first leaves its dy with the call. The backward of the
//! last link then computes everything at once, and each link takes its own gradients. No tensor is
//! copied or packed for this; a token and its gradient cost one element each.
//!
//! The dy of a backward pass are kept in a table of the call, keyed by thread. A failed pass leaves
//! its dy there, but candle then drops the pass's gradients, including the token's and the receipt
//! they hold. A missing receipt tells the next pass that the dy it finds aren't its own.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, ThreadId};

use candle_core::backend::BackendStorage;
use candle_core::{
    CpuStorage, CudaStorage, CustomOp1, CustomOp2, CustomOp3, Layout, Shape, Storage, Tensor,
};

use crate::call::{Call, Gradients, Saved};
use crate::error::{BACKWARD, Error, FORWARD, Result};
use crate::{Lora, Projection};

type CandleResult<T> = candle_core::Result<T>;

/// The results of a call as tensors. They are part of candle's graph if x or an adapter is.
pub(crate) fn outputs(
    x: &Tensor,
    projections: &[Projection],
    call: Call,
) -> CandleResult<Vec<Tensor>> {
    let (results, saved) = call.forward()?;
    if !call.tracked {
        let results = results.into_iter().enumerate();
        return Ok(results
            .map(|(i, y)| Tensor::from((y, call.y_dims(i))))
            .collect());
    }
    match (projections, <[Storage; 1]>::try_from(results)) {
        (
            [
                Projection {
                    lora: Some(Lora { a, b, .. }),
                    ..
                },
            ],
            Ok([y]),
        ) => {
            let single = Single {
                dims: call.y_dims(0),
                call,
                saved,
                y: Once::new(y),
            };
            Ok(vec![x.apply_op3(a, b, single)?])
        }
        (_, Err(results)) => several(x, projections, call, saved, results),
        // The core refuses a call without adapters.
        (_, Ok(_)) => Err(Error::from(lora_kernels::Error::NotAdapted).into()),
    }
}

fn several(
    x: &Tensor,
    projections: &[Projection],
    call: Call,
    saved: Saved,
    results: Vec<Storage>,
) -> CandleResult<Vec<Tensor>> {
    let shared = Arc::new(Shared {
        call,
        saved,
        passes: Mutex::default(),
    });
    let adapted = projections.iter().enumerate();
    let adapted: Vec<_> = adapted
        .filter_map(|(i, projection)| Some((i, projection.lora.as_ref()?)))
        .collect();
    // Links before the first tracked one are not part of the graph, so their backward is never
    // called.
    let first = if x.track_op() {
        Some(0)
    } else {
        adapted.iter().position(|(_, lora)| lora.is_tracked())
    };
    let mut token = x.clone();
    for (place, (projection, lora)) in adapted.iter().enumerate() {
        let link = Link {
            shared: shared.clone(),
            projection: *projection,
            first: Some(place) == first,
            last: place + 1 == adapted.len(),
        };
        token = token.apply_op3(&lora.a, &lora.b, link)?;
    }
    let results = results.into_iter().enumerate();
    let outputs = results.map(|(projection, y)| {
        token.apply_op1(Output {
            shared: shared.clone(),
            projection,
            y: Once::new(y),
        })
    });
    outputs.collect()
}

/// The precomputed result of an operation, which can be taken once.
struct Once(Mutex<Option<Storage>>);

impl Once {
    fn new(storage: Storage) -> Self {
        Self(Mutex::new(Some(storage)))
    }

    fn take(&self) -> Result<Storage> {
        let mut storage = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        storage.take().ok_or(Error::Unexpected { what: FORWARD })
    }

    fn take_cpu(&self) -> Result<CpuStorage> {
        match self.take()? {
            Storage::Cpu(storage) => Ok(storage),
            _ => Err(Error::Unexpected { what: FORWARD }),
        }
    }

    fn take_cuda(&self) -> Result<CudaStorage> {
        match self.take()? {
            Storage::Cuda(storage) => Ok(storage),
            _ => Err(Error::Unexpected { what: FORWARD }),
        }
    }
}

/// A single adapted projection.
struct Single {
    call: Call,
    saved: Saved,
    y: Once,
    dims: Vec<usize>,
}

impl CustomOp3 for Single {
    fn name(&self) -> &'static str {
        "lora_linear"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok((self.y.take_cpu()?, self.dims.clone().into()))
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        Ok((self.y.take_cuda()?, self.dims.clone().into()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _a: &Tensor,
        _b: &Tensor,
        _y: &Tensor,
        dy: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = self.call.backward(std::slice::from_ref(dy), &self.saved)?;
        let [a, b] = gradients.lora_of(0)?;
        Ok((gradients.x, Some(a), Some(b)))
    }
}

impl Gradients {
    fn lora_of(&mut self, projection: usize) -> Result<[Tensor; 2]> {
        let gradients = self.lora.get_mut(projection).and_then(Option::take);
        gradients.ok_or(Error::Unexpected { what: BACKWARD })
    }
}

/// The state shared by the links and outputs of a call.
struct Shared {
    call: Call,
    saved: Saved,
    /// Keyed by thread, because a backward pass runs in one thread.
    passes: Mutex<HashMap<ThreadId, Pass>>,
}

/// A running backward pass.
#[derive(Default)]
struct Pass {
    /// Alive as long as the pass holds a gradient of the token: from the first y's backward to the
    /// last link's.
    receipt: Weak<()>,
    dy: HashMap<usize, Tensor>,
    gradients: Option<Gradients>,
}

impl Shared {
    fn passes(&self) -> MutexGuard<'_, HashMap<ThreadId, Pass>> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a dy for the chain. The pass has to hold the returned receipt until the chain has run.
    fn arrived(&self, projection: usize, dy: &Tensor) -> Result<Arc<()>> {
        let mut passes = self.passes();
        let pass = passes.entry(thread::current().id()).or_default();
        let receipt = pass.receipt.upgrade().unwrap_or_else(|| {
            // This is a new pass; anything found here was left by a failed one.
            let receipt = Arc::new(());
            *pass = Pass {
                receipt: Arc::downgrade(&receipt),
                ..Pass::default()
            };
            receipt
        });
        match pass.dy.insert(projection, dy.clone()) {
            None => Ok(receipt),
            Some(_) => Err(Error::Unexpected { what: BACKWARD }),
        }
    }

    /// Computes all gradients from the dy that have arrived. A y that the loss doesn't depend on
    /// has a gradient of zeros. Each output adds one to the token's gradient, so its value tells
    /// whether all dy belong to this pass. It is checked only on the CPU; on a CUDA device that
    /// would be a synchronisation.
    fn backward(&self, arrivals: &Tensor) -> Result<Gradients> {
        let mut dy = self
            .passes()
            .remove(&thread::current().id())
            .unwrap_or_default()
            .dy;
        if arrivals.device().is_cpu() && arrivals.to_vec1::<f32>()? != [dy.len() as f32] {
            return Err(Error::Unexpected { what: BACKWARD });
        }
        let all = (0..self.call.projections.len()).map(|projection| match dy.remove(&projection) {
            Some(dy) => Ok(dy),
            None => Ok(Tensor::zeros(
                self.call.y_dims(projection),
                self.call.x.dtype(),
                self.call.x.device(),
            )?),
        });
        self.call
            .backward(&all.collect::<Result<Vec<_>>>()?, &self.saved)
    }
}

/// The node of one adapter. Its result is a token.
struct Link {
    shared: Arc<Shared>,
    projection: usize,
    first: bool,
    last: bool,
}

impl CustomOp3 for Link {
    fn name(&self) -> &'static str {
        "lora_linears"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
        _: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok((CpuStorage::F32(vec![0.0]), token_shape()))
    }

    #[cfg(feature = "cuda")]
    fn cuda_fwd(
        &self,
        x: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
        _: &CudaStorage,
        _: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        use candle_core::backend::BackendDevice;
        let token = x
            .device()
            .zeros_impl(&token_shape(), candle_core::DType::F32)?;
        Ok((token, token_shape()))
    }

    fn bwd(
        &self,
        _x: &Tensor,
        _a: &Tensor,
        _b: &Tensor,
        token: &Tensor,
        arrivals: &Tensor,
    ) -> CandleResult<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let mut gradients = if self.last {
            self.shared.backward(arrivals)?
        } else {
            let pass = self.shared.passes().remove(&thread::current().id());
            let gradients = pass.and_then(|pass| pass.gradients);
            gradients.ok_or(Error::Unexpected { what: BACKWARD })?
        };
        let [a, b] = gradients.lora_of(self.projection)?;
        if self.first {
            return Ok((gradients.x, Some(a), Some(b)));
        }
        let pass = Pass {
            gradients: Some(gradients),
            ..Pass::default()
        };
        self.shared.passes().insert(thread::current().id(), pass);
        Ok((Some(token.zeros_like()?), Some(a), Some(b)))
    }
}

fn token_shape() -> Shape {
    Shape::from(1)
}

/// The node of one y.
struct Output {
    shared: Arc<Shared>,
    projection: usize,
    y: Once,
}

impl CustomOp1 for Output {
    fn name(&self) -> &'static str {
        "lora_linears_y"
    }

    fn cpu_fwd(&self, _: &CpuStorage, _: &Layout) -> CandleResult<(CpuStorage, Shape)> {
        Ok((
            self.y.take_cpu()?,
            self.shared.call.y_dims(self.projection).into(),
        ))
    }

    fn cuda_fwd(&self, _: &CudaStorage, _: &Layout) -> CandleResult<(CudaStorage, Shape)> {
        Ok((
            self.y.take_cuda()?,
            self.shared.call.y_dims(self.projection).into(),
        ))
    }

    fn bwd(&self, token: &Tensor, _y: &Tensor, dy: &Tensor) -> CandleResult<Option<Tensor>> {
        let receipt = self.shared.arrived(self.projection, dy)?;
        Ok(Some(token.apply_op2(
            &token.ones_like()?,
            Receipt { _pass: receipt },
        )?))
    }
}

/// Returns its second argument. candle keeps an operation alive with its result and with sums of
/// it, so the receipt lives until the pass ends.
struct Receipt {
    _pass: Arc<()>,
}

impl CustomOp2 for Receipt {
    fn name(&self) -> &'static str {
        "lora_linears_receipt"
    }

    fn cpu_fwd(
        &self,
        _: &CpuStorage,
        _: &Layout,
        token: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok((token.clone(), token_shape()))
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        token: &CudaStorage,
        layout: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        Ok((token.try_clone(layout)?, token_shape()))
    }
}
