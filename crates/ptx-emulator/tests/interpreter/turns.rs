//! Turns: what blocks that work through one counter, wait for each other or don't fit on the device
//! together come to under every schedule.

use ptx_emulator::decode::Program;
use ptx_emulator::exec::{FaultKind, LoadedModule};
use ptx_emulator::parse::parse_module;

use super::harness::{Arg, Machine};

const SCHEDULES: [&str; 14] = [
    "fair",
    "last-block-first",
    "one-ahead",
    "starve-warp",
    "seed:1",
    "seed:2",
    "seed:3",
    "seed:4",
    "seed:5",
    "seed:6",
    "seed:7",
    "seed:8",
    "seed:9",
    "seed:10",
];

/// A kernel of one parameter, %out; %b is the block, %t the thread.
fn kernel(registers: &str, body: &str) -> Machine {
    Machine::new(&text(registers, body))
}

fn text(registers: &str, body: &str) -> String {
    format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 out) {{
            .reg .pred %p<9>;
            .reg .b32 %b, %t, %r<19>;
            .reg .b64 %out, %rd<9>;
            {registers}
            ld.param.u64 %out, [out];
            mov.u32 %b, %ctaid.x;
            mov.u32 %t, %tid.x;
            {body}
            ret;
        }}"
    )
}

fn under(machine: &mut Machine, schedule: &str, workers: usize) {
    machine.options.schedule = schedule.parse().expect("a schedule");
    machine.options.workers = workers;
}

/// Each block takes the next of 64 items until there is none, and counts its own at out + 4 + 4 b.
/// What is an item's work: a long loop, or nothing.
fn shares(take: &str, work: u32, blocks: u32, schedule: &str, workers: usize) -> Vec<u32> {
    let mut machine = kernel(
        "",
        &format!(
            "setp.ne.u32 %p1, %t, 0;
            @%p1 bra DONE;
            mad.wide.u32 %rd1, %b, 4, %out;
            mov.u32 %r2, 0;
        NEXT:
            {take}
            setp.ge.u32 %p2, %r1, 64;
            @%p2 bra STORE;
            add.u32 %r2, %r2, 1;
            mov.u32 %r3, {work};
        WORK:
            setp.eq.u32 %p3, %r3, 0;
            @%p3 bra NEXT;
            sub.u32 %r3, %r3, 1;
            bra WORK;
        STORE:
            st.global.u32 [%rd1+4], %r2;
        DONE:"
        ),
    );
    under(&mut machine, schedule, workers);
    let out = machine.words(&vec![0; 1 + blocks as usize]);
    machine
        .launch("k", blocks, 64, &[Arg::Pointer(out)])
        .unwrap_or_else(|fault| panic!("{schedule}: {fault}"));
    let mut words = machine.read_words(out, 1 + blocks as usize);
    words.remove(0);
    assert_eq!(words.iter().sum::<u32>(), 64, "{schedule}: {words:?}");
    words
}

#[test]
fn a_work_counter_is_shared_out_under_every_schedule() {
    let takes = [
        "atom.global.add.u32 %r1, [%out], 1;",
        "atom.relaxed.gpu.global.inc.u32 %r1, [%out], 1000;",
        "ld.volatile.global.u32 %r1, [%out];
         add.u32 %r4, %r1, 1;
         atom.acq_rel.gpu.global.cas.b32 %r5, [%out], %r1, %r4;
         setp.ne.u32 %p4, %r1, %r5;
         @%p4 bra NEXT;",
    ];
    for (schedule, workers) in SCHEDULES
        .map(|name| (name, 1))
        .into_iter()
        .chain([("fair", 4)])
    {
        for (take, blocks) in takes.into_iter().flat_map(|take| [(take, 2), (take, 8)]) {
            for work in [0, 1000] {
                let shares = shares(take, work, blocks, schedule, workers);
                // Half as much again as an equal share, and a little for small numbers.
                let most = 64 * 3 / (2 * blocks) + 8;
                assert!(
                    shares.iter().all(|&share| share <= most),
                    "{schedule}, {workers} workers, {take} work {work}: {shares:?}"
                );
            }
        }
    }
}

