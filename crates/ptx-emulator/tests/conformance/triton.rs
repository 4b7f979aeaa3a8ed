//! Kernels compiled by Triton ([`triton/kernels.py`]) for sm_80 and for sm_90a: the committed PTX,
//! each with a reference in f64.

use std::path::Path;
use std::sync::Arc;

use super::gpu::{Arg, Gpu, Shape, Tile};
use super::numbers::{Random, Type};
use super::outcome::{Expected, Outcome};
use super::product::{self, dot_error};

/// Kernels for one architecture.
#[derive(Clone, Copy)]
pub struct Collection {
    /// Below the folder of the tests.
    folder: &'static str,
    pub manifest: &'static str,
    /// Every program of the manifest has its name here.
    pub programs: &'static [&'static str],
}

/// A line of the manifest.
pub struct Variant {
    pub name: String,
    pub kernel: String,
    threads: u32,
    shared: u32,
    /// Bytes of scratch memory for each block.
    scratch: usize,
    constants: Vec<(String, usize)>,
    types: Vec<(String, String)>,
    ptx: String,
}

impl Variant {
    fn read(collection: Collection, name: &str) -> Result<Variant, String> {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
        let folder = folder.join(collection.folder);
        let read = |file: &str| {
            let path = folder.join(file);
            std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))
        };
        let malformed = || format!("manifest.txt has no well-formed line for {name}");
        let line = collection
            .manifest
            .lines()
            .find(|line| line.split("; ").next() == Some(name));
        let fields: Vec<&str> = line.ok_or_else(malformed)?.split("; ").collect();
        let [_, kernel, warps, shared, scratch, constants, types] = fields.as_slice() else {
            return Err(malformed());
        };
        let mut variant = Variant {
            name: name.to_owned(),
            kernel: (*kernel).to_owned(),
            threads: 32 * warps.parse::<u32>().map_err(|_| malformed())?,
            shared: shared.parse().map_err(|_| malformed())?,
            scratch: scratch.parse().map_err(|_| malformed())?,
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

    pub fn constant(&self, name: &str) -> Result<usize, String> {
        let found = self.constants.iter().find(|(key, _)| key == name);
        found
            .map(|f| f.1)
            .ok_or_else(|| format!("{}: no constant {name}", self.name))
    }

    fn ty(&self, name: &str) -> Result<&str, String> {
        let found = self.types.iter().find(|(key, _)| key == name);
        found
            .map(|found| found.1.as_str())
            .ok_or_else(|| format!("{}: no parameter {name}", self.name))
    }

    /// The element type of a pointer or of a tensor map.
    pub fn element(&self, name: &str) -> Result<Type, String> {
        let ty = self.ty(name)?;
        let element = ty
            .strip_prefix("map/")
            .and_then(|map| map.split('/').next());
        match element.or(ty.strip_prefix('*')) {
            Some("bf16") => Ok(Type::Bf16),
            Some("fp16") => Ok(Type::F16),
            Some("fp32") => Ok(Type::F32),
            Some("fp8e4nv") => Ok(Type::E4m3),
            Some("fp8e5") => Ok(Type::E5m2),
            Some("i8") => Ok(Type::I8),
            Some("i32") => Ok(Type::I32),
            _ => Err(format!("{}: {name} is {ty}", self.name)),
        }
    }

    /// How a tensor map's copies see a matrix of this size.
    pub fn tile(&self, name: &str, sizes: [usize; 2], stride: usize) -> Result<Tile, String> {
        let ty = self.ty(name)?;
        let malformed = || format!("{}: {name} is {ty}", self.name);
        let fields: Vec<&str> = ty.split('/').collect();
        let ["map", _, part, swizzle] = fields.as_slice() else {
            return Err(malformed());
        };
        let (rows, columns) = part.split_once('x').ok_or_else(malformed)?;
        let number = |text: &str| text.parse::<usize>().map_err(|_| malformed());
        Ok(Tile {
            sizes,
            stride,
            part: [number(rows)?, number(columns)?],
            swizzle: number(swizzle)? as u32,
        })
    }

    pub fn launch(
        &self,
        gpu: &Arc<Gpu>,
        grid: [usize; 3],
        arguments: &[Arg],
    ) -> Result<(), String> {
        // A tensor map is followed by two sizes and two strides.
        let maps = self.types.iter().filter(|(_, ty)| ty.starts_with("map/"));
        let wanted = self.types.len() + 4 * maps.count();
        if arguments.len() != wanted {
            return Err(format!("{} takes {wanted} arguments", self.name));
        }
        let blocks: usize = grid.iter().product();
        let scratch = gpu.output(Type::U8, (self.scratch * blocks).max(1))?;
        // No kernel here asks for memory for profiles.
        let arguments = [arguments, &[scratch.arg(), Arg::NULL]].concat();
        let shape = Shape {
            grid: grid.map(|n| n as u32),
            block: [self.threads, 1, 1],
            shared: self.shared,
        };
        gpu.load(&self.ptx)?.launch(&self.kernel, shape, &arguments)
    }
}

pub const SM_80: Collection = Collection {
    folder: "triton",
    manifest: include_str!("triton/manifest.txt"),
    programs: &[
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
    ],
};

/// These need a device of compute capability 9.0.
pub const SM_90: Collection = Collection {
    folder: "triton/sm_90",
    manifest: include_str!("triton/sm_90/manifest.txt"),
    programs: &[
        "matmul_f16_odd",
        "matmul_tf32",
        "matmul_i8",
        "split_k_bf16",
        "attention_f16",
        "attention_bf16",
        "matmul_bf16",
        "matmul_f16",
        "matmul_e4m3",
        "matmul_e5m2",
        "split_k_wgmma_f16",
        "tensor_maps_bf16",
        "tensor_maps_f16",
        "persistent_bf16",
        "persistent_f16",
        "made_maps_bf16",
        "made_maps_f16",
    ],
};

/// Runs one of a collection's programs.
pub fn run(collection: Collection, name: &str) -> Result<Outcome, String> {
    let gpu = &Gpu::new()?;
    let variant = Variant::read(collection, name)?;
    match variant.kernel.as_str() {
        kernel if kernel.starts_with("matmul") => product::run(gpu, &variant),
        "softmax" => softmax(gpu, &variant),
        "layer_norm" => layer_norm(gpu, &variant),
        "attention" => attention(gpu, &variant),
        other => Err(format!("{name}: no reference for kernel {other}")),
    }
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
