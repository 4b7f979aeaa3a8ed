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

/// Runs these lines in every thread, with global memory at %d1 and %d2 (each thread's own 64 bytes
/// of the output) and 64 bytes of shared memory at %s.
fn lines(text: &str, grid: u32, block: u32, memory: &[u32]) -> (Vec<u32>, Vec<u32>) {
    let ptx = format!(
        ".version 9.0 .target sm_90 .address_size 64
        .visible .entry k(.param .u64 out, .param .u64 memory) {{
            .shared .align 16 .b8 tile[64];
            .reg .pred %p<4>; .reg .b16 %h<17>; .reg .b32 %r<17>, %s; .reg .f32 %f<17>;
            .reg .b64 %d<9>; .reg .b128 %q<5>;
            ld.param.u64 %d2, [out];
            ld.param.u64 %d1, [memory];
            mov.u32 %s, tile;
            mov.u32 %r1, %tid.x; mov.u32 %r2, %ctaid.x; mov.u32 %r3, %ntid.x;
            mad.lo.u32 %r1, %r2, %r3, %r1;
            mad.wide.u32 %d2, %r1, 64, %d2;
            {text}
            ret; }}"
    );
    let machine = Machine::new(&ptx);
    let place = machine.words(memory);
    let out = machine.run(
        "k",
        grid,
        block,
        16 * (grid * block) as usize,
        &[Arg::Pointer(place)],
    );
    (out, machine.read_words(place, memory.len()))
}

#[test]
fn sums_of_f32_flush_subnormal_numbers_in_global_memory_only() {
    let tiny = 0x0000_0123_u32;
    let minus_tiny = 0x8000_0123_u32;
    let text = "
        red.global.add.f32 [%d1], 0f00000001;
        red.global.add.f32 [%d1+4], 0f80000001;
        atom.add.f32 %f1, [%d1+8], 0f00800000;
        add.f32 %f2, 0f00800001, 0f00000000;
        red.add.f32 [%d1+12], %f2;
        st.shared.u32 [%s], 0x123;
        red.shared.add.f32 [%s], 0f00000001;
        cvta.shared.u64 %d3, 0;
        st.shared.u32 [%s+4], 0x80000123;
        red.add.f32 [%d3+4], 0f80000001;
        ld.shared.u32 %r5, [%s]; ld.shared.u32 %r6, [%s+4];
        st.global.f32 [%d2], %f1; st.global.u32 [%d2+4], %r5; st.global.u32 [%d2+8], %r6;";
    let text = text.replace(
        "cvta.shared.u64 %d3, 0;",
        "cvt.u64.u32 %d3, %s; cvta.shared.u64 %d3, %d3;",
    );
    // The last sum is the difference of two normal numbers.
    let (out, memory) = lines(&text, 1, 1, &[tiny, minus_tiny, tiny, 0x8080_0000]);
    assert_eq!(memory, [0, 0x8000_0000, 0x0080_0000, 0]);
    assert_eq!(out[..3], [tiny, 0x124, 0x8000_0124]);
}

#[test]
fn vectors_of_floats_are_updated_element_by_element() {
    let text = "
        mov.f32 %f3, 0f3F800000; mov.f32 %f4, 0f40000000;
        atom.global.v4.f32.add {%f5, %f6, %f7, %f8}, [%d1], {%f3, %f4, %f3, %f4};
        st.global.v4.f32 [%d2], {%f5, %f6, %f7, %f8};
        red.global.add.v2.f32 [%d1+16], {%f4, %f3};
        mov.b32 {%h1, %h2}, 0x40003C00;
        red.global.v8.f16.add.noftz [%d1+32], {%h1, %h2, %h1, %h2, %h1, %h2, %h1, %h2};
        mov.b32 %r5, 0x3F80BF80;
        red.global.v2.bf16x2.min.noftz [%d1+48], {%r5, %r5};
        red.global.relaxed.gpu.v2.bf16x2.max.noftz [%d1+56], {%r5, %r5};";
    let mut memory = [0_u32; 16];
    (memory[12], memory[13]) = (0x4000_4000, 0xC000_C000);
    (memory[14], memory[15]) = (0x4000_4000, 0xC000_C000);
    let (out, after) = lines(text, 2, 32, &memory);
    let float = |x: f32| x.to_bits();
    assert_eq!(
        after[..4],
        [float(64.0), float(128.0), float(64.0), float(128.0)]
    );
    assert_eq!(after[4..6], [float(128.0), float(64.0)]);
    // 64 and 128 in f16.
    assert_eq!(after[8..12], [0x5800_5400; 4]);
    assert_eq!(
        after[12..],
        [0x3F80_BF80, 0xC000_C000, 0x4000_4000, 0x3F80_BF80]
    );
    let mut seen: Vec<u32> = out
        .chunks(16)
        .map(|own| f32::from_bits(own[1]) as u32)
        .collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..64).map(|n| 2 * n).collect::<Vec<_>>());
}

#[test]
fn values_of_128_bits_move_whole() {
    let text = "
        ld.global.b128 %q1, [%d1];
        mov.b128 {%d3, %d4}, %q1;
        st.global.b64 [%d2], %d4; st.global.b64 [%d2+8], %d3;
        mov.b128 %q2, {%d4, %d3};
        st.shared.b128 [%s], %q2;
        ld.shared.v4.u32 {%r4, %r5, %r6, %r7}, [%s];
        mov.b128 %q3, {%r7, %r6, %r5, %r4};
        st.release.gpu.global.b128 [%d2+16], %q3;
        atom.global.exch.b128 %q4, [%d1], %q3;
        st.global.b128 [%d2+32], %q4;
        mov.b128 %q1, 5;
        atom.global.cas.b128 %q2, [%d1], %q4, %q1;
        atom.global.cas.b128 %q2, [%d1+16], %q4, %q1;
        st.global.b128 [%d2+48], %q2;";
    let (out, memory) = lines(text, 1, 1, &[1, 2, 3, 4, 1, 2, 3, 4]);
    assert_eq!(out[..4], [3, 4, 1, 2]);
    assert_eq!(out[4..8], [2, 1, 4, 3]);
    assert_eq!(out[8..12], [1, 2, 3, 4]);
    assert_eq!(out[12..], [1, 2, 3, 4]);
    // The first swap saw another value and the second one its own.
    assert_eq!(memory, [2, 1, 4, 3, 5, 0, 0, 0]);
}

#[test]
fn swaps_of_128_bits_lose_no_update() {
    let text = "
        ld.relaxed.gpu.global.b128 %q1, [%d1];
        AGAIN:
        mov.b128 {%d3, %d4}, %q1;
        add.u64 %d5, %d3, 1; sub.u64 %d6, %d4, 1;
        mov.b128 %q2, {%d5, %d6};
        atom.acq_rel.gpu.global.cas.b128 %q3, [%d1], %q1, %q2;
        mov.b128 {%d5, %d6}, %q3;
        mov.b128 %q1, %q3;
        setp.ne.u64 %p1, %d5, %d3;
        @%p1 bra AGAIN;";
    let (_, memory) = lines(text, 4, 64, &[0, 0, 0, 1]);
    assert_eq!(memory, [256, 0, 0_u32.wrapping_sub(256), 0]);
}
