//! Correct kernels on which a race detector may stumble: nothing is found in them, however their
//! blocks and warps take turns and however many workers run them.

use ptx_emulator::exec::{LaunchOptions, Schedule};

use super::harness::{Arg, Machine};

struct Case {
    name: &'static str,
    grid: u32,
    block: u32,
    body: &'static str,
}

/// Registers: thread %t, block %b, number of blocks %n, both together %g; %o: own word of the
/// memory, %q: its start; %i: own word of the input; %s: own word of the tile.
const PROLOGUE: &str = "\
.version 8.0
.target sm_80
.address_size 64
.visible .entry k(.param .u64 memory, .param .u64 input)
{
.shared .align 16 .b8 tile[8192];
.reg .pred %p<9>;
.reg .b16 %h<9>;
.reg .b32 %r<40>, %t, %b, %g, %s, %n;
.reg .b64 %rd<9>, %o, %i, %q;
mov.u32 %t, %tid.x;
mov.u32 %b, %ctaid.x;
mov.u32 %n, %nctaid.x;
mov.u32 %r1, %ntid.x;
mad.lo.u32 %g, %b, %r1, %t;
mov.u32 %r1, tile;
mad.lo.u32 %s, %t, 4, %r1;
ld.param.u64 %q, [memory];
mad.wide.u32 %o, %g, 4, %q;
ld.param.u64 %rd1, [input];
mad.wide.u32 %i, %g, 4, %rd1;
";

const CASES: &[Case] = &[
    Case {
        name: "16-bit elements of one word belong to different blocks",
        grid: 8,
        block: 32,
        body: "mad.lo.u32 %r2, %t, %n, %b;
            mad.wide.u32 %rd1, %r2, 2, %q;
            cvt.u16.u32 %h1, %g;
            st.global.u16 [%rd1], %h1;
            ld.global.u16 %h2, [%rd1];
            add.u16 %h2, %h2, 1;
            st.global.u16 [%rd1], %h2;",
    },
    Case {
        name: "bytes of one word belong to different warps and blocks",
        grid: 4,
        block: 64,
        body: "mad.lo.u32 %r2, %t, %n, %b;
            cvt.u64.u32 %rd1, %r2;
            add.s64 %rd1, %rd1, %q;
            cvt.u16.u32 %h1, %g;
            st.global.u8 [%rd1], %h1;
            rem.u32 %r3, %t, 32;
            shl.b32 %r3, %r3, 1;
            shr.u32 %r4, %t, 5;
            add.u32 %r3, %r3, %r4;
            mov.u32 %r5, tile;
            add.u32 %r3, %r3, %r5;
            st.shared.u8 [%r3], %h1;
            ld.shared.u8 %h2, [%r3];
            bar.sync 0;
            ld.shared.u32 %r6, [%r5];
            ld.global.u8 %h3, [%rd1];",
    },
    Case {
        name: "all threads store the same",
        grid: 8,
        block: 64,
        body: "mov.u32 %r2, 5;
            st.global.u32 [%q], %r2;
            st.global.v4.u32 [%q+16], {%r2, %r2, %r2, %r2};
            st.global.u64 [%q+32], 7;
            mov.u32 %r3, tile;
            st.shared.v2.u32 [%r3], {%r2, %r2};
            bar.sync 0;
            ld.shared.u32 %r4, [%r3+4];",
    },
    Case {
        name: "vectors are written and read in other pieces",
        grid: 3,
        block: 64,
        body: "mad.lo.u32 %r2, %t, 16, 0;
            mov.u32 %r3, tile;
            add.u32 %r2, %r2, %r3;
            st.shared.v4.u32 [%r2], {%t, %g, %b, %n};
            ld.shared.u8 %h1, [%r2+5];
            bar.sync 0;
            mad.lo.u32 %r4, %t, 2, %r3;
            ld.shared.u16 %h2, [%r4+512];
            bar.sync 0;
            st.shared.u8 [%r2+3], %h2;
            st.shared.u8 [%r2+4], %h2;
            ld.shared.v4.u32 {%r5, %r6, %r7, %r8}, [%r2];
            bar.sync 0;
            ld.shared.u64 %rd1, [%r3+8];",
    },
    Case {
        name: "a ring of copies",
        grid: 4,
        block: 64,
        body: "mov.u32 %r2, 0;
            cp.async.ca.shared.global [%s], [%i], 4;
            cp.async.commit_group;
            cp.async.ca.shared.global [%s+256], [%i], 4;
            cp.async.commit_group;
            AGAIN:
            cp.async.wait_group 1;
            bar.sync 0;
            rem.u32 %r3, %r2, 3;
            xor.b32 %r4, %t, 37;
            mad.lo.u32 %r4, %r4, 4, 0;
            mad.lo.u32 %r4, %r3, 256, %r4;
            mov.u32 %r5, tile;
            add.u32 %r4, %r4, %r5;
            ld.shared.u32 %r6, [%r4];
            add.u32 %r7, %r2, 2;
            rem.u32 %r7, %r7, 3;
            mad.lo.u32 %r7, %r7, 256, %s;
            setp.lt.u32 %p1, %r2, 10;
            @%p1 cp.async.ca.shared.global [%r7], [%i], 4;
            cp.async.commit_group;
            add.u32 %r2, %r2, 1;
            setp.lt.u32 %p1, %r2, 12;
            @%p1 bra AGAIN;
            cp.async.wait_all;
            st.global.u32 [%o], %r6;",
    },
    Case {
        name: "a copy's source is overwritten after its wait",
        grid: 2,
        block: 64,
        body: "st.global.u32 [%o], %t;
            cp.async.ca.shared.global [%s], [%o], 4;
            cp.async.wait_all;
            st.global.u32 [%o], %g;
            bar.sync 0;
            st.shared.u32 [%s], %g;",
    },
    Case {
        name: "atomics of several widths on the same words",
        grid: 6,
        block: 32,
        body: "red.global.add.u32 [%q], 1;
            atom.global.add.u64 %rd1, [%q], 1;
            atom.global.cas.b16 %h1, [%q+4], 0, 0;
            red.global.max.u32 [%q+4], 0;
            atom.global.exch.b64 %rd2, [%q+8], 3;
            ld.relaxed.gpu.global.u32 %r2, [%q+8];
            st.relaxed.gpu.global.u32 [%q+12], 0;",
    },
    Case {
        name: "the last block sums up and resets the counter with a plain store",
        grid: 8,
        block: 64,
        body: "add.u32 %r2, %g, 3;
            st.global.u32 [%o+64], %r2;
            membar.gl;
            bar.sync 0;
            setp.ne.u32 %p1, %t, 0;
            mov.u32 %r9, tile;
            @%p1 bra LATER;
            sub.u32 %r3, %n, 1;
            atom.global.inc.u32 %r4, [%q], %n;
            setp.eq.u32 %p2, %r4, %r3;
            selp.u32 %r5, 1, 0, %p2;
            membar.gl;
            st.shared.u32 [%r9], %r5;
            LATER:
            bar.sync 0;
            ld.shared.u32 %r6, [%r9];
            setp.eq.u32 %p3, %r6, 0;
            @%p3 bra DONE;
            ld.global.u32 %r7, [%q+64];
            ld.global.u32 %r8, [%q+1000];
            @!%p1 st.global.u32 [%q], 0;
            DONE:",
    },
    Case {
        name: "a flag is raised and taken down again",
        grid: 2,
        block: 1,
        body: "setp.eq.u32 %p1, %b, 1;
            @%p1 bra CONSUMER;
            st.global.u32 [%q+256], 77;
            membar.gl;
            st.relaxed.gpu.global.u32 [%q], 1;
            bra DONE;
            CONSUMER:
            ld.relaxed.gpu.global.u32 %r2, [%q];
            setp.eq.u32 %p2, %r2, 0;
            @%p2 bra CONSUMER;
            membar.gl;
            ld.global.u32 %r3, [%q+256];
            st.global.u32 [%q], 0;
            st.global.u32 [%q+256], 1;
            DONE:",
    },
    Case {
        name: "a lock guards plain data",
        grid: 6,
        block: 1,
        body: "TAKE:
            atom.acquire.gpu.global.cas.b32 %r2, [%q], 0, 1;
            setp.ne.u32 %p1, %r2, 0;
            @%p1 bra TAKE;
            ld.global.u32 %r3, [%q+64];
            add.u32 %r3, %r3, 1;
            st.global.u32 [%q+64], %r3;
            st.release.gpu.global.u32 [%q], 0;",
    },
    Case {
        name: "elements are changed in place, read by ld.global.nc",
        grid: 4,
        block: 64,
        body: "ld.global.nc.u32 %r2, [%o];
            add.u32 %r2, %r2, 1;
            st.global.u32 [%o], %r2;",
    },
    Case {
        name: "volatile shared data between barriers",
        grid: 2,
        block: 64,
        body: "st.volatile.shared.u32 [%s], %t;
            bar.sync 0;
            xor.b32 %r2, %t, 32;
            mov.u32 %r3, tile;
            mad.lo.u32 %r3, %r2, 4, %r3;
            ld.volatile.shared.u32 %r4, [%r3];
            bar.sync 0;
            st.volatile.shared.u32 [%s], %r4;",
    },
    Case {
        name: "a volatile flag in shared memory",
        grid: 2,
        block: 64,
        body: "mov.u32 %r9, tile;
            setp.eq.u32 %p1, %t, 0;
            @%p1 st.shared.u32 [%r9], 0;
            bar.sync 0;
            setp.lt.u32 %p2, %t, 32;
            @%p2 bra FIRST;
            POLL:
            ld.volatile.shared.u32 %r2, [%r9];
            setp.eq.u32 %p3, %r2, 0;
            @%p3 bra POLL;
            membar.cta;
            ld.shared.u32 %r3, [%r9+64];
            bra DONE;
            FIRST:
            @!%p1 bra DONE;
            st.shared.u32 [%r9+64], 9;
            membar.cta;
            st.volatile.shared.u32 [%r9], 1;
            DONE:",
    },
    Case {
        name: "lanes exchange words, with bar.warp.sync",
        grid: 3,
        block: 96,
        body: "mov.u32 %r2, 0;
            AGAIN:
            st.shared.u32 [%s], %g;
            bar.warp.sync -1;
            xor.b32 %r3, %t, 5;
            mov.u32 %r4, tile;
            mad.lo.u32 %r3, %r3, 4, %r4;
            ld.shared.u32 %r5, [%r3];
            bar.warp.sync -1;
            add.u32 %r2, %r2, 1;
            setp.lt.u32 %p1, %r2, 5;
            @%p1 bra AGAIN;",
    },
    Case {
        name: "blocks meet at a barrier of the grid and read each other's words",
        grid: 6,
        block: 64,
        body: "mov.u32 %r2, 0;
            AGAIN:
            add.u32 %r3, %g, %r2;
            st.global.u32 [%o+512], %r3;
            bar.sync 0;
            setp.ne.u32 %p1, %t, 0;
            @%p1 bra LATER;
            membar.gl;
            red.global.add.u32 [%q], 1;
            add.u32 %r4, %r2, 1;
            mul.lo.u32 %r4, %r4, %n;
            POLL:
            ld.acquire.gpu.global.u32 %r5, [%q];
            setp.lt.u32 %p2, %r5, %r4;
            @%p2 bra POLL;
            LATER:
            bar.sync 0;
            add.u32 %r6, %b, 1;
            rem.u32 %r6, %r6, %n;
            mad.lo.u32 %r6, %r6, 64, %t;
            mad.wide.u32 %rd1, %r6, 4, %q;
            ld.global.u32 %r7, [%rd1+512];
            add.u32 %r2, %r2, 1;
            and.b32 %r8, %r2, 1;
            setp.eq.u32 %p3, %r8, 0;
            add.u32 %r9, %r2, 1;
            bar.sync 0;
            @%p1 bra REST;
            membar.gl;
            red.global.add.u32 [%q+4], 1;
            mul.lo.u32 %r4, %r2, %n;
            POLL2:
            ld.acquire.gpu.global.u32 %r5, [%q+4];
            setp.lt.u32 %p2, %r5, %r4;
            @%p2 bra POLL2;
            REST:
            bar.sync 0;
            setp.lt.u32 %p4, %r2, 3;
            @%p4 bra AGAIN;",
    },
];

/// Launches far beyond what a shadow could number in few bits are followed to their ends.
#[test]
fn detection_does_not_fade() {
    let kernel = |body: &str| Machine::new(&format!("{PROLOGUE}{body}\nret;\n}}\n"));
    let race = |machine: &Machine, grid, block| {
        let args = [Arg::Pointer(machine.words(&[0; 64])); 2];
        let fault = machine.launch("k", grid, block, &args);
        let fault = fault.expect_err("a race");
        assert!(fault.message.starts_with("race: "), "{fault}");
    };
    // The last two of many blocks.
    let mut machine = kernel(
        "sub.u32 %r2, %n, 2;
        setp.lt.u32 %p1, %b, %r2;
        @!%p1 st.global.u32 [%q], %b;",
    );
    machine.options.workers = 1;
    race(&machine, (1 << 20) + 3, 1);
    // Many steps of a warp.
    let machine = kernel(
        "mov.u32 %r2, 0;
        AGAIN:
        bar.warp.sync -1;
        add.u32 %r2, %r2, 1;
        setp.lt.u32 %p1, %r2, 2100000;
        @%p1 bra AGAIN;
        st.global.u32 [%q], %g;",
    );
    race(&machine, 2, 1);
}

/// A launch of some blocks only, of which nobody knows what the others would have written, makes
/// nothing known of memory that it can't reach.
#[test]
fn a_sampled_launch_ends_no_search_elsewhere() {
    let mut machine = Machine::new(&format!(
        "{PROLOGUE}ld.global.u32 %r2, [%i];\nst.global.u32 [%o], %r2;\nret;\n}}\n"
    ));
    let [reached, other] = [0; 2].map(|_: u8| machine.memory.alloc(256).expect("room"));
    let out = Arg::Pointer(machine.words(&[0; 64]));
    machine.options.blocks = "1".parse().expect("a block's number");
    let sampled = machine.launch("k", 2, 32, &[out, Arg::Pointer(reached)]);
    sampled.expect("nothing is checked");
    machine.options.blocks = LaunchOptions::default().blocks;
    let known = machine.launch("k", 2, 32, &[out, Arg::Pointer(reached)]);
    known.expect("the sampled launch may have written it");
    let fault = machine.launch("k", 2, 32, &[out, Arg::Pointer(other)]);
    let fault = fault.expect_err("nobody has written it");
    assert!(fault.message.starts_with("uninitialised"), "{fault}");
}

#[test]
fn correct_kernels_are_silent() {
    let mut options = Vec::new();
    for seed in 0..24_u32 {
        let schedule = format!("seed:{seed}");
        options.push((schedule.parse::<Schedule>().expect("a schedule"), 1));
    }
    for name in ["fair", "last-block-first", "one-ahead", "starve-warp"] {
        let schedule = name.parse().expect("a schedule");
        options.extend((0..6).map(|_| (schedule, 4)));
    }
    for case in CASES {
        let mut machine = Machine::new(&format!("{PROLOGUE}{}\nret;\n}}\n", case.body));
        for &(schedule, workers) in &options {
            for early_copies in [false, true] {
                machine.options = LaunchOptions {
                    workers,
                    schedule,
                    early_copies,
                    ..LaunchOptions::default()
                };
                let memory = machine.words(&[0; 1024]);
                let input = machine.words(&[3; 1024]);
                let args = [Arg::Pointer(memory), Arg::Pointer(input)];
                if let Err(fault) = machine.launch("k", case.grid, case.block, &args) {
                    panic!("{}, {schedule:?}, {workers} workers: {fault}", case.name);
                }
            }
        }
    }
}
