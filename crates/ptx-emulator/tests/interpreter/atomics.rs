//! Atomics across threads, warps and blocks, and blocks that wait for each other.

use super::harness::{Arg, Machine};

fn machine() -> Machine {
    Machine::new(include_str!("../ptx/atomics.ptx"))
}

#[test]
fn every_operation_counts_every_thread_once() {
    let machine = machine();
    let out = machine.words(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    machine
        .launch("global_all", 50, 96, &[Arg::Pointer(out)])
        .unwrap();
    let got = machine.read_words(out, 13);
    let n = 50 * 96_u32;
    let total: u64 = (0..u64::from(n)).sum();
    assert_eq!(
        got[..5],
        [n, n % 100, n - 1, (n - 1).wrapping_neg(), u32::MAX]
    );
    assert_eq!(f32::from_bits(got[5]), 0.5 * n as f32);
    assert_eq!(u64::from(got[7]) << 32 | u64::from(got[6]), total);
    // f16 counts by ones up to 2048 and then stays.
    assert_eq!(got[8], 0x6800_6800);
    assert_eq!(got[9], n % 2);
    assert_eq!(
        f64::from_bits(u64::from(got[11]) << 32 | u64::from(got[10])),
        0.25 * f64::from(n)
    );
    // 0, 9, 8, ..., 1, 0, 9: a period of ten.
    assert_eq!(got[12], (10 - n % 10) % 10);
}

#[test]
fn a_spin_lock_excludes_across_workers() {
    let mut machine = machine();
    machine.options.workers = 4;
    // Which worker comes when differs from launch to launch.
    for _ in 0..30 {
        let out = machine.words(&[0, 0]);
        machine
            .launch("lock", 40, 128, &[Arg::Pointer(out)])
            .unwrap();
        assert_eq!(machine.read_words(out, 2), [0, 160]);
    }
}

#[test]
fn blocks_that_wait_for_later_blocks_make_progress() {
    for workers in [1, 3] {
        let mut machine = machine();
        machine.options.workers = workers;
        let out = machine.words(&[0; 108]);
        machine
            .launch("chain", 108, 32, &[Arg::Pointer(out)])
            .unwrap();
        assert_eq!(
            machine.read_words(out, 108),
            (1..=108).rev().collect::<Vec<_>>(),
            "{workers} workers"
        );
    }
}

#[test]
fn shared_memory_has_atomics_too() {
    let out = machine().run("shared_all", 1, 256, 16, &[]);
    assert_eq!(out[..8], [32; 8]);
    assert_eq!(out[8..], [77, 0, 0, 0, 0, 0, 0, 0]);
}
