//! A layer to test: its sizes, its place in memory, its numbers, and its runs on the device.

use lora_kernels::{Backward, BackwardPlan, DType, DeviceProps, Dropout, Error, Forward, ForwardPlan, Problem, Tensor};

use super::data::{Placed, Placement};
use super::device::{Number, gpu};
use super::memory::{Guarded, Input, Output};

/// What is to be computed and where it lies.
#[derive(Debug, Clone)]
pub struct Case {
    pub tokens: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub rank: usize,
    pub scaling: f32,
    pub bias: bool,
    pub dropout: Option<Dropout>,
    /// Plans are made for a device of this many multiprocessors: they choose other tiles and splits.
    pub multiprocessors: Option<u32>,
    placements: [Placement; Tensor::ALL.len()],
}

impl Case {
    /// A layer with a bias and no dropout, contiguous in memory. The scaling is neither 1 nor a power of two, nor alpha
    /// / rank of anything.
    pub fn new(tokens: usize, in_features: usize, out_features: usize, rank: usize) -> Self {
        Self {
            tokens,
            in_features,
            out_features,
            rank,
            scaling: 1.7,
            bias: true,
            dropout: None,
            multiprocessors: None,
            placements: [Placement::Dense; Tensor::ALL.len()],
        }
    }

    pub fn scaling(mut self, scaling: f32) -> Self {
        self.scaling = scaling;
        self
    }

    pub fn bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    pub fn dropout(mut self, p: f32) -> Self {
        self.dropout = Some(Dropout {
            p,
            seed: 0x5EED_0000_0001_0203,
            offset: 0x0FF5_0000_0000_0007,
        });
        self
    }

    pub fn multiprocessors(mut self, multiprocessors: u32) -> Self {
        self.multiprocessors = Some(multiprocessors);
        self
    }

    pub fn placed(mut self, placement: Placement) -> Self {
        self.placements = [placement; Tensor::ALL.len()];
        self
    }

    pub fn with_placement(mut self, tensor: Tensor, placement: Placement) -> Self {
        self.placements[tensor as usize] = placement;
        self
    }

    pub fn placement(&self, tensor: Tensor) -> Placement {
        self.placements[tensor as usize]
    }

    pub fn shape(&self, tensor: Tensor) -> (usize, usize) {
        // The same in every type.
        self.sizes(DType::F32).shape(tensor)
    }

    fn sizes(&self, dtype: DType) -> Problem {
        Problem::new(self.tokens, self.in_features, self.out_features, self.rank, dtype).expect("sizes in range")
    }

    pub fn problem<T: Number>(&self) -> Problem {
        let problem = self
            .sizes(T::DTYPE)
            .with_bias(self.bias)
            .with_dropout(self.dropout.is_some());
        // Dense and aligned is what problems start from, with no more alignment than each tensor needs.
        let placed = |tensor: &Tensor| self.placement(*tensor) != Placement::Dense;
        Tensor::ALL.into_iter().filter(placed).fold(problem, |problem, tensor| {
            let (_, cols) = self.shape(tensor);
            let layout = self.placement(tensor).layout::<T>(cols);
            problem
                .with_layout(tensor, layout)
                .expect("a layout that problems take")
        })
    }

    pub fn device(&self) -> DeviceProps {
        let props = gpu().kernels.props().clone();
        match self.multiprocessors {
            Some(multiprocessors) => props.with_multiprocessors(multiprocessors),
            None => props,
        }
    }

    pub fn forward_plan<T: Number>(&self) -> ForwardPlan {
        ForwardPlan::new(&self.problem::<T>(), &self.device()).expect("a forward plan")
    }

    pub fn backward_plan<T: Number>(&self) -> BackwardPlan {
        BackwardPlan::new(&self.problem::<T>(), &self.device()).expect("a backward plan")
    }

    /// A tensor of NaN, for a kernel to fill.
    fn output<T: Number>(&self, tensor: Tensor) -> Placed<T> {
        let (rows, cols) = self.shape(tensor);
        Placed::poisoned(rows, cols, self.placement(tensor))
    }
}

/// A case with numbers.
pub struct Layer<T> {
    pub case: Case,
    pub x: Placed<T>,
    pub weight: Placed<T>,
    pub bias: Option<Placed<T>>,
    pub lora_a: Placed<T>,
    pub lora_b: Placed<T>,
    pub dy: Placed<T>,
}

/// What a forward wrote.
pub struct ForwardRun<T> {
    pub y: Placed<T>,
    pub saved: Vec<u8>,
}

/// What a backward wrote.
pub struct BackwardRun<T> {
    pub dx: Placed<T>,
    pub d_lora_a: Placed<T>,
    pub d_lora_b: Placed<T>,
}

