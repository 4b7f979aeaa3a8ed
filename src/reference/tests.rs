use half::bf16;

use super::*;
use crate::{Dropout, Element};

const TOKENS: usize = 5;
const IN: usize = 37;
/// (out_features, rank, scaling) of query, key and value. The key has no adapter.
const QKV: [(usize, usize, f32); 3] = [(11, 3, 1.75), (4, 0, 1.0), (6, 5, -0.4)];
const DROPOUT: Dropout = Dropout {
    p: 0.25,
    seed: 11,
    offset: 4,
};

fn numbers<T: Element>(count: usize, seed: usize) -> Vec<T> {
    (0..count)
        .map(|i| T::from_f64(((i * 7919 + seed * 104_729) % 2003) as f64 / 1001.0 - 1.0))
        .collect()
}

fn of_each<T: Element>(seed: usize, count: fn(usize, usize) -> usize) -> [Vec<T>; 3] {
    QKV.map(|(out_features, rank, _)| numbers(count(out_features, rank), seed + out_features))
}

/// The numbers of a layer. Weights are stored (in_features, out_features).
#[derive(Clone)]
struct Numbers<T, A> {
    x: Vec<T>,
    weight: [Vec<T>; 3],
    bias: [Vec<T>; 3],
    lora_a: [Vec<A>; 3],
    lora_b: [Vec<A>; 3],
    dy: [Vec<T>; 3],
}

impl<T: Element + Into<f64>, A: Element + Into<f64>> Numbers<T, A> {
    fn new() -> Self {
        Self {
            x: numbers(TOKENS * IN, 1),
            weight: of_each(100, |n, _| n * IN),
            bias: of_each(200, |n, _| n),
            lora_a: of_each(300, |_, r| r * IN),
            lora_b: of_each(400, |n, r| n * r),
            dy: of_each(500, |n, _| TOKENS * n),
        }
    }

    fn layer(&self) -> Layer<'_, T, A> {
        let projection = |i: usize| {
            let (out_features, rank, scaling) = QKV[i];
            Projection {
                weight: View::new(&self.weight[i], IN, out_features)
                    .unwrap()
                    .transposed(),
                bias: (i != 1).then_some(&self.bias[i][..]),
                adapter: (rank > 0).then(|| Adapter {
                    a: View::new(&self.lora_a[i], rank, IN).unwrap(),
                    b: View::new(&self.lora_b[i], out_features, rank).unwrap(),
                    scaling,
                }),
            }
        };
        Layer {
            x: View::new(&self.x, TOKENS, IN).unwrap(),
            projections: (0..QKV.len()).map(projection).collect(),
            dropout: Some(DROPOUT),
        }
    }

    fn dy(&self) -> Vec<View<'_, T>> {
        let sized = self.dy.iter().zip(QKV);
        sized
            .map(|(dy, (n, ..))| View::new(dy, TOKENS, n).unwrap())
            .collect()
    }

    fn forward(&self, intermediates: Intermediates) -> Forward {
        forward(&self.layer(), intermediates).unwrap()
    }

    fn backward(&self, intermediates: Intermediates) -> Backward {
        backward(&self.layer(), &self.dy(), intermediates).unwrap()
    }

    /// Σ y∘dy. Its derivatives are the gradients that backward must compute.
    fn objective(&self) -> f64 {
        let y = self.forward(Intermediates::Exact).y;
        let terms = y
            .iter()
            .zip(&self.dy)
            .flat_map(|(y, dy)| y.value.iter().zip(dy));
        terms.map(|(y, &dy)| y * dy.to_f64()).sum()
    }

    /// The objective is linear in each single tensor, so a central difference with any step is the
    /// exact derivative.
    fn check_derivatives<E: Element>(
        &self,
        name: &str,
        given: &Bounded,
        tensor: impl Fn(&mut Self) -> &mut Vec<E>,
    ) {
        assert!(!given.value.is_empty());
        for (index, value) in given.value.iter().enumerate() {
            let (mut below, mut above) = (self.clone(), self.clone());
            tensor(&mut below)[index] = E::from_f64(-1.0);
            tensor(&mut above)[index] = E::from_f64(1.0);
            let expected = (above.objective() - below.objective()) / 2.0;
            assert!(
                (value - expected).abs() < 1e-10,
                "{name}[{index}] is {value}, not {expected}"
            );
        }
    }
}

