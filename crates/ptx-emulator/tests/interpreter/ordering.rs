//! Blocks that hand values on by release and acquire, on several workers at once: no run may take
//! the correct program for a race, whichever access observes the release.

use super::harness::{Arg, Machine};

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
