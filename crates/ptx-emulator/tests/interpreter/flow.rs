//! Divergence and where lanes meet again, calls, jump tables, ends.

use ptx_emulator::exec::FaultKind;

use super::harness::{Arg, Machine};

fn machine() -> Machine {
    Machine::new(include_str!("../ptx/flow.ptx"))
}

#[test]
fn lanes_with_different_trip_counts_meet_behind_the_loop() {
    let sum: u32 = (1..=32).sum();
    assert_eq!(machine().run("trips", 1, 32, 32, &[]), vec![sum; 32]);
}

#[test]
fn nested_branches_join_inside_out() {
    for (lane, masks) in machine()
        .run("nested", 1, 32, 96, &[])
        .chunks(3)
        .enumerate()
    {
        let inner = match lane {
            16.. => 0xffff_0000,
            _ if lane % 2 == 0 => 0x5555,
            _ => 0xaaaa,
        };
        let lower = if lane < 16 { 0xffff } else { 0 };
        assert_eq!(masks, [inner, lower, 0xffff_ffff], "lane {lane}");
    }
}

#[test]
fn exited_threads_are_not_awaited_at_a_barrier() {
    let out = machine().run("early_exit", 1, 64, 64, &[]);
    for (thread, &value) in out.iter().enumerate() {
        let expected = if thread % 2 == 0 {
            thread as u32 ^ 32
        } else {
            0xdead_beef
        };
        assert_eq!(value, expected, "thread {thread}");
    }
}

#[test]
fn a_jump_table_sends_each_lane_to_its_label() {
    for (lane, out) in machine().run("table", 1, 32, 64, &[]).chunks(2).enumerate() {
        assert_eq!(
            out,
            [[10, 20, 30, 20][lane % 4], 0xffff_ffff],
            "lane {lane}"
        );
    }
}

#[test]
fn functions_return_to_each_caller() {
    for (lane, out) in machine()
        .run("calls", 1, 32, 32, &[])
        .into_iter()
        .enumerate()
    {
        let first = 3 * lane as u32 + 100;
        assert_eq!(out, if lane < 4 { 6 + first } else { 7 }, "lane {lane}");
    }
}

#[test]
fn lanes_parked_at_a_join_go_on_when_others_wait_for_them() {
    assert_eq!(
        machine().run("wait_across_join", 1, 32, 32, &[]),
        (0..32).collect::<Vec<_>>()
    );
}

#[test]
fn a_trap_names_its_thread_and_line() {
    let machine = machine();
    let fault = machine
        .launch("stop", 2, 32, &[Arg::Pointer(0)])
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.thread),
        (FaultKind::LaunchFailed, [5, 0, 0])
    );
    let line = include_str!("../ptx/flow.ptx")
        .lines()
        .position(|l| l.contains("trap;"))
        .unwrap()
        + 1;
    assert_eq!(fault.place.ptx_line as usize, line);
    assert!(fault.to_string().contains("stop"), "{fault}");
}
