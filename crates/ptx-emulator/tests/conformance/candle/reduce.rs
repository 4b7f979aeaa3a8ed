//! Reductions, normalisations, softmax and rotary embeddings.

use super::super::gpu::{Arg, Shape};
use super::super::numbers::{Random, Type};
use super::super::outcome::Expected;
use super::{ALL, Case, FLOATS, Suite, dense, exactly};

pub fn run(suite: &mut Suite) {
    suite.module("reduce", |suite| {
        for ty in ALL {
            extremes(suite, ty);
            sums(suite, ty);
        }
        for ty in FLOATS {
            softmax(suite, ty);
            for threads in [32, 1024] {
                norms(suite, ty, threads);
            }
            rope(suite, ty);
        }
    });
}

/// What sums in this type are computed in, for the bound.
fn roundoff_of_sums(ty: Type) -> f64 {
    match ty {
        Type::F64 => Type::F64.roundoff(),
        // f16 sums in f16 in the generic kernels.
        Type::F16 => Type::F16.roundoff(),
        _ => Type::F32.roundoff(),
    }
}

/// Rows of a dense matrix that is given as the transpose of another: element (i, j) lies at j *
/// rows + i.
fn rows_of(values: &[f64], rows: usize, columns: usize) -> Vec<Vec<f64>> {
    (0..rows)
        .map(|i| (0..columns).map(|j| values[j * rows + i]).collect())
        .collect()
}

/// Minimum, maximum and where they are, over the rows of a transposed view.
fn extremes(suite: &mut Suite, ty: Type) {
    let (rows, columns) = (6, 197);
    // A permutation of few enough values that every type tells them apart, so that there is one
    // extreme.
    let x: Vec<f64> = (0..rows * columns)
        .map(|i| ((i / rows * 83 + i % rows * 7) % columns) as f64)
        .collect();
    let position = |row: &[f64], best: fn(f64, f64) -> f64| {
        let extreme = row.iter().copied().reduce(best).unwrap_or(f64::NAN);
        (
            extreme,
            row.iter().position(|&v| v == extreme).unwrap_or(0) as f64,
        )
    };
    for (name, best) in [("min", f64::min as fn(f64, f64) -> f64), ("max", f64::max)] {
        let found: Vec<(f64, f64)> = rows_of(&x, rows, columns)
            .iter()
            .map(|row| position(row, best))
            .collect();
        for (prefix, out) in [("fast_", ty), ("fast_arg", Type::U32)] {
            let case = Case::new(
                format!("{prefix}{name}_{}", ty.name()),
                ty,
                Shape::new(rows, 64),
            );
            let is_position = out == Type::U32 && prefix == "fast_arg";
            let expected = exactly(found.iter().map(|f| if is_position { f.1 } else { f.0 }));
            suite.check(&case, &expected, |gpu, arguments| {
                arguments.sizes([rows * columns, columns, 2]);
                arguments.info(gpu, &[&[rows, columns], &[1, rows]])?;
                arguments.input(gpu, ty, &x)?;
                arguments.output(gpu, out, rows)
            });
        }
    }
}

