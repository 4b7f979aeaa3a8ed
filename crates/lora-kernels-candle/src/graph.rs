//! Calls in candle's graph.
//!
//! An operation of candle's has one result and at most three arguments; a call has as many results
//! as projections, and x and two matrices of each adapter as arguments. One adapted projection is a
//! `CustomOp3` of x, lora_A and lora_B. Several are a chain of such operations, one for each
//! adapter, whose results are tokens: single numbers that stand for the call. Each y is then an
//! operation on the last token:
//!
//! ```text
//! x, A₀, B₀ ─ link ─ token, A₁, B₁ ─ link ─ token ┬ output ─ y₀
//!                                                 ├ output ─ y₁
//!                                                 └ output ─ y₂ (no adapter)
//! ```
//!
//! candle walks the graph backwards from the loss, each node after all that use its result. So
//! every output's backward leaves its dy with the call, then the last link's computes everything at
//! once, and each link takes what is its own. No tensor is copied or packed for this; tokens and
//! their gradients cost an element each.
//!
//! What is under way of a backward pass waits with the call, by thread. A pass that fails leaves it
//! there; candle drops its gradients then, those of the token with them, and by their receipt the
//! next pass knows that what it finds isn't its own.

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

/// The results of a call as tensors: parts of candle's graph if x or an adapter is part of one.
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
        .filter_map(|(i, one)| Some((i, one.lora.as_ref()?)))
        .collect();
    // Earlier links are no part of the graph: their backward is never called.
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

/// What an operation hands over as its result.
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

/// One adapted projection by itself.
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

/// What links and outputs of a call have in common.
struct Shared {
    call: Call,
    saved: Saved,
    /// A backward pass walks the graph in one thread.
    passes: Mutex<HashMap<ThreadId, Pass>>,
}

/// A backward pass under way.
#[derive(Default)]
struct Pass {
    /// Lives as long as the pass has a gradient of the token, from the first y's to the last link.
    receipt: Weak<()>,
    dy: HashMap<usize, Tensor>,
    gradients: Option<Gradients>,
}

impl Shared {
    fn passes(&self) -> MutexGuard<'_, HashMap<ThreadId, Pass>> {
        self.passes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a dy for the chain. The pass has to hold the receipt meanwhile.
    fn arrived(&self, projection: usize, dy: &Tensor) -> Result<Arc<()>> {
        let mut passes = self.passes();
        let pass = passes.entry(thread::current().id()).or_default();
        let receipt = pass.receipt.upgrade().unwrap_or_else(|| {
            // A new pass: what lies here, if anything, is of one that failed.
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

    /// Everything at once, from what has arrived; a y that the loss doesn't depend on has a
    /// gradient of zeros. Each output adds one to the token's gradient: on the CPU a look at it
    /// tells whether all dy are this pass's, on a CUDA device it would be a synchronisation.
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

/// An adapter's place in the graph; its result is a token.
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

/// One y.
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

/// The second argument, for as long as which, or a sum with it, is there, the pass goes on: candle
/// keeps operations with their results.
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
        one: &CpuStorage,
        _: &Layout,
    ) -> CandleResult<(CpuStorage, Shape)> {
        Ok((one.clone(), token_shape()))
    }

    fn cuda_fwd(
        &self,
        _: &CudaStorage,
        _: &Layout,
        one: &CudaStorage,
        layout: &Layout,
    ) -> CandleResult<(CudaStorage, Shape)> {
        Ok((one.try_clone(layout)?, token_shape()))
    }
}
