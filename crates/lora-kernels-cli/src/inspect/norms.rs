//! Frobenius norms of a module's matrices and of what they add.

use lora_kernels_adapters::{Kind, Module, Tensor};
use serde::Serialize;

use crate::failure::Failure;
use crate::merge::numbers::{CHUNK, collected, element_bytes, part};

/// Frobenius norms.
#[derive(Serialize, Clone, Copy)]
pub struct Norms {
    pub norm_a: f64,
    pub norm_b: f64,
    /// The norm of scaling·B·A.
    pub norm_delta: f64,
}

/// Elements that are in memory at a time as f64.
const WIDE: usize = CHUNK / size_of::<f64>();

/// The norms of a module. Those of several experts are of all their matrices together.
pub fn of(module: &Module<'_>) -> Result<Norms, Failure> {
    let square = match module.kind {
        _ if module.rank > module.in_features.min(module.out_features) => square_of_all(module)?,
        Kind::Parameter => {
            let of_b = grams_of_columns(&module.b, module.rank, module.experts)?;
            square_of_grams(&of_b, module)?
        }
        _ => {
            let of_b = { parts(&module.b, module.experts).into_iter() }
                .map(|b| grams_of_columns(&b?, module.rank, 1));
            square_of_grams(&of_b.collect::<Result<Vec<_>, _>>()?.concat(), module)?
        }
    };
    Ok(Norms {
        norm_a: norm(&module.a)?,
        norm_b: norm(&module.b)?,
        norm_delta: f64::from(module.scaling).abs() * square.max(0.0).sqrt(),
    })
}

/// The norm of all elements.
fn norm(tensor: &Tensor<'_>) -> Result<f64, Failure> {
    let (mut chunks, mut square) = (tensor.chunks(CHUNK), 0.0);
    while let Some(chunk) = chunks.next_chunk()? {
        let values = collected(chunk, tensor.dtype);
        square = values.iter().fold(square, |sum, x| sum + x * x);
    }
    Ok(square.sqrt())
}

/// Equal parts of a tensor, one after the other.
fn parts<'a>(tensor: &Tensor<'a>, count: usize) -> Vec<Result<Tensor<'a>, Failure>> {
    let elements = tensor.shape.iter().product::<usize>() / count.max(1);
    { 0..count.max(1) }
        .map(|at| part(tensor, at * elements..(at + 1) * elements))
        .collect()
}

/// Σ‖B·A‖² over the experts, from each Bᵀ·B. ‖B·A‖² = tr((BᵀB)(AAᵀ)), and both factors are (r, r),
/// so no matrix of the weight's size is needed.
fn square_of_grams(of_b: &[Vec<f64>], module: &Module<'_>) -> Result<f64, Failure> {
    let mut square = 0.0;
    for (a, of_b) in parts(&module.a, module.experts).into_iter().zip(of_b) {
        let of_a = gram_of_rows(&a?, module.rank)?;
        square += of_a.iter().zip(of_b).map(|(x, y)| x * y).sum::<f64>();
    }
    Ok(square)
}

/// Σ‖B·A‖² over the experts where (r, r) exceeds A or B, which are then read whole.
fn square_of_all(module: &Module<'_>) -> Result<f64, Failure> {
    let wide = |tensor: &Tensor<'_>| -> Result<Vec<f64>, Failure> {
        Ok(collected(&tensor.read()?, tensor.dtype))
    };
    let experts = module.experts.max(1);
    let mixed = match module.kind {
        Kind::Parameter => wide(&module.b)?,
        _ => Vec::new(),
    };
    let pairs = parts(&module.a, experts)
        .into_iter()
        .zip(parts(&module.b, experts));
    let mut square = 0.0;
    for (expert, (a, b)) in pairs.enumerate() {
        let b = match module.kind {
            // Columns ρ·experts + expert of lora_B.
            Kind::Parameter => mixed
                .iter()
                .skip(expert)
                .step_by(experts)
                .copied()
                .collect(),
            _ => wide(&b?)?,
        };
        square += square_by_rows(&wide(&a?)?, &b, module.rank);
    }
    Ok(square)
}

/// ‖B·A‖², computed row by row of B·A. It is for ranks so large that (r, r) exceeds A or B.
fn square_by_rows(a: &[f64], b: &[f64], r: usize) -> f64 {
    let mut row = vec![0.0; a.len() / r];
    let square_of = |factors: &[f64]| {
        row.fill(0.0);
        for (factor, of_a) in factors.iter().zip(a.chunks_exact(a.len() / r)) {
            for (sum, value) in row.iter_mut().zip(of_a) {
                *sum += factor * value;
            }
        }
        row.iter().map(|value| value * value).sum::<f64>()
    };
    b.chunks_exact(r).map(square_of).sum()
}

