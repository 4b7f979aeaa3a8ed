//! Barriers, and blocks of more than one warp.

use ptx_emulator::exec::FaultKind;

use super::harness::{Arg, Machine};

fn machine() -> Machine {
    Machine::new(include_str!("../ptx/blocks.ptx"))
}

#[test]
fn a_tree_sum_over_eight_warps_and_many_blocks() {
    let out = machine().run("tree", 300, 256, 300, &[]);
    assert_eq!(out, vec![(0..256).sum::<u32>(); 300]);
}

#[test]
fn the_report_counts_blocks_and_barriers() {
    let machine = machine();
    let out = machine.words(&[0; 4]);
    let report = machine
        .launch("tree", 4, 256, &[Arg::Pointer(out)])
        .unwrap();
    // Eight warps pass the barrier eight times in each block.
    assert_eq!(
        (report.blocks, report.barriers, report.mma_flops),
        (4, 4 * 8 * 8, 0)
    );
    assert!(report.warp_instructions > 4 * 8 * 50);
}

#[test]
fn named_barriers_hand_over_between_warps() {
    let out = machine().run("handover", 1, 64, 32, &[]);
    assert_eq!(out, (0..32).map(|lane| 1000 + 5 * lane).collect::<Vec<_>>());
}

#[test]
fn barriers_reduce_over_the_whole_block_even_if_its_last_warp_is_not_full() {
    let out = machine().run("reductions", 1, 72, 288, &[]);
    for (thread, got) in out.chunks(4).enumerate() {
        assert_eq!(got, [50, 0, 1, 22], "thread {thread}");
    }
}

#[test]
fn a_deadlock_names_who_waits_where() {
    let fault = machine()
        .launch("crossed", 1, 64, &[Arg::Pointer(0)])
        .unwrap_err();
    let text = fault.to_string();
    assert_eq!(fault.kind, FaultKind::LaunchFailed);
    assert!(
        text.contains("warp 0") && text.contains("barrier 1") && text.contains("warp 1"),
        "{text}"
    );
}

#[test]
fn impossible_launches_are_refused_before_anything_runs() {
    let machine = machine();
    for (grid, block) in [(0, 32), (1, 0), (1, 1025)] {
        let fault = machine
            .launch("tree", grid, block, &[Arg::Pointer(0)])
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::InvalidLaunch, "{grid} x {block}");
    }
}
