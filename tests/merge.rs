//! Merging: the bits of the CPU reference in every layout, the report, and a weight left alone where it must be.

mod common;

use common::data::Placement::{self, AlignedView, Dense, Far, OddView};
use common::data::{Placed, poison};
use common::device::{Number, gpu};
use common::memory::{Guarded, Input, Output};
use half::bf16;
use lora_kernels::cudarc::driver::DevicePtr;
use lora_kernels::plan::{Operation, Variant};
use lora_kernels::raw::{MergeAdapterArgs, MergeArgs};
use lora_kernels::reference::{self, Adapter, Merged};
use lora_kernels::{
    DType, Error, Layout, Lora, MatRef, Merge, MergePlan, MergeProblem, MergeReport, MergeWeight, Tensor, WeightLayout,
};

/// Adapters that are merged into one weight, somewhere in memory.
#[derive(Debug, Clone)]
struct Case {
    out_features: usize,
    in_features: usize,
    /// Rank and scaling of each adapter.
    adapters: Vec<(usize, f32)>,
    layout: WeightLayout,
    placement: Placement,
}

impl Case {
    fn new(out_features: usize, in_features: usize, adapters: &[(usize, f32)]) -> Self {
        Self {
            out_features,
            in_features,
            adapters: adapters.to_vec(),
            layout: WeightLayout::OutIn,
            placement: Dense,
        }
    }

    fn transposed(mut self) -> Self {
        self.layout = WeightLayout::InOut;
        self
    }

    fn placed(mut self, placement: Placement) -> Self {
        self.placement = placement;
        self
    }

    fn problem<T: Number, A: Number>(&self) -> MergeProblem {
        let ranks: Vec<usize> = self.adapters.iter().map(|&(rank, _)| rank).collect();
        let problem = MergeProblem::new(self.out_features, self.in_features, &ranks, T::DTYPE).unwrap();
        let problem = problem
            .with_adapter_dtype(A::DTYPE)
            .unwrap()
            .with_weight_layout(self.layout);
        let (rows, columns) = problem.shape(Tensor::Weight);
        let layout = self.placement.layout::<T>(rows, columns);
        let mut problem = problem.with_layout(Tensor::Weight, layout).unwrap();
        for index in 0..ranks.len() {
            for tensor in [Tensor::LoraA, Tensor::LoraB] {
                let (rows, columns) = problem.adapter_shape(index, tensor);
                let layout = self.placement.layout::<A>(rows, columns);
                problem = problem.with_adapter_layout(index, tensor, layout).unwrap();
            }
        }
        problem
    }
}

struct Tensors<T, A> {
    case: Case,
    problem: MergeProblem,
    weight: Placed<T>,
    adapters: Vec<(Placed<A>, Placed<A>, f32)>,
}

impl<T: Number, A: Number> Tensors<T, A> {
    fn random(case: &Case) -> Self {
        let problem = case.problem::<T, A>();
        let (rows, columns) = problem.shape(Tensor::Weight);
        let adapters = case.adapters.iter().enumerate().map(|(index, &(_, scaling))| {
            let matrix = |tensor, magnitude, seed| {
                let (rows, columns) = problem.adapter_shape(index, tensor);
                Placed::random(rows, columns, case.placement, magnitude, seed + index as u64)
            };
            (matrix(Tensor::LoraA, 0.5, 20), matrix(Tensor::LoraB, 0.02, 40), scaling)
        });
        Self {
            adapters: adapters.collect(),
            weight: Placed::random(rows, columns, case.placement, 1.0, 1),
            case: case.clone(),
            problem,
        }
    }

