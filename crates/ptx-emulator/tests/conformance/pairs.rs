//! Pairs of kernels in CUDA: one with a bug, which a run under one of the schedules must find, and
//! its repaired twin, which must be silent and right under all of them.

mod ampere;
mod hopper;

use std::sync::Arc;

use ptx_emulator::counters::Control;

use super::gpu::{Arg, Gpu, Module, Shape};
use super::numbers::Type;
use super::process::alone_on;

/// Threads of a block, if a pair says no other number.
const T: usize = 128;
/// Words of the workspace, zeros at the start of each launch.
const WORKSPACE: usize = 4096;
const SCHEDULES: [&str; 6] = [
    "fair",
    "last-block-first",
    "starve-warp",
    "seed:1",
    "seed:2",
    "seed:3",
];

/// Kernels of one architecture.
struct Suite {
    ptx: &'static str,
    pairs: Vec<Pair>,
    arguments: fn(&Gpu, &Pair) -> Result<Buffers, String>,
}

struct Pair {
    bug: Option<&'static str>,
    twin: &'static str,
    blocks: usize,
    threads: usize,
    shared: u32,
    n: usize,
    input: Vec<f64>,
    /// What the output must be, or of some pairs the tensor map's matrix.
    wanted: Vec<f64>,
    /// Whether the output's memory has been written before.
    fresh: bool,
}

/// A launch's memory, and its arguments.
struct Buffers {
    held: Vec<super::gpu::Buffer>,
    /// Which of them has the result.
    result: usize,
    arguments: Vec<Arg>,
}

fn set_schedule(schedule: &str) {
    let control = Control::loaded().expect("the emulated driver");
    control.schedule(schedule).expect("a schedule");
}

fn launch(
    suite: &Suite,
    pair: &Pair,
    name: &str,
    gpu: &Gpu,
    module: &Module,
) -> Result<Vec<f64>, String> {
    let buffers = (suite.arguments)(gpu, pair)?;
    let shape = Shape {
        grid: [pair.blocks as u32, 1, 1],
        block: [pair.threads as u32, 1, 1],
        shared: pair.shared,
    };
    module.launch(name, shape, &buffers.arguments)?;
    gpu.download(&buffers.held[buffers.result])
}

fn load(suite: &Suite) -> (Arc<Gpu>, Module) {
    let gpu = Gpu::new().expect("a context");
    let module = gpu.load(suite.ptx).expect("a module");
    (gpu, module)
}

/// Every bug is found in one of the schedules, every twin silent and right in all of them.
fn run(suite: &Suite) {
    let mut wrong = Vec::new();
    let (mut gpu, mut module) = load(suite);
    for schedule in SCHEDULES {
        set_schedule(schedule);
        for pair in &suite.pairs {
            let twin = pair.twin;
            match launch(suite, pair, twin, &gpu, &module) {
                Ok(got) if got == pair.wanted => {}
                Ok(_) => wrong.push(format!("{twin} under {schedule}: a wrong result")),
                Err(error) => {
                    wrong.push(format!("{twin} under {schedule}: {error}"));
                    // The context is broken.
                    (gpu, module) = load(suite);
                }
            }
        }
    }
    for pair in &suite.pairs {
        let Some(bug) = pair.bug else { continue };
        let found = SCHEDULES.iter().any(|schedule| {
            set_schedule(schedule);
            let (gpu, module) = load(suite);
            launch(suite, pair, bug, &gpu, &module).is_err()
        });
        if !found {
            wrong.push(format!("{bug}: not found"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn ampere() {
    alone_on("a100", "pairs::ampere", || run(&ampere::suite()));
}

#[test]
fn hopper() {
    alone_on("h100", "pairs::hopper", || run(&hopper::suite()));
}
