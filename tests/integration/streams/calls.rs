//! The safe calls of a small layer, with memory of a stream of choice.

use std::sync::Arc;

use lora_kernels::cudarc::driver::{CudaSlice, CudaStream};
use lora_kernels::{
    Backward, BackwardPlan, BackwardProjection, DType, Error, Forward, ForwardPlan,
    ForwardProjection, ForwardRecord, Kernels, Lora, LoraGradients, LoraInputs, LoraLinear,
    LoraProjection, MatMut, MatRef, Merge, MergePlan, MergeProblem, MergeReport, MergeWeight,
    Problem, WeightLayout,
};

pub const TOKENS: usize = 5;
pub const IN: usize = 24;
pub const OUT: usize = 16;
pub const RANK: usize = 3;
const SCALING: f32 = 0.75;

/// The inputs of all calls.
pub struct Inputs {
    pub x: CudaSlice<f32>,
    pub dy: CudaSlice<f32>,
    pub weight: CudaSlice<f32>,
    pub a: CudaSlice<f32>,
    pub b: CudaSlice<f32>,
}

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    let number = |index: usize| ((index * 37 + seed * 11) % 29) as f32 / 16.0 - 0.9;
    (0..count).map(number).collect()
}

impl Inputs {
    /// Enqueues the copies to the device, and waits for nothing.
    pub fn on(home: &Arc<CudaStream>) -> Self {
        let copied = |count, seed| home.clone_htod(&numbers(count, seed)).expect("a copy");
        Self {
            x: copied(TOKENS * IN, 1),
            dy: copied(TOKENS * OUT, 2),
            weight: copied(OUT * IN, 3),
            a: copied(RANK * IN, 4),
            b: copied(OUT * RANK, 5),
        }
    }

    pub fn each(&mut self) -> [&mut CudaSlice<f32>; 5] {
        let Self {
            x,
            dy,
            weight,
            a,
            b,
        } = self;
        [x, dy, weight, a, b]
    }

    fn x(&self) -> MatRef<'_, f32> {
        MatRef::new(self.x.as_view(), TOKENS, IN)
    }

    fn dy(&self) -> MatRef<'_, f32> {
        MatRef::new(self.dy.as_view(), TOKENS, OUT)
    }

    fn weight(&self) -> MatRef<'_, f32> {
        MatRef::new(self.weight.as_view(), OUT, IN)
    }

    fn lora(&self) -> Lora<'_, f32> {
        Lora {
            a: MatRef::new(self.a.as_view(), RANK, IN),
            b: MatRef::new(self.b.as_view(), OUT, RANK),
            scaling: SCALING,
        }
    }

    pub fn of_layer(&self) -> LoraInputs<'_, f32> {
        LoraInputs::new(self.x(), [LoraProjection::new(self.weight(), self.lora())])
    }
}

/// A safe call. The typed ones write to memory of the inputs' home, the others allocate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    TypedForward,
    TypedBackward,
    TypedMerge,
    Forward,
    Infer,
    Backward,
    Merge,
    MergeWithReport,
}

impl Call {
    pub const ALL: [Call; 8] = [
        Call::TypedForward,
        Call::TypedBackward,
        Call::TypedMerge,
        Call::Forward,
        Call::Infer,
        Call::Backward,
        Call::Merge,
        Call::MergeWithReport,
    ];

    /// Enqueues the call, and frees what it needs besides inputs and results as soon as it returns.
    pub fn run(
        self,
        kernels: &Arc<Kernels>,
        stream: &Arc<CudaStream>,
        inputs: &Inputs,
    ) -> Result<Vec<CudaSlice<f32>>, Error> {
        let layer = LoraLinear::with_kernels(kernels.clone(), stream)?;
        let of_layer = inputs.of_layer();
        match self {
            Call::TypedForward => Ok(vec![forward(kernels, stream, inputs)?.y]),
            Call::TypedBackward => backward(kernels, stream, inputs),
            Call::TypedMerge => merge(kernels, stream, inputs),
            Call::Forward => Ok(layer.forward(&of_layer)?.0),
            Call::Infer => layer.infer(&of_layer),
            Call::Backward => {
                let (_, saved) = layer.forward(&of_layer)?;
                let gradients = layer.backward(&of_layer, &saved, &[inputs.dy()])?;
                let adapters = gradients.adapters.into_iter().flatten();
                let adapters = adapters.flat_map(|adapter| [adapter.a, adapter.b]);
                Ok(gradients.dx.into_iter().chain(adapters).collect())
            }
            Call::Merge => {
                let merged = layer.merge(&inputs.weight(), &[inputs.lora()], WeightLayout::OutIn);
                Ok(vec![merged?])
            }
            Call::MergeWithReport => {
                let layout = WeightLayout::OutIn;
                let (merged, report) =
                    layer.merge_with_report(&inputs.weight(), &[inputs.lora()], layout)?;
                assert_eq!(report.non_finite, 0, "{report:?}");
                Ok(vec![merged])
            }
        }
    }
}