fn backward_is_the_derivative_of_forward<T: Element + Into<f64>, A: Element + Into<f64>>() {
    let numbers = Numbers::<T, A>::new();
    let gradients = numbers.backward(Intermediates::Exact);
    numbers.check_derivatives("dx", &gradients.dx, |numbers| &mut numbers.x);
    for (i, adapter) in gradients.adapters.iter().enumerate() {
        assert_eq!(adapter.is_some(), QKV[i].1 > 0);
        if let Some(adapter) = adapter {
            numbers.check_derivatives(&format!("d_lora_A {i}"), &adapter.d_lora_a, |numbers| {
                &mut numbers.lora_a[i]
            });
            numbers.check_derivatives(&format!("d_lora_B {i}"), &adapter.d_lora_b, |numbers| {
                &mut numbers.lora_b[i]
            });
        }
    }
}

#[test]
#[cfg_attr(miri, ignore = "hundreds of forwards")]
fn backward_is_the_derivative_of_forward_in_every_mixture_of_types() {
    backward_is_the_derivative_of_forward::<f32, f32>();
    backward_is_the_derivative_of_forward::<bf16, bf16>();
    backward_is_the_derivative_of_forward::<bf16, f32>();
}

#[test]
fn forward_is_the_formula() {
    let numbers = Numbers::<f32, f32>::new();
    let layer = numbers.layer();
    let results = numbers.forward(Intermediates::Exact);
    let mask = KeepMask::new(TOKENS, IN, &DROPOUT);
    let dot = |term: &dyn Fn(usize) -> f64| (0..IN).map(term).sum::<f64>();
    for (projection, y) in layer.projections.iter().zip(&results.y) {
        for (row, col) in (0..TOKENS).flat_map(|row| (0..y.cols).map(move |col| (row, col))) {
            let base = dot(&|k| layer.x.at(row, k) * projection.weight.at(col, k));
            let adapter = projection.adapter.map_or(0.0, |Adapter { a, b, scaling }| {
                let kept = |k: usize| f64::from(mask.keeps(row, k)) * layer.x.at(row, k);
                let s = |r: usize| dot(&|k| kept(k) * a.at(r, k));
                let sum: f64 = (0..a.rows()).map(|r| s(r) * b.at(col, r)).sum();
                f64::from(scaling) * f64::from(DROPOUT.keep_scale()) * sum
            });
            let expected =
                base + adapter + projection.bias.map_or(0.0, |bias| f64::from(bias[col]));
            let given = y.value[row * y.cols + col];
            assert!(
                (given - expected).abs() < 1e-12,
                "({row}, {col}) is {given}, not {expected}"
            );
        }
    }
}

#[test]
fn both_forms_lie_within_the_other_ones_bound_and_the_rounded_one_is_sharper() {
    let numbers = Numbers::<bf16, bf16>::new();
    let (exact, rounded) = (
        numbers.forward(Intermediates::Exact),
        numbers.forward(Intermediates::Rounded),
    );
    let (exact_s, rounded_s) = (exact.s[0].as_ref().unwrap(), rounded.s[0].as_ref().unwrap());
    for (exact, rounded) in [(exact_s, rounded_s), (&exact.y[0], &rounded.y[0])] {
        for i in 0..exact.value.len() {
            assert!(
                (exact.value[i] - rounded.value[i]).abs() <= exact.bound[i],
                "element {i}"
            );
        }
        assert!(rounded.bound.iter().sum::<f64>() < exact.bound.iter().sum::<f64>());
    }
    assert!(
        rounded_s
            .bound
            .iter()
            .filter(|&&bound| bound == 0.0)
            .count()
            > 2 * rounded_s.bound.len() / 3
    );
}

