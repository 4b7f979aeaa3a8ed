//! `cp.async`: data is there after the wait and not before.

use ptx_emulator::exec::FaultKind;

use super::harness::{Arg, Machine};

fn machine() -> Machine {
    Machine::new(include_str!("../ptx/async.ptx"))
}

#[test]
fn a_kernel_that_does_not_wait_sees_stale_data() {
    let mut machine = machine();
    machine.options.checks = false;
    let input = machine.words(&(100..228).collect::<Vec<_>>());
    let out = machine.run("late", 1, 32, 128, &[Arg::Pointer(input)]);
    for (thread, got) in (0_u32..).zip(out.chunks(4)) {
        assert_eq!(got, [1, 1, 100 + 4 * thread + 2, 0], "thread {thread}");
    }
}

#[test]
fn groups_land_in_order_and_the_uncommitted_last() {
    let mut machine = machine();
    machine.options.checks = false;
    let input = machine.words(&[11, 12, 13, 14]);
    let out = machine.run("groups", 1, 1, 12, &[Arg::Pointer(input)]);
    assert_eq!(out, [11, 0, 0, 0, 11, 12, 0, 0, 11, 12, 13, 0]);
}

#[test]
fn short_sources_are_padded_with_zeros_and_need_not_exist_beyond() {
    let machine = machine();
    let input = machine.words(&[5, 6, 7]);
    let out = machine.run("partial", 1, 4, 30, &[Arg::Pointer(input)]);
    assert_eq!(out[..16], [0, 0, 0, 0, 5, 0, 0, 0, 5, 6, 0, 0, 5, 6, 7, 0]);
    assert_eq!(out[16..18], [5, 6]);
    assert_eq!(out[20..22], [0, 0]);
}

#[test]
fn wrong_addresses_are_reported_at_the_copy() {
    let machine = machine();
    let input = Arg::Pointer(machine.words(&[0; 4]));
    let fault = machine
        .launch("misaligned", 1, 1, &[Arg::Pointer(0), input])
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::Misaligned, "{fault}");
    let fault = machine
        .launch("outside", 1, 1, &[Arg::Pointer(0), input])
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::IllegalAddress, "{fault}");
}
