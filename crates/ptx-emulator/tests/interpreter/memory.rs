//! Loads and stores of every space and width, and every access that must fault.

use std::sync::Arc;

use ptx_emulator::decode::Program;
use ptx_emulator::exec::{Fault, FaultKind, LoadedModule};
use ptx_emulator::memory::DeviceMemory;
use ptx_emulator::parse::parse_module;

use super::harness::{Arg, Machine};

const PTX: &str = include_str!("../ptx/memory.ptx");

fn line_of(text: &str) -> u32 {
    PTX.lines()
        .position(|line| line.contains(text))
        .expect("the line exists") as u32
        + 1
}

#[test]
fn widths_and_signs() {
    let machine = Machine::new(PTX);
    let input = machine.words(&[0xfe80_00f0, 0x1234_5678, 0x8765_4321, 9]);
    let out = machine.run("widths", 1, 1, 12, &[Arg::Pointer(input)]);
    assert_eq!(out[..4], [0xf0, 0xffff_fff0, 0xfe80, 0xffff_fe80]);
    assert_eq!(out[4..8], [0x8765_4321, 9, 0xfe, 0x1234_5678]);
    assert_eq!(
        out[8..],
        [0x8765_4321, 0xffff_ffff, 0x4321_be21, 0xdead_beef]
    );
}

#[test]
fn sign_bits_end_where_the_register_ends() {
    let machine = Machine::new(PTX);
    let input = machine.words(&[0xfe80_00f0]);
    let out = machine.run("short_registers", 1, 1, 4, &[Arg::Pointer(input)]);
    assert_eq!(out, [0, 0, 0xfff0 * 0xfe80, 0xffff_fe80]);
}

#[test]
fn module_variables_live_as_long_as_the_module() {
    let machine = Machine::new(PTX);
    assert_eq!(machine.run("variables", 1, 1, 4, &[]), [41, 5, 7, 42]);
    assert_eq!(machine.run("variables", 1, 1, 4, &[]), [42, 5, 7, 43]);
    let (va, size) = machine.module.module_global("counter").unwrap();
    assert_eq!((size, machine.read_words(va, 1)), (4, vec![43]));
    assert_eq!(machine.module.module_global("absent"), None);
}

#[test]
fn generic_addresses_reach_every_space_even_mixed() {
    let out = Machine::new(PTX).run("generic", 1, 64, 256, &[]);
    for (thread, got) in (0_u32..).zip(out.chunks(4)) {
        let own = if thread % 2 == 1 { thread } else { thread + 1 };
        assert_eq!(got[..3], [thread + 1, own, 0b0111], "thread {thread}");
    }
}

#[test]
fn parameters_by_value_lie_where_the_kernel_info_says() {
    let machine = Machine::new(PTX);
    let info = machine.module.kernel("parameters").unwrap();
    assert_eq!(
        info.params
            .iter()
            .map(|p| (p.offset, p.size))
            .collect::<Vec<_>>(),
        [(0, 8), (16, 32), (48, 4)]
    );
    assert_eq!(info.param_bytes, 52);
    let out = machine.words(&[0; 8]);
    let mut params = vec![0; 52];
    params[..8].copy_from_slice(&out.to_le_bytes());
    for word in 0..9_u32 {
        let at = 16 + 4 * word as usize;
        params[at..at + 4].copy_from_slice(&(100 + word).to_le_bytes());
    }
    let config = ptx_emulator::exec::LaunchConfig {
        grid: [1; 3],
        block: [1; 3],
        dynamic_shared: 0,
        params,
        ..Default::default()
    };
    machine
        .module
        .launch(
            "parameters",
            &config,
            &ptx_emulator::device::A100,
            &machine.options,
        )
        .unwrap();
    assert_eq!(
        machine.read_words(out, 8),
        [100, 101, 102, 103, 105, 106, 108, 108]
    );
}

#[track_caller]
fn fault(machine: &Machine, kernel: &str, threads: u32, args: &[Arg]) -> Fault {
    machine
        .launch(kernel, 1, threads, args)
        .expect_err("a fault")
}

