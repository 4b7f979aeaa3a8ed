//! Kernels compiled by Triton ([`triton/kernels.py`]): the committed PTX, each with a reference in
//! f64.

use std::path::Path;
use std::sync::Arc;

use super::gpu::{Arg, Gpu, Shape};
use super::numbers::{Random, Type, tf32};
use super::outcome::{Expected, Outcome};

/// Error of a sum of `n` products in f32 on tensor cores, relative to the sum of their sizes: one
/// and a half roundings each.
pub fn dot_error(n: usize) -> f64 {
    1.5 * n as f64 * Type::F32.roundoff()
}

/// A line of the manifest.
struct Variant {
    name: String,
    kernel: String,
    threads: u32,
    shared: u32,
    constants: Vec<(String, usize)>,
    types: Vec<(String, String)>,
    ptx: String,
}

impl Variant {
    fn read(name: &str) -> Result<Variant, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance/triton");
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let manifest = read("manifest.txt")?;
        let malformed = || format!("manifest.txt has no well-formed line for {name}");
        let line = manifest
            .lines()
            .find(|line| line.split("; ").next() == Some(name));
        let fields: Vec<&str> = line.ok_or_else(malformed)?.split("; ").collect();
        let [_, kernel, warps, shared, constants, types] = fields.as_slice() else {
            return Err(malformed());
        };
        let mut variant = Variant {
            name: name.to_owned(),
            kernel: (*kernel).to_owned(),
            threads: 32 * warps.parse::<u32>().map_err(|_| malformed())?,
            shared: shared.parse().map_err(|_| malformed())?,
            constants: Vec::new(),
            types: Vec::new(),
            ptx: read(&format!("{name}.ptx"))?,
        };
        for item in constants.split(' ') {
            let (key, value) = item.split_once('=').ok_or_else(malformed)?;
            let value = value.parse().map_err(|_| malformed())?;
            variant.constants.push((key.to_owned(), value));
        }
        for item in types.split(' ') {
            let (key, value) = item.split_once(':').ok_or_else(malformed)?;
            variant.types.push((key.to_owned(), value.to_owned()));
        }
        Ok(variant)
    }

    fn constant(&self, name: &str) -> Result<usize, String> {
        let found = self.constants.iter().find(|(key, _)| key == name);
        found
            .map(|f| f.1)
            .ok_or_else(|| format!("{}: no constant {name}", self.name))
    }

    /// The element type of a pointer.
    fn element(&self, name: &str) -> Result<Type, String> {
        let found = self
            .types
            .iter()
            .find(|(key, _)| key == name)
            .map(|f| f.1.as_str());
        match found {
            Some("*bf16") => Ok(Type::Bf16),
            Some("*fp16") => Ok(Type::F16),
            Some("*fp32") => Ok(Type::F32),
            Some("*i8") => Ok(Type::I8),
            Some("*i32") => Ok(Type::I32),
            other => Err(format!("{}: {name} is {other:?}", self.name)),
        }
    }

    fn launch(&self, gpu: &Arc<Gpu>, grid: [usize; 3], arguments: &[Arg]) -> Result<(), String> {
        if arguments.len() != self.types.len() {
            return Err(format!(
                "{} takes {} arguments",
                self.name,
                self.types.len()
            ));
        }
        // Two more, for scratch memory that no kernel here asks for.
        let arguments = [arguments, &[Arg::NULL, Arg::NULL]].concat();
        let shape = Shape {
            grid: grid.map(|n| n as u32),
            block: [self.threads, 1, 1],
            shared: self.shared,
        };
        gpu.load(&self.ptx)?.launch(&self.kernel, shape, &arguments)
    }
}

/// Every program of the manifest has its name here.
pub const PROGRAMS: [&str; 13] = [
    "matmul_bf16",
    "matmul_f16",
    "matmul_f16_odd",
    "matmul_tf32",
    "matmul_i8",
    "split_k_f16",
    "split_k_bf16",
    "softmax_f32",
    "softmax_f16",
    "layer_norm_f32",
    "layer_norm_bf16",
    "attention_f16",
    "attention_bf16",
];

/// Runs one of [`PROGRAMS`].
pub fn run(name: &str) -> Result<Outcome, String> {
    let gpu = &Gpu::new()?;
    let variant = Variant::read(name)?;
    match variant.kernel.as_str() {
        "matmul" | "matmul_split_k" => matmul(gpu, &variant),
        "softmax" => softmax(gpu, &variant),
        "layer_norm" => layer_norm(gpu, &variant),
        "attention" => attention(gpu, &variant),
        other => Err(format!("{name}: no reference for kernel {other}")),
    }
}

