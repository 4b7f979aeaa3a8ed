//! Operations across the lanes of a warp, with all lanes and with some.

use ptx_emulator::exec::FaultKind;

use super::harness::{Arg, Machine};

fn machine() -> Machine {
    Machine::new(include_str!("../ptx/warps.ptx"))
}

#[test]
fn shuffles_read_the_named_lane_or_their_own() {
    let out = machine().run("shuffles", 1, 32, 512, &[]);
    for (lane, got) in (0_u32..).zip(out.chunks(16)) {
        let own = |from: u32, valid: bool| if valid { (from, 1) } else { (lane, 0) };
        let (first, position) = (lane & !7, lane & 7);
        let expected = [
            own(lane.wrapping_sub(1), lane >= 1),
            own(lane + 4, lane < 28),
            own(lane ^ 5, true),
            own(7, true),
            own(lane.wrapping_sub(3), position >= 3),
            own(lane + 3, position + 3 < 8),
            own(first + 1, true),
            own(31 - lane, true),
        ];
        for (index, (value, valid)) in expected.into_iter().enumerate() {
            assert_eq!(
                got[2 * index..][..2],
                [value, valid],
                "lane {lane}, shuffle {index}"
            );
        }
    }
}

#[test]
fn votes_matches_and_reductions_see_all_lanes() {
    let out = machine().run("votes", 1, 32, 256, &[]);
    for (lane, got) in out.chunks(8).enumerate() {
        assert_eq!(
            got,
            [0x3ff, !0x3ff, 1, 0, 0, 0x1111_1111 << (lane % 4), 0, 31],
            "lane {lane}"
        );
    }
}

#[test]
fn lanes_under_different_member_masks_stay_apart() {
    let out = machine().run("halves", 1, 32, 32, &[]);
    let (low, high) = ((0..16).sum::<u32>(), (16..32).sum::<u32>());
    for (lane, got) in out.into_iter().enumerate() {
        assert_eq!(got, if lane < 16 { 16 * low } else { high }, "lane {lane}");
    }
}

#[test]
fn warp_barriers_of_different_branches_meet() {
    let out = machine().run("meet", 1, 32, 32, &[]);
    assert_eq!(
        out,
        (0..32)
            .map(|lane| if lane < 7 { 2 } else { 1 })
            .collect::<Vec<_>>()
    );
}

#[test]
fn special_registers_tell_where_a_thread_is() {
    let out = machine().run("specials", 3, 40, 960, &[]);
    for (thread, got) in (0_u32..).zip(out.chunks(8)) {
        let (block, x) = (thread / 40, thread % 40);
        let bit = 1_u32 << (x % 32);
        assert_eq!(
            got,
            [x, block, 40, 3, x / 32, bit - 1, !(bit - 1), 108],
            "thread {thread}"
        );
    }
}

#[test]
fn a_lane_outside_its_member_mask_is_a_fault() {
    let fault = machine()
        .launch("outsider", 1, 32, &[Arg::Pointer(0)])
        .unwrap_err();
    assert_eq!(
        (fault.kind, fault.thread),
        (FaultKind::IllegalInstruction, [3, 0, 0]),
        "{fault}"
    );
}

#[test]
fn lanes_that_wait_for_each_other_for_ever_are_reported() {
    let fault = machine()
        .launch("stuck", 1, 32, &[Arg::Pointer(0)])
        .unwrap_err();
    assert_eq!(fault.kind, FaultKind::LaunchFailed);
    let text = fault.to_string();
    assert!(
        text.contains("deadlock")
            && text.contains("barrier 3")
            && text.contains("lanes 0xffffffff"),
        "{text}"
    );
}
