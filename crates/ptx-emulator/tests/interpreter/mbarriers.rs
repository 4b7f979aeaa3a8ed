//! mbarriers: phases, parities and states, transaction counts, arrivals from other blocks, and the
//! asynchronous operations that complete on one.

use crate::clusters::kernel;
use crate::harness::{Arg, Machine};

/// What one thread of one block stores, word by word.
fn alone(body: &str, words: usize) -> Vec<u32> {
    Machine::hopper(&kernel(body)).run("k", 1, 1, words, &[Arg::Pointer(0)])
}

/// The finding of a launch of `grid` blocks of `threads` threads in clusters of `cluster`.
fn finding(body: &str, grid: u32, threads: u32, cluster: u32) -> String {
    let mut machine = Machine::hopper(&kernel(body));
    machine.cluster = Some([cluster, 1, 1]);
    let out = machine.words(&vec![0; (grid * threads) as usize]);
    let done = machine.launch("k", grid, threads, &[Arg::Pointer(out), Arg::Pointer(0)]);
    done.expect_err("a finding").message
}

/// Stores whether the phase with this parity is complete.
fn test(at: u32, parity: u32) -> String {
    format!(
        "mbarrier.test_wait.parity.shared::cta.b64 %p1, [bar], {parity};
        selp.u32 %r2, 1, 0, %p1; st.global.u32 [%o+{}], %r2;",
        4 * at
    )
}

#[test]
fn phases_have_parities() {
    // Nothing is complete on a fresh mbarrier but the phase before the first.
    let body = [
        "mbarrier.init.shared::cta.b64 [bar], 2;".to_owned(),
        test(0, 1),
        test(1, 0),
        "mbarrier.arrive.shared::cta.b64 _, [bar];".to_owned(),
        test(2, 0),
        "mbarrier.arrive.shared::cta.b64 _, [bar];".to_owned(),
        test(3, 0),
        test(4, 1),
        "mbarrier.arrive.shared::cta.b64 _, [bar], 2;".to_owned(),
        test(5, 1),
        test(6, 0),
    ]
    .concat();
    assert_eq!(alone(&body, 7), [1, 0, 0, 1, 0, 1, 0]);
}

#[test]
fn a_state_tells_its_phase_and_the_pending_arrivals() {
    let body = "mbarrier.init.shared::cta.b64 [bar], 3;
        mbarrier.arrive.shared::cta.b64 %d2, [bar];
        mbarrier.pending_count.b64 %r2, %d2;
        st.global.u32 [%o], %r2;
        mbarrier.arrive.noComplete.shared::cta.b64 %d3, [bar], 1;
        mbarrier.pending_count.b64 %r2, %d3;
        st.global.u32 [%o+4], %r2;
        mbarrier.test_wait.shared::cta.b64 %p1, [bar], %d2;
        selp.u32 %r2, 1, 0, %p1; st.global.u32 [%o+8], %r2;
        mbarrier.arrive_drop.shared::cta.b64 %d4, [bar];
        mbarrier.try_wait.shared::cta.b64 %p1, [bar], %d4, 1000;
        selp.u32 %r2, 1, 0, %p1; st.global.u32 [%o+12], %r2;
        mbarrier.arrive.shared::cta.b64 %d5, [bar];
        mbarrier.pending_count.b64 %r2, %d5;
        st.global.u32 [%o+16], %r2;";
    assert_eq!(alone(body, 5), [3, 2, 0, 1, 2]);
}

#[test]
fn bytes_may_come_before_they_are_expected() {
    let body = [
        "mbarrier.init.shared::cta.b64 [bar], 1;
        mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 64;"
            .to_owned(),
        test(0, 0),
        "mbarrier.arrive.shared::cta.b64 _, [bar];".to_owned(),
        test(1, 0),
        "mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 64;".to_owned(),
        test(2, 0),
        "mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 32;".to_owned(),
        test(3, 1),
        "mbarrier.complete_tx.shared::cta.b64 [bar], 32;".to_owned(),
        test(4, 1),
    ]
    .concat();
    assert_eq!(alone(&body, 5), [0, 0, 1, 0, 1]);
}