fn sums(suite: &mut Suite, ty: Type) {
    let (rows, columns) = (6, 189);
    let high = if ty == Type::U8 { 2.0 } else { 8.0 };
    let low = if ty.is_float() { -8.0 } else { 0.0 };
    let x = Random::new(43).values(ty, rows * columns, low, high);
    let expected = |rows: Vec<Vec<f64>>, in_order: bool| -> Vec<Expected> {
        rows.into_iter()
            .map(|row| {
                let value: f64 = row.iter().sum();
                let size: f64 = row.iter().map(|v| v.abs()).sum();
                // One after the other each addition rounds; in a tree of 64 threads three and then
                // six do.
                let roundings = if in_order { columns as f64 } else { 12.0 };
                let exact = !ty.is_float();
                let bound = roundings * roundoff_of_sums(ty) * size + ty.roundoff() * value.abs();
                Expected {
                    value,
                    bound: if exact { 0.0 } else { bound },
                }
            })
            .collect()
    };
    let dense_rows = || {
        x.chunks_exact(columns)
            .map(<[f64]>::to_vec)
            .collect::<Vec<_>>()
    };

    for (strides, view) in [
        (dense([rows, columns]), ""),
        ([1, rows], " of a transposed view"),
    ] {
        let data = if view.is_empty() {
            dense_rows()
        } else {
            rows_of(&x, rows, columns)
        };
        let mut case = Case::new(format!("fast_sum_{}", ty.name()), ty, Shape::new(rows, 64));
        case.view = view;
        suite.check(&case, &expected(data, false), |gpu, arguments| {
            arguments.sizes([rows * columns, columns, 2]);
            arguments.info(gpu, &[&[rows, columns], &strides])?;
            arguments.input(gpu, ty, &x)?;
            arguments.output(gpu, ty, rows)
        });
    }

    // The kernel for rows of at most 32 elements: a thread sums one in order, halves in f32.
    let short = 21;
    let case = Case::new(
        format!("fast_sum_small_{}", ty.name()),
        ty,
        Shape::new(1, 64),
    );
    let data: Vec<Vec<f64>> = x.chunks_exact(short).map(<[f64]>::to_vec).collect();
    let count = data.len();
    suite.check(&case, &expected(data, true), |gpu, arguments| {
        arguments.sizes([count, short, 2]);
        arguments.info(gpu, &[&[count, short], &dense([count, short])])?;
        arguments.input(gpu, ty, &x)?;
        arguments.output(gpu, ty, count)
    });

    if matches!(ty, Type::U8 | Type::I64) {
        return;
    }
    // Atomic additions, into zeros: over the columns, whose stride in the dense order is 1.
    let case = Case::new(format!("sum_{}", ty.name()), ty, Shape::new(3, 128));
    let mut wanted = expected(dense_rows(), true);
    if ty == Type::Bf16 {
        for (e, row) in wanted.iter_mut().zip(dense_rows()) {
            e.bound = columns as f64 * ty.roundoff() * row.iter().map(|v| v.abs()).sum::<f64>();
        }
    }
    suite.check(&case, &wanted, |gpu, arguments| {
        arguments.sizes([rows * columns, 2, 1]);
        arguments.info(
            gpu,
            &[&[rows, columns], &dense([rows, columns]), &[columns], &[1]],
        )?;
        arguments.input(gpu, ty, &x)?;
        arguments.in_place(gpu, ty, &vec![0.0; rows])
    });
}

fn softmax(suite: &mut Suite, ty: Type) {
    let (rows, columns) = (5, 301);
    let x = Random::new(47).values(ty, rows * columns, -6.0, 6.0);
    let mut expected = Vec::new();
    for row in x.chunks_exact(columns) {
        let most = row.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = row.iter().map(|v| (v - most).exp()).sum();
        expected.extend(row.iter().map(|v| {
            let value = (v - most).exp() / total;
            // The difference, its exponential, the inverse and the product are each rounded to the
            // type; the first of them moves the exponential by as much as its own size. An
            // exponential takes two ulps, and the sum is one of rounded exponentials.
            let relative = ty.roundoff() * (10.0 + (most - v)) + columns as f64 * 2.0_f64.powi(-24);
            let relative = if ty == Type::F64 {
                ty.roundoff() * (40.0 + most - v)
            } else {
                relative
            };
            Expected {
                value,
                // Both the exponential and the result may be subnormal.
                bound: relative * value + ty.tiny() * (1.0 + 1.0 / total),
            }
        }));
    }
    let mut shape = Shape::new(rows, 1);
    shape.block = [1, 32, 1];
    let case = Case::new(format!("softmax_{}", ty.name()), ty, shape);
    suite.check(&case, &expected, |gpu, arguments| {
        arguments.input(gpu, ty, &x)?;
        let out = arguments.output(gpu, ty, rows * columns)?;
        arguments.push(Arg::int(columns));
        Ok(out)
    });
}