fn zeros<T>(home: &Arc<CudaStream>, elements: usize) -> CudaSlice<T>
where
    T: lora_kernels::cudarc::driver::DeviceRepr + lora_kernels::cudarc::driver::ValidAsZeroBits,
{
    home.alloc_zeros(elements.max(1)).expect("memory")
}

fn problem() -> Problem {
    Problem::new(TOKENS, IN, OUT, RANK, DType::F32).expect("a problem")
}

struct Forwarded {
    y: CudaSlice<f32>,
    saved: CudaSlice<u8>,
    record: ForwardRecord,
}

fn forward(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    inputs: &Inputs,
) -> Result<Forwarded, Error> {
    let plan = ForwardPlan::new(&problem(), kernels.props())?;
    let home = inputs.x.stream();
    let mut y = zeros(home, TOKENS * OUT);
    let mut saved = zeros(home, plan.saved().bytes());
    let mut workspace = zeros(home, plan.workspace_bytes());
    let args = Forward {
        x: inputs.x(),
        projections: vec![ForwardProjection {
            weight: inputs.weight(),
            bias: None,
            lora: Some(inputs.lora()),
            y: MatMut::new(y.as_view_mut(), TOKENS, OUT),
        }],
        dropout: None,
        saved: saved.as_view_mut().into(),
        workspace: Some(workspace.as_view_mut()),
        rows: None,
        flags: None,
    };
    let record = kernels.forward(stream, &plan, args)?;
    Ok(Forwarded { y, saved, record })
}

fn backward(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    inputs: &Inputs,
) -> Result<Vec<CudaSlice<f32>>, Error> {
    let Forwarded { saved, record, .. } = forward(kernels, stream, inputs)?;
    let plan = BackwardPlan::new(&problem(), kernels.props())?;
    let home = inputs.x.stream();
    let mut dx = zeros(home, TOKENS * IN);
    let (mut da, mut db) = (zeros(home, RANK * IN), zeros(home, OUT * RANK));
    let mut workspace = zeros(home, plan.workspace_bytes());
    let args = Backward {
        x: inputs.x(),
        projections: vec![BackwardProjection {
            dy: inputs.dy(),
            weight: inputs.weight(),
            lora: Some(inputs.lora()),
            gradients: Some(LoraGradients {
                a: MatMut::new(da.as_view_mut(), RANK, IN),
                b: MatMut::new(db.as_view_mut(), OUT, RANK),
            }),
        }],
        dropout: None,
        saved: saved.as_view().into(),
        record,
        dx: Some(MatMut::new(dx.as_view_mut(), TOKENS, IN)),
        workspace: Some(workspace.as_view_mut()),
        rows: None,
    };
    kernels.backward(stream, &plan, args)?;
    Ok(vec![dx, da, db])
}

fn merge(
    kernels: &Kernels,
    stream: &Arc<CudaStream>,
    inputs: &Inputs,
) -> Result<Vec<CudaSlice<f32>>, Error> {
    let problem = MergeProblem::new(OUT, IN, &[RANK], DType::F32)?.with_report(true);
    let plan = MergePlan::new(&problem, kernels.props())?;
    let home = inputs.x.stream();
    let mut merged = zeros(home, OUT * IN);
    let mut report = zeros(home, MergeReport::BYTES);
    let mut workspace = zeros(home, plan.workspace_bytes());
    let args = Merge {
        weight: MergeWeight::Apart {
            weight: inputs.weight(),
            merged: MatMut::new(merged.as_view_mut(), OUT, IN),
        },
        adapters: vec![inputs.lora()],
        report: Some(report.as_view_mut()),
        workspace: Some(workspace.as_view_mut()),
    };
    kernels.merge(stream, &plan, args)?;
    Ok(vec![merged])
}
