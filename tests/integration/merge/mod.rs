//! Merging gives the bits of the CPU reference in every layout, a correct report, and an unchanged
//! weight if a safe merge refuses.

mod case;
mod refusals;

use crate::common::data::Placement::Far;
use crate::common::data::poison;
use crate::common::device::{Number, gpu};
use crate::common::memory::Input;
use crate::common::short_path::{lora_linear, read};
use case::{MergeCase, Tensors, cases};
use half::bf16;
use lora_kernels::plan::{Operation, Variant};
use lora_kernels::{DType, Lora, MergePlan, MergeReport, WeightLayout, reference};

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
                let same = bytemuck::cast_slice::<T, u8>(&merged.rows())
                    == bytemuck::cast_slice::<T, u8>(&expected.weight);
                assert!(same, "{case:?}, in place {in_place}, {problem}");
                assert_eq!(report.is_some(), problem.has_report());
                if let Some(report) = report {
                    assert_reports_agree(&report, &expected.report, &case);
                }
            }
        }
    }
}

/// Counts must be equal; sums may differ by the order of their terms.
fn assert_reports_agree(given: &MergeReport, expected: &MergeReport, case: &MergeCase) {
    let counts = |report: &MergeReport| {
        (
            report.elements,
            report.nonzero,
            report.unchanged,
            report.non_finite,
        )
    };
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

/// Compares the reference with a sum in f64: it differs by one rounding and by the error bound of
/// its f32 sum.
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
            let (mut sum, mut magnitude, mut terms) =
                (tensors.weight.view().at(row, column), 0.0, 2.0);
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

/// Weights whose merged elements are not all finite: an overflow in f16 and f32, and a NaN in the
/// weight itself.
fn a_safe_merge_leaves_the_weight_alone<T: Number>() {
    let case = MergeCase::new(70, 150, &[(4, 2.0)]);
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
                bytemuck::cast_slice::<T, u8>(&left.rows())
                    == bytemuck::cast_slice::<T, u8>(&untouched),
                "in place {in_place}"
            );

            let (written, report) =
                tensors.run(&tensors.problem.clone().with_report(true), in_place);
            assert_eq!(
                report.map(|report| report.non_finite),
                Some(tensors.expected().report.non_finite)
            );
            let expected = tensors.expected().weight;
            let alike = |(given, expected): (&T, &T)| {
                given.to_f64() == expected.to_f64()
                    || (given.to_f64().is_nan() && expected.to_f64().is_nan())
            };
            assert!(
                written.rows().iter().zip(&expected).all(alike),
                "an unsafe merge writes what it must"
            );
        }
    }
}

/// bf16 keeps 8 bits, so a small delta is lost in most elements, which the report shows. f32 keeps
/// it.
fn the_report_tells_what_storage_loses<T: Number>() {
    let case = MergeCase::new(96, 200, &[(8, 0.01)]);
    let tensors = Tensors::<T, f32>::random(&case);
    let (_, report) = tensors.run(&tensors.problem.clone().with_report(true), false);
    let report = report.expect("a report");
    let (share, error) = (report.unchanged_share(), report.relative_error());
    match T::DTYPE {
        DType::BF16 => assert!(share > 0.5 && error > 0.5, "{share} {error}"),
        DType::F16 => assert!(
            share > 0.05 && share < 0.9 && error > 0.05,
            "{share} {error}"
        ),
        DType::F32 => assert!(share < 1e-3 && error < 1e-3, "{share} {error}"),
    }
}

/// Deltas whose squares are outside of f32's range: some vanish beside a weight of 1, some dwarf
/// it.
fn the_report_reaches_as_far_as_deltas_do<T: Number>() {
    for (scaling, is_lost) in [(1e-25, true), (1e25, false)] {
        let case = MergeCase::new(20, 30, &[(4, scaling)]);
        let mut tensors = Tensors::<T, f32>::random(&case);
        tensors.weight = tensors.weight.map(|_, _, old| 1.0 + old.abs());
        let (_, report) = tensors.run(&tensors.problem.clone().with_report(true), false);
        let report = report.expect("a report");
        assert_reports_agree(&report, &tensors.expected().report, &case);
        if T::DTYPE == DType::F16 && !is_lost {
            assert_eq!(
                report.non_finite, report.elements,
                "f16 ends at 65504: {report:?}"
            );
            continue;
        }
        let error = report.relative_error();
        assert_eq!(
            report.unchanged_share(),
            if is_lost { 1.0 } else { 0.0 },
            "{report:?}"
        );
        assert!(if is_lost { error == 1.0 } else { error < 0.01 }, "{error}");
    }
}

