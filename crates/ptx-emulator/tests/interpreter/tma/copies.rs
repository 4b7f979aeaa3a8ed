//! Copies without a tensor map, reductions, groups.

use super::{Arg, EMPTY, FILL, Machine, noise};

/// A kernel whose shared tile comes from `before`; thread 0 does `issue`.
fn machine(tile: usize, issue: &str) -> Machine {
    Machine::new(
        ".param .u64 before, .param .u64 after, .param .u64 global",
        &format!(
            ".shared .align 128 .b8 tile[{tile}];\n.shared .align 8 .b64 bar;\n\
             ld.param.u64 %rd1, [before];\nld.param.u64 %rd2, [after];\n\
             ld.param.u64 %rd3, [global];\nmov.u32 %r3, {tile};\n{FILL}\n\
             mov.u32 %r1, %tid.x;\nsetp.ne.u32 %p2, %r1, 0;\n@%p2 bra ISSUED;\n{issue}\n\
             ISSUED:\nbar.sync 0;\n{EMPTY}"
        ),
    )
}

#[test]
fn a_store_lands_when_its_group_is_waited_for_and_not_before() {
    // Reads its own bytes back before and after the wait; without checks, which would object.
    let body = "cp.async.bulk.global.shared::cta.bulk_group [%rd3], [tile], 16;
        cp.async.bulk.commit_group;
        cp.async.bulk.global.shared::cta.bulk_group [%rd3+16], [tile+16], 16;
        cp.async.bulk.commit_group;
        ld.global.u32 %r10, [%rd3];
        cp.async.bulk.wait_group 1;
        ld.global.u32 %r11, [%rd3];
        ld.global.u32 %r12, [%rd3+16];
        cp.async.bulk.wait_group 0;
        ld.global.u32 %r13, [%rd3+16];
        st.global.v4.u32 [%rd3+32], {%r10, %r11, %r12, %r13};";
    let mut machine = machine(32, body);
    machine.options.checks = false;
    for (early, seen) in [(false, [0, 7, 0, 9]), (true, [7, 7, 9, 9])] {
        machine.options.early_copies = early;
        let before = machine.words(&[7, 7, 7, 7, 9, 9, 9, 9]);
        let (after, global) = (machine.words(&[0; 8]), machine.words(&[0; 12]));
        let args = [
            Arg::Pointer(before),
            Arg::Pointer(after),
            Arg::Pointer(global),
        ];
        machine.run(1, 32, &args);
        assert_eq!(machine.read_words(global, 8), [7, 7, 7, 7, 9, 9, 9, 9]);
        assert_eq!(machine.read_words(global + 32, 4), seen, "early: {early}");
    }
}

#[test]
fn a_wait_with_read_only_frees_the_source() {
    let body = "cp.async.bulk.global.shared::cta.bulk_group [%rd3], [tile], 16;
        cp.async.bulk.commit_group;
        cp.async.bulk.wait_group.read 0;
        st.shared.u32 [tile], 5;
        ld.global.u32 %r10, [%rd3];
        cp.async.bulk.wait_group 0;
        ld.global.u32 %r11, [%rd3];
        st.global.v2.u32 [%rd3+16], {%r10, %r11};";
    let mut machine = machine(16, body);
    machine.options.checks = false;
    let (before, after) = (machine.words(&[7; 4]), machine.words(&[0; 4]));
    let global = machine.words(&[0; 6]);
    let args = [
        Arg::Pointer(before),
        Arg::Pointer(after),
        Arg::Pointer(global),
    ];
    machine.run(1, 32, &args);
    assert_eq!(machine.read_words(global, 6), [7, 7, 7, 7, 0, 7]);
    assert_eq!(machine.read_words(after, 1), [5]);
}

#[test]
fn stores_that_nobody_waits_for_land_at_the_end() {
    let machine = machine(
        32,
        "cp.async.bulk.global.shared::cta.bulk_group [%rd3], [tile], 32;",
    );
    let data = noise(5, 32);
    let (before, after) = (machine.bytes(&data), machine.bytes(&[0; 32]));
    let global = machine.bytes(&[0; 32]);
    let args = [
        Arg::Pointer(before),
        Arg::Pointer(after),
        Arg::Pointer(global),
    ];
    machine.run(1, 32, &args);
    assert_eq!(machine.read(global, 32), data);
}

/// Elements of a type before, in shared memory and after a reduction.
fn reduced<const N: usize>(
    suffix: &str,
    now: [u64; N],
    operand: [u64; N],
    size: usize,
) -> Vec<u64> {
    let issue = format!(
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.{suffix} [%rd3], [tile], {};\n\
         cp.async.bulk.commit_group;\ncp.async.bulk.wait_group 0;",
        N * size
    );
    let machine = machine(N * size, &issue);
    let raw = |values: [u64; N]| -> Vec<u8> {
        let bytes = values
            .into_iter()
            .flat_map(|value| value.to_le_bytes().into_iter().take(size));
        bytes.collect()
    };
    let (before, after) = (
        machine.bytes(&raw(operand)),
        machine.bytes(&vec![0; N * size]),
    );
    let global = machine.bytes(&raw(now));
    let args = [
        Arg::Pointer(before),
        Arg::Pointer(after),
        Arg::Pointer(global),
    ];
    machine.run(1, 32, &args);
    let got = machine.read(global, N * size);
    got.chunks(size)
        .map(|bytes| {
            let mut whole = [0; 8];
            whole[..size].copy_from_slice(bytes);
            u64::from_le_bytes(whole)
        })
        .collect()
}

