//! Blocks that hand values on by release and acquire, on several workers at once: no run may take
//! the correct program for a race, whichever access observes the release.

use crate::clusters::kernel;
use crate::harness::{Arg, Machine};

const BLOCKS: u32 = 40;

/// Block b > 0 waits for the flag of block b - 1, reads that block's plain value, and hands on one
/// more. Flags are at out + 8 b, values at out + 8 b + 4.
fn relay(observe: &str, release: &str) -> Machine {
    let mut machine = Machine::new(&format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry relay(.param .u64 out) {{
            .reg .pred %p, %q;
            .reg .b32 %b, %lane, %value, %seen, %old;
            .reg .b64 %out, %mine, %from;
            ld.param.u64 %out, [out];
            mov.u32 %lane, %tid.x;
            setp.ne.u32 %p, %lane, 0;
            @%p bra DONE;
            mov.u32 %b, %ctaid.x;
            mad.wide.u32 %mine, %b, 8, %out;
            sub.u64 %from, %mine, 8;
            mov.u32 %value, 0;
            setp.eq.u32 %p, %b, 0;
            @%p bra HAND_ON;
        WAIT:
            {observe}
            setp.eq.u32 %q, %seen, 0;
            @%q bra WAIT;
            ld.global.u32 %value, [%from+4];
        HAND_ON:
            add.u32 %value, %value, 1;
            st.global.u32 [%mine+4], %value;
            {release}
        DONE:
            ret;
        }}"
    ));
    machine.options.workers = 4;
    machine
}

#[test]
fn whatever_observes_a_release_orders_what_follows_it() {
    let observations = [
        "ld.acquire.gpu.global.u32 %seen, [%from];",
        "ld.acquire.sys.global.u32 %seen, [%from];",
        "ld.volatile.global.u32 %seen, [%from]; membar.gl;",
        "ld.relaxed.gpu.global.u32 %seen, [%from]; fence.acq_rel.gpu;",
        "atom.acquire.gpu.global.cas.b32 %seen, [%from], 1, 1;",
        "atom.acq_rel.gpu.global.add.u32 %seen, [%from], 0;",
        "atom.acquire.gpu.global.or.b32 %seen, [%from], 0;",
        "atom.global.max.u32 %seen, [%from], 0; membar.gl;",
    ];
    let releases = [
        "st.release.gpu.global.u32 [%mine], 1;",
        "membar.gl; st.volatile.global.u32 [%mine], 1;",
        "atom.release.gpu.global.exch.b32 %old, [%mine], 1;",
        "membar.gl; red.global.add.u32 [%mine], 1;",
    ];
    for observe in observations {
        for release in releases {
            let machine = relay(observe, release);
            for _ in 0..5 {
                let out = machine.words(&vec![0; 2 * BLOCKS as usize]);
                machine
                    .launch("relay", BLOCKS, 32, &[Arg::Pointer(out)])
                    .unwrap_or_else(|fault| panic!("{observe} {release}: {fault}"));
                let words = machine.read_words(out, 2 * BLOCKS as usize);
                let values: Vec<u32> = words.chunks_exact(2).map(|pair| pair[1]).collect();
                assert_eq!(values, (1..=BLOCKS).collect::<Vec<_>>());
            }
        }
    }
}

/// Runs a kernel of one cluster of two blocks in several orders. The first finding, if any.
fn finding(body: &str, threads: u32) -> Option<String> {
    for order in [
        "fair",
        "last-block-first",
        "starve-warp",
        "seed:1",
        "seed:2",
    ] {
        let mut machine = Machine::hopper(&kernel(body));
        machine.cluster = Some([2, 1, 1]);
        machine.options.schedule = order.parse().expect("a schedule");
        let out = machine.words(&vec![0; 2 * threads as usize]);
        let more = machine.words(&[0; 256]);
        let arguments = [Arg::Pointer(out), Arg::Pointer(more)];
        if let Err(fault) = machine.launch("k", 2, threads, &arguments) {
            return Some(fault.message);
        }
    }
    None
}