/// Waits for the phase with parity `%r9`.
const WAIT: &str =
    "AGAIN: mbarrier.try_wait.parity.shared::cta.b64 %p8, [bar], %r9; @!%p8 bra AGAIN;";

#[test]
fn a_producer_hands_tiles_to_consumers() {
    // Warp 0 fills, warp 1 reads, four times, through a full and an empty mbarrier.
    let body = "mov.u32 %r2, bar;
        setp.eq.u32 %p1, %t, 0;
        @%p1 mbarrier.init.shared::cta.b64 [%r2], 32;
        @%p1 mbarrier.init.shared::cta.b64 [tile+1000], 32;
        bar.sync 0;
        mov.u32 %r3, 0;
        mov.u32 %r10, 0;
        setp.ge.u32 %p2, %t, 32;
        and.b32 %r5, %t, 31;
        shl.b32 %r6, %r5, 2;
        mov.u32 %r7, tile;
        add.u32 %r7, %r7, %r6;
        LOOP:
        and.b32 %r4, %r3, 1;
        @%p2 bra CONSUME;
        xor.b32 %r8, %r4, 1;
        EMPTY: mbarrier.try_wait.parity.shared::cta.b64 %p3, [tile+1000], %r8;
        @!%p3 bra EMPTY;
        mad.lo.u32 %r9, %r3, 100, %r5;
        st.shared.u32 [%r7], %r9;
        mbarrier.arrive.shared::cta.b64 _, [bar];
        bra NEXT;
        CONSUME:
        FULL: mbarrier.try_wait.parity.shared::cta.b64 %p3, [bar], %r4;
        @!%p3 bra FULL;
        ld.shared.u32 %r9, [%r7];
        add.u32 %r10, %r10, %r9;
        mbarrier.arrive.shared::cta.b64 _, [tile+1000];
        NEXT:
        add.u32 %r3, %r3, 1;
        setp.lt.u32 %p4, %r3, 4;
        @%p4 bra LOOP;
        st.global.u32 [%o], %r10;";
    let machine = Machine::hopper(&kernel(body));
    let out = machine.run("k", 1, 64, 64, &[Arg::Pointer(0)]);
    let expected: Vec<u32> = (0..32).map(|lane| 600 + 4 * lane).collect();
    assert_eq!(out[32..], expected);
}

#[test]
fn a_store_to_another_block_completes_on_its_mbarrier() {
    let body = format!(
        "setp.eq.u32 %p1, %t, 0;
        @%p1 mbarrier.init.shared::cta.b64 [bar], 1;
        @%p1 mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 512;
        fence.mbarrier_init.release.cluster;
        barrier.cluster.arrive.relaxed.aligned;
        barrier.cluster.wait.acquire.aligned;
        xor.b32 %r5, %rank, 1;
        mov.u32 %r2, tile;
        mad.lo.u32 %r2, %t, 16, %r2;
        mapa.shared::cluster.u32 %r3, %r2, %r5;
        mov.u32 %r4, bar;
        mapa.shared::cluster.u32 %r4, %r4, %r5;
        mad.lo.u32 %r6, %b, 1000, %t;
        st.async.shared::cluster.mbarrier::complete_tx::bytes.v4.u32 [%r3], {{%r6,%r6,%r6,%t}}, [%r4];
        mov.u32 %r9, 0;
        {WAIT}
        ld.shared.v4.u32 {{%r7,%r8,%r10,%r11}}, [%r2];
        add.u32 %r7, %r7, %r11;
        st.global.u32 [%o], %r7;
        barrier.cluster.arrive.aligned;
        barrier.cluster.wait.aligned;"
    );
    let mut machine = Machine::hopper(&kernel(&body));
    machine.cluster = Some([2, 1, 1]);
    let expected: Vec<u32> = [1000, 0]
        .iter()
        .flat_map(|block| (0..32).map(move |lane| block + 2 * lane))
        .collect();
    assert_eq!(machine.run("k", 2, 32, 64, &[Arg::Pointer(0)]), expected);
}

