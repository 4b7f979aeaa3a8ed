//! Stacks of experts, convolutions, types.

use super::*;

/// W[e] (rows, columns) + Σ over ρ of factor · B[o, ρ·E + e] · A[e·r + ρ, i]
#[test]
fn experts_in_one_parameter_take_their_columns_of_lora_b() {
    let (experts, rank, inputs, outputs) = (3, 2, 13, 11);
    for dtype in [Dtype::F32, Dtype::F16, Dtype::BF16] {
        for layout in [WeightLayout::OutIn, WeightLayout::InOut] {
            let (rows, columns) = match layout {
                WeightLayout::OutIn => (outputs, inputs),
                WeightLayout::InOut => (inputs, outputs),
            };
            let w = Owned::made(dtype, &[experts, rows, columns], 1);
            let a = Owned::made(Dtype::F32, &[experts * rank, inputs], 2);
            let b = Owned::made(Dtype::F32, &[outputs, rank * experts], 3);
            let change = Change {
                loras: vec![part(rank, 0.5, Stack::Parameter { experts }, &a, &b)],
                layout,
                ..Change::default()
            };
            let (values, totals) = changed(&w, &change);
            let expected = (0..w.values.len()).map(|at| {
                let (e, row, column) = (at / (rows * columns), at / columns % rows, at % columns);
                let (o, i) = match layout {
                    WeightLayout::OutIn => (row, column),
                    WeightLayout::InOut => (column, row),
                };
                let b = |rank_row: usize| b.values[o * rank * experts + rank_row * experts + e];
                w.values[at]
                    + product(rank, 0.5, b, |rank_row| {
                        a.values[(e * rank + rank_row) * inputs + i]
                    })
            });
            assert_rounded(&values, &expected.collect::<Vec<_>>(), dtype);
            assert_eq!(totals.report.unwrap().elements, w.values.len() as u64);
        }
    }
}

/// A stack of linear layers, as in a fused weight whose adapter is stacked, too.
#[test]
fn a_leading_dimension_of_experts_is_a_matrix_each() {
    let (experts, rank, inputs, outputs) = (4, 3, 9, 10);
    let w = Owned::made(Dtype::BF16, &[experts, outputs, inputs], 1);
    let a = Owned::made(Dtype::BF16, &[experts, rank, inputs], 2);
    let b = Owned::made(Dtype::BF16, &[experts, outputs, rank], 3);
    let change = Change {
        loras: vec![part(rank, 2.0, Stack::Leading { experts }, &a, &b)],
        ..Change::default()
    };
    let (values, _) = changed(&w, &change);
    let expected = (0..w.values.len()).map(|at| {
        let (e, o, i) = (at / (outputs * inputs), at / inputs % outputs, at % inputs);
        let b = |rho: usize| b.values[(e * outputs + o) * rank + rho];
        w.values[at] + product(rank, 2.0, b, |rho| a.values[(e * rank + rho) * inputs + i])
    });
    assert_rounded(&values, &expected.collect::<Vec<_>>(), Dtype::BF16);
}

/// A base that has each expert's halves of gate_up_proj apart.
#[test]
fn one_experts_part_and_rows_of_lora_b_can_be_taken() {
    let (experts, rank, inputs, outputs) = (3, 2, 12, 7);
    let w = Owned::made(Dtype::F32, &[outputs, inputs], 1);
    let parameter = (
        Owned::made(Dtype::F32, &[experts * rank, inputs], 2),
        Owned::made(Dtype::F32, &[2 * outputs, rank * experts], 3),
    );
    let leading = (
        Owned::made(Dtype::F32, &[experts, rank, inputs], 4),
        Owned::made(Dtype::F32, &[experts, 2 * outputs, rank], 5),
    );
    for expert in 0..experts {
        for first_out in [0, outputs] {
            let with = |stack, (a, b): &'_ (Owned, Owned)| -> Vec<f64> {
                let lora = LoraPart {
                    expert: Some(expert),
                    first_out,
                    ..part(rank, 1.5, stack, a, b)
                };
                let change = Change {
                    loras: vec![lora],
                    ..Change::default()
                };
                changed(&w, &change).0
            };
            let expected = |b_at: &dyn Fn(usize, usize) -> f64, a: &Owned| -> Vec<f64> {
                let element = |at: usize| {
                    let (o, i) = (at / inputs, at % inputs);
                    w.values[at]
                        + product(
                            rank,
                            1.5,
                            |rho| b_at(first_out + o, rho),
                            |rho| a.values[(expert * rank + rho) * inputs + i],
                        )
                };
                (0..w.values.len()).map(element).collect()
            };
            let (a, b) = &parameter;
            let b_at = |o: usize, rho: usize| b.values[o * rank * experts + rho * experts + expert];
            assert_rounded(
                &with(Stack::Parameter { experts }, &parameter),
                &expected(&b_at, a),
                Dtype::F32,
            );
            let (a, b) = &leading;
            let b_at = |o: usize, rho: usize| b.values[(expert * 2 * outputs + o) * rank + rho];
            assert_rounded(
                &with(Stack::Leading { experts }, &leading),
                &expected(&b_at, a),
                Dtype::F32,
            );
        }
    }
}