/// The body as it is, in which [`finding`] must see a race, and with `wrong` replaced by `right`,
/// in which it must see nothing.
fn pair(body: &str, wrong: &str, right: &str) {
    assert!(body.contains(wrong));
    let found = finding(body, 64).unwrap_or_else(|| panic!("nothing found: {body}"));
    assert!(found.contains("race"), "{found}");
    assert_eq!(finding(&body.replace(wrong, right), 64), None, "{right}");
}

/// Warp 1 reads what warp 0 has stored, told by an mbarrier.
const THROUGH_MBARRIER: &str = "
    st.shared.u32 [tile], 0;
    setp.ne.u32 %p1, %t, 0;
    @!%p1 mbarrier.init.shared::cta.b64 [bar], 32;
    bar.sync 0;
    setp.lt.u32 %p1, %t, 32;
    @!%p1 bra WAIT;
    mad.lo.u32 %r3, %t, 4, 0;
    st.shared.u32 [tile+4], 9;
    mbarrier.arrive.release.cta.shared::cta.b64 _, [bar];
    bra DONE;
    WAIT:
    mbarrier.try_wait.parity.acquire.cta.shared::cta.b64 %p2, [bar], 0;
    @!%p2 bra WAIT;
    ld.shared.u32 %r4, [tile+4];
    DONE:";

#[test]
fn mbarriers_order_arrivals_before_waits() {
    pair(
        &THROUGH_MBARRIER.replace("arrive.release", "arrive.relaxed"),
        "arrive.relaxed",
        "arrive.release",
    );
    pair(
        &THROUGH_MBARRIER.replace("parity.acquire", "parity.relaxed"),
        "parity.relaxed",
        "parity.acquire",
    );
}

#[test]
fn the_cluster_barrier_orders_its_blocks() {
    let body = "
        setp.eq.u32 %p1, %rank, 0;
        @%p1 st.global.u32 [%o+4], 9;
        barrier.cluster.arrive.relaxed.aligned;
        barrier.cluster.wait.aligned;
        @!%p1 ld.global.u32 %r4, [%o+-252];
        DONE:";
    pair(body, "arrive.relaxed", "arrive.release");
}

#[test]
fn the_cluster_scope_is_enough_within_a_cluster() {
    let body = "
        setp.ne.u32 %p1, %t, 0;
        @%p1 bra DONE;
        setp.eq.u32 %p1, %rank, 0;
        @!%p1 bra WAIT;
        st.global.u32 [%o+4], 9;
        st.release.cta.global.u32 [%o+8], 1;
        bra DONE;
        WAIT:
        ld.acquire.cluster.global.u32 %r4, [%o+-248];
        setp.eq.u32 %p2, %r4, 0;
        @%p2 bra WAIT;
        ld.global.u32 %r4, [%o+-252];
        DONE:";
    pair(body, "release.cta", "release.cluster");
}

#[test]
fn a_flag_in_the_shared_memory_of_another_block_orders() {
    let body = "
        st.shared.u32 [tile], 0;
        barrier.cluster.arrive.release.aligned;
        barrier.cluster.wait.aligned;
        setp.ne.u32 %p1, %t, 0;
        @%p1 bra DONE;
        setp.eq.u32 %p1, %rank, 0;
        @!%p1 bra WAIT;
        st.global.u32 [%o+4], 9;
        mov.u32 %r2, tile;
        mapa.shared::cluster.u32 %r3, %r2, 1;
        st.relaxed.cluster.shared::cluster.u32 [%r3], 1;
        bra DONE;
        WAIT:
        ld.acquire.cluster.shared::cta.u32 %r4, [tile];
        setp.eq.u32 %p2, %r4, 0;
        @%p2 bra WAIT;
        ld.global.u32 %r4, [%o+-252];
        DONE:
        barrier.cluster.arrive.relaxed;
        barrier.cluster.wait;";
    pair(body, "st.relaxed", "st.release");
}