/// Both matrix products. The split one adds to what is there.
fn matmul(gpu: &Arc<Gpu>, variant: &Variant) -> Result<Outcome, String> {
    let (operand, result) = (variant.element("a")?, variant.element("c")?);
    let splits = variant.constant("SPLITS").unwrap_or(0);
    let odd = variant.name.ends_with("_odd");
    let [m, n, k] = if odd { [77, 53, 45] } else { [200, 144, 176] };
    let [stride_a, stride_b, stride_c] =
        [k, n, n].map(|width: usize| (width + 16).next_multiple_of(16));
    let mut random = Random::new(m as u64);
    let range = if operand == Type::I8 { 128.0 } else { 1.0 };
    let a = random.values(operand, m * stride_a, -range, range);
    let b = random.values(operand, k * stride_b, -range, range);
    let before = if splits == 0 {
        vec![result.junk(); m * stride_c]
    } else {
        random.values(result, m * stride_c, -1.0, 1.0)
    };
    let (on_a, on_b, on_c) = (
        gpu.upload(operand, &a)?,
        gpu.upload(operand, &b)?,
        gpu.upload(result, &before)?,
    );
    let mut arguments = vec![on_a.arg(), on_b.arg(), on_c.arg()];
    arguments.extend([m, n, k, stride_a, stride_b, stride_c].map(Arg::int));
    let rows = m.div_ceil(variant.constant("BM")?);
    let columns = n.div_ceil(variant.constant("BN")?);
    let grid = match splits {
        0 => [rows * columns, 1, 1],
        _ => [rows, columns, splits],
    };
    variant.launch(gpu, grid, &arguments)?;

    // The tensor cores see f32 as tf32.
    let seen = |value: f64| {
        if operand == Type::F32 {
            tf32(value)
        } else {
            value
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
            let products = (0..k).map(|x| seen(a[i * stride_a + x]) * seen(b[x * stride_b + j]));
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let (value, extra) = match splits {
                0 => (sum, 0.0),
                // Each addition rounds what has been summed so far.
                _ => (
                    old + sum,
                    splits as f64 * Type::F32.roundoff() * (size + old.abs()),
                ),
            };
            let exact = operand == Type::I8;
            let bound = dot_error(k) * size + extra + result.roundoff() * value.abs();
            expected.push(Expected {
                value,
                bound: if exact { 0.0 } else { bound },
            });
        }
    }
    let dtype = if operand == Type::F32 {
        "tf32"
    } else {
        operand.name()
    };
    Outcome::of(&variant.name, dtype, &gpu.download(&on_c)?, &expected)
}

fn softmax(gpu: &Arc<Gpu>, variant: &Variant) -> Result<Outcome, String> {
    let ty = variant.element("x")?;
    let (rows, columns, stride) = (5, 781, 800);
    let x = Random::new(7).values(ty, rows * stride, -12.0, 12.0);
    let (on_x, on_y) = (gpu.upload(ty, &x)?, gpu.output(ty, rows * stride)?);
    let arguments = [on_x.arg(), on_y.arg(), Arg::int(columns), Arg::int(stride)];
    variant.launch(gpu, [rows, 1, 1], &arguments)?;
    let mut expected = Vec::with_capacity(rows * stride);
    for row in x.chunks_exact(stride) {
        let inside = &row[..columns];
        let most = inside.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let total: f64 = inside.iter().map(|v| (v - most).exp()).sum();
        for (column, v) in row.iter().enumerate() {
            if column >= columns {
                expected.push(Expected {
                    value: ty.junk(),
                    bound: 0.0,
                });
                continue;
            }
            let value = (v - most).exp() / total;
            // The exponent, up to 24 / ln 2 in size, is rounded twice; ex2.approx, the sum's tree
            // and div.full have a few roundings each.
            let relative = Type::F32.roundoff() * (16.0 + 2.0 * (most - v));
            expected.push(Expected {
                value,
                bound: value * (relative + ty.roundoff()) + ty.tiny(),
            });
        }
    }
    Outcome::of(&variant.name, ty.name(), &gpu.download(&on_y)?, &expected)
}

