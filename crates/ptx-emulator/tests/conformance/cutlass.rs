//! CUTLASS's GEMMs, against sums in f64. For sm_80 (`cutlass/gemm.cu`): two tile shapes for each of
//! two types. For sm_90 (`cutlass/gemm_sm90.cu`): whole programs, which check themselves.

use std::path::Path;
use std::process::Command;

use ptx_emulator::select::{Selection, emulated};

use super::gpu::{Arg, Gpu, Module, Shape};
use super::numbers::{Random, Type};
use super::outcome::{Expected, Outcome};
use super::product::dot_error;

/// Kernel, operand type, result type.
const KERNELS: [(&str, Type, Type); 4] = [
    ("gemm_f16_128x64", Type::F16, Type::F16),
    ("gemm_f16_64x128", Type::F16, Type::F16),
    ("gemm_bf16_128x64", Type::Bf16, Type::F32),
    ("gemm_bf16_64x128", Type::Bf16, Type::F32),
];

pub fn run(folder: &Path) -> Vec<Result<Outcome, String>> {
    let mut results = Vec::new();
    for (name, operand, result) in KERNELS {
        let path = folder.join(format!("gemm_{}.ptx", operand.name()));
        let outcome = std::fs::read_to_string(&path)
            .map_err(|error| format!("{}: {error}", path.display()))
            .and_then(|ptx| {
                let gpu = Gpu::new()?;
                gemm(&gpu, &gpu.load(&ptx)?, name, operand, result)
            });
        results.push(
            outcome
                .map(|o| o.from("cutlass"))
                .map_err(|e| format!("cutlass {name}: {e}")),
        );
    }
    results
}

fn gemm(
    gpu: &Gpu,
    module: &Module,
    name: &str,
    operand: Type,
    result: Type,
) -> Result<Outcome, String> {
    let launch = module.words(&format!("{name}_launch"), 4)?;
    let [threads, shared, tile_m, tile_n] = launch.as_slice() else {
        return Err("no launch shape".to_owned());
    };
    // Neither m nor n is a multiple of a tile; rows have to be multiples of 16 bytes.
    let (m, n, k) = (200, 152, 168);
    let mut random = Random::new(17);
    let a = random.values(operand, m * k, -1.0, 1.0);
    let b = random.values(operand, k * n, -1.0, 1.0);
    let before = random.values(result, m * n, -1.0, 1.0);
    let (alpha, beta) = (0.75, -0.5);
    let (on_a, on_b, on_c) = (
        gpu.upload(operand, &a)?,
        gpu.upload(operand, &b)?,
        gpu.upload(result, &before)?,
    );
    let shape = Shape {
        grid: [
            (m as u32).div_ceil(*tile_m),
            (n as u32).div_ceil(*tile_n),
            1,
        ],
        block: [*threads, 1, 1],
        shared: *shared,
    };
    let mut arguments: Vec<Arg> = [m, n, k].map(Arg::int).to_vec();
    arguments.extend([&on_a, &on_b, &on_c].map(|buffer| buffer.arg()));
    arguments.extend([alpha, beta].map(|v| Arg::f32(v as f32)));
    module.launch(name, shape, &arguments)?;

    let mut expected = Vec::with_capacity(m * n);
    for i in 0..m {
        for j in 0..n {
            let products = (0..k).map(|x| a[i * k + x] * b[j * k + x]);
            let (sum, size) = products.fold((0.0, 0.0), |(sum, size), p| (sum + p, size + p.abs()));
            let old = before[i * n + j];
            let value: f64 = alpha * sum + beta * old;
            let scale = alpha.abs() * size + beta.abs() * old.abs();
            let bound = (dot_error(k) + 2.0 * Type::F32.roundoff()) * scale
                + result.roundoff() * value.abs();
            expected.push(Expected {
                value,
                bound: bound + result.tiny(),
            });
        }
    }
    Outcome::of(name, operand.name(), &gpu.download(&on_c)?, &expected)
}

/// The kernels of one of the programs for sm_90.
const KERNELS_SM90: usize = 2;

/// Runs the programs for sm_90 as anybody would: they find the emulated driver as `libcuda.so.1`.
pub fn run_sm90(folder: &Path) -> Vec<Result<Outcome, String>> {
    let mut results = Vec::new();
    for operand in [Type::F16, Type::Bf16] {
        match run_program(folder, operand) {
            Ok(outcomes) => results.extend(outcomes.into_iter().map(Ok)),
            Err(error) => results.push(Err(format!("cutlass sm_90 {}: {error}", operand.name()))),
        }
    }
    results
}

fn run_program(folder: &Path, operand: Type) -> Result<Vec<Outcome>, String> {
    let Selection::Emulated { path } = emulated().map_err(|error| error.to_string())? else {
        return Err("the driver is not the emulated one".to_owned());
    };
    let drivers = folder.join("driver");
    let failed = |error: std::io::Error| error.to_string();
    std::fs::create_dir_all(&drivers).map_err(failed)?;
    std::fs::copy(path, drivers.join("libcuda.so.1")).map_err(failed)?;
    let program = folder.join(format!("gemm_sm90_{}", operand.name()));
    let output = Command::new(program)
        .env("LD_LIBRARY_PATH", drivers)
        .output()
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let outcomes: Option<Vec<Outcome>> = text
        .lines()
        .map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let [kernel, dtype, error, bound] = fields.as_slice() else {
                return None;
            };
            Some(Outcome {
                program: format!("cutlass {kernel}"),
                dtype: Some(operand.name()).filter(|name| name == dtype)?,
                error: error.parse().ok()?,
                bound: bound.parse().ok()?,
            })
        })
        .collect();
    match outcomes {
        Some(outcomes) if output.status.success() && outcomes.len() == KERNELS_SM90 => Ok(outcomes),
        _ => Err(format!("{text}{}", String::from_utf8_lossy(&output.stderr))),
    }
}
