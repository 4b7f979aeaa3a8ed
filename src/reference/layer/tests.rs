use super::*;

fn numbers(count: usize, seed: usize) -> Vec<f32> {
    (0..count)
        .map(|i| ((i * 7919 + seed * 104_729) % 2003) as f32 / 1001.0 - 1.0)
        .collect()
}

struct Case {
    x: Vec<f32>,
    weight: Vec<f32>,
    bias: Vec<f32>,
    lora_a: Vec<f32>,
    lora_b: Vec<f32>,
    dy: Vec<f32>,
}

const TOKENS: usize = 5;
const IN: usize = 37;
const OUT: usize = 11;
const RANK: usize = 3;

fn case() -> Case {
    Case {
        x: numbers(TOKENS * IN, 1),
        weight: numbers(OUT * IN, 2),
        bias: numbers(OUT, 3),
        lora_a: numbers(RANK * IN, 4),
        lora_b: numbers(OUT * RANK, 5),
        dy: numbers(TOKENS * OUT, 6),
    }
}

fn layer(case: &Case) -> Layer<'_, f32> {
    Layer {
        x: View::new(&case.x, TOKENS, IN).unwrap(),
        weight: View::new(&case.weight, OUT, IN).unwrap(),
        bias: Some(&case.bias),
        lora_a: View::new(&case.lora_a, RANK, IN).unwrap(),
        lora_b: View::new(&case.lora_b, OUT, RANK).unwrap(),
        scaling: 1.75,
        dropout: Some(Dropout {
            p: 0.25,
            seed: 11,
            offset: 4,
        }),
    }
}

/// Σ y∘dy as a function of everything: its derivatives are what backward must give.
fn objective(case: &Case) -> f64 {
    let y = forward(&layer(case), DType::F32, Intermediates::Exact).unwrap().y;
    y.value.iter().zip(&case.dy).map(|(y, dy)| y * f64::from(*dy)).sum()
}

/// The objective is linear in each tensor by itself, so a difference over any step is the derivative.
fn derivative(tensor: impl Fn(&mut Case) -> &mut Vec<f32>, index: usize) -> f64 {
    let (mut below, mut above) = (case(), case());
    tensor(&mut below)[index] = -1.0;
    tensor(&mut above)[index] = 1.0;
    (objective(&above) - objective(&below)) / 2.0
}

#[test]
fn backward_is_the_derivative_of_forward() {
    let case = case();
    let dy = View::new(&case.dy, TOKENS, OUT).unwrap();
    let gradients = backward(&layer(&case), dy, DType::F32, Intermediates::Exact).unwrap();
    let check = |name: &str, given: &Bounded, tensor: fn(&mut Case) -> &mut Vec<f32>| {
        for (index, value) in given.value.iter().enumerate() {
            let expected = derivative(tensor, index);
            assert!(
                (value - expected).abs() < 1e-10,
                "{name}[{index}] is {value}, not {expected}"
            );
        }
    };
    check("dx", &gradients.dx, |case| &mut case.x);
    check("d_lora_A", &gradients.d_lora_a, |case| &mut case.lora_a);
    check("d_lora_B", &gradients.d_lora_b, |case| &mut case.lora_b);
}

#[test]
fn forward_is_the_formula() {
    let case = case();
    let layer = layer(&case);
    let y = forward(&layer, DType::F32, Intermediates::Exact).unwrap().y;
    let mask = KeepMask::new(TOKENS, IN, &layer.dropout.unwrap());
    for row in 0..TOKENS {
        for col in 0..OUT {
            let dot = |a: &dyn Fn(usize) -> f64| (0..IN).map(a).sum::<f64>();
            let base = dot(&|k| layer.x.at(row, k) * layer.weight.at(col, k));
            let adapter: f64 = (0..RANK)
                .map(|r| {
                    dot(&|k| {
                        if mask.keeps(row, k) {
                            layer.x.at(row, k) * layer.lora_a.at(r, k)
                        } else {
                            0.0
                        }
                    }) * layer.lora_b.at(col, r)
                })
                .sum();
            let expected =
                base + f64::from(case.bias[col]) + 1.75 * f64::from(layer.dropout.unwrap().keep_scale()) * adapter;
            let given = y.value[row * OUT + col];
            assert!(
                (given - expected).abs() < 1e-12,
                "({row}, {col}) is {given}, not {expected}"
            );
        }
    }
}

#[test]
fn both_forms_lie_within_the_other_ones_bound_and_the_rounded_one_is_sharper() {
    let case = case();
    let exact = forward(&layer(&case), DType::BF16, Intermediates::Exact).unwrap();
    let rounded = forward(&layer(&case), DType::BF16, Intermediates::Rounded).unwrap();
    for (exact, rounded) in [(&exact.s, &rounded.s), (&exact.y, &rounded.y)] {
        for i in 0..exact.value.len() {
            assert!(
                (exact.value[i] - rounded.value[i]).abs() <= exact.bound[i],
                "element {i}"
            );
        }
        assert!(rounded.bound.iter().sum::<f64>() < exact.bound.iter().sum::<f64>());
    }
    assert!(rounded.s.bound.iter().filter(|&&bound| bound == 0.0).count() > 2 * rounded.s.bound.len() / 3);
}

/// What a kernel does, in f32 and in the plainest order, must be inside of the bounds, and a term left out must not.
#[test]
fn an_f32_evaluation_is_within_the_bound_and_a_lost_term_is_not() {
    let case = case();
    let layer = Layer {
        dropout: None,
        ..layer(&case)
    };
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).fold(0.0f32, |sum, (a, b)| a.mul_add(*b, sum));
    let y_of = |depth: usize| {
        let mut y = Vec::new();
        for row in 0..TOKENS {
            let x = &case.x[row * IN..][..IN];
            let s: Vec<f32> = case.lora_a.chunks(IN).map(|a| 1.75 * dot(x, a)).collect();
            for col in 0..OUT {
                y.push(
                    dot(&x[..depth], &case.weight[col * IN..][..depth])
                        + dot(&s, &case.lora_b[col * RANK..][..RANK])
                        + case.bias[col],
                );
            }
        }
        y
    };
    let y = forward(&layer, DType::F32, Intermediates::Rounded).unwrap().y;
    assert!(crate::reference::compare(&y_of(IN), &y).is_within());
    assert!(!crate::reference::compare(&y_of(IN - 1), &y).is_within());
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let case = case();
    let wrong = Layer {
        lora_b: View::new(&case.lora_b, RANK, OUT).unwrap(),
        ..layer(&case)
    };
    let error = forward(&wrong, DType::F32, Intermediates::Exact).unwrap_err();
    assert_eq!(
        error,
        ShapeError::Mismatch {
            tensor: "lora_B",
            given: (RANK, OUT),
            expected: (OUT, RANK)
        }
    );
    let dy = View::new(&case.dy, OUT, TOKENS).unwrap();
    assert!(backward(&layer(&case), dy, DType::F32, Intermediates::Exact).is_err());
}