impl<T: Number> Layer<T> {
    /// Random numbers of which every sum stays around 1, whatever the sizes: nothing overflows in f16 or vanishes
    /// beside another term.
    pub fn random(case: &Case) -> Self {
        let random = |tensor, variance: f32| {
            let (rows, cols) = case.shape(tensor);
            // A number evenly distributed in [-m, m) has the variance m²/3.
            let magnitude = (3.0 * variance).sqrt();
            Placed::random(rows, cols, case.placement(tensor), magnitude, 0x10 + tensor as u64)
        };
        let per = |count: usize| 1.0 / count as f32;
        Self {
            x: random(Tensor::X, 1.0),
            weight: random(Tensor::Weight, per(case.in_features)),
            bias: case.bias.then(|| random(Tensor::Bias, 1.0)),
            lora_a: random(Tensor::LoraA, per(case.in_features)),
            lora_b: random(Tensor::LoraB, per(case.rank)),
            dy: random(Tensor::DY, per(case.out_features)),
            case: case.clone(),
        }
    }

    /// The same numbers elsewhere in memory.
    pub fn moved(&self, placement: Placement) -> Self {
        let moved = |matrix: &Placed<T>| Placed::from_rows(&matrix.rows(), matrix.rows, matrix.cols, placement);
        Self {
            case: self.case.clone().placed(placement),
            x: moved(&self.x),
            weight: moved(&self.weight),
            bias: self.bias.as_ref().map(moved),
            lora_a: moved(&self.lora_a),
            lora_b: moved(&self.lora_b),
            dy: moved(&self.dy),
        }
    }

    pub fn forward(&self) -> ForwardRun<T> {
        self.try_forward(&self.case.forward_plan::<T>()).expect("forward runs")
    }

    pub fn backward(&self, saved: &[u8]) -> BackwardRun<T> {
        self.try_backward(&self.case.backward_plan::<T>(), saved)
            .expect("backward runs")
    }

    pub fn try_forward(&self, plan: &ForwardPlan) -> Result<ForwardRun<T>, Error> {
        let gpu = gpu();
        let mut y = Output::new(self.case.output(Tensor::Y));
        let [x, weight, lora_a, lora_b] = [&self.x, &self.weight, &self.lora_a, &self.lora_b].map(Input::new);
        let bias = self.bias.as_ref().map(Input::new);
        let mut saved = Guarded::new(plan.saved().bytes());
        let arguments = Forward {
            x: x.matrix(),
            weight: weight.matrix(),
            bias: bias.as_ref().map(Input::span),
            lora_a: lora_a.matrix(),
            lora_b: lora_b.matrix(),
            scaling: self.case.scaling,
            dropout: self.case.dropout,
            y: y.matrix(),
            saved: saved.view_mut(),
        };
        gpu.kernels.forward(&gpu.stream, plan, arguments)?;
        Ok(ForwardRun {
            y: y.read_back("y"),
            saved: saved.read_back("saved"),
        })
    }

    pub fn try_backward(&self, plan: &BackwardPlan, saved: &[u8]) -> Result<BackwardRun<T>, Error> {
        let gpu = gpu();
        let mut dx = Output::new(self.case.output(Tensor::DX));
        let mut d_lora_a = Output::new(self.case.output(Tensor::DLoraA));
        let mut d_lora_b = Output::new(self.case.output(Tensor::DLoraB));
        let [dy, x, weight, lora_a, lora_b] =
            [&self.dy, &self.x, &self.weight, &self.lora_a, &self.lora_b].map(Input::new);
        let saved_on_device = Guarded::holding(saved);
        let mut workspace = Guarded::new(plan.workspace_bytes());
        let arguments = Backward {
            dy: dy.matrix(),
            x: x.matrix(),
            weight: weight.matrix(),
            lora_a: lora_a.matrix(),
            lora_b: lora_b.matrix(),
            scaling: self.case.scaling,
            dropout: self.case.dropout,
            saved: saved_on_device.view(),
            dx: dx.matrix(),
            d_lora_a: d_lora_a.matrix(),
            d_lora_b: d_lora_b.matrix(),
            workspace: workspace.view_mut(),
        };
        gpu.kernels.backward(&gpu.stream, plan, arguments)?;
        workspace.read_back("workspace");
        assert!(
            saved_on_device.read_back("saved") == saved,
            "backward changed what forward saved"
        );
        Ok(BackwardRun {
            dx: dx.read_back("dx"),
            d_lora_a: d_lora_a.read_back("d_lora_A"),
            d_lora_b: d_lora_b.read_back("d_lora_B"),
        })
    }
}