/// Unmerging gives the weight back up to the roundings of two merges.
fn unmerging_comes_back_to_within_two_roundings<T: Number>() {
    let case = MergeCase::new(100, 60, &[(8, 2.0)]);
    let mut tensors = Tensors::<T, f32>::random(&case);
    let before = tensors.weight.clone();
    (tensors.weight, _) = tensors.run(&tensors.problem, true);
    assert!(
        tensors.weight.rows() != before.rows(),
        "merging changed nothing"
    );
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
    the_short_path_merges
);

#[test]
fn the_cases_launch_every_kernel_of_a_merge() {
    fn launched<T: Number>() -> Vec<Variant> {
        let problems = cases()
            .into_iter()
            .map(|case| case.problem::<T, T>().with_report(true));
        let plans = problems
            .map(|problem| MergePlan::new(&problem, gpu().kernels.props()).expect("a plan"));
        plans
            .flat_map(|plan| plan.launches().to_vec())
            .map(|launch| launch.variant)
            .collect()
    }
    let launched = [
        launched::<bf16>(),
        launched::<half::f16>(),
        launched::<f32>(),
    ]
    .concat();
    for variant in Variant::all().filter(|variant| variant.operation == Operation::Merge) {
        assert!(launched.contains(&variant), "no case launches {variant}");
    }
}

/// The rows of all matrices are so far apart that the last begins beyond 2³² elements.
#[test]
fn rows_may_lie_far_apart() {
    for case in [
        MergeCase::new(3, 130, &[(2, 0.5)]),
        MergeCase::new(130, 3, &[(2, 0.5)]).transposed(),
    ] {
        let tensors = Tensors::<bf16, bf16>::random(&case.placed(Far));
        let (merged, _) = tensors.run(&tensors.problem, true);
        assert!(
            merged.rows() == tensors.expected().weight,
            "{:?}",
            tensors.case
        );
    }
}

/// `LoraLinear::merge` gives the bits of the reference too, in memory of its own.
fn the_short_path_merges<T: Number>() {
    let short = lora_linear();
    for case in cases() {
        let tensors = Tensors::<T, f32>::random(&case);
        let expected = tensors.expected();
        let weight = Input::new(&tensors.weight);
        let inputs = tensors.adapters.iter();
        let inputs: Vec<_> = inputs
            .map(|(a, b, scaling)| (Input::new(a), Input::new(b), *scaling))
            .collect();
        let adapters = inputs.iter().map(|(a, b, scaling)| Lora {
            a: a.matrix(),
            b: b.matrix(),
            scaling: *scaling,
        });
        let adapters: Vec<_> = adapters.collect();
        let merged = short.merge(&weight.matrix(), &adapters, case.layout);
        let merged = read(&merged.expect("a merge runs"));
        let (reported, report) = short
            .merge_with_report(&weight.matrix(), &adapters, case.layout)
            .expect("a merge runs");
        for merged in [merged, read(&reported)] {
            let same = bytemuck::cast_slice::<T, u8>(&merged)
                == bytemuck::cast_slice::<T, u8>(&expected.weight);
            assert!(same, "{case:?}");
        }
        assert_reports_agree(&report, &expected.report, &case);
    }
}

#[test]
fn the_short_path_refuses_adapters_of_another_weight() {
    let tensors = Tensors::<bf16, bf16>::random(&MergeCase::new(24, 40, &[(3, 1.0)]));
    let weight = Input::new(&tensors.weight);
    let (a, b, _) = &tensors.adapters[0];
    let (a, b) = (Input::new(a), Input::new(b));
    let lora = Lora {
        a: a.matrix(),
        b: b.matrix(),
        scaling: 1.0,
    };
    let short = lora_linear();
    let transposed = short.merge(
        &weight.matrix(),
        std::slice::from_ref(&lora),
        WeightLayout::InOut,
    );
    let text = transposed.expect_err("refused").to_string();
    assert!(
        text.contains("lora_A of adapter 0 is 3 x 40, it must be 3 x 24"),
        "{text}"
    );
    let swapped = Lora {
        b: a.matrix(),
        ..lora
    };
    let text = short
        .merge(&weight.matrix(), &[swapped], WeightLayout::OutIn)
        .err();
    let text = text.expect("refused").to_string();
    assert!(
        text.contains("lora_B of adapter 0 is 3 x 40, it must be 24 x 3"),
        "{text}"
    );
}