/// A·Aᵀ (r, r) of A (r, any width), a block of columns at a time. The tensor's shape isn't used.
fn gram_of_rows(a: &Tensor<'_>, r: usize) -> Result<Vec<f64>, Failure> {
    let columns = a.bytes() / element_bytes(a.dtype).max(1) / r;
    let block = (WIDE / r).max(1);
    let mut gram = vec![0.0; r * r];
    for first in (0..columns).step_by(block) {
        let end = columns.min(first + block);
        let rows = (0..r).map(|row| {
            let row = part(a, row * columns + first..row * columns + end)?;
            Ok(collected(&row.read()?, row.dtype))
        });
        let rows = rows.collect::<Result<Vec<_>, Failure>>()?;
        for i in 0..r {
            for j in 0..=i {
                let dot: f64 = rows[i].iter().zip(&rows[j]).map(|(x, y)| x * y).sum();
                gram[i * r + j] += dot;
                gram[j * r + i] = gram[i * r + j];
            }
        }
    }
    Ok(gram)
}

/// For each expert Bᵀ·B (r, r) of B (any height, r · experts), some rows at a time. Column
/// ρ·experts + e belongs to row ρ of expert e. The tensor's shape isn't used.
fn grams_of_columns(b: &Tensor<'_>, r: usize, experts: usize) -> Result<Vec<Vec<f64>>, Failure> {
    let experts = experts.max(1);
    let row_bytes = r * experts * element_bytes(b.dtype);
    let mut grams = vec![vec![0.0; r * r]; experts];
    let mut chunks = b.chunks((CHUNK / row_bytes.max(1)).max(1) * row_bytes);
    while let Some(chunk) = chunks.next_chunk()? {
        for row in collected(chunk, b.dtype).chunks_exact(r * experts) {
            for (expert, gram) in grams.iter_mut().enumerate() {
                let own = || row[expert..].iter().step_by(experts);
                for (sums, x) in gram.chunks_exact_mut(r).zip(own()) {
                    for (sum, y) in sums.iter_mut().zip(own()) {
                        *sum += x * y;
                    }
                }
            }
        }
    }
    Ok(grams)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_adapters::Dtype;

    fn made(count: usize) -> Vec<f64> {
        (0..count).map(|i| (i * 37 % 11) as f64 - 5.0).collect()
    }

    fn bytes(values: &[f64]) -> Vec<u8> {
        { values.iter() }
            .flat_map(|value| value.to_le_bytes())
            .collect()
    }

    /// Experts of A (3, 40) and B (50, 3), which are several chunks in tests. The sums are of whole
    /// numbers, which are exact in any order.
    #[test]
    fn every_way_gives_one_norm() {
        let (r, k, n) = (3, 40, 50);
        for experts in [1, 4] {
            let (a, b) = (made(experts * r * k), made(experts * n * r));
            let pairs = a.chunks(r * k).zip(b.chunks(n * r));
            let expected: Vec<f64> = pairs.map(|(a, b)| square_by_rows(a, b, r)).collect();
            // Each expert's columns, as parameters have them.
            let mut mixed = vec![0.0; b.len()];
            for (at, value) in b.iter().enumerate() {
                let (expert, row, column) = (at / (n * r), at / r % n, at % r);
                mixed[(row * r + column) * experts + expert] = *value;
            }
            let (a, mixed) = (bytes(&a), bytes(&mixed));
            let (of_a, of_b) = ([experts * r, k], [n, r * experts]);
            let a = Tensor::named("a", Dtype::F64, &of_a, &a);
            let b = Tensor::named("b", Dtype::F64, &of_b, &mixed);
            let of_b = grams_of_columns(&b, r, experts).unwrap();
            let squares = { parts(&a, experts).into_iter().zip(of_b) }.map(|(a, of_b)| {
                let of_a = gram_of_rows(&a.unwrap(), r).unwrap();
                of_a.iter().zip(&of_b).map(|(x, y)| x * y).sum::<f64>()
            });
            assert_eq!(squares.collect::<Vec<f64>>(), expected);
            let squares: f64 = made(experts * r * k).iter().map(|x| x * x).sum();
            assert_eq!(norm(&a).unwrap(), squares.sqrt());
        }
    }
}
