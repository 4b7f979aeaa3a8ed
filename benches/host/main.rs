//! Host time: of planning, of calls compared with their launches alone, and of a layer.
//!
//! The host time of a call compared with that of its launches alone: raw forwards and backwards
//! with a plan, and the same driver launches with prepared parameters.
//!
//! It runs on the emulated driver with execution switched off, so the driver's own share of a
//! launch is what remains. The ratios printed last compare the fastest of many short, alternating
//! rounds of each, so that other load on the machine matters less. With `PTX_EMULATOR_DEVICE=h100`
//! the calls also make tensor maps, which the launches alone have ready.

mod layers;
mod plans;

use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main};
use layers::layers;
use lora_kernels::cudarc::driver::CudaContext;
use lora_kernels::cudarc::driver::sys::{CUresult, CUstream};
use lora_kernels::raw::{
    BackwardArgs, BackwardProjectionArgs, ForwardArgs, ForwardProjectionArgs, LoraArgs,
    LoraGradientsArgs, PreparedLaunch,
};
use lora_kernels::{BackwardPlan, DType, Dropout, ForwardPlan, Kernels, Problem, Projection};
use plans::plans;
use ptx_emulator::counters::{Blocks, Control};
use ptx_emulator::select;

/// A benchmark can't go on without its device: any failure ends it with the error's own text.
fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    result.unwrap_or_else(|error| panic!("{error:?}"))
}

/// The address of an argument, which is far from all others. No block runs, so it is never used.
fn address(argument: usize) -> u64 {
    (1 + argument as u64) << 32
}

fn problem(outputs: &[usize]) -> Problem {
    let projections: Vec<_> = outputs
        .iter()
        .map(|&out_features| Projection {
            out_features,
            rank: 16,
        })
        .collect();
    must(Problem::sharing_x(8192, 4096, &projections, DType::BF16)).with_dropout(true)
}

/// The arguments that all projections share: x, dx, saved and the workspace.
const SHARED: usize = 4;

/// The arguments of a projection: the weight, y or dy, lora_A, lora_B and their gradients.
const OF_A_PROJECTION: usize = 6;

/// The addresses of a projection's arguments.
fn addresses(projection: usize) -> [u64; OF_A_PROJECTION] {
    std::array::from_fn(|argument| address(SHARED + OF_A_PROJECTION * projection + argument))
}

fn lora(a: u64, b: u64) -> Option<LoraArgs> {
    let scaling = 2.0;
    Some(LoraArgs { a, b, scaling })
}

const DROPOUT: Option<Dropout> = Some(Dropout {
    p: 0.1,
    seed: 42,
    offset: 0,
});

fn launch_all(launches: &[PreparedLaunch], stream: CUstream) {
    for launch in launches {
        // SAFETY: no block runs, so no pointer is dereferenced.
        let result = unsafe { launch.launch(stream) };
        assert_eq!(result, CUresult::CUDA_SUCCESS);
    }
}

/// Times a call and its bare launches, and prints their ratio.
fn compare(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    mut call: impl FnMut(),
    mut bare: impl FnMut(),
) {
    group.bench_function(format!("{name}, call"), |bencher| bencher.iter(&mut call));
    group.bench_function(format!("{name}, bare launches"), |bencher| {
        bencher.iter(&mut bare)
    });
    let (mut of_call, mut of_bare) = (Duration::MAX, Duration::MAX);
    for _ in 0..2000 {
        of_call = of_call.min(round(&mut call));
        of_bare = of_bare.min(round(&mut bare));
    }
    let ratio = of_call.as_secs_f64() / of_bare.as_secs_f64();
    let of_bare = of_bare.as_nanos() / u128::from(CALLS);
    println!(
        "emulated driver: {name} costs {ratio:.2} times its bare launches on the host, which take {of_bare} ns"
    );
}

/// The number of calls in a round.
const CALLS: u32 = 50;

fn round(run: &mut impl FnMut()) -> Duration {
    let start = Instant::now();
    (0..CALLS).for_each(|_| run());
    start.elapsed()
}

/// A context of the emulated driver, which runs no block.
fn without_blocks() -> Arc<CudaContext> {
    must(select::emulated());
    let context = must(lora_kernels::context(0));
    must(must(Control::loaded()).run_blocks(&Blocks::None));
    context
}

fn calls(criterion: &mut Criterion) {
    let context = without_blocks();
    let kernels = must(Kernels::load(&context));
    let stream = must(context.new_stream());
    let stream = stream.cu_stream();

    let mut group = criterion.benchmark_group("host cost on the emulated driver, no block run");
    for (name, outputs) in [
        ("one projection", &[4096][..]),
        ("q, k and v", &[4096, 1024, 1024]),
    ] {
        let problem = problem(outputs);
        let forward = must(ForwardPlan::new(&problem, kernels.props()));
        let backward = must(BackwardPlan::new(&problem, kernels.props()));
        let [x, dx, saved, workspace] = std::array::from_fn(address);
        let projection = |index| {
            let [weight, y, a, b, ..] = addresses(index);
            ForwardProjectionArgs {
                weight,
                bias: None,
                lora: lora(a, b),
                y,
            }
        };
        let projections: Vec<_> = (0..outputs.len()).map(projection).collect();
        let args = ForwardArgs {
            x,
            projections: &projections,
            dropout: DROPOUT,
            saved: saved.into(),
            workspace: Some(workspace),
            rows: None,
            flags: None,
        };
        // SAFETY: as above.
        let record = must(unsafe { kernels.forward_raw(&forward, &args, stream) });
        let bare = must(kernels.prepare_forward(&forward, &args));
        let call = || {
            // SAFETY: as above.
            must(unsafe { kernels.forward_raw(&forward, &args, stream) });
        };
        compare(&mut group, &format!("forward of {name}"), call, || {
            launch_all(&bare, stream)
        });

        let projection = |index| {
            let [weight, dy, a, b, d_a, d_b] = addresses(index);
            BackwardProjectionArgs {
                dy,
                weight,
                lora: lora(a, b),
                gradients: Some(LoraGradientsArgs { a: d_a, b: d_b }),
            }
        };
        let projections: Vec<_> = (0..outputs.len()).map(projection).collect();
        let args = BackwardArgs {
            x,
            projections: &projections,
            dropout: DROPOUT,
            saved: saved.into(),
            record: Some(record),
            dx: Some(dx),
            workspace: Some(workspace),
            rows: None,
        };
        let bare = must(kernels.prepare_backward(&backward, &args));
        // SAFETY: as above.
        let call = || must(unsafe { kernels.backward_raw(&backward, &args, stream) });
        compare(&mut group, &format!("backward of {name}"), call, || {
            launch_all(&bare, stream)
        });
    }
    group.finish();
}

criterion_group!(benches, plans, calls, layers);
criterion_main!(benches);