fn layer_norm(gpu: &Arc<Gpu>, variant: &Variant) -> Result<Outcome, String> {
    let ty = variant.element("x")?;
    let (rows, columns, stride, epsilon) = (3, 1100, 1104, 1e-5_f32);
    let mut random = Random::new(11);
    let x = random.values(ty, rows * stride, -1.0, 3.0);
    let weight = random.values(ty, columns, -2.0, 2.0);
    let bias = random.values(ty, columns, -2.0, 2.0);
    let (on_x, on_weight, on_bias) = (
        gpu.upload(ty, &x)?,
        gpu.upload(ty, &weight)?,
        gpu.upload(ty, &bias)?,
    );
    let (on_y, on_mean, on_rstd) = (
        gpu.output(ty, rows * stride)?,
        gpu.output(Type::F32, rows)?,
        gpu.output(Type::F32, rows)?,
    );
    let mut arguments: Vec<Arg> = [&on_x, &on_weight, &on_bias, &on_y, &on_mean, &on_rstd]
        .into_iter()
        .map(|buffer| buffer.arg())
        .collect();
    arguments.extend([Arg::int(columns), Arg::int(stride), Arg::f32(epsilon)]);
    variant.launch(gpu, [rows, 1, 1], &arguments)?;
    let got: Vec<f64> = [&on_y, &on_mean, &on_rstd]
        .into_iter()
        .map(|buffer| gpu.download(buffer))
        .collect::<Result<Vec<_>, _>>()?
        .concat();
    // Sums of 1100 numbers in a tree: about 16 roundings each way, and as many for the rest.
    let rounding = 32.0 * Type::F32.roundoff();
    let (mut expected, mut means, mut rstds) = (Vec::new(), Vec::new(), Vec::new());
    for row in x.chunks_exact(stride) {
        let inside = &row[..columns];
        let mean = inside.iter().sum::<f64>() / columns as f64;
        let size = inside.iter().map(|v| v.abs()).sum::<f64>() / columns as f64;
        let variance = inside.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / columns as f64;
        let rstd = 1.0 / (variance + f64::from(epsilon)).sqrt();
        means.push(Expected {
            value: mean,
            bound: rounding * size,
        });
        rstds.push(Expected {
            value: rstd,
            bound: rounding * rstd,
        });
        for (column, v) in row.iter().enumerate() {
            let (Some(w), Some(b)) = (weight.get(column), bias.get(column)) else {
                expected.push(Expected {
                    value: ty.junk(),
                    bound: 0.0,
                });
                continue;
            };
            let value = (v - mean) * rstd * w + b;
            let scale = ((v - mean).abs() + size) * rstd * w.abs() + b.abs();
            expected.push(Expected {
                value,
                bound: rounding * scale + ty.roundoff() * value.abs() + ty.tiny(),
            });
        }
    }
    expected.extend(means);
    expected.extend(rstds);
    Outcome::of(&variant.name, ty.name(), &got, &expected)
}

fn attention(gpu: &Arc<Gpu>, variant: &Variant) -> Result<Outcome, String> {
    let ty = variant.element("q")?;
    let head = variant.constant("HEAD")?;
    let (heads, tokens) = (3, 150);
    let mut random = Random::new(13);
    let count = heads * tokens * head;
    let q = random.values(ty, count, -2.0, 2.0);
    let k = random.values(ty, count, -2.0, 2.0);
    let v = random.values(ty, count, -1.0, 1.0);
    let (on_q, on_k, on_v) = (
        gpu.upload(ty, &q)?,
        gpu.upload(ty, &k)?,
        gpu.upload(ty, &v)?,
    );
    let on_out = gpu.output(ty, count)?;
    let scale = 1.0 / (head as f64).sqrt();
    let scale_log2 = (scale * std::f64::consts::LOG2_E) as f32;
    let mut arguments: Vec<Arg> = [&on_q, &on_k, &on_v, &on_out]
        .into_iter()
        .map(|b| b.arg())
        .collect();
    arguments.extend([Arg::int(tokens), Arg::f32(scale_log2)]);
    let blocks = tokens.div_ceil(variant.constant("BM")?);
    variant.launch(gpu, [blocks, heads, 1], &arguments)?;

    let mut expected = Vec::with_capacity(count);
    for first in (0..count).step_by(tokens * head) {
        for i in 0..tokens {
            let query = &q[first + i * head..][..head];
            let mut scores = Vec::with_capacity(i + 1);
            let mut sharpest: f64 = 0.0;
            for j in 0..=i {
                let products = query.iter().zip(&k[first + j * head..]).map(|(a, b)| a * b);
                let (sum, size) =
                    products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                scores.push(sum * scale);
                sharpest = sharpest.max(
                    dot_error(head) * size * scale
                        + 4.0 * Type::F32.roundoff() * (sum * scale).abs(),
                );
            }
            let most = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            let powers: Vec<f64> = scores.iter().map(|s| (s - most).exp()).collect();
            let total: f64 = powers.iter().sum();
            for d in 0..head {
                let products = powers
                    .iter()
                    .enumerate()
                    .map(|(j, p)| p / total * v[first + j * head + d]);
                let (value, size) =
                    products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
                // An error of the scores is one of the weights and of their sum; a weight is
                // rounded to the operand type; the running maximum rescales the sums once per tile
                // of keys.
                let relative =
                    2.0 * sharpest + ty.roundoff() + dot_error(i + 1) + 32.0 * Type::F32.roundoff();
                expected.push(Expected {
                    value,
                    bound: relative * size + ty.roundoff() * value.abs() + ty.tiny(),
                });
            }
        }
    }
    Outcome::of(&variant.name, ty.name(), &gpu.download(&on_out)?, &expected)
}