/// An atomic whose result nobody reads is no reason to change turns.
#[test]
fn a_result_that_nobody_reads_is_none() {
    let mut machine = kernel(
        "",
        "mov.u32 %r2, 0;
        AGAIN:
            atom.global.add.u32 %r1, [%out], 1;
            add.u32 %r2, %r2, 1;
            setp.lt.u32 %p1, %r2, 1000;
            @%p1 bra AGAIN;
            // The first to end leaves the count of that moment.
            ld.relaxed.gpu.global.u32 %r3, [%out];
            atom.global.cas.b32 %r4, [%out+4], 0, %r3;
            st.relaxed.gpu.global.u32 [%out+8], %r4;",
    );
    under(&mut machine, "last-block-first", 1);
    let out = machine.words(&[0; 3]);
    machine
        .launch("k", 4, 1, &[Arg::Pointer(out)])
        .unwrap_or_else(|fault| panic!("{fault}"));
    assert_eq!(machine.read_words(out, 2), [4000, 1000]);
}

/// A block reads a flag so often that it takes long, and another one sets it after a long time: no
/// deadlock, however the loop looks.
#[test]
fn a_long_loop_of_strong_reads_is_no_deadlock() {
    let looks = [
        "ld.volatile.global.u32 %r2, [%out];",
        "ld.acquire.gpu.global.u32 %r2, [%out];",
        "atom.global.add.u32 %r2, [%out], 0;",
        "nanosleep.u32 20; ld.relaxed.gpu.global.u32 %r2, [%out];",
        "ld.global.u32 %r2, [%out];",
    ];
    for look in looks {
        for schedule in ["fair", "seed:3"] {
            let mut machine = kernel(
                "",
                &format!(
                    "mov.u32 %r1, 0;
                AGAIN:
                    {look}
                    add.u32 %r1, %r1, 1;
                    setp.lt.u32 %p1, %r1, 40000;
                    @%p1 bra AGAIN;
                    mad.wide.u32 %rd1, %b, 4, %out;
                    st.global.u32 [%rd1+4], %r1;"
                ),
            );
            under(&mut machine, schedule, 1);
            let out = machine.words(&[0; 3]);
            machine
                .launch("k", 2, 1, &[Arg::Pointer(out)])
                .unwrap_or_else(|fault| panic!("{schedule} {look}: {fault}"));
            assert_eq!(machine.read_words(out, 3), [0, 40_000, 40_000]);
        }
    }
}

/// Waiting for what nobody does is found at once, however the loop looks.
#[test]
fn a_wait_for_nothing_is_a_deadlock() {
    let loops = [
        "ld.volatile.global.u32 %r2, [%out];",
        "ld.acquire.gpu.global.u32 %r2, [%out];",
        "atom.global.add.u32 %r2, [%out], 0;",
        "nanosleep.u32 20; ld.relaxed.gpu.global.u32 %r2, [%out];",
        "ld.global.u32 %r2, [%out];",
        // The time between two looks doubles until it is long enough.
        "nanosleep.u32 %r3; ld.relaxed.gpu.global.u32 %r2, [%out];
         shl.b32 %r3, %r3, 1; min.u32 %r3, %r3, 1024;",
    ];
    for look in loops {
        for (schedule, workers) in [("fair", 1), ("fair", 4), ("seed:3", 1), ("starve-warp", 1)] {
            let mut machine = kernel(
                "",
                &format!(
                    "mov.u32 %r3, 8;
                    setp.eq.u32 %p2, %b, 2;
                    @%p2 bra DONE;
                WAIT:
                    {look}
                    setp.eq.u32 %p1, %r2, 0;
                    @%p1 bra WAIT;
                DONE:"
                ),
            );
            under(&mut machine, schedule, workers);
            let out = machine.words(&[0]);
            let fault = machine
                .launch("k", 4, 64, &[Arg::Pointer(out)])
                .unwrap_err();
            assert!(
                fault.message.contains("deadlock") && fault.message.contains("block (3, 0, 0)"),
                "{schedule} {look}: {fault}"
            );
        }
    }
}

/// Four warps come to a barrier for two, in one turn or in several: two rounds.
#[test]
fn arrivals_beyond_a_barriers_count_are_the_next_rounds() {
    for schedule in SCHEDULES {
        let mut machine = kernel(
            ".reg .b32 %w;",
            "shr.u32 %w, %t, 5;
            setp.ne.u32 %p1, %w, 0;
            @%p1 bra TAKER;
            // The giver comes three times before anyone else does, then waits for one more.
            barrier.cta.arrive 3, 64;
            barrier.cta.arrive 3, 64;
            barrier.cta.arrive 3, 64;
            barrier.cta.sync 3, 64;
            st.global.u32 [%out], 1;
            bra DONE;
        TAKER:
            barrier.cta.sync 1, 32;
            barrier.cta.sync 1, 32;
        DONE:",
        );
        under(&mut machine, schedule, 1);
        let out = machine.words(&[0]);
        let report = machine
            .launch("k", 1, 64, &[Arg::Pointer(out)])
            .unwrap_or_else(|fault| panic!("{schedule}: {fault}"));
        assert_eq!((machine.read_words(out, 1)[0], report.barriers), (1, 6));
    }
}