/// A plain evaluation in f32 must be within the bounds, and one with a missing term must not.
#[test]
fn an_f32_evaluation_is_within_the_bound_and_a_lost_term_is_not() {
    let numbers = Numbers::<f32, f32>::new();
    let mut layer = numbers.layer();
    layer.dropout = None;
    let Projection {
        weight,
        bias,
        adapter,
    } = layer.projections[0];
    let (bias, adapter) = (bias.unwrap(), adapter.unwrap());
    let at = |matrix: View<'_, f32>, row, col| matrix.at(row, col) as f32;
    let sum = |terms: usize, term: &dyn Fn(usize) -> (f32, f32)| {
        (0..terms)
            .map(term)
            .fold(0.0f32, |sum, (left, right)| left.mul_add(right, sum))
    };
    let y_of = |depth: usize| -> Vec<f32> {
        let elements = (0..TOKENS).flat_map(|row| (0..weight.rows()).map(move |col| (row, col)));
        let element = |(row, col)| {
            let s = |r| adapter.scaling * sum(IN, &|k| (at(layer.x, row, k), at(adapter.a, r, k)));
            sum(depth, &|k| (at(layer.x, row, k), at(weight, col, k)))
                + sum(adapter.a.rows(), &|r| (s(r), at(adapter.b, col, r)))
                + bias[col]
        };
        elements.map(element).collect()
    };
    let y = &forward(&layer, Intermediates::Rounded).unwrap().y[0];
    assert!(compare(&y_of(IN), y).is_within());
    assert!(!compare(&y_of(IN - 1), y).is_within());
}

#[test]
fn a_wider_adapter_is_rounded_where_it_is_used_and_its_gradients_are_not() {
    let wide = Numbers::<bf16, f32>::new();
    let mut rounded = wide.clone();
    for value in rounded
        .lora_a
        .iter_mut()
        .chain(&mut rounded.lora_b)
        .flatten()
    {
        *value = bf16::from_f32(*value).to_f32();
    }
    assert_ne!(wide.lora_a, rounded.lora_a);
    let [y, expected] = [&wide, &rounded].map(|numbers| numbers.forward(Intermediates::Rounded).y);
    assert_eq!(y[2].value, expected[2].value);

    let gradients = wide.backward(Intermediates::Exact).adapters[0]
        .clone()
        .unwrap();
    let narrow = |gradient: &Bounded| -> Vec<bf16> {
        gradient
            .value
            .iter()
            .map(|&value| bf16::from_f64(value))
            .collect()
    };
    let t = &gradients.t;
    assert!(compare(&narrow(t), t).is_within());
    let wide_b = wide.backward(Intermediates::Rounded).adapters[0]
        .clone()
        .unwrap()
        .d_lora_b;
    assert!(!compare(&narrow(&wide_b), &wide_b).is_within());
}

/// If a result is added to previous values, one rounding is within the bound and two are not.
#[test]
fn what_is_added_to_is_rounded_once() {
    let y = &Numbers::<bf16, bf16>::new()
        .forward(Intermediates::Rounded)
        .y[0];
    let previous = numbers::<bf16>(y.value.len(), 9);
    let sum = y.added_to(View::new(&previous, y.rows, y.cols).unwrap());
    let added = |first: fn(f64) -> f64| -> Vec<bf16> {
        let terms = y.value.iter().zip(&previous);
        terms
            .map(|(&y, &previous)| bf16::from_f64(first(y) + previous.to_f64()))
            .collect()
    };
    assert!(compare(&added(|y| y), &sum).is_within());
    assert!(!compare(&added(|y| bf16::from_f64(y).to_f64()), &sum).is_within());
    assert!(!compare(&added(|_| 0.0), &sum).is_within());
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let numbers = Numbers::<f32, f32>::new();
    let mut wrong = numbers.layer();
    let adapter = wrong.projections[0].adapter.as_mut().unwrap();
    adapter.b = adapter.b.transposed();
    assert_eq!(
        forward(&wrong, Intermediates::Exact).unwrap_err(),
        ShapeError::Mismatch {
            tensor: "lora_B",
            given: (3, 11),
            expected: (11, 3)
        }
    );
    let layer = numbers.layer();
    let mut dy = numbers.dy();
    assert!(backward(&layer, &dy[..2], Intermediates::Exact).is_err());
    dy[1] = dy[0];
    assert!(backward(&layer, &dy, Intermediates::Exact).is_err());
}
