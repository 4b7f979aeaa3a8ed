//! The calls of lora-kernels as a framework makes them, with plans and arguments prepared.

use cudarc::driver::{CudaSlice, DeviceRepr};
use lora_kernels::raw::{
    BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs, LoraArgs,
    LoraGradientsArgs,
};
use lora_kernels::{BackwardPlan, Dropout, Element, ForwardPlan, Problem};
use lora_kernels_baselines::cublas::products::{LayerTensors, Projection};

use crate::device::BenchDevice;
use crate::sets::Sets;

pub struct Ours {
    forward: ForwardPlan,
    backward: BackwardPlan,
    dropout: Option<Dropout>,
    calls: Vec<Call>,
    /// The saved data and the workspace of every call
    _memory: Vec<CudaSlice<u8>>,
}

/// The addresses of one set of tensors.
struct Call {
    x: u64,
    dx: u64,
    forward: Vec<ForwardProjectionArgs>,
    backward: Vec<BackwardProjectionArgs>,
    saved: u64,
    workspace: u64,
}

impl Ours {
    /// # Errors
    /// If planning fails, or the device has too little memory.
    pub fn new<T: Element + DeviceRepr>(
        device: &BenchDevice,
        problem: &Problem,
        p: f32,
        sets: &Sets<T>,
    ) -> Result<Self, String> {
        let dropout = Dropout {
            p,
            seed: 42,
            offset: 0,
        };
        let dropout = Some(dropout).filter(|dropout| dropout.p > 0.0);
        let problem = problem.clone().with_dropout(dropout.is_some());
        let text = |error: lora_kernels::Error| error.to_string();
        let forward = ForwardPlan::new(&problem, device.kernels.props()).map_err(text)?;
        let backward = BackwardPlan::new(&problem, device.kernels.props()).map_err(text)?;
        let mut memory = Vec::new();
        let mut bytes = |count| -> Result<u64, String> {
            let buffer = device.memory::<u8>(count)?;
            let address = device.address(&buffer);
            memory.push(buffer);
            Ok(address)
        };
        let mut calls = Vec::new();
        for layer in &sets.layers {
            let saved = bytes(forward.saved().bytes())?;
            let workspace = bytes(forward.workspace_bytes().max(backward.workspace_bytes()))?;
            calls.push(Call::new(layer, saved, workspace));
        }
        Ok(Self {
            forward,
            backward,
            dropout,
            calls,
            _memory: memory,
        })
    }

    /// # Errors
    /// The error of the call.
    pub fn forward(&self, device: &BenchDevice, set: usize) -> Result<(), String> {
        let call = &self.calls[set];
        let args = ForwardArgs {
            x: call.x,
            projections: &call.forward,
            dropout: self.dropout,
            saved: call.saved.into(),
            workspace: Some(call.workspace),
            rows: None,
            flags: None,
        };
        // SAFETY: the sets and `_memory` hold tensors and buffers of the plan's sizes, and outlive
        // the stream's work.
        unsafe {
            device
                .kernels
                .forward_raw(&self.forward, &args, device.stream.cu_stream())
        }
        .map(|_| ())
        .map_err(|error| error.to_string())
    }

    /// Enqueues the backward of a set, after its forward.
    ///
    /// # Errors
    /// The error of the call.
    pub fn backward(&self, device: &BenchDevice, set: usize) -> Result<(), String> {
        let call = &self.calls[set];
        let args = BackwardArgs {
            x: call.x,
            projections: &call.backward,
            dropout: self.dropout,
            saved: call.saved.into(),
            record: None,
            dx: Some(call.dx),
            workspace: Some(call.workspace),
            rows: None,
        };
        // SAFETY: as in `forward`.
        unsafe {
            device
                .kernels
                .backward_raw(&self.backward, &args, device.stream.cu_stream())
        }
        .map_err(|error| error.to_string())
    }
}

impl Call {
    fn new(layer: &LayerTensors, saved: u64, workspace: u64) -> Self {
        let lora = |projection: &Projection| LoraArgs {
            a: projection.lora_a.address,
            b: projection.lora_b.address,
            scaling: projection.scaling,
        };
        let forward = |projection: &Projection| ForwardProjectionArgs {
            weight: projection.weight.address,
            bias: None,
            lora: Some(lora(projection)),
            y: projection.y.address,
        };
        let backward = |projection: &Projection| BackwardProjectionArgs {
            dy: projection.dy.address,
            weight: projection.weight.address,
            lora: Some(lora(projection)),
            gradients: Some(LoraGradientsArgs {
                a: projection.d_lora_a.address,
                b: projection.d_lora_b.address,
            }),
        };
        Self {
            x: layer.x.address,
            dx: layer.dx.address,
            forward: layer.projections.iter().map(forward).collect(),
            backward: layer.projections.iter().map(backward).collect(),
            saved,
            workspace,
        }
    }
}
