//! A layer to test: its sizes, types, options and the placement of its tensors in memory.

use lora_kernels::{
    BackwardPlan, DeviceProps, Dropout, ForwardPlan, Layout, Mask, Problem, Projection, Role,
    WeightLayout,
};

use super::data::{Placed, Placement};
use super::device::{Number, gpu};

/// Projections that share x, the placement of each of their tensors, and the options of the call.
/// The adapters' element type is chosen when the case runs.
#[derive(Debug, Clone)]
pub struct LayerCase {
    pub tokens: usize,
    pub in_features: usize,
    pub projections: Vec<Sizes>,
    pub bias: bool,
    pub dropout: Option<Dropout>,
    /// Backward draws the mask again, and forward stores none.
    pub redrawn: bool,
    /// Weights are stored (in_features, out_features).
    pub transposed: bool,
    /// Backward computes dx.
    pub input_gradient: bool,
    /// No backward follows.
    pub inference: bool,
    /// The bits of a row depend on nothing but this row.
    pub batch_invariant: bool,
    /// Only the adapters' part is computed.
    pub delta_only: bool,
    /// The outputs that results are added to.
    pub accumulate: Vec<Role>,
    /// The number of multiprocessors that plans are made for. Other numbers lead to other tiles and
    /// splits.
    pub multiprocessors: Option<u32>,
}

/// One projection.
#[derive(Debug, Clone)]
pub struct Sizes {
    pub out_features: usize,
    /// The rank, 0 if there is no adapter.
    pub rank: usize,
    pub scaling: f32,
    placements: [Placement; Role::ALL.len()],
}

/// Scalings that are not 1, not a power of two, and not alpha / rank of any layer here. Each
/// projection has its own.
const SCALINGS: [f32; 8] = [1.7, -0.6, 2.3, 0.9, -1.3, 0.35, 1.1, -2.1];

/// The outputs that results can be added to.
pub const OUTPUTS: [Role; 4] = [Role::Y, Role::DX, Role::DLoraA, Role::DLoraB];

impl LayerCase {
    /// A single projection with a bias and no dropout, dense in memory.
    pub fn new(tokens: usize, in_features: usize, out_features: usize, rank: usize) -> Self {
        Self::sharing_x(tokens, in_features, &[(out_features, rank)])
    }

    /// Projections of these (out_features, rank).
    pub fn sharing_x(tokens: usize, in_features: usize, projections: &[(usize, usize)]) -> Self {
        let sizes = |(&(out_features, rank), scaling)| Sizes {
            out_features,
            rank,
            scaling,
            placements: [Placement::Dense; Role::ALL.len()],
        };
        Self {
            tokens,
            in_features,
            projections: projections.iter().zip(SCALINGS).map(sizes).collect(),
            bias: true,
            dropout: None,
            redrawn: false,
            transposed: false,
            input_gradient: true,
            inference: false,
            batch_invariant: false,
            delta_only: false,
            accumulate: Vec::new(),
            multiprocessors: None,
        }
    }

    /// Sets the scaling of the first projection.
    pub fn scaling(mut self, scaling: f32) -> Self {
        self.projections[0].scaling = scaling;
        self
    }

    pub fn bias(self, bias: bool) -> Self {
        Self { bias, ..self }
    }

    pub fn dropout(self, p: f32) -> Self {
        let dropout = Some(Dropout {
            p,
            seed: 0x5EED_0000_0001_0203,
            offset: 0x0FF5_0000_0000_0007,
        });
        Self { dropout, ..self }
    }

    pub fn redrawn(self, redrawn: bool) -> Self {
        Self { redrawn, ..self }
    }

    pub fn transposed(self, transposed: bool) -> Self {
        Self { transposed, ..self }
    }

    pub fn input_gradient(self, input_gradient: bool) -> Self {
        Self {
            input_gradient,
            ..self
        }
    }

    pub fn inference(self) -> Self {
        Self {
            inference: true,
            ..self
        }
    }

    pub fn batch_invariant(self) -> Self {
        Self {
            batch_invariant: true,
            ..self
        }
    }

    pub fn delta_only(self) -> Self {
        let accumulate = vec![Role::Y, Role::DX];
        Self {
            delta_only: true,
            accumulate,
            ..self
        }
    }

    pub fn accumulate(self, tensors: &[Role]) -> Self {
        let accumulate = tensors.to_vec();
        Self { accumulate, ..self }
    }

    pub fn multiprocessors(self, multiprocessors: u32) -> Self {
        let multiprocessors = Some(multiprocessors);
        Self {
            multiprocessors,
            ..self
        }
    }

    pub fn placed(self, placement: Placement) -> Self {
        let all = Role::ALL.into_iter();
        all.fold(self, |case, tensor| case.with_placement(tensor, placement))
    }

    /// Places a tensor in every projection.
    pub fn with_placement(self, tensor: Role, placement: Placement) -> Self {
        let all = 0..self.projections.len();
        all.fold(self, |case, i| case.with_placement_of(i, tensor, placement))
    }

    pub fn with_placement_of(
        mut self,
        projection: usize,
        tensor: Role,
        placement: Placement,
    ) -> Self {
        self.projections[projection].placements[tensor as usize] = placement;
        self
    }

    pub fn placement_of(&self, projection: usize, tensor: Role) -> Placement {
        self.projections[projection].placements[tensor as usize]
    }

