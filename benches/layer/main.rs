//! Forward and backward of one adapted layer, with random data.
//!
//! On a GPU: time between CUDA events, and the FLOP/s of the whole layer. On the emulated device: how long the interpreter takes on this CPU, and
//! every figure says so. That tells how long tests take, never how fast a kernel is.

mod clock;
mod setup;

use std::io::ErrorKind;
use std::path::Path;

use criterion::{BenchmarkGroup, Criterion, Throughput};
use half::{bf16, f16};
use lora_kernels::{Element, Problem};
use lora_kernels_emulator::select::{Selection, select};

use clock::Clock;
use setup::{Device, Layer};

/// (tokens, in_features, out_features, rank)
type Shape = (usize, usize, usize, usize);

/// What the interpreter gets through in a second: a MiniLM layer, and one whose sizes divide nothing.
const EMULATED: &[Shape] = &[(192, 384, 384, 8), (37, 203, 131, 3)];

/// Llama's attention and MLP projections at a training batch, and one prompt.
const REAL: &[Shape] = &[
    (8192, 4096, 4096, 16),
    (8192, 4096, 14336, 16),
    (8192, 4096, 1024, 16),
    (512, 4096, 4096, 64),
];

fn bench_dtype<T: Element + cudarc::driver::DeviceRepr>(
    group: &mut BenchmarkGroup<'_, Clock>,
    device: &Device,
    shape: Shape,
) {
    let (tokens, in_features, out_features, rank) = shape;
    let problem = match Problem::new(tokens, in_features, out_features, rank, T::DTYPE) {
        Ok(problem) => problem.with_dropout(true),
        Err(error) => panic!("{error}"),
    };
    let mut layer = Layer::<T>::random(device, &problem);
    let name = format!("{} {tokens}x{in_features}x{out_features} r{rank} p0.1", T::DTYPE);
    let (base, adapter) = (
        2 * tokens * in_features * out_features,
        2 * tokens * rank * (in_features + out_features),
    );
    for (pass, flops) in [("forward", base + adapter), ("backward", base + 2 * adapter)] {
        if !device.emulated {
            group.throughput(Throughput::Elements(flops as u64));
        }
        group.bench_function(format!("{name} {pass}"), |bencher| {
            bencher.iter_custom(|calls| {
                device.time(calls, |device| match pass {
                    "forward" => layer.forward(device),
                    _ => layer.backward(device),
                })
            });
        });
    }
}

/// Criterion that compares with no earlier run: its lines on changes have no unit that could say what was timed.
fn without_history() -> Criterion {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("emulated-layer");
    if let Err(error) = std::fs::remove_dir_all(&folder)
        && error.kind() != ErrorKind::NotFound
    {
        panic!("can't remove the last run's {}: {error}", folder.display());
    }
    Criterion::default().output_directory(&folder)
}

fn main() {
    let emulated = match select() {
        Ok(selection) => matches!(selection, Selection::Emulated { .. }),
        Err(error) => panic!("{error}"),
    };
    let device = Device::open(emulated);
    println!("device: {}", device.name);
    let criterion = if emulated {
        without_history()
    } else {
        Criterion::default()
    };
    let mut criterion = criterion
        .with_measurement(Clock { emulated })
        .sample_size(10)
        .configure_from_args();
    let mut group = criterion.benchmark_group(if emulated { "emulated layer" } else { "layer" });
    for &shape in if emulated { EMULATED } else { REAL } {
        bench_dtype::<bf16>(&mut group, &device, shape);
        bench_dtype::<f16>(&mut group, &device, shape);
        bench_dtype::<f32>(&mut group, &device, shape);
    }
    group.finish();
    criterion.final_summary();
}