/// A convolution's weight is a matrix of (out_channels, in_channels · kernel).
#[test]
fn convolutions_of_every_dimension_are_matrices() {
    for kernel in [&[3][..], &[1, 1], &[3, 2], &[2, 3, 2]] {
        let (rank, outputs, inputs) = (2, 9, 5);
        let [weight, a_shape, b_shape] = [[outputs, inputs], [rank, inputs], [outputs, rank]];
        let ones = vec![1; kernel.len()];
        let w = Owned::made(Dtype::F16, &[&weight, kernel].concat(), 1);
        let a = Owned::made(Dtype::F16, &[&a_shape, kernel].concat(), 2);
        let b = Owned::made(Dtype::F16, &[&b_shape, &ones[..]].concat(), 3);
        let change = Change {
            loras: vec![part(rank, 0.25, Stack::One, &a, &b)],
            ..Change::default()
        };
        let (values, _) = changed(&w, &change);
        let columns = w.values.len() / outputs;
        let expected = (0..w.values.len()).map(|at| {
            let (o, i) = (at / columns, at % columns);
            w.values[at]
                + product(
                    rank,
                    0.25,
                    |rho| b.values[o * rank + rho],
                    |rho| a.values[rho * columns + i],
                )
        });
        assert_rounded(&values, &expected.collect::<Vec<_>>(), Dtype::F16);
    }
}

/// lora_A and lora_B of any float types, on a weight of any: what isn't f64 is used exactly.
#[test]
fn types_can_be_mixed() {
    let all = [Dtype::F64, Dtype::F32, Dtype::F16, Dtype::BF16];
    let (rank, inputs, outputs) = (2, 10, 15);
    for dtype in all {
        let w = Owned::made(dtype, &[outputs, inputs], 1);
        for a_type in all {
            for b_type in [Dtype::F64, Dtype::BF16] {
                let a = Owned::made(a_type, &[rank, inputs], 2);
                let b = Owned::made(b_type, &[outputs, rank], 3);
                let change = Change {
                    loras: vec![part(rank, 0.5, Stack::One, &a, &b)],
                    ..Change::default()
                };
                let expected = (0..w.values.len()).map(|at| {
                    let (o, i) = (at / inputs, at % inputs);
                    w.values[at]
                        + product(
                            rank,
                            0.5,
                            |rho| b.values[o * rank + rho],
                            |rho| a.values[rho * inputs + i],
                        )
                });
                assert_rounded(
                    &changed(&w, &change).0,
                    &expected.collect::<Vec<_>>(),
                    dtype,
                );
            }
        }
    }
}

/// Where nothing is added to an element in f64, it stays as it is: it never becomes f32.
#[test]
fn a_weight_in_f64_keeps_its_digits() {
    let (rank, inputs, outputs) = (1, 12, 9);
    let w = Owned::made(Dtype::F64, &[outputs, inputs], 1);
    let a = Owned::new(Dtype::F32, &[rank, inputs], &[0.0; 12]);
    let b = Owned::made(Dtype::F32, &[outputs, rank], 3);
    let change = Change {
        loras: vec![part(rank, 0.5, Stack::One, &a, &b)],
        ..Change::default()
    };
    let (values, totals) = changed(&w, &change);
    assert_eq!(values, w.values);
    assert!(
        w.values
            .iter()
            .any(|value| f64::from(*value as f32) != *value)
    );
    assert_eq!(totals.report.unwrap().nonzero, 0);
}

/// Several adapters are summed in their order, each with its rank and its own types.
#[test]
fn several_adapters_share_a_weight() {
    let (inputs, outputs) = (17, 14);
    let w = Owned::made(Dtype::BF16, &[outputs, inputs], 1);
    let adapters: Vec<(usize, f32, Owned, Owned)> = [
        (1, 0.5, Dtype::BF16),
        (4, -0.25, Dtype::F32),
        (3, 1.0, Dtype::F64),
    ]
    .into_iter()
    .map(|(rank, factor, dtype)| {
        let seed = rank as u64 * 10;
        (
            rank,
            factor,
            Owned::made(dtype, &[rank, inputs], seed),
            Owned::made(dtype, &[outputs, rank], seed + 1),
        )
    })
    .collect();
    let change = Change {
        loras: adapters
            .iter()
            .map(|(rank, factor, a, b)| part(*rank, *factor, Stack::One, a, b))
            .collect(),
        ..Change::default()
    };
    let expected = (0..w.values.len()).map(|at| {
        let (o, i) = (at / inputs, at % inputs);
        let sums = adapters.iter().map(|(rank, factor, a, b)| {
            product(
                *rank,
                *factor,
                |rho| b.values[o * rank + rho],
                |rho| a.values[rho * inputs + i],
            )
        });
        w.values[at] + sums.sum::<f64>()
    });
    assert_rounded(
        &changed(&w, &change).0,
        &expected.collect::<Vec<_>>(),
        Dtype::BF16,
    );
}

/// Every thread on the CPU may work on another matrix and hold its lora_A, so that large ones leave
/// fewer threads.
#[test]
fn large_factors_leave_fewer_threads() {
    let lanes = |bytes| Engine::Cpu.lanes(bytes).unwrap().len();
    assert!(lanes(512 << 20) == 1 && lanes(usize::MAX) == 1);
    assert!(lanes(256 << 20) <= 2 && lanes(0) >= lanes(256 << 20));
    let (a, b) = (
        Owned::made(Dtype::BF16, &[4, 6], 1),
        Owned::made(Dtype::BF16, &[10, 4], 2),
    );
    let w = Owned::made(Dtype::BF16, &[10, 6], 3);
    let change = Change {
        loras: vec![part(4, 1.0, Stack::One, &a, &b); 2],
        ..Change::default()
    };
    let job = Job::new("w", w.tensor(), &change).unwrap();
    // Two of rank 4 in f32, whose 6 columns are padded.
    assert_eq!(job.factor_bytes(), 2 * 4 * 16 * 4);
}