    /// The shape (rows, columns) of a tensor as stored.
    pub fn shape_of(&self, projection: usize, tensor: Role) -> (usize, usize) {
        let Sizes {
            out_features, rank, ..
        } = self.projections[projection];
        let (tokens, in_features) = (self.tokens, self.in_features);
        match tensor {
            Role::X | Role::DX => (tokens, in_features),
            Role::Weight | Role::Merged if self.transposed => (in_features, out_features),
            Role::Weight | Role::Merged => (out_features, in_features),
            Role::LoraA | Role::DLoraA => (rank, in_features),
            Role::LoraB | Role::DLoraB => (out_features, rank),
            Role::Y | Role::DY => (tokens, out_features),
            Role::Bias => (1, out_features),
        }
    }

    pub fn shape(&self, tensor: Role) -> (usize, usize) {
        self.shape_of(0, tensor)
    }

    /// The problem with adapters of type `A`.
    pub fn problem_with<T: Number, A: Number>(&self) -> Problem {
        let layout = if self.transposed {
            WeightLayout::InOut
        } else {
            WeightLayout::OutIn
        };
        let mask = if self.redrawn {
            Mask::Redrawn
        } else {
            Mask::Stored
        };
        let projections: Vec<_> = self.projections.iter().map(Sizes::projection).collect();
        let problem = Problem::sharing_x(self.tokens, self.in_features, &projections, T::DTYPE)
            .and_then(|problem| problem.with_adapter_dtype(A::DTYPE))
            .expect("sizes in range")
            .with_bias(self.bias)
            .with_dropout(self.dropout.is_some())
            .with_mask(mask)
            .with_weight_layout(layout)
            .with_input_gradient(self.input_gradient)
            .with_inference(self.inference)
            .with_batch_invariance(self.batch_invariant)
            .with_delta_only(self.delta_only);
        let problem = self.accumulate.iter().fold(problem, |problem, &tensor| {
            problem.with_accumulate(tensor, true).expect("an output")
        });
        (0..projections.len()).fold(problem, |problem, i| self.with_layouts::<T, A>(problem, i))
    }

    /// Sets the layouts. A new problem assumes dense tensors with no more alignment than each
    /// needs.
    fn with_layouts<T: Number, A: Number>(&self, problem: Problem, projection: usize) -> Problem {
        let exists = |tensor: &Role| match tensor {
            Role::X | Role::DX => projection == 0,
            Role::LoraA | Role::LoraB | Role::DLoraA | Role::DLoraB => {
                self.projections[projection].rank > 0
            }
            Role::Weight | Role::Y | Role::DY | Role::Bias => true,
            Role::Merged => false,
        };
        let placed = |tensor: &Role| self.placement_of(projection, *tensor) != Placement::Dense;
        let tensors = Role::ALL.into_iter().filter(exists).filter(placed);
        tensors.fold(problem, |problem, tensor| {
            let layout = self.layout_of::<T, A>(projection, tensor);
            let problem = problem.with_layout_of(projection, tensor, layout);
            problem.expect("a layout that problems take")
        })
    }

    fn layout_of<T: Number, A: Number>(&self, projection: usize, tensor: Role) -> Layout {
        let placement = self.placement_of(projection, tensor);
        let (rows, cols) = self.shape_of(projection, tensor);
        match tensor {
            Role::LoraA | Role::LoraB | Role::DLoraA | Role::DLoraB => {
                placement.layout::<A>(rows, cols)
            }
            _ => placement.layout::<T>(rows, cols),
        }
    }

    pub fn problem<T: Number>(&self) -> Problem {
        self.problem_with::<T, T>()
    }

    pub fn device(&self) -> DeviceProps {
        let props = *gpu().kernels.props();
        match self.multiprocessors {
            Some(multiprocessors) => props.with_multiprocessors(multiprocessors),
            None => props,
        }
    }

    pub fn forward_plan_with<T: Number, A: Number>(&self) -> ForwardPlan {
        ForwardPlan::new(&self.problem_with::<T, A>(), &self.device()).expect("a forward plan")
    }

    pub fn backward_plan_with<T: Number, A: Number>(&self) -> BackwardPlan {
        BackwardPlan::new(&self.problem_with::<T, A>(), &self.device()).expect("a backward plan")
    }

    pub fn forward_plan<T: Number>(&self) -> ForwardPlan {
        self.forward_plan_with::<T, T>()
    }

    pub fn backward_plan<T: Number>(&self) -> BackwardPlan {
        self.backward_plan_with::<T, T>()
    }

    /// Random numbers with this variance.
    pub(super) fn random<E: Number>(
        &self,
        projection: usize,
        tensor: Role,
        variance: f32,
    ) -> Placed<E> {
        let (rows, cols) = self.shape_of(projection, tensor);
        // A uniform number in [-m, m) has the variance m²/3.
        let magnitude = (3.0 * variance).sqrt();
        let seed = 0x10 + tensor as u64 + 0x100 * projection as u64;
        Placed::random(
            rows,
            cols,
            self.placement_of(projection, tensor),
            magnitude,
            seed,
        )
    }

    /// The initial contents of an output: numbers if the result is added, else NaN.
    pub(super) fn output<E: Number>(&self, projection: usize, tensor: Role) -> Placed<E> {
        if self.accumulate.contains(&tensor) {
            return self.random(projection, tensor, 1.0);
        }
        let (rows, cols) = self.shape_of(projection, tensor);
        Placed::poisoned(rows, cols, self.placement_of(projection, tensor))
    }
}

impl Sizes {
    fn projection(&self) -> Projection {
        let Sizes {
            out_features, rank, ..
        } = *self;
        Projection { out_features, rank }
    }
}