#[test]
fn copies_arrive_when_they_have_landed() {
    let body = format!(
        "setp.eq.u32 %p1, %t, 0;
        @%p1 mbarrier.init.shared::cta.b64 [bar], 32;
        bar.sync 0;
        mul.wide.u32 %d2, %t, 4;
        add.s64 %d2, %i, %d2;
        mov.u32 %r2, tile;
        mad.lo.u32 %r3, %t, 4, %r2;
        cp.async.ca.shared.global [%r3], [%d2], 4;
        cp.async.mbarrier.arrive.noinc.shared::cta.b64 [bar];
        mov.u32 %r9, 0;
        {WAIT}
        xor.b32 %r4, %t, 31;
        mad.lo.u32 %r3, %r4, 4, %r2;
        ld.shared.u32 %r5, [%r3];
        st.global.u32 [%o], %r5;"
    );
    let machine = Machine::hopper(&kernel(&body));
    let from = machine.words(&(100..132).collect::<Vec<_>>());
    let expected: Vec<u32> = (0..32).map(|lane| 131 - lane).collect();
    assert_eq!(machine.run("k", 1, 32, 32, &[Arg::Pointer(from)]), expected);
}

#[test]
fn what_is_wrong_with_an_mbarrier_is_said() {
    let init = "mbarrier.init.shared::cta.b64 [bar], 1;";
    let arrive = "mbarrier.arrive.shared::cta.b64 _, [bar];";
    let cases = [
        (arrive.to_owned(), "nothing has initialised it"),
        (
            format!("{init} mbarrier.inval.shared::cta.b64 [bar]; {arrive}"),
            "invalidated",
        ),
        (
            format!("{init} mov.u64 %d2, 5; st.shared.u64 [bar], %d2; {arrive}"),
            "something else has been written",
        ),
        (
            format!("{init} mbarrier.arrive.shared::cta.b64 _, [bar], 2;"),
            "2 arrivals where its phase doesn't wait for as many",
        ),
        (format!("{init} {init}"), "initialised already"),
        (
            "mbarrier.init.shared::cta.b64 [bar], 0;".to_owned(),
            "1 to 1048575 are allowed",
        ),
        (
            format!("{init} mbarrier.expect_tx.shared::cta.b64 [bar], 1048576;"),
            "transaction count would be 1048576",
        ),
        (
            format!("{init} mbarrier.arrive.noComplete.shared::cta.b64 %d2, [bar], 1;"),
            ".noComplete completes the phase",
        ),
        (
            format!("{init} mov.u32 %r9, 0; {WAIT}"),
            "for phase 0 of the mbarrier at 0x400 of shared memory (phase 0, 1 of 1 arrivals pending",
        ),
        (
            format!(
                "{init} mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 64; mov.u32 %r9, 0;
                mbarrier.complete_tx.shared::cta.b64 [bar], 32; {WAIT}"
            ),
            "transaction count 32: that many expected bytes have not come",
        ),
        (
            format!(
                "{init} mbarrier.arrive.shared::cta.b64 %d2, [bar]; {arrive} {arrive}
                mbarrier.test_wait.shared::cta.b64 %p1, [bar], %d2;"
            ),
            "state waited with is of phase 0",
        ),
    ];
    for (body, expected) in cases {
        let found = finding(&body, 1, 1, 1);
        assert!(found.contains(expected), "{body}: {found}");
    }
}

#[test]
fn one_elected_thread_may_set_the_registers() {
    let body = "elect.sync %r2|%p1, 0xffffffff;
        @%p1 setmaxnreg.dec.sync.aligned.u32 40;
        st.global.u32 [%o], %t;";
    let machine = Machine::hopper(&kernel(body));
    let out = machine.words(&[0; 32]);
    let done = machine.launch("k", 1, 32, &[Arg::Pointer(out), Arg::Pointer(0)]);
    assert_eq!(done.map(|report| report.partial_setmaxnreg), Ok(1));
}
