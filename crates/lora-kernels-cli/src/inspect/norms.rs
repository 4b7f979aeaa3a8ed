//! Frobenius norms of a module's matrices and of what they add.

use lora_kernels_adapters::{Kind, Module};
use serde::Serialize;

use crate::failure::Failure;
use crate::merge::numbers::converted;

/// Frobenius norms.
#[derive(Serialize, Clone, Copy)]
pub struct Norms {
    pub norm_a: f64,
    pub norm_b: f64,
    /// The norm of scaling·B·A.
    pub norm_delta: f64,
}

/// The norms of a module. Those of several experts are of all their matrices together.
pub fn of(module: &Module<'_>) -> Result<Norms, Failure> {
    let wide = |tensor| -> Result<Vec<f64>, Failure> {
        let values = converted::<f32>(tensor)?;
        Ok(values.iter().map(|value| f64::from(*value)).collect())
    };
    let (a, b) = (wide(&module.a)?, wide(&module.b)?);
    let norm = |matrix: &[f64]| matrix.iter().map(|x| x * x).sum::<f64>().sqrt();
    let square: f64 = match module.kind {
        _ if module.experts <= 1 => square(&a, &b, module),
        Kind::Stacked => {
            let pairs = a
                .chunks_exact(a.len() / module.experts)
                .zip(b.chunks_exact(b.len() / module.experts));
            pairs.map(|(a, b)| square(a, b, module)).sum()
        }
        _ => (0..module.experts)
            .zip(a.chunks_exact(a.len() / module.experts))
            .map(|(expert, a)| {
                // Columns ρ·experts + expert of lora_B.
                let columns = b.iter().skip(expert).step_by(module.experts);
                square(a, &columns.copied().collect::<Vec<f64>>(), module)
            })
            .sum(),
    };
    Ok(Norms {
        norm_a: norm(&a),
        norm_b: norm(&b),
        norm_delta: f64::from(module.scaling).abs() * square.max(0.0).sqrt(),
    })
}

/// ‖B·A‖² of one matrix.
fn square(a: &[f64], b: &[f64], module: &Module<'_>) -> f64 {
    let r = module.rank;
    if r > module.in_features.min(module.out_features) {
        square_by_rows(a, b, r)
    } else {
        // ‖B·A‖² = tr((BᵀB)(AAᵀ)). Both factors are (r, r), so no matrix of the weight's size is
        // needed.
        let (rows, columns) = (gram_of_rows(a, r), gram_of_columns(b, r));
        rows.iter().zip(&columns).map(|(x, y)| x * y).sum()
    }
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

/// A·Aᵀ (r, r) of A (r, any width).
fn gram_of_rows(a: &[f64], r: usize) -> Vec<f64> {
    let rows: Vec<&[f64]> = a.chunks_exact(a.len() / r).collect();
    let mut gram = vec![0.0; r * r];
    for i in 0..r {
        for j in 0..=i {
            let dot = rows[i].iter().zip(rows[j]).map(|(x, y)| x * y).sum();
            (gram[i * r + j], gram[j * r + i]) = (dot, dot);
        }
    }
    gram
}

/// Bᵀ·B (r, r) of B (any height, r).
fn gram_of_columns(b: &[f64], r: usize) -> Vec<f64> {
    let mut gram = vec![0.0; r * r];
    for row in b.chunks_exact(r) {
        for (sums, x) in gram.chunks_exact_mut(r).zip(row) {
            for (sum, y) in sums.iter_mut().zip(row) {
                *sum += x * y;
            }
        }
    }
    gram
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A is (3, 4) and B is (5, 3).
    #[test]
    fn both_ways_give_one_norm() {
        let made = |count: usize| {
            (0..count)
                .map(|i| (i * 37 % 11) as f64 - 5.0)
                .collect::<Vec<f64>>()
        };
        let (a, b) = (made(12), made(15));
        let grams: f64 = gram_of_rows(&a, 3)
            .iter()
            .zip(&gram_of_columns(&b, 3))
            .map(|(x, y)| x * y)
            .sum();
        assert_eq!(square_by_rows(&a, &b, 3), grams);
    }
}
