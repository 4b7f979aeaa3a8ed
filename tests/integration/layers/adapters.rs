//! f32 adapters over a 16-bit layer, as in PEFT. Elements are rounded once when they are used;
//! gradients are not rounded.

use crate::common::check::bits;
use crate::common::data::Placed;
use crate::common::data::Placement::{AlignedView, OddView};
use crate::common::device::Number;
use crate::common::layer::{LayerCase, Lora, Projection, TestLayer, assert_same_bits};
use lora_kernels::Role;

fn cases() -> Vec<LayerCase> {
    let case = LayerCase::new(70, 200, 136, 24).dropout(0.2);
    let alone = [Role::LoraA, Role::LoraB, Role::DLoraA, Role::DLoraB];
    let alone = alone.map(|tensor| case.clone().with_placement(tensor, OddView));
    let mut cases = vec![
        case.clone(),
        case.clone().placed(AlignedView).multiprocessors(1),
        case.clone().placed(OddView),
        case.clone().multiprocessors(1000).redrawn(true),
        case.clone().transposed(true).bias(false),
        LayerCase::sharing_x(65, 72, &[(96, 16), (40, 0), (24, 3)]),
        LayerCase::sharing_x(33, 71, &[(51, 33), (7, 1)]).dropout(0.4),
        LayerCase::new(130, 264, 1000, 64),
    ];
    cases.extend(alone);
    for rank in [1, 8, 15, 16, 17, 64, 100] {
        cases.push(LayerCase::new(40, 96, 56, rank));
    }
    cases
}

fn agree_with_the_reference<T: Number>() {
    for case in cases() {
        TestLayer::<T, f32>::random(&case).check();
    }
}

/// If the 16-bit type represents all elements of an f32 adapter, results have the bits of an
/// adapter in that type, and gradients round to that adapter's.
fn elements_that_fit_give_the_narrow_adapters_bits<T: Number>() {
    for case in cases() {
        let narrow = TestLayer::<T>::random(&case);
        let widened = |matrix: &Placed<T>, tensor, i| {
            let values: Vec<f32> = matrix
                .rows()
                .iter()
                .map(|value| value.to_f64() as f32)
                .collect();
            Placed::from_rows(
                &values,
                matrix.rows,
                matrix.cols,
                case.placement_of(i, tensor),
            )
        };
        let mut wide = TestLayer::<T, f32>::random(&case);
        for (i, (wide, narrow)) in wide
            .projections
            .iter_mut()
            .zip(&narrow.projections)
            .enumerate()
        {
            if let (
                Some(wide),
                Projection {
                    lora: Some(narrow), ..
                },
            ) = (&mut wide.lora, narrow)
            {
                *wide = Lora {
                    a: widened(&narrow.a, Role::LoraA, i),
                    b: widened(&narrow.b, Role::LoraB, i),
                };
            }
        }
        let (narrow_forward, wide_forward) = (narrow.forward(), wide.forward());
        assert_same_bits(
            &wide_forward.bits(),
            &narrow_forward.bits(),
            &format!("{case:?}"),
        );
        let narrow = narrow.backward(&narrow_forward.saved);
        let wide = wide.backward(&narrow_forward.saved);
        assert!(bits(wide.dx()) == bits(narrow.dx()), "dx: {case:?}");
        for (wide, narrow) in wide.gradients.iter().zip(&narrow.gradients) {
            if let (Some(wide), Some(narrow)) = (wide, narrow) {
                for (name, wide, narrow) in [
                    ("d_lora_A", &wide.a, &narrow.a),
                    ("d_lora_B", &wide.b, &narrow.b),
                ] {
                    let rounded: Vec<T> = wide
                        .rows()
                        .iter()
                        .map(|&value| T::from_f64(value.into()))
                        .collect();
                    assert!(rounded == narrow.rows(), "{name}: {case:?}");
                    let exact = wide
                        .rows()
                        .iter()
                        .filter(|&&value| T::from_f64(value.into()).to_f64() == f64::from(value))
                        .count();
                    assert!(
                        exact < wide.rows().len().div_ceil(2) + 8,
                        "{name} was rounded: {case:?}"
                    );
                }
            }
        }
    }
}

for_each_narrow_dtype!(
    agree_with_the_reference,
    elements_that_fit_give_the_narrow_adapters_bits,
);
