//! Counters, sampling and execution switched off, through the loaded driver. Each case is a process
//! of its own: the settings hold for a whole process.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use cudarc::driver::{CudaContext, LaunchConfig, PushKernelArg, sys};
use cudarc::nvrtc::Ptx;
use ptx_emulator::counters::{Blocks, Control, ControlError, Counters, Dram, Kind};
use ptx_emulator::select::emulated;

use super::process::CASE;

const PTX: &str = include_str!("../fixtures/driver.ptx");

fn run(case: &str, variables: &[(&str, &str)]) -> (bool, String) {
    super::process::run("counters::child", case, variables)
}

#[track_caller]
fn passes(case: &str, variables: &[(&str, &str)]) {
    let (success, output) = run(case, variables);
    assert!(success, "{output}");
}

/// 960 sums in 10 blocks of 96 threads: two loads and a store of 32 words in each of 30 warps.
/// Tells how many came out right.
fn add() -> usize {
    emulated().expect("the emulated driver");
    let context = CudaContext::new(0).expect("a device");
    let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
    let function = module.load_function("add").expect("a kernel");
    let stream = context.default_stream();
    let a: Vec<f32> = (1..=960).map(|i| i as f32).collect();
    let (a, b) = (
        stream.clone_htod(&a).expect("room"),
        stream.clone_htod(&a).expect("room"),
    );
    let mut c = stream.alloc_zeros::<f32>(960).expect("room");
    let config = LaunchConfig {
        grid_dim: (10, 1, 1),
        block_dim: (96, 1, 1),
        shared_mem_bytes: 0,
    };
    let count = 960_i32;
    // SAFETY: the parameters are the kernel's.
    unsafe {
        let mut launch = stream.launch_builder(&function);
        launch
            .arg(&a)
            .arg(&b)
            .arg(&mut c)
            .arg(&count)
            .launch(config)
            .expect("a launch");
    }
    let sums = stream.clone_dtoh(&c).expect("the sums");
    (1..=960)
        .zip(&sums)
        .filter(|(i, sum)| **sum == 2.0 * *i as f32)
        .count()
}