#[test]
fn an_access_past_the_end_names_line_thread_and_allocation() {
    let machine = Machine::new(PTX);
    let buffer = machine.words(&[0; 40]);
    let args = |offset: i32| [Arg::Pointer(buffer), Arg::Word(offset as u32)];
    machine.launch("poke", 1, 40, &args(0)).unwrap();
    let found = fault(&machine, "poke", 64, &args(0));
    assert_eq!(
        (found.kind, found.thread, found.block),
        (FaultKind::IllegalAddress, [40, 0, 0], [0; 3])
    );
    assert_eq!(found.place.ptx_line, line_of("st.global.u32 [%rd1], %r2;"));
    let text = found.to_string();
    assert!(
        text.contains(&format!("{:#x}", buffer + 160))
            && text.contains("poke")
            && text.contains("0 bytes behind"),
        "{text}"
    );
    assert_eq!(
        fault(&machine, "poke", 1, &args(-4)).kind,
        FaultKind::IllegalAddress
    );
}

#[test]
fn a_misaligned_access_is_its_own_kind() {
    let machine = Machine::new(PTX);
    let buffer = machine.words(&[0; 40]);
    let found = fault(&machine, "poke", 4, &[Arg::Pointer(buffer), Arg::Word(2)]);
    assert_eq!(
        (found.kind, found.thread),
        (FaultKind::Misaligned, [0; 3]),
        "{found}"
    );
    let found = fault(&machine, "peek_shared", 4, &[Arg::Pointer(0), Arg::Word(8)]);
    assert_eq!(found.kind, FaultKind::Misaligned, "{found}");
}

#[test]
fn freed_memory_is_out_of_reach() {
    let machine = Machine::new(PTX);
    let buffer = machine.words(&[0; 40]);
    machine.memory.free(buffer).unwrap();
    let found = fault(&machine, "poke", 4, &[Arg::Pointer(buffer), Arg::Word(0)]);
    assert_eq!(found.kind, FaultKind::IllegalAddress);
    assert!(found.to_string().contains("freed"), "{found}");
}

#[test]
fn shared_memory_ends_where_the_block_s_share_ends() {
    let machine = Machine::new(PTX);
    machine
        .launch("peek_shared", 1, 32, &[Arg::Pointer(0), Arg::Word(0)])
        .unwrap();
    let found = fault(
        &machine,
        "peek_shared",
        32,
        &[Arg::Pointer(0), Arg::Word(16)],
    );
    assert_eq!(
        (found.kind, found.thread),
        (FaultKind::IllegalAddress, [31, 0, 0]),
        "{found}"
    );
}

#[test]
fn the_null_pointer_is_no_memory() {
    assert_eq!(
        fault(&Machine::new(PTX), "null", 1, &[Arg::Pointer(0)]).kind,
        FaultKind::IllegalAddress
    );
}

/// Bytes of this process that the host holds in memory.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux has it");
    let pages = statm.split(' ').nth(1).expect("the second field");
    4096 * pages.parse::<u64>().expect("a number")
}

/// A bit for each of its bytes would take 8 GiB of the host's memory.
#[test]
fn a_large_variable_costs_nothing_until_it_is_used() {
    const BYTES: u64 = 64 << 30;
    let before = resident();
    let memory = Arc::new(DeviceMemory::new(80 << 30));
    let text = format!(".version 8.0 .target sm_80 .global .b8 huge[{BYTES}];");
    let program = Program::decode(&parse_module(&text).expect("it parses")).expect("it decodes");
    let module = LoadedModule::load(program, &memory).expect("it fits");
    let (at, size) = module.module_global("huge").expect("it is there");
    assert_eq!(size, BYTES);
    let mut last = [1; 8];
    memory.read(at + size - 8, &mut last).expect("in bounds");
    assert_eq!(last, [0; 8]);
    // Other tests run at the same time.
    assert!(resident() < before + (2 << 30));
}
