//! Triton's matrix products: with pointers or tensor maps, split over the depth or not.

use std::sync::Arc;

use super::gpu::{Arg, Buffer, Gpu};
use super::numbers::{Random, Type, tf32};
use super::outcome::{Expected, Outcome};
use super::triton::Variant;

/// Error of a sum of `n` products in f32 on tensor cores, relative to the sum of their sizes: one
/// and a half roundings each.
pub fn dot_error(n: usize) -> f64 {
    1.5 * n as f64 * Type::F32.roundoff()
}

/// Bound on the error of a sum of products of 8-bit floats on Hopper's tensor cores. They sum 32
/// products and the old sum at a time, each cut to 13 bits below the largest one's exponent, and
/// keep 13 bits of the result (MMA-Sim, arXiv 2511.10909).
fn eight_bit_error(products: impl Iterator<Item = f64>) -> f64 {
    let unit = 2_f64.powi(-13);
    let (mut sum, mut bound) = (0.0_f64, 0.0);
    let products: Vec<f64> = products.collect();
    for step in products.chunks(32) {
        let largest = step
            .iter()
            .fold(sum.abs() + bound, |most, p| most.max(p.abs()));
        sum += step.iter().sum::<f64>();
        bound += unit * (33.0 * largest + sum.abs());
    }
    bound
}

/// c[m, n] = a[m, k] b, or more than that onto what c holds.
struct Product {
    /// m, n, k.
    sizes: [usize; 3],
    /// Elements from a row to the next, of a, b and c.
    strides: [usize; 3],
    /// b is stored as [n, k], not as [k, n].
    b_by_columns: bool,
    /// Blocks that add to a tile of c; 0 where one stores it.
    splits: usize,
}

impl Product {
    fn of(variant: &Variant) -> Product {
        let odd = variant.name.ends_with("_odd");
        let sizes @ [_, n, k] = if odd { [77, 53, 45] } else { [200, 144, 176] };
        let kernel = variant.kernel.as_str();
        let b_by_columns = matches!(kernel, "matmul_columns" | "matmul_tensor_maps");
        let padded = |width: usize| match kernel {
            // The kernel makes its maps of rows without gaps.
            "matmul_made_maps" => width,
            _ => (width + 16).next_multiple_of(16),
        };
        Product {
            sizes,
            strides: [k, if b_by_columns { k } else { n }, n].map(padded),
            b_by_columns,
            splits: variant.constant("SPLITS").unwrap_or(0),
        }
    }

    fn b_sizes(&self) -> [usize; 2] {
        let [_, n, k] = self.sizes;
        if self.b_by_columns { [n, k] } else { [k, n] }
    }

    /// Tensor maps with their sizes and strides, or pointers; then the sizes and, of pointers, the
    /// strides.
    fn arguments(&self, variant: &Variant, [a, b, c]: [&Buffer; 3]) -> Result<Vec<Arg>, String> {
        let [m, n, k] = self.sizes;
        let mut arguments = Vec::new();
        let mapped = matches!(
            variant.kernel.as_str(),
            "matmul_tensor_maps" | "matmul_persistent"
        );
        if mapped {
            let matrices = [("a", a, [m, k]), ("b", b, self.b_sizes()), ("c", c, [m, n])];
            for ((name, buffer, sizes), stride) in matrices.into_iter().zip(self.strides) {
                arguments.push(buffer.tensor_map(&variant.tile(name, sizes, stride)?)?);
                arguments.extend(sizes.map(Arg::int));
                arguments.extend([stride, 1].map(Arg::size));
            }
        } else {
            arguments.extend([a, b, c].map(Buffer::arg));
        }
        arguments.extend(self.sizes.map(Arg::int));
        if !mapped && variant.kernel != "matmul_made_maps" {
            arguments.extend(self.strides.map(Arg::int));
        }
        Ok(arguments)
    }

    fn grid(&self, variant: &Variant) -> Result<[usize; 3], String> {
        let [m, n, _] = self.sizes;
        let rows = m.div_ceil(variant.constant("BM")?);
        let columns = n.div_ceil(variant.constant("BN")?);
        Ok(match variant.kernel.as_str() {
            "matmul" => [rows * columns, 1, 1],
            "matmul_split_k" => [rows, columns, self.splits],
            "matmul_persistent" => [variant.constant("BLOCKS")?, 1, 1],
            _ => [rows, columns, 1],
        })
    }
}

pub fn run(gpu: &Arc<Gpu>, variant: &Variant) -> Result<Outcome, String> {
    let (operand, result) = (variant.element("a")?, variant.element("c")?);
    let product = Product::of(variant);
    let [m, n, k] = product.sizes;
    let [stride_a, stride_b, stride_c] = product.strides;
    let mut random = Random::new(m as u64);
    let range = if operand == Type::I8 { 128.0 } else { 1.0 };
    let a = random.values(operand, m * stride_a, -range, range);
    let b = random.values(operand, product.b_sizes()[0] * stride_b, -range, range);
    let before = if product.splits == 0 {
        vec![result.junk(); m * stride_c]
    } else {
        random.values(result, m * stride_c, -1.0, 1.0)
    };
    let (on_a, on_b, on_c) = (
        gpu.upload(operand, &a)?,
        gpu.upload(operand, &b)?,
        gpu.upload(result, &before)?,
    );
    let arguments = product.arguments(variant, [&on_a, &on_b, &on_c])?;
    variant.launch(gpu, product.grid(variant)?, &arguments)?;

    // The tensor cores see f32 as tf32.
    let seen = |value: f64| {
        if operand == Type::F32 {
            tf32(value)
        } else {
            value
        }
    };
    let b_at = |x: usize, j: usize| {
        if product.b_by_columns {
            b[j * stride_b + x]
        } else {
            b[x * stride_b + j]
        }
    };
    let mut expected = Vec::with_capacity(m * stride_c);
    for i in 0..m {
        for j in 0..stride_c {
            let old = before[i * stride_c + j];
            if j >= n {
                expected.push(Expected {
                    value: old,
                    bound: 0.0,
                });
                continue;
            }
            let products = (0..k).map(|x| seen(a[i * stride_a + x]) * seen(b_at(x, j)));
            let (sum, size) = products
                .clone()
                .fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let (value, extra) = match product.splits {
                0 => (sum, 0.0),
                // Each addition rounds what has been summed so far.
                splits => (
                    old + sum,
                    splits as f64 * Type::F32.roundoff() * (size + old.abs()),
                ),
            };
            let summing = match operand {
                Type::I8 => 0.0,
                Type::E4m3 | Type::E5m2 => eight_bit_error(products),
                _ => dot_error(k) * size,
            };
            let bound = summing + extra + result.roundoff() * value.abs();
            expected.push(Expected { value, bound });
        }
    }
    let dtype = if operand == Type::F32 {
        "tf32"
    } else {
        operand.name()
    };
    Outcome::of(&variant.name, dtype, &gpu.download(&on_c)?, &expected)
}
