//! Calls together with the device memory that they need.

use std::sync::Arc;

use lora_kernels::cudarc::driver::CudaStream;
use lora_kernels::{
    Backward, BackwardPlan, BackwardProjection, Error, Flags, Forward, ForwardPlan,
    ForwardProjection, ForwardRecord, LoraGradients,
};

use super::device::{Number, gpu};
use super::layer::{BackwardRun, ForwardRun, Lora, TestLayer};
use super::memory::{Guarded, Input, Output, are_zero};

pub struct ForwardCall<'a, T, A> {
    layer: &'a TestLayer<T, A>,
    pub x: Input<'a, T>,
    projections: Vec<ForwardMemory<'a, T, A>>,
    pub saved: Guarded,
    workspace: Guarded,
    pub flags: Flags,
}

struct ForwardMemory<'a, T, A> {
    weight: Input<'a, T>,
    bias: Option<Input<'a, T>>,
    lora: Option<LoraMemory<'a, A>>,
    y: Output<T>,
}

pub(super) struct LoraMemory<'a, A> {
    a: Input<'a, A>,
    b: Input<'a, A>,
    scaling: f32,
}

impl<'a, A: Number> LoraMemory<'a, A> {
    pub(super) fn new(lora: Option<&'a Lora<A>>, scaling: f32) -> Option<Self> {
        let Lora { a, b } = lora?;
        Some(Self {
            a: Input::new(a),
            b: Input::new(b),
            scaling,
        })
    }

    pub(super) fn arguments(&self) -> lora_kernels::Lora<'_, A> {
        lora_kernels::Lora {
            a: self.a.matrix(),
            b: self.b.matrix(),
            scaling: self.scaling,
        }
    }
}

impl<'a, T: Number, A: Number> ForwardCall<'a, T, A> {
    pub fn new(layer: &'a TestLayer<T, A>, plan: &ForwardPlan) -> Self {
        let projections = layer.projections.iter().zip(&layer.case.projections);
        let memory = projections.map(|(projection, sizes)| ForwardMemory {
            weight: Input::new(&projection.weight),
            bias: projection.bias.as_ref().map(Input::new),
            lora: LoraMemory::new(projection.lora.as_ref(), sizes.scaling),
            y: Output::new(&projection.y),
        });
        Self {
            layer,
            x: Input::new(&layer.x),
            projections: memory.collect(),
            saved: Guarded::new(plan.saved().bytes()),
            workspace: Guarded::new(plan.workspace_bytes()),
            flags: Flags::new(&gpu().stream, plan.flags_bytes()).expect("flags"),
        }
    }

    pub fn arguments(&mut self) -> Forward<'_, T, A> {
        let projections = self.projections.iter_mut().map(|memory| ForwardProjection {
            weight: memory.weight.matrix(),
            bias: memory.bias.as_ref().map(Input::span),
            lora: memory.lora.as_ref().map(LoraMemory::arguments),
            y: memory.y.matrix(),
        });
        Forward {
            x: self.x.matrix(),
            projections: projections.collect(),
            dropout: self.layer.case.dropout,
            saved: self.saved.view_mut().into(),
            workspace: Some(self.workspace.view_mut()),
            rows: None,
            flags: Some(&mut self.flags),
        }
    }

    pub fn run(&mut self, stream: &Arc<CudaStream>, plan: &ForwardPlan) -> Result<(), Error> {
        gpu().kernels.forward(stream, plan, self.arguments())?;
        Ok(())
    }

    /// Panics if anything was written around the results.
    pub fn read_back(&self) -> ForwardRun<T> {
        self.workspace.read_back("forward's workspace");
        assert!(are_zero(&self.flags), "flags stay set");
        let y = self.projections.iter().enumerate();
        ForwardRun {
            y: y.map(|(i, memory)| memory.y.read_back(&format!("y {i}")))
                .collect(),
            saved: self.saved.read_back("saved"),
        }
    }
}

pub struct BackwardCall<'a, T, A> {
    layer: &'a TestLayer<T, A>,
    pub x: Input<'a, T>,
    pub projections: Vec<BackwardMemory<'a, T, A>>,
    pub saved: Guarded,
    /// Of a forward that fits.
    pub record: ForwardRecord,
    dx: Option<Output<T>>,
    workspace: Guarded,
}

pub struct BackwardMemory<'a, T, A> {
    pub dy: Input<'a, T>,
    weight: Input<'a, T>,
    lora: Option<LoraMemory<'a, A>>,
    gradients: Option<[Output<A>; 2]>,
}

impl<'a, T: Number, A: Number> BackwardCall<'a, T, A> {
    pub fn new(layer: &'a TestLayer<T, A>, plan: &BackwardPlan, saved: &[u8]) -> Self {
        let projections = layer.projections.iter().zip(&layer.case.projections);
        let memory = projections.map(|(projection, sizes)| BackwardMemory {
            dy: Input::new(&projection.dy),
            weight: Input::new(&projection.weight),
            lora: LoraMemory::new(projection.lora.as_ref(), sizes.scaling),
            gradients: (projection.gradients.as_ref())
                .map(|Lora { a, b }| [Output::new(a), Output::new(b)]),
        });
        Self {
            layer,
            x: Input::new(&layer.x),
            projections: memory.collect(),
            saved: Guarded::holding(saved),
            record: ForwardRecord::new(
                plan.problem(),
                layer.case.dropout,
                layer.case.projections.iter().map(|sizes| sizes.scaling),
            ),
            dx: layer.dx.as_ref().map(Output::new),
            workspace: Guarded::new(plan.workspace_bytes()),
        }
    }

    pub fn arguments(&mut self) -> Backward<'_, T, A> {
        let projections = self
            .projections
            .iter_mut()
            .map(|memory| BackwardProjection {
                dy: memory.dy.matrix(),
                weight: memory.weight.matrix(),
                lora: memory.lora.as_ref().map(LoraMemory::arguments),
                gradients: memory.gradients.as_mut().map(|[a, b]| LoraGradients {
                    a: a.matrix(),
                    b: b.matrix(),
                }),
            });
        Backward {
            x: self.x.matrix(),
            projections: projections.collect(),
            dropout: self.layer.case.dropout,
            saved: self.saved.view().into(),
            record: self.record,
            dx: self.dx.as_mut().map(Output::matrix),
            workspace: Some(self.workspace.view_mut()),
            rows: None,
        }
    }

    pub fn run(&mut self, stream: &Arc<CudaStream>, plan: &BackwardPlan) -> Result<(), Error> {
        gpu().kernels.backward(stream, plan, self.arguments())
    }

    /// Panics if anything was written around the results.
    pub fn read_back(&self) -> BackwardRun<T, A> {
        self.workspace.read_back("backward's workspace");
        let gradients = self.projections.iter().enumerate().map(|(i, memory)| {
            let [a, b] = memory.gradients.as_ref()?;
            Some(Lora {
                a: a.read_back(&format!("d_lora_A {i}")),
                b: b.read_back(&format!("d_lora_B {i}")),
            })
        });
        BackwardRun {
            dx: self.dx.as_ref().map(|dx| dx.read_back("dx")),
            gradients: gradients.collect(),
        }
    }
}
