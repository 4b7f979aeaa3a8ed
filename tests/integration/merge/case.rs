//! A merge to test: a weight, its adapters, and their placements in memory.

use lora_kernels::reference::{self, Adapter, Merged};
use lora_kernels::{
    Lora, Merge, MergePlan, MergeProblem, MergeReport, MergeWeight, Role, WeightLayout,
};

use crate::common::data::Placement::{self, AlignedView, Dense, OddView};
use crate::common::data::{Placed, poison};
use crate::common::device::{Number, gpu};
use crate::common::memory::{Guarded, Input, Output};

/// A weight and the adapters that are merged into it, with their placements.
#[derive(Debug, Clone)]
pub struct MergeCase {
    out_features: usize,
    in_features: usize,
    /// (rank, scaling) of each adapter.
    adapters: Vec<(usize, f32)>,
    pub layout: WeightLayout,
    pub placement: Placement,
}

impl MergeCase {
    pub fn new(out_features: usize, in_features: usize, adapters: &[(usize, f32)]) -> Self {
        Self {
            out_features,
            in_features,
            adapters: adapters.to_vec(),
            layout: WeightLayout::OutIn,
            placement: Dense,
        }
    }

    pub fn transposed(mut self) -> Self {
        self.layout = WeightLayout::InOut;
        self
    }

    pub fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    pub fn problem<T: Number, A: Number>(&self) -> MergeProblem {
        let ranks: Vec<usize> = self.adapters.iter().map(|&(rank, _)| rank).collect();
        let problem =
            MergeProblem::new(self.out_features, self.in_features, &ranks, T::DTYPE).unwrap();
        let problem = problem
            .with_adapter_dtype(A::DTYPE)
            .unwrap()
            .with_weight_layout(self.layout);
        let (rows, columns) = problem.shape(Role::Weight);
        let layout = self.placement.layout::<T>(rows, columns);
        let mut problem = problem.with_layout(Role::Weight, layout).unwrap();
        for index in 0..ranks.len() {
            for tensor in [Role::LoraA, Role::LoraB] {
                let (rows, columns) = problem.adapter_shape(index, tensor);
                let layout = self.placement.layout::<A>(rows, columns);
                problem = problem.with_adapter_layout(index, tensor, layout).unwrap();
            }
        }
        problem
    }
}

pub struct Tensors<T, A> {
    pub case: MergeCase,
    pub problem: MergeProblem,
    pub weight: Placed<T>,
    pub adapters: Vec<(Placed<A>, Placed<A>, f32)>,
}

impl<T: Number, A: Number> Tensors<T, A> {
    pub fn random(case: &MergeCase) -> Self {
        let problem = case.problem::<T, A>();
        let (rows, columns) = problem.shape(Role::Weight);
        let adapters = case
            .adapters
            .iter()
            .enumerate()
            .map(|(index, &(_, scaling))| {
                let matrix = |tensor, magnitude, seed| {
                    let (rows, columns) = problem.adapter_shape(index, tensor);
                    Placed::random(
                        rows,
                        columns,
                        case.placement,
                        magnitude,
                        seed + index as u64,
                    )
                };
                (
                    matrix(Role::LoraA, 0.5, 20),
                    matrix(Role::LoraB, 0.02, 40),
                    scaling,
                )
            });
        Self {
            adapters: adapters.collect(),
            weight: Placed::random(rows, columns, case.placement, 1.0, 1),
            case: case.clone(),
            problem,
        }
    }

    pub fn expected(&self) -> Merged<T> {
        let adapters: Vec<Adapter<'_, A>> = self
            .adapters
            .iter()
            .map(|(a, b, scaling)| Adapter {
                a: a.view(),
                b: b.view(),
                scaling: *scaling,
            })
            .collect();
        reference::merge(self.weight.view(), self.case.layout, &adapters).expect("shapes fit")
    }

    /// Runs the merge and returns the weight and, if the problem asks for it, the report.
    pub fn run(&self, problem: &MergeProblem, in_place: bool) -> (Placed<T>, Option<MergeReport>) {
        let (stream, kernels) = (&gpu().stream, &gpu().kernels);
        let plan = MergePlan::new(problem, kernels.props()).expect("a plan");
        let inputs: Vec<_> = self
            .adapters
            .iter()
            .map(|(a, b, _)| (Input::new(a), Input::new(b)))
            .collect();
        let adapters = inputs
            .iter()
            .zip(&self.adapters)
            .map(|((a, b), (_, _, scaling))| Lora {
                a: a.matrix(),
                b: b.matrix(),
                scaling: *scaling,
            });
        let mut report = Guarded::new(MergeReport::BYTES);
        let mut workspace = Guarded::new(plan.workspace_bytes());
        let base = Input::new(&self.weight);
        let poisoned = Placed::from_rows(
            &vec![poison::<T>(); self.weight.rows * self.weight.cols],
            self.weight.rows,
            self.weight.cols,
            self.case.placement,
        );
        let mut merged = Output::new(if in_place { &self.weight } else { &poisoned });
        let weight = if in_place {
            MergeWeight::InPlace(merged.matrix())
        } else {
            MergeWeight::Apart {
                weight: base.matrix(),
                merged: merged.matrix(),
            }
        };
        let args = Merge {
            weight,
            adapters: adapters.collect(),
            report: problem.has_report().then(|| report.view_mut()),
            workspace: Some(workspace.view_mut()),
        };
        kernels
            .merge(stream, &plan, args)
            .unwrap_or_else(|error| panic!("{error}: {:?}", self.case));
        workspace.read_back("workspace");
        let report = problem.has_report().then(|| report.read_back("report"));
        let report = report.map(|bytes| MergeReport::from_bytes(&bytes).expect("a report's bytes"));
        (merged.read_back("merged"), report)
    }
}

pub fn cases() -> Vec<MergeCase> {
    let mut cases = vec![
        MergeCase::new(64, 128, &[(16, 2.0)]),
        MergeCase::new(65, 129, &[(3, 0.25)]),
        MergeCase::new(1, 1, &[(1, -3.0)]),
        MergeCase::new(1, 300, &[(8, 2.0)]),
        MergeCase::new(130, 72, &[(17, 1.5)]).placed(AlignedView),
        MergeCase::new(51, 71, &[(33, 0.5), (1, -2.0), (8, 4.0)]).placed(OddView),
        MergeCase::new(40, 136, &[(16, 1.0), (64, -0.125)]).placed(AlignedView),
        MergeCase::new(200, 24, &[(5, 0.7); 8]),
    ];
    cases.extend(cases.clone().into_iter().map(MergeCase::transposed));
    cases
}