/// Root-mean-square and layer normalisation. All types compute in f32.
fn norms(suite: &mut Suite, ty: Type, threads: usize) {
    let (rows, columns, epsilon) = (4, 1500, 1e-5_f32);
    let mut random = Random::new(53);
    let x = random.values(ty, rows * columns, -1.0, 2.0);
    let alpha = random.values(ty, columns, -2.0, 2.0);
    let beta = random.values(ty, columns, -2.0, 2.0);
    let mean =
        |row: &[f64], f: fn(f64) -> f64| row.iter().map(|&v| f(v)).sum::<f64>() / columns as f64;
    // A thread sums up to 47 elements, then ten levels of a tree; the variance is a difference of
    // sums.
    let rounding = 80.0 * Type::F32.roundoff();
    let (mut rms, mut layer) = (Vec::new(), Vec::new());
    for row in x.chunks_exact(columns) {
        let square = mean(row, |v| v * v);
        let centre = mean(row, |v| v);
        let scale = 1.0 / (square + f64::from(epsilon)).sqrt();
        let variance = square - centre * centre;
        let inverse = 1.0 / (variance + f64::from(epsilon)).sqrt();
        for ((v, a), b) in row.iter().zip(&alpha).zip(&beta) {
            let value: f64 = v * scale * a;
            rms.push(Expected {
                value,
                bound: (rounding + ty.roundoff()) * value.abs() + ty.tiny(),
            });
            let value: f64 = (v - centre) * inverse * a + b;
            let size =
                (v.abs() + mean(row, f64::abs)) * inverse * a.abs() * (1.0 + square / variance)
                    + b.abs();
            layer.push(Expected {
                value,
                bound: rounding * size + ty.roundoff() * value.abs() + ty.tiny(),
            });
        }
    }
    for (name, with_beta, expected) in [("rmsnorm", false, rms), ("layernorm", true, layer)] {
        let mut case = Case::new(
            format!("{name}_{}", ty.name()),
            ty,
            Shape::new(rows, threads),
        );
        case.view = if threads > 32 {
            " in 32 warps"
        } else {
            " in one warp"
        };
        suite.check(&case, &expected, |gpu, arguments| {
            arguments.input(gpu, ty, &x)?;
            let out = arguments.output(gpu, ty, rows * columns)?;
            arguments.input(gpu, ty, &alpha)?;
            if with_beta {
                arguments.input(gpu, ty, &beta)?;
            }
            arguments
                .list
                .extend([Arg::int(columns), Arg::int(threads), Arg::f32(epsilon)]);
            Ok(out)
        });
    }
}

/// Rotary position embedding of [heads, tokens, features]: pairs half a row apart, or neighbours.
fn rope(suite: &mut Suite, ty: Type) {
    let (heads, tokens, features) = (3, 10, 12);
    let half = features / 2;
    let count = heads * tokens * features;
    let mut random = Random::new(59);
    let x = random.values(ty, count, -2.0, 2.0);
    let angles: Vec<f64> = (0..tokens * half)
        .map(|_| random.between(0.0, 6.0))
        .collect();
    let cosines = ty.rounded(&angles.iter().map(|a| a.cos()).collect::<Vec<_>>());
    let sines = ty.rounded(&angles.iter().map(|a| a.sin()).collect::<Vec<_>>());
    for name in ["rope", "rope_i"] {
        let mut expected: Vec<Expected> = exactly(vec![0.0; count]);
        for row in 0..heads * tokens {
            for pair in 0..half {
                let start = row * features;
                let (i, j) = match name {
                    "rope" => (start + pair, start + pair + half),
                    _ => (start + 2 * pair, start + 2 * pair + 1),
                };
                let (c, s) = (
                    cosines[row % tokens * half + pair],
                    sines[row % tokens * half + pair],
                );
                for (at, p, q) in [(i, x[i] * c, -x[j] * s), (j, x[i] * s, x[j] * c)] {
                    // Both products and their sum may be rounded.
                    expected[at] = Expected {
                        value: p + q,
                        bound: ty.roundoff() * (p.abs() + q.abs() + (p + q).abs()) + ty.tiny(),
                    };
                }
            }
        }
        let case = Case::new(format!("{name}_{}", ty.name()), ty, Shape::new(3, 64));
        suite.check(&case, &expected, |gpu, arguments| {
            arguments.input(gpu, ty, &x)?;
            arguments.input(gpu, ty, &cosines)?;
            arguments.input(gpu, ty, &sines)?;
            let out = arguments.output(gpu, ty, count)?;
            arguments
                .list
                .extend([heads, tokens * features].map(Arg::int));
            if name == "rope" {
                arguments.push(Arg::int(features));
            }
            arguments.push(Arg::int(0));
            Ok(out)
        });
    }
}