    fn expected(&self) -> Merged<T> {
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

    /// The weight afterwards, and the report where there is one.
    fn run(&self, problem: &MergeProblem, in_place: bool) -> (Placed<T>, Option<MergeReport>) {
        let (stream, kernels) = (&gpu().stream, &gpu().kernels);
        let plan = MergePlan::new(problem, kernels.props()).expect("a plan");
        let inputs: Vec<_> = self
            .adapters
            .iter()
            .map(|(a, b, _)| (Input::new(a), Input::new(b)))
            .collect();
        let adapters = inputs.iter().zip(&self.adapters).map(|((a, b), (_, _, scaling))| Lora {
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
            workspace: workspace.view_mut(),
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

fn cases() -> Vec<Case> {
    let mut cases = vec![
        Case::new(64, 128, &[(16, 2.0)]),
        Case::new(65, 129, &[(3, 0.25)]),
        Case::new(1, 1, &[(1, -3.0)]),
        Case::new(1, 300, &[(8, 2.0)]),
        Case::new(130, 72, &[(17, 1.5)]).placed(AlignedView),
        Case::new(51, 71, &[(33, 0.5), (1, -2.0), (8, 4.0)]).placed(OddView),
        Case::new(40, 136, &[(16, 1.0), (64, -0.125)]).placed(AlignedView),
        Case::new(200, 24, &[(5, 0.7); 8]),
    ];
    cases.extend(cases.clone().into_iter().map(Case::transposed));
    cases
}

fn gives_the_bits_of<T: Number, A: Number>() {
    for case in cases() {
        let tensors = Tensors::<T, A>::random(&case);
        let expected = tensors.expected();
        for in_place in [true, false] {
            for problem in [
                tensors.problem.clone(),
                tensors.problem.clone().with_report(true),
                tensors.problem.clone().with_safe(true),
            ] {
                let (merged, report) = tensors.run(&problem, in_place);
                let same =
                    bytemuck::cast_slice::<T, u8>(&merged.rows()) == bytemuck::cast_slice::<T, u8>(&expected.weight);
                assert!(same, "{case:?}, in place {in_place}, {problem}");
                assert_eq!(report.is_some(), problem.has_report());
                if let Some(report) = report {
                    assert_reports_agree(&report, &expected.report, &case);
                }
            }
        }
    }
}

/// The counts are equal, the sums in another order.
fn assert_reports_agree(given: &MergeReport, expected: &MergeReport, case: &Case) {
    let counts = |report: &MergeReport| (report.elements, report.nonzero, report.unchanged, report.non_finite);
    assert_eq!(counts(given), counts(expected), "{case:?}");
    for (name, given, expected) in [
        ("delta", given.delta_squares, expected.delta_squares),
        ("error", given.error_squares, expected.error_squares),
    ] {
        let close = (given - expected).abs() <= 1e-12 * expected;
        assert!(close, "Σ {name}²: {given:e} for {expected:e}, {case:?}");
    }
}

/// Adapters in the weight's type, and in f32.
fn merges<T: Number>() {
    gives_the_bits_of::<T, T>();
    if T::DTYPE != DType::F32 {
        gives_the_bits_of::<T, f32>();
    }
}

/// The reference itself, against a sum in f64: rounded once, and the sum in f32 off by no more than its terms allow.
fn the_reference_is_right<T: Number>() {
    for case in cases() {
        let tensors = Tensors::<T, f32>::random(&case);
        let merged = tensors.expected().weight;
        let precision = reference::Precision::of(T::DTYPE);
        for (index, merged) in merged.iter().enumerate() {
            let (row, column) = (index / tensors.weight.cols, index % tensors.weight.cols);
            let (n, k) = match case.layout {
                WeightLayout::OutIn => (row, column),
                WeightLayout::InOut => (column, row),
            };
            let (mut sum, mut magnitude, mut terms) = (tensors.weight.view().at(row, column), 0.0, 2.0);
            magnitude += f64::abs(sum);
            for (a, b, scaling) in &tensors.adapters {
                for rank in 0..a.rows {
                    let product = f64::from(*scaling) * b.view().at(n, rank) * a.view().at(rank, k);
                    sum += product;
                    magnitude += product.abs();
                }
                terms += a.rows as f64 + 1.0;
            }
            let error = 1.5 * terms * magnitude / f64::from(1 << 24);
            let bound = error + precision.rounding_error(sum.abs() + error);
            let off = (merged.to_f64() - sum).abs();
            assert!(
                off <= bound,
                "({row}, {column}) is {merged:?} for {sum:e} ± {bound:e}: {case:?}"
            );
        }
    }
}

/// A weight whose merged elements would not all be finite: one overflow in f16 and f32, one NaN that was there before.
fn a_safe_merge_leaves_the_weight_alone<T: Number>() {
    let case = Case::new(70, 150, &[(4, 2.0)]);
    for element in [Some(f64::NAN), None] {
        let mut tensors = Tensors::<T, f32>::random(&case);
        match element {
            Some(value) => {
                tensors.weight = tensors
                    .weight
                    .map(|row, col, old| if (row, col) == (69, 149) { value } else { old })
            }
            None => {
                let (_, b, _) = &mut tensors.adapters[0];
                *b = b.map(|row, _, old| if row == 33 { 3e38 } else { old });
            }
        }
        for in_place in [true, false] {
            let (left, report) = tensors.run(&tensors.problem.clone().with_safe(true), in_place);
            let report = report.expect("a safe merge reports");
            assert!(report.non_finite >= 1, "{report:?}");
            let untouched = if in_place {
                tensors.weight.rows()
            } else {
                vec![poison::<T>(); left.rows * left.cols]
            };
            assert!(
                bytemuck::cast_slice::<T, u8>(&left.rows()) == bytemuck::cast_slice::<T, u8>(&untouched),
                "in place {in_place}"
            );

            let (written, report) = tensors.run(&tensors.problem.clone().with_report(true), in_place);
            assert_eq!(
                report.map(|report| report.non_finite),
                Some(tensors.expected().report.non_finite)
            );
            let expected = tensors.expected().weight;
            let alike = |(given, expected): (&T, &T)| {
                given.to_f64() == expected.to_f64() || (given.to_f64().is_nan() && expected.to_f64().is_nan())
            };
            assert!(
                written.rows().iter().zip(&expected).all(alike),
                "an unsafe merge writes what it must"
            );
        }
    }
}

/// bf16 keeps 8 bits: a small delta vanishes in most elements, which is what the report is for. f32 keeps it.
fn the_report_tells_what_storage_loses<T: Number>() {
    let case = Case::new(96, 200, &[(8, 0.01)]);
    let tensors = Tensors::<T, f32>::random(&case);
    let (_, report) = tensors.run(&tensors.problem.clone().with_report(true), false);
    let report = report.expect("a report");
    let (share, error) = (report.unchanged_share(), report.relative_error());
    match T::DTYPE {
        DType::BF16 => assert!(share > 0.5 && error > 0.5, "{share} {error}"),
        DType::F16 => assert!(share > 0.05 && share < 0.9 && error > 0.05, "{share} {error}"),
        DType::F32 => assert!(share < 1e-3 && error < 1e-3, "{share} {error}"),
    }
}

/// Deltas whose squares f32 doesn't hold: ones that a weight of 1 hides, and ones that hide the weight.
fn the_report_reaches_as_far_as_deltas_do<T: Number>() {
    for (scaling, is_lost) in [(1e-25, true), (1e25, false)] {
        let case = Case::new(20, 30, &[(4, scaling)]);
        let mut tensors = Tensors::<T, f32>::random(&case);
        tensors.weight = tensors.weight.map(|_, _, old| 1.0 + old.abs());
        let (_, report) = tensors.run(&tensors.problem.clone().with_report(true), false);
        let report = report.expect("a report");
        assert_reports_agree(&report, &tensors.expected().report, &case);
        if T::DTYPE == DType::F16 && !is_lost {
            assert_eq!(report.non_finite, report.elements, "f16 ends at 65504: {report:?}");
            continue;
        }
        let error = report.relative_error();
        assert_eq!(report.unchanged_share(), if is_lost { 1.0 } else { 0.0 }, "{report:?}");
        assert!(if is_lost { error == 1.0 } else { error < 0.01 }, "{error}");
    }
}

/// Taking an adapter out again: exact to the roundings of two merges.
fn unmerging_comes_back_to_within_two_roundings<T: Number>() {
    let case = Case::new(100, 60, &[(8, 2.0)]);
    let mut tensors = Tensors::<T, f32>::random(&case);
    let before = tensors.weight.clone();
    (tensors.weight, _) = tensors.run(&tensors.problem, true);
    assert!(tensors.weight.rows() != before.rows(), "merging changed nothing");
    tensors.adapters[0].2 = -2.0;
    let (after, _) = tensors.run(&tensors.problem, true);
    let precision = reference::Precision::of(T::DTYPE);
    for (after, before) in after.rows().iter().zip(before.rows()) {
        let bound = 2.0 * precision.rounding_error(1.5);
        assert!(
            (after.to_f64() - before.to_f64()).abs() <= bound,
            "{after:?} for {before:?}"
        );
    }
}

for_each_dtype!(
    merges,
    the_reference_is_right,
    a_safe_merge_leaves_the_weight_alone,
    the_report_tells_what_storage_loses,
    the_report_reaches_as_far_as_deltas_do,
    unmerging_comes_back_to_within_two_roundings,
);

#[test]
fn the_cases_launch_every_kernel_of_a_merge() {
    fn launched<T: Number>() -> Vec<Variant> {
        let problems = cases().into_iter().map(|case| case.problem::<T, T>().with_report(true));
        let plans = problems.map(|problem| MergePlan::new(&problem, gpu().kernels.props()).expect("a plan"));
        plans
            .flat_map(|plan| plan.launches().to_vec())
            .map(|launch| launch.variant)
            .collect()
    }
    let launched = [launched::<bf16>(), launched::<half::f16>(), launched::<f32>()].concat();
    for variant in Variant::all().filter(|variant| variant.operation == Operation::Merge) {
        assert!(launched.contains(&variant), "no case launches {variant}");
    }
}

/// Rows of all matrices so far apart that the last begins beyond 2³² elements.
#[test]
fn rows_may_lie_far_apart() {
    for case in [
        Case::new(3, 130, &[(2, 0.5)]),
        Case::new(130, 3, &[(2, 0.5)]).transposed(),
    ] {
        let tensors = Tensors::<bf16, bf16>::random(&case.placed(Far));
        let (merged, _) = tensors.run(&tensors.problem, true);
        assert!(merged.rows() == tensors.expected().weight, "{:?}", tensors.case);
    }
}

#[test]
fn problems_that_are_none_are_refused() {
    let new = |ranks: &[usize]| MergeProblem::new(8, 8, ranks, DType::F16);
    let message = |result: Result<MergeProblem, Error>| result.expect_err("refused").to_string();
    assert!(message(new(&[])).starts_with("0 adapters: there must be between 1 and 8"));
    assert!(message(new(&[1; 9])).starts_with("9 adapters"));
    assert!(message(new(&[4, 0])).contains("rank is 0"));
    assert!(message(MergeProblem::new(0, 8, &[1], DType::F16)).contains("out_features is 0"));
    assert!(message(new(&[4]).unwrap().with_adapter_dtype(DType::BF16)).contains("bf16"));
    let layout = Layout {
        row_stride: 7,
        alignment: 2,
    };
    assert!(message(new(&[4]).unwrap().with_layout(Tensor::Weight, layout)).contains("row stride of 7"));
    let layout = Layout {
        row_stride: 8,
        alignment: 16,
    };
    assert!(message(new(&[4]).unwrap().with_layout(Tensor::X, layout)).contains("x has no part in a merge"));
    let refused = new(&[4]).unwrap().with_adapter_layout(1, Tensor::LoraA, layout);
    assert!(message(refused).contains("adapter 1: the problem has 1"));
}

#[test]
fn calls_that_disagree_with_their_plan_are_refused_and_write_nothing() {
    let (stream, kernels) = (&gpu().stream, &gpu().kernels);
    let problem = MergeProblem::new(16, 24, &[2], DType::F32).unwrap().with_safe(true);
    let plan = MergePlan::new(&problem, kernels.props()).unwrap();
    let ones = |elements: usize| stream.clone_htod(&vec![1f32; elements]).unwrap();
    let (mut weight, a, b) = (ones(16 * 24), ones(2 * 24), ones(2 * 16));
    let mut bytes = stream.alloc_zeros::<u8>(plan.workspace_bytes()).unwrap();
    let mut report = stream.alloc_zeros::<u8>(MergeReport::BYTES).unwrap();
    let lora = |scaling| Lora {
        a: MatRef::new(a.as_view(), 2, 24),
        b: MatRef::new(b.as_view(), 16, 2),
        scaling,
    };

    let mut refused = |adapters, reports: bool, wrong_shape: bool, expected: &str| {
        let matrix = |view| lora_kernels::MatMut::new(view, 16, if wrong_shape { 12 } else { 24 });
        let args = Merge {
            weight: MergeWeight::InPlace(matrix(weight.as_view_mut())),
            adapters,
            report: reports.then(|| report.as_view_mut()),
            workspace: bytes.as_view_mut(),
        };
        let message = kernels.merge(stream, &plan, args).expect_err("refused").to_string();
        assert!(message.contains(expected), "{message}");
    };
    refused(vec![], true, false, "0 adapters were given, the plan was made for 1");
    refused(vec![lora(1.0)], false, false, "report was not given");
    refused(vec![lora(f32::NAN)], true, false, "scaling NaN");
    refused(
        vec![lora(1.0)],
        true,
        true,
        "weight is 16 x 12, the plan's problem has 16 x 24",
    );
    let other = Lora {
        a: MatRef::new(b.as_view(), 2, 16),
        b: MatRef::new(b.as_view(), 16, 2),
        scaling: 1.0,
    };
    refused(vec![other], true, false, "lora_A of adapter 0 is 2 x 16");

    let pointer = |slice: &lora_kernels::cudarc::driver::CudaSlice<f32>| slice.device_ptr(stream).0;
    let adapters = [MergeAdapterArgs {
        lora_a: pointer(&a),
        lora_b: pointer(&b),
        scaling: 1.0,
    }];
    let workspace = bytes.device_ptr(stream).0;
    let args = MergeArgs {
        weight: pointer(&weight),
        adapters: &adapters,
        merged: 0,
        report: 0,
        workspace,
    };
    for (args, expected) in [
        (args, "merged is a null pointer"),
        (
            MergeArgs {
                merged: args.weight + 4,
                ..args
            },
            "merged starts at an address that is a multiple of 4 bytes only",
        ),
        (
            MergeArgs {
                merged: args.weight,
                ..args
            },
            "report was not given",
        ),
        (
            MergeArgs {
                merged: args.weight,
                report: workspace + 8,
                ..args
            },
            "report buffer starts at",
        ),
        (
            MergeArgs {
                merged: args.weight,
                report: workspace,
                workspace: 0,
                ..args
            },
            "workspace is a null pointer",
        ),
    ] {
        // SAFETY: every call is refused before a pointer is used.
        let message = unsafe { kernels.merge_raw(&plan, &args, stream.cu_stream()) }
            .expect_err("refused")
            .to_string();
        assert!(message.contains(expected), "{message}");
    }
    assert_eq!(stream.clone_dtoh(&weight).unwrap(), vec![1.0; 16 * 24]);
}

#[test]
fn a_plan_says_what_runs_and_why() {
    let device = lora_kernels::DeviceProps::new((9, 0), 132, 227 << 10, 228 << 10, 50 << 20);
    let problem = MergeProblem::new(4096, 14336, &[16, 64], DType::BF16)
        .unwrap()
        .with_adapter_dtype(DType::F32)
        .unwrap();
    let plan = MergePlan::new(&problem.with_safe(true), &device).unwrap();
    insta::assert_snapshot!(plan.to_string());
    let odd = MergeProblem::new(3, 5, &[1], DType::F16)
        .unwrap()
        .with_weight_layout(WeightLayout::InOut);
    insta::assert_snapshot!(MergePlan::new(&odd, &device).unwrap().to_string());
}