#[test]
fn reductions_combine_element_by_element() {
    const M: u64 = u32::MAX as u64;
    assert_eq!(
        reduced("add.u32", [1, M, 5, 0], [2, 2, 0, 0], 4),
        [3, 1, 5, 0]
    );
    assert_eq!(
        reduced("min.s32", [1, M, 5, 0], [2, 2, M, 0], 4),
        [1, M, M, 0]
    );
    assert_eq!(
        reduced("max.u32", [1, M, 5, 0], [2, 2, M, 0], 4),
        [2, M, M, 0]
    );
    assert_eq!(
        reduced("inc.u32", [1, 7, 9, 0], [2, 7, 8, 0], 4),
        [2, 0, 0, 0]
    );
    assert_eq!(
        reduced("dec.u32", [1, 0, 9, 3], [2, 7, 8, 3], 4),
        [0, 7, 8, 2]
    );
    assert_eq!(
        reduced("and.b32", [6, 1, 0, M], [3, 2, 5, 9], 4),
        [2, 0, 0, 9]
    );
    assert_eq!(reduced("or.b64", [6, 1 << 40], [3, 2], 8), [7, 1 << 40 | 2]);
    assert_eq!(reduced("xor.b64", [6, 1 << 63], [3, 1 << 63], 8), [5, 0]);
    assert_eq!(
        reduced("add.u64", [1 << 32, u64::MAX], [1 << 32, 2], 8),
        [1 << 33, 1]
    );
    assert_eq!(reduced("min.s64", [1, 5], [u64::MAX, 6], 8), [u64::MAX, 5]);
    let f64s = |values: [f64; 2]| values.map(f64::to_bits);
    let sum = reduced("add.f64", f64s([1.5, -2.0]), f64s([0.25, 2.0]), 8);
    assert_eq!(sum, f64s([1.75, 0.0]));
    let f32s = |values: [f32; 4]| values.map(|value| u64::from(value.to_bits()));
    // A subnormal operand and a subnormal sum are zero.
    let tiny = f32::MIN_POSITIVE;
    let sum = reduced(
        "add.f32",
        f32s([1.5, 0.0, 1.5 * tiny, 3.0]),
        f32s([0.5, tiny / 2.0, -tiny, -1.0]),
        4,
    );
    assert_eq!(sum, f32s([2.0, 0.0, 0.0, 2.0]));
    // 1.0 and 2.0, then 1.0 and a subnormal, which stays; smaller and larger.
    let halves = [0x3c00, 0x3c00, 0x0001, 0x8000, 0, 0, 0, 0];
    let more = [0x4000, 0x0001, 0x0001, 0x0000, 0, 0, 0, 0];
    let sum = [0x4200, 0x3c00, 0x0002, 0x0000, 0, 0, 0, 0];
    assert_eq!(reduced("add.noftz.f16", halves, more, 2), sum);
    let smaller = reduced("min.f16", halves, more, 2);
    assert_eq!(smaller[..3], [0x3c00, 0x0001, 0x0001]);
    let bf16 = reduced(
        "max.bf16",
        [0x3f80, 0xbf80, 0, 0, 0, 0, 0, 0],
        [0x4000, 0, 0, 0, 0, 0, 0, 0],
        2,
    );
    assert_eq!(bf16[..2], [0x4000, 0]);
}

#[test]
fn wrong_addresses_and_sizes_are_named() {
    for (issue, words) in [
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%rd3+8], [tile], 16;",
            "the global address of a bulk copy",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%rd3], [tile+4], 16;",
            "the shared address of a bulk copy is 0x4: it must be a multiple of 16",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%rd3], [tile], 24;",
            "the size of a bulk copy is 0x18: it must be a multiple of 16",
        ),
        (
            "cp.async.bulk.global.shared::cta.bulk_group [%rd3], [tile], 64;",
            "64 bytes at 0x0 of shared memory",
        ),
        (
            "cp.async.bulk.prefetch.L2.global [%rd3+64], 16;",
            "16 bytes at",
        ),
    ] {
        let machine = machine(16, issue);
        let (before, after) = (machine.words(&[0; 4]), machine.words(&[0; 4]));
        let global = machine.words(&[0; 16]);
        let args = [
            Arg::Pointer(before),
            Arg::Pointer(after),
            Arg::Pointer(global),
        ];
        let fault = machine.launch(1, 32, &args).expect_err(issue);
        assert!(fault.message.contains(words), "{issue}: {fault}");
    }
}
