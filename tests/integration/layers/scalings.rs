//! Scalings and infinities: a result is finite wherever it is in PEFT's order, which takes
//! drop(x)·Aᵀ in the tensors' type, then ·Bᵀ, then the scaling.

use crate::common::data::Placed;
use crate::common::data::Placement::OddView;
use crate::common::device::Number;
use crate::common::layer::{LayerCase, TestLayer};

const SCALINGS: [f32; 3] = [64.0, 1000.0, -0.37];

/// Ranks that are no multiple of 16, alone and side by side.
fn cases() -> Vec<LayerCase> {
    let alone = LayerCase::new(37, 64, 56, 3);
    let several = LayerCase::sharing_x(70, 64, &[(56, 3), (40, 0), (136, 24), (8, 17)]);
    let cases = [
        alone.clone().dropout(0.5),
        alone.transposed(true).placed(OddView),
        several.clone(),
        several.multiprocessors(1000),
    ];
    let scaled = |(case, scaling): (&LayerCase, f32)| {
        let mut case = case.clone();
        for projection in &mut case.projections {
            projection.scaling = scaling;
        }
        case
    };
    let all = SCALINGS.map(|scaling| cases.iter().map(move |case| scaled((case, scaling))));
    all.into_iter().flatten().collect()
}

/// One scaling for each projection, and one adapter that a scaling of 0 turns off.
fn with_different_scalings() -> LayerCase {
    let mut case = LayerCase::sharing_x(70, 64, &[(56, 3), (40, 16), (136, 24), (8, 17)]);
    for (projection, scaling) in case.projections.iter_mut().zip([64.0, 0.0, -0.37, 1000.0]) {
        projection.scaling = scaling;
    }
    case
}

fn agree_with_the_reference<T: Number>() {
    for case in cases().into_iter().chain([with_different_scalings()]) {
        TestLayer::<T>::random(&case).check();
    }
}

/// x and lora_A whose product is `s` everywhere, and a lora_B that makes the adapter's part of y
/// about `y`.
fn with_large_s<T: Number>(case: &LayerCase, s: f64, y: f64) -> TestLayer<T> {
    let mut layer = TestLayer::<T>::random(case);
    layer.x = layer.x.map(|_, _, _| 16.0);
    let a = s / 16.0 / case.in_features as f64;
    for (projection, sizes) in layer.projections.iter_mut().zip(&case.projections) {
        let b = y / s / f64::from(sizes.scaling) / sizes.rank.max(1) as f64;
        if let Some(lora) = &mut projection.lora {
            lora.a = lora.a.map(|_, _, _| a);
            lora.b = lora.b.map(|row, _, _| if row % 2 == 0 { b } else { -b });
        }
        projection.dy = projection.dy.map(|_, _, dy| dy / 4096.0);
    }
    layer
}

/// scaling·S is beyond the largest f16 in all of them but the last scaling's.
fn a_large_s_stays_finite<T: Number>() {
    for case in cases().into_iter().filter(|case| case.dropout.is_none()) {
        for s in [1024.0, 61440.0] {
            let layer = with_large_s::<T>(&case, s, 100.0);
            let (forward, backward) = layer.check();
            let y = forward.y.iter().flat_map(Placed::rows);
            assert!(y.into_iter().all(|y| y.to_f64().is_finite()), "y: {case:?}");
            let dx = backward.dx().rows();
            assert!(dx.iter().all(|dx| dx.to_f64().is_finite()), "dx: {case:?}");
            for gradients in backward.gradients.iter().flatten() {
                let all = [gradients.a.rows(), gradients.b.rows()].concat();
                assert!(
                    all.iter().all(|d| d.to_f64().is_finite()),
                    "gradients: {case:?}"
                );
            }
        }
    }
}

/// The adapter of a model before its first step: y is the base product's, whatever S is.
fn a_zero_lora_b_changes_nothing<T: Number>() {
    for case in cases().into_iter().filter(|case| case.dropout.is_none()) {
        let mut layer = with_large_s::<T>(&case, 1024.0, 0.0);
        let adapted = layer.forward();
        for sizes in &mut layer.case.projections {
            sizes.scaling = 1.0;
        }
        let unscaled = layer.forward();
        for (adapted, unscaled) in adapted.y.iter().zip(&unscaled.y) {
            assert!(adapted.rows() == unscaled.rows(), "{case:?}");
            assert!(
                adapted.rows().iter().all(|y| y.to_f64().is_finite()),
                "{case:?}"
            );
        }
    }
}

/// All terms of dx have one sign, so an infinite dy gives an infinite row and no NaN.
fn an_infinite_dy_gives_an_infinite_dx<T: Number>() {
    for case in cases() {
        let mut layer = TestLayer::<T>::random(&case);
        let positive = |_, _, value: f64| value.abs() + 0.0625;
        for (projection, sizes) in layer.projections.iter_mut().zip(&case.projections) {
            let sign = f64::from(sizes.scaling.signum());
            projection.weight = projection.weight.map(|_, _, w| sign * (w.abs() + 0.0625));
            if let Some(lora) = &mut projection.lora {
                lora.a = lora.a.map(positive);
                lora.b = lora.b.map(positive);
            }
        }
        let dy = &mut layer.first().dy;
        *dy = dy.map(|row, col, dy| {
            if (row, col) == (1, 2) {
                f64::INFINITY
            } else {
                dy
            }
        });
        let sign = f64::from(case.projections[0].scaling.signum());
        let saved = layer.forward().saved;
        let dx = layer.backward(&saved).dx().rows();
        for (i, dx) in dx.iter().map(|dx| dx.to_f64()).enumerate() {
            match i / case.in_features {
                1 => assert_eq!(
                    dx,
                    sign * f64::INFINITY,
                    "column {}: {case:?}",
                    i % case.in_features
                ),
                row => assert!(dx.is_finite(), "row {row}: {case:?}"),
            }
        }
    }
}

for_each_narrow_dtype!(
    agree_with_the_reference,
    a_large_s_stays_finite,
    a_zero_lora_b_changes_nothing,
    an_infinite_dy_gives_an_infinite_dx,
);