/// One block of one thread stores where nothing is, after another has stored two words.
fn stray() {
    emulated().expect("the emulated driver");
    let ptx = ".version 8.0 .target sm_80 .address_size 64
        .visible .entry stray(.param .u64 to) {
            .reg .pred %p; .reg .b32 %block; .reg .b64 %to;
            ld.param.u64 %to, [to];
            mov.u32 %block, %ctaid.x;
            st.global.u32 [%to], 1;
            st.global.u32 [%to+4], 1;
            setp.eq.u32 %p, %block, 1;
            @%p st.global.u32 [%to+1048576], 1;
            ret;
        }";
    let context = CudaContext::new(0).expect("a device");
    let control = Control::loaded().expect("it is loaded");
    control.schedule("one-ahead").expect("a schedule");
    let module = context.load_module(Ptx::from_src(ptx)).expect("a module");
    let function = module.load_function("stray").expect("a kernel");
    let stream = context.default_stream();
    let mut to = stream.alloc_zeros::<u32>(2).expect("room");
    let config = LaunchConfig {
        grid_dim: (3, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the parameter is the kernel's; that it goes astray is what is tested.
    let error = unsafe { stream.launch_builder(&function).arg(&mut to).launch(config) }
        .expect_err("a fault");
    assert_eq!(error.0, sys::CUresult::CUDA_ERROR_ILLEGAL_ADDRESS);
    let counters = control.read().expect("counters");
    assert_eq!(counters.kernels.len(), 1);
}

/// The place in the queue that each of four blocks of one warp gets.
fn tickets() -> Vec<u32> {
    let ptx = ".version 8.0 .target sm_80 .address_size 64
        .visible .entry queue(.param .u64 to) {
            .reg .b32 %block, %ticket; .reg .b64 %to, %at;
            ld.param.u64 %to, [to];
            mov.u32 %block, %ctaid.x;
            atom.global.add.u32 %ticket, [%to], 1;
            mad.wide.u32 %at, %block, 4, %to;
            st.global.u32 [%at+4], %ticket;
            ret;
        }";
    let context = CudaContext::new(0).expect("a device");
    let module = context.load_module(Ptx::from_src(ptx)).expect("a module");
    let function = module.load_function("queue").expect("a kernel");
    let stream = context.default_stream();
    let mut to = stream.alloc_zeros::<u32>(5).expect("room");
    let config = LaunchConfig {
        grid_dim: (4, 1, 1),
        block_dim: (1, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the parameter is the kernel's.
    unsafe {
        let mut launch = stream.launch_builder(&function);
        launch.arg(&mut to).launch(config).expect("a launch");
    }
    stream.clone_dtoh(&to).expect("the tickets").split_off(1)
}

fn check(counters: &Counters, launches: u64, blocks_run: u64) {
    let [kernel] = counters.kernels.as_slice() else {
        panic!("{} kernels", counters.kernels.len());
    };
    assert_eq!(
        (kernel.kernel.as_str(), kernel.grid, kernel.block),
        ("add", [10, 1, 1], [96, 1, 1])
    );
    assert_eq!(
        (kernel.launches, kernel.blocks, kernel.blocks_run),
        (launches, 10 * launches, blocks_run)
    );
    let (loads, stores) = (
        kernel.kind(Kind::LoadGlobal),
        kernel.kind(Kind::StoreGlobal),
    );
    // Three warps a block; 128 bytes, four sectors, each.
    assert_eq!(
        (loads.warp_instructions, loads.sectors),
        (6 * blocks_run, 24 * blocks_run)
    );
    assert_eq!(
        (stores.warp_instructions, stores.sectors),
        (3 * blocks_run, 12 * blocks_run)
    );
    assert_eq!(
        (loads.global_bytes, loads.ideal_sectors),
        (768 * blocks_run, loads.sectors)
    );
}

/// Not a test of its own: the other tests run it in processes with the variables set.
#[test]
fn child() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    match case.as_str() {
        "add" => assert_eq!(add(), 960),
        "add and crash" => {
            assert_eq!(add(), 960);
            std::process::abort();
        }
        "fault and crash" => {
            stray();
            std::process::abort();
        }
        "dram" => {
            emulated().expect("the emulated driver");
            let control = Control::loaded().expect("it is loaded");
            control.count(true).expect("a setting");
            let dram = || control.read().expect("counters").kernels[0].dram;
            assert_eq!((add(), dram()), (960, None));
            control.dram(true).expect("a setting");
            let mut expected = Dram::default();
            // Two operands and a result of 3840 bytes, new memory every time.
            for launches in 1..3 {
                assert_eq!(add(), 960);
                expected = Dram {
                    launches,
                    read_bytes: expected.read_bytes + 2 * 3840,
                    write_bytes: expected.write_bytes + 3840,
                };
                assert_eq!(dram(), Some(expected));
            }
            control.flush_l2().expect("a setting");
            control.l2_bytes(Some(1 << 20)).expect("a setting");
            control.l2_bytes(None).expect("a setting");
            control
                .blocks_per_multiprocessor(Some(1))
                .expect("a setting");
            control.blocks_per_multiprocessor(None).expect("a setting");
            let refused = control.blocks_per_multiprocessor(Some(0));
            assert!(matches!(refused, Err(ControlError::Refused { .. })));
        }
        "nothing loaded" => assert!(matches!(Control::loaded(), Err(ControlError::NotLoaded))),
        "before cuInit" => {
            emulated().expect("the emulated driver");
            let control = Control::loaded().expect("it is loaded");
            assert!(matches!(
                control.read(),
                Err(ControlError::Refused { code: 3, .. })
            ));
        }
        "switch" => {
            assert_eq!(add(), 960);
            let control = Control::loaded().expect("it is loaded");
            assert_eq!(control.read().expect("counters").kernels, []);
            control.count(true).expect("a setting");
            assert_eq!((add(), add()), (960, 960));
            check(&control.read().expect("counters"), 2, 20);
            control.reset().expect("no counters");
            assert_eq!(control.read().expect("counters").kernels, []);
            control.count(false).expect("a setting");
            assert_eq!(add(), 960);
            assert_eq!(control.read().expect("counters").kernels, []);
        }
        "blocks" => {
            emulated().expect("the emulated driver");
            let control = Control::loaded().expect("it is loaded");
            control.count(true).expect("a setting");
            control
                .run_blocks(&Blocks::listed(vec![3, 8]))
                .expect("a setting");
            assert_eq!(add(), 192);
            check(&control.read().expect("counters"), 1, 2);
            control.run_blocks(&Blocks::All).expect("a setting");
            assert_eq!(add(), 960);
            check(&control.read().expect("counters"), 2, 12);
        }
        "order" => {
            emulated().expect("the emulated driver");
            let control = Control::loaded().expect("it is loaded");
            // On one thread, unlike the fair order: blocks finish one after the other.
            control.schedule("one-ahead").expect("a schedule");
            assert_eq!(tickets(), [0, 1, 2, 3]);
            control.schedule("last-block-first").expect("a schedule");
            assert_eq!(tickets(), [3, 2, 1, 0]);
            assert!(matches!(
                control.schedule("lifo"),
                Err(ControlError::Refused { .. })
            ));
            assert_eq!(tickets(), [3, 2, 1, 0]);
            for model in ["ampere", "hopper", "f32fma", "device"] {
                control.numerics(model).expect("a model");
            }
            assert!(matches!(
                control.numerics("volta"),
                Err(ControlError::Refused { .. })
            ));
        }
        "no execution" => {
            assert_eq!(add(), 0);
            let control = Control::loaded().expect("it is loaded");
            check(&control.read().expect("counters"), 1, 0);
            // What is wrong is still refused: a block of 1025 threads.
            let context = CudaContext::new(0).expect("a device");
            let module = context.load_module(Ptx::from_src(PTX)).expect("a module");
            let function = module.load_function("add").expect("a kernel");
            let config = LaunchConfig {
                grid_dim: (1, 1, 1),
                block_dim: (1025, 1, 1),
                shared_mem_bytes: 0,
            };
            let stream = context.default_stream();
            // SAFETY: the launch is refused before anything is read.
            let error = unsafe { stream.launch_builder(&function).launch(config) }
                .expect_err("too many threads");
            assert_eq!(error.0, sys::CUresult::CUDA_ERROR_INVALID_VALUE);
        }
        other => panic!("no case {other}"),
    }
}

#[test]
fn counters_are_read_through_the_loaded_driver() {
    passes("switch", &[]);
}

#[test]
fn there_is_nothing_to_read_without_a_driver() {
    passes("nothing loaded", &[]);
    passes("before cuInit", &[]);
}

#[test]
fn chosen_blocks_run_alone() {
    passes("blocks", &[]);
}

#[test]
fn a_program_chooses_the_order_of_turns_and_the_numerics() {
    passes("order", &[]);
}

#[test]
fn launches_are_checked_and_counted_with_execution_off() {
    passes(
        "no execution",
        &[
            ("PTX_EMULATOR_COUNTERS", "/dev/null"),
            ("PTX_EMULATOR_BLOCKS", "none"),
        ],
    );
}

fn temporary_file() -> PathBuf {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a time")
        .as_nanos();
    std::env::temp_dir().join(format!("counters-{}-{now}.json", std::process::id()))
}

/// What a process that crashes has left behind.
fn left_by(case: &str) -> Counters {
    let path = temporary_file();
    let (success, output) = run(
        case,
        &[("PTX_EMULATOR_COUNTERS", path.to_str().expect("text"))],
    );
    assert!(!success, "{output}");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{error}: {output}"));
    std::fs::remove_file(&path).expect("the file can go");
    serde_json::from_str(&text).expect("the document")
}

#[test]
fn a_crash_leaves_the_counters_behind() {
    check(&left_by("add and crash"), 1, 10);
}

/// The first block ran to its end, the second one until its third store.
#[test]
fn a_launch_that_faults_is_counted_until_then() {
    let counters = left_by("fault and crash");
    let kernel = &counters.kernels[0];
    assert_eq!(
        (kernel.kernel.as_str(), kernel.launches, kernel.faulted),
        ("stray", 1, 1)
    );
    assert_eq!((kernel.blocks, kernel.blocks_run), (3, 1));
    let stores = kernel.kind(Kind::StoreGlobal);
    assert_eq!(
        (
            stores.warp_instructions,
            stores.predicated_off,
            stores.lanes
        ),
        (6, 1, 5)
    );
}

#[test]
fn dram_traffic_is_counted_where_it_is_asked_for() {
    passes("dram", &[]);
}

#[test]
fn counters_are_written_at_the_end_of_the_process() {
    let path = temporary_file();
    let (success, output) = run(
        "add",
        &[
            ("PTX_EMULATOR_COUNTERS", path.to_str().expect("text")),
            ("PTX_EMULATOR_DEVICE", "h100"),
            ("PTX_EMULATOR_DRAM", "on"),
        ],
    );
    assert!(success, "{output}");
    let text = std::fs::read_to_string(&path).expect("the file");
    std::fs::remove_file(&path).expect("the file can go");
    let counters: Counters = serde_json::from_str(&text).expect("the document");
    assert_eq!((counters.schema, counters.device.as_str()), (1, "h100"));
    check(&counters, 1, 10);
    // Sums by source line are in the text, for those who don't have the structure's methods.
    let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let sum = |lines: &serde_json::Value| -> u64 {
        let lines = lines.as_array().expect("lines");
        lines
            .iter()
            .filter_map(|line| line["warp_instructions"].as_u64())
            .sum()
    };
    let kernel = &document["kernels"][0];
    let dram = |name: &str| kernel["dram"][name].as_u64();
    assert_eq!(
        (dram("read_bytes"), dram("write_bytes")),
        (Some(7680), Some(3840))
    );
    assert_eq!(
        Some(sum(&kernel["ptx_lines"])),
        kernel["total"]["warp_instructions"].as_u64()
    );
    let placed: u64 = counters.kernels[0]
        .source_lines()
        .iter()
        .map(|line| line.tally.warp_instructions)
        .sum();
    assert_eq!(sum(&kernel["source_lines"]), placed);
}

#[test]
fn settings_that_mean_nothing_are_refused() {
    let (success, output) = run("add", &[("PTX_EMULATOR_BLOCKS", "some")]);
    assert!(
        !success && output.contains("\"some\" is no choice of blocks: all, none, every:16"),
        "{output}"
    );
}
