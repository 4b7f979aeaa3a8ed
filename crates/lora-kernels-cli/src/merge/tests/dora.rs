//! DoRA: W' = m · (W + s·B·A) / ‖W + s·B·A‖, a norm for each out_feature.

use super::*;

struct Case {
    w: Owned,
    a: Owned,
    b: Owned,
    magnitude: Owned,
    layout: WeightLayout,
    rank: usize,
}

impl Case {
    fn new(
        dtype: Dtype,
        adapter: Dtype,
        layout: WeightLayout,
        [outputs, inputs]: [usize; 2],
    ) -> Self {
        let rank = 2;
        let shape = match layout {
            WeightLayout::OutIn => [outputs, inputs],
            WeightLayout::InOut => [inputs, outputs],
        };
        Self {
            w: Owned::made(dtype, &shape, 1),
            a: Owned::made(adapter, &[rank, inputs], 2),
            b: Owned::made(adapter, &[outputs, rank], 3),
            magnitude: Owned::made(adapter, &[outputs], 4),
            layout,
            rank,
        }
    }

    fn change(&self) -> Change<'_> {
        Change {
            loras: vec![part(self.rank, 0.5, Stack::One, &self.a, &self.b)],
            layout: self.layout,
            magnitude: Some(self.magnitude.tensor()),
            ..Change::default()
        }
    }

    fn expected(&self) -> Vec<f64> {
        let (outputs, inputs) = (
            self.b.values.len() / self.rank,
            self.a.values.len() / self.rank,
        );
        let place = |o: usize, i: usize| match self.layout {
            WeightLayout::OutIn => o * inputs + i,
            WeightLayout::InOut => i * outputs + o,
        };
        let mut expected = vec![0.0; outputs * inputs];
        for o in 0..outputs {
            let b = |rho: usize| self.b.values[o * self.rank + rho];
            let sum = |i: usize| {
                self.w.values[place(o, i)]
                    + product(self.rank, 0.5, b, |rho| self.a.values[rho * inputs + i])
            };
            let norm = (0..inputs).map(|i| sum(i) * sum(i)).sum::<f64>().sqrt();
            (0..inputs)
                .for_each(|i| expected[place(o, i)] = self.magnitude.values[o] * sum(i) / norm);
        }
        expected
    }
}

/// Both layouts, with norms over several pieces, in every type.
#[test]
fn each_out_feature_gets_its_magnitude() {
    for dtype in [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16] {
        for adapter in [dtype, Dtype::F32, Dtype::F64] {
            for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
                for shape in [[15, 23], [23, 15], [1, 70], [70, 1]] {
                    let case = Case::new(dtype, adapter, layout, shape);
                    let (values, totals) = changed(&case.w, &case.change());
                    assert_rounded(&values, &case.expected(), dtype);
                    let report = totals.report.unwrap();
                    assert_eq!(report.elements, values.len() as u64);
                    assert!(report.nonzero > 0 && totals.without_norm == 0);
                }
            }
        }
    }
}

/// The sum is rounded once: sums that were rounded to bf16 first would have other norms.
#[test]
fn the_sum_is_not_rounded_before_it_is_scaled() {
    let case = Case::new(Dtype::BF16, Dtype::F32, WeightLayout::OutIn, [40, 64]);
    let values = changed(&case.w, &case.change()).0;
    let expected = case.expected();
    let correct = values
        .iter()
        .zip(&expected)
        .filter(|(value, expected)| **value == nearest(Dtype::BF16, **expected));
    // f32 sums may lie on the other side of the middle between two numbers of bf16.
    assert!(correct.count() as f64 > 0.999 * values.len() as f64);
}

/// PEFT has magnitudes of shape (1, out_channels, 1, 1) for convolutions.
#[test]
fn convolutions_have_a_norm_for_each_out_channel() {
    let (outputs, columns) = (6, 5 * 9);
    let flat = Case::new(
        Dtype::F32,
        Dtype::F32,
        WeightLayout::OutIn,
        [outputs, columns],
    );
    let expected = changed(&flat.w, &flat.change()).0;
    let mut case = flat;
    case.w.shape = vec![outputs, 5, 3, 3];
    case.a.shape = vec![2, 5, 3, 3];
    case.b.shape = vec![outputs, 2, 1, 1];
    case.magnitude.shape = vec![1, outputs, 1, 1];
    assert_eq!(changed(&case.w, &case.change()).0, expected);
}

/// PEFT divides by the norm, too, which gives NaN. The caller refuses to write that.
#[test]
fn an_out_feature_without_a_norm_is_counted() {
    for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
        let mut case = Case::new(Dtype::F32, Dtype::F32, layout, [9, 20]);
        let zero = |owned: &Owned, is_zero: &dyn Fn(usize) -> bool| {
            let values = owned.values.iter().enumerate();
            let values: Vec<f64> = values
                .map(|(at, value)| if is_zero(at) { 0.0 } else { *value })
                .collect();
            Owned::new(owned.dtype, &owned.shape, &values)
        };
        case.b = zero(&case.b, &|at| at / 2 == 4);
        case.w = match layout {
            WeightLayout::OutIn => zero(&case.w, &|at| at / 20 == 4),
            WeightLayout::InOut => zero(&case.w, &|at| at % 9 == 4),
        };
        let (bytes, totals) = run(&Engine::Cpu, case.w.tensor(), &case.change()).unwrap();
        assert_eq!((totals.without_norm, totals.non_finite), (1, 20));
        let values = numbers(&bytes, Dtype::F32);
        assert_eq!(values.iter().filter(|value| value.is_nan()).count(), 20);
    }
}