#[test]
fn a_barrier_with_different_counts_is_a_finding() {
    for (first, second, fine) in [
        ("bar.arrive 1, 128;", "bar.sync 1, 64;", false),
        ("bar.arrive 1, 64;", "bar.sync 1, 128;", false),
        ("bar.sync 1, 96;", "bar.sync 1;", false),
        ("bar.arrive 1, 64;", "bar.sync 1, 64;", true),
        ("bar.sync 1, 64;", "bar.sync 1;", true),
    ] {
        let mut machine = kernel(
            "",
            &format!(
                "setp.lt.u32 %p1, %t, 32;
                @%p1 bra FIRST;
                {second}
                bra DONE;
            FIRST:
                {first}
            DONE:"
            ),
        );
        under(&mut machine, "fair", 1);
        let out = machine.words(&[0]);
        let result = machine.launch("k", 1, 64, &[Arg::Pointer(out)]);
        match result {
            Ok(_) => assert!(fine, "{first} {second}"),
            Err(fault) => assert!(
                !fine && fault.message.contains("barrier 1 with different counts"),
                "{first} {second}: {fault}"
            ),
        }
    }
}

const GRID_BARRIER: &str = "setp.ne.u32 %p1, %t, 0;
    @%p1 bra DONE;
    mov.u32 %r3, %nctaid.x;
    atom.global.add.u32 %r1, [%out], 1;
WAIT:
    ld.acquire.gpu.global.u32 %r2, [%out];
    setp.lt.u32 %p2, %r2, %r3;
    @%p2 bra WAIT;
DONE:";

/// Registers hold a grid back where a cubin tells them: 255 of each thread let a multiprocessor
/// have one block of 256 threads.
#[test]
fn registers_decide_how_many_blocks_fit() {
    for (registers, fits) in [
        (None, 864),
        (Some(64), 432),
        (Some(65), 324),
        (Some(255), 108),
    ] {
        let mut machine = kernel("", GRID_BARRIER);
        let parsed = parse_module(&text("", GRID_BARRIER)).expect("the PTX parses");
        let mut program = Program::decode(&parsed).expect("the PTX decodes");
        let known = registers.map(|registers| ("k".to_owned(), registers));
        program.set_registers(&known.into_iter().collect());
        machine.module = LoadedModule::load(program, &machine.memory).expect("no variables");
        under(&mut machine, "fair", 1);
        let out = machine.words(&[0]);
        machine
            .launch("k", fits, 256, &[Arg::Pointer(out)])
            .unwrap_or_else(|fault| panic!("{registers:?}: {fault}"));
        let out = machine.words(&[0]);
        let fault = machine
            .launch("k", fits + 1, 256, &[Arg::Pointer(out)])
            .unwrap_err();
        let text = format!("the device can't hold more than {fits} at once");
        assert!(fault.message.contains(&text), "{registers:?}: {fault}");
    }
}

/// A barrier of the whole grid: as many blocks as fit together pass it; with one more they don't.
#[test]
fn a_grid_that_does_not_fit_deadlocks() {
    let mut machine = kernel(
        ".shared .b8 tile[49152];",
        &format!("mov.u32 %r3, 0; st.shared.u32 [tile], %r3; {GRID_BARRIER}"),
    );
    // 164 KB hold three blocks of 48 KB, on each of 108 multiprocessors.
    for (schedule, workers) in [
        ("fair", 1),
        ("fair", 3),
        ("seed:2", 1),
        ("last-block-first", 1),
    ] {
        under(&mut machine, schedule, workers);
        let out = machine.words(&[0]);
        machine
            .launch("k", 324, 32, &[Arg::Pointer(out)])
            .unwrap_or_else(|fault| panic!("{schedule}: {fault}"));
        let out = machine.words(&[0]);
        let fault = machine
            .launch("k", 325, 32, &[Arg::Pointer(out)])
            .unwrap_err();
        assert_eq!(fault.kind, FaultKind::LaunchFailed);
        let text = "1 blocks have not started: the device can't hold more than 324 at once";
        assert!(fault.message.contains(text), "{schedule}: {fault}");
    }
}
