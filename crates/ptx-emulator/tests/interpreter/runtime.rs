//! What kernels ask of the driver beside memory: `printf`, `assert`, and what cooperative groups
//! need, as nvcc compiles them.

use std::sync::{Arc, Mutex};

use ptx_emulator::exec::{FaultKind, Printer, Schedule};

use super::harness::{Arg, Machine};

const PTX: &str = include_str!("../fixtures/runtime.ptx");

/// A machine that keeps what its kernels print.
fn machine() -> (Machine, Arc<Mutex<Vec<u8>>>) {
    let mut machine = Machine::new(PTX);
    let text = Arc::new(Mutex::new(Vec::new()));
    machine.options.printer = Printer::Buffer(Arc::clone(&text));
    machine.options.workers = 1;
    (machine, text)
}

fn taken(text: &Mutex<Vec<u8>>) -> String {
    let bytes = std::mem::take(&mut *text.lock().expect("nobody panicked"));
    String::from_utf8(bytes).expect("text")
}

#[test]
fn printf_prints_as_the_c_library_does() {
    let (machine, text) = machine();
    let arguments = [
        Arg::Word(42),
        Arg::Word(1.5_f32.to_bits()),
        Arg::Pointer(0.001_f64.to_bits()),
        Arg::Pointer((-7_i64).cast_unsigned()),
    ];
    machine
        .launch("print_all", 1, 1, &arguments)
        .expect("no fault");
    let expected = "\
42    42|42   |00042|+42 42 2a 0X2A 52
1.500000 0.001 1.000000e-03 0.001 0x1.0624dd2f1a9fcp-10       0.00|
-7 fffffffffffffff9 -7 42 42
text|      text|text  |te|xy % 0x10
    42|0.00|
plain
123
";
    assert_eq!(taken(&text), expected);
}

#[test]
fn each_thread_of_a_warp_prints_in_its_turn() {
    let (machine, text) = machine();
    machine
        .launch("print_threads", 2, 64, &[])
        .expect("no fault");
    let mut lines: Vec<String> = taken(&text).lines().map(str::to_owned).collect();
    // Which block is first is open, and which warp; lanes of a warp print in order.
    assert_eq!(lines.len(), 8);
    let threads = |block: &str| -> Vec<u32> {
        let of_block = lines.iter().filter_map(|line| line.strip_prefix(block));
        of_block
            .map(|n| n.trim().parse().expect("a number"))
            .collect()
    };
    for warp in [3, 35] {
        let found: Vec<u32> = threads("block 1 thread ")
            .into_iter()
            .filter(|t| t / 32 == warp / 32)
            .collect();
        assert_eq!(found, [warp, warp + 16]);
    }
    lines.sort();
    lines.dedup();
    assert_eq!(lines.len(), 8);
}

#[test]
fn what_was_printed_before_a_fault_is_not_lost() {
    let ptx = r#".version 8.0 .target sm_80 .address_size 64
        .extern .func (.param .b32 result) vprintf (.param .b64 a, .param .b64 b);
        .global .align 1 .b8 text[4] = {104, 105, 10};
        .visible .entry k() {
            .reg .b32 %r<4>; .reg .b64 %d<4>;
            mov.u64 %d1, text;
            { .param .b64 param0; .param .b64 param1; .param .b32 retval0;
              st.param.b64 [param0], %d1; st.param.b64 [param1], 0;
              call.uni (retval0), vprintf, (param0, param1);
              ld.param.b32 %r1, [retval0]; }
            trap;
        }"#;
    let mut machine = Machine::new(ptx);
    let text = Arc::new(Mutex::new(Vec::new()));
    machine.options.printer = Printer::Buffer(Arc::clone(&text));
    let fault = machine.launch("k", 1, 1, &[]).expect_err("it traps");
    assert!(fault.message.contains("trap"), "{fault}");
    assert_eq!(taken(&text), "hi\n");
}

#[test]
fn a_false_assert_tells_its_condition_and_place() {
    let (machine, _) = machine();
    machine
        .launch("positive", 1, 32, &[Arg::Word(1)])
        .expect("it holds");
    let fault = machine
        .launch("positive", 1, 32, &[Arg::Word(0)])
        .expect_err("it does not hold");
    assert_eq!(fault.kind, FaultKind::Assert);
    assert!(
        fault
            .message
            .contains("runtime.cu:23: void positive(int): `n > 0`"),
        "{fault}"
    );
}

#[test]
fn a_cooperative_grid_waits_for_all_of_its_blocks() {
    let (mut machine, _) = machine();
    machine.options.cooperative = true;
    let schedules = ["fair", "one-ahead", "last-block-first", "starve-warp"];
    let seeds = (1..=10).map(|seed| format!("seed:{seed}"));
    for schedule in schedules.map(str::to_owned).into_iter().chain(seeds) {
        machine.options.schedule = schedule.parse::<Schedule>().expect("a schedule");
        let (blocks, threads) = (7, 64);
        let parts = machine.words(&vec![0; blocks as usize]);
        let out = machine.words(&vec![0; (blocks * threads) as usize]);
        let arguments = [Arg::Pointer(parts), Arg::Pointer(out)];
        if let Err(fault) = machine.launch("grid_sum", blocks, threads, &arguments) {
            panic!("{schedule}: {fault}");
        }
        let sum = blocks * (blocks + 1) / 2;
        let got = machine.read_words(out, (blocks * threads) as usize);
        assert!(
            got.iter().all(|&word| word == 0_u32.wrapping_sub(sum)),
            "{schedule}"
        );
    }
}

#[test]
fn only_a_cooperative_launch_has_a_barrier_of_the_grid() {
    let (mut machine, _) = machine();
    assert_eq!(machine.run("valid", 1, 32, 32, &[]), [0; 32]);
    let parts = machine.words(&[0; 2]);
    let out = machine.words(&[0; 64]);
    let arguments = [Arg::Pointer(parts), Arg::Pointer(out)];
    let fault = machine
        .launch("grid_sum", 2, 32, &arguments)
        .expect_err("there is no barrier");
    assert!(fault.message.contains("trap"), "{fault}");
    machine.options.cooperative = true;
    assert_eq!(machine.run("valid", 1, 32, 32, &[]), [1; 32]);
}

#[test]
fn tiles_of_several_warps_synchronise_and_exchange() {
    let (machine, _) = machine();
    let tiles = machine.run("tiles_of_64", 2, 256, 256, &[]);
    let expected: Vec<u32> = (0..256).map(|t| t ^ 63).collect();
    assert_eq!(tiles, expected);
    let expected: Vec<u32> = (0..512)
        .map(|t| {
            let mut value = t / 128 * 128 + 3;
            value += u32::from(value > 3);
            value += u32::from(value > 3);
            value + t / 128
        })
        .collect();
    assert_eq!(machine.run("large_tiles", 1, 512, 512, &[]), expected);
}
