//! Counters of small kernels, against numbers worked out by hand.

use ptx_emulator::counters::{Blocks, KernelCounters, Kind, Tally};

use super::harness::{Arg, Machine};

/// Kernel k(to) with a 64 KiB tile: %lane is the thread, %to the buffer, %tile the tile.
fn kernel(body: &str) -> String {
    format!(
        ".version 8.0 .target sm_80 .address_size 64
        .file 1 \"k.cu\"
        .visible .entry k(.param .u64 to) {{
            .reg .pred %p<4>;
            .reg .b32 %lane, %tile, %a, %r<20>;
            .reg .b64 %to, %at, %off;
            .shared .align 128 .b8 tile[32768];
            ld.param.u64 %to, [to];
            mov.u32 %lane, %tid.x;
            mov.u32 %tile, tile;
            {body}
            ret;
        }}"
    )
}

fn counted(machine: &Machine, grid: u32, block: u32) -> KernelCounters {
    let to = machine.bytes(&vec![0; 1 << 20]);
    let report = machine.launch("k", grid, block, &[Arg::Pointer(to)]);
    let report = report.unwrap_or_else(|fault| panic!("{fault}"));
    *report.counters.expect("counters were asked for")
}

fn count_blocks(body: &str, grid: u32, block: u32) -> KernelCounters {
    let mut machine = Machine::new(&kernel(body));
    machine.options.count = true;
    // These kernels touch memory only to be counted.
    machine.options.checks = false;
    counted(&machine, grid, block)
}

fn count(body: &str) -> KernelCounters {
    count_blocks(body, 1, 32)
}

/// The global access of one warp whose lane i is at `base` + `step` * i.
fn global(access: &str, base: u32, step: u32, kind: Kind) -> [u64; 4] {
    let counters = count(&format!(
        "mul.wide.u32 %off, %lane, {step}; add.s64 %at, %to, %off; add.s64 %at, %at, {base}; {access}"
    ));
    let tally = counters.kind(kind);
    [
        tally.global_requests,
        tally.global_bytes,
        tally.sectors,
        tally.ideal_sectors,
    ]
}

/// (wavefronts, without conflicts) of one warp whose lane i is at `step` * i of the tile.
fn shared(access: &str, step: u32, kind: Kind) -> (u64, u64) {
    let tally = count(&format!("mad.lo.s32 %a, %lane, {step}, %tile; {access}")).kind(kind);
    (tally.wavefronts, tally.ideal_wavefronts)
}

#[test]
fn instructions_are_counted_by_kind() {
    let counters = count(
        "add.u32 %r1, %lane, 1; xor.b32 %r2, %r1, 5; setp.lt.u32 %p1, %lane, 8; selp.b32 %r3, %r1, %r2, %p1;
         mul.hi.u32 %r1, %lane, 3; mad.lo.s32 %r2, %lane, 3, %r1;
         cvt.rn.f32.u32 %r4, %r3; fma.rn.f32 %r5, %r4, %r4, %r4; mul.f32 %r6, %r5, %r5; ex2.approx.f32 %r7, %r6;
         shfl.sync.bfly.b32 %r8, %r7, 1, 31, -1; vote.sync.any.pred %p2, %p1, -1; bar.sync 0; bar.sync 0;
         membar.gl; cp.async.commit_group; cp.async.wait_group 0;",
    );
    let instructions = |kind| counters.kind(kind).warp_instructions;
    assert_eq!(instructions(Kind::Integer), 4);
    assert_eq!(instructions(Kind::Multiply), 2);
    assert_eq!(instructions(Kind::Convert), 1);
    assert_eq!(instructions(Kind::Float), 2);
    assert_eq!(instructions(Kind::Special), 1);
    assert_eq!(instructions(Kind::Exchange), 2);
    assert_eq!(instructions(Kind::Barrier), 2);
    assert_eq!(instructions(Kind::Fence), 1);
    assert_eq!(instructions(Kind::CopyCommit), 1);
    assert_eq!(instructions(Kind::CopyWait), 1);
    assert_eq!(instructions(Kind::Move), 2);
    assert_eq!(instructions(Kind::LoadParam), 1);
    assert_eq!(instructions(Kind::Control), 1);
    assert_eq!(counters.total.warp_instructions, 21);
    assert_eq!(counters.total.lanes, 21 * 32);
}

#[test]
fn lanes_are_those_that_take_part() {
    // 8 lanes store; a block of 40 threads has a second warp of 8, whose guard is false in all
    // lanes.
    let counters = count_blocks(
        "setp.lt.u32 %p1, %lane, 8; @%p1 st.shared.u32 [%tile], %lane;",
        3,
        40,
    );
    let stores = counters.kind(Kind::StoreShared);
    assert_eq!((stores.warp_instructions, stores.predicated_off), (6, 3));
    assert_eq!((stores.lanes, stores.shared_requests), (24, 3));
    assert_eq!(counters.kind(Kind::Integer).lanes, 3 * 40);
    assert_eq!(
        (counters.blocks, counters.blocks_run, counters.launches),
        (3, 3, 1)
    );
}

#[test]
fn diverged_lanes_are_counted_in_parts() {
    let counters = count(
        "setp.lt.u32 %p1, %lane, 8; @%p1 bra few; add.u32 %r1, %lane, 1; bra join; few: mul.lo.u32 %r1, %lane, 3;
         sub.u32 %r1, %r1, 1; join: shfl.sync.bfly.b32 %r2, %r1, 1, 31, -1;",
    );
    // setp by 32 lanes, add by 24, mul and sub by 8.
    let integer = counters.kind(Kind::Integer);
    assert_eq!((integer.warp_instructions, integer.lanes), (3, 32 + 24 + 8));
    let multiply = counters.kind(Kind::Multiply);
    assert_eq!((multiply.warp_instructions, multiply.lanes), (1, 8));
    let exchange = counters.kind(Kind::Exchange);
    assert_eq!((exchange.warp_instructions, exchange.lanes), (1, 32));
}

/// Lanes that come to a warp operation apart wait for each other, and then execute it once.
#[test]
fn lanes_that_meet_execute_once() {
    let counters = count(
        "setp.lt.u32 %p1, %lane, 8; mov.u32 %r3, 0x000000ff; @!%p1 mov.u32 %r3, 0xffffff00; shfl.sync.bfly.b32 %r2, %lane, 1, 31, %r3;",
    );
    let exchange = counters.kind(Kind::Exchange);
    assert_eq!((exchange.warp_instructions, exchange.lanes), (2, 32));
}

#[test]
fn coalesced_accesses_move_what_they_need() {
    assert_eq!(
        global("ld.global.u32 %r1, [%at];", 0, 4, Kind::LoadGlobal),
        [1, 128, 4, 4]
    );
    assert_eq!(
        global(
            "st.global.v4.u32 [%at], {%r1, %r1, %r1, %r1};",
            0,
            16,
            Kind::StoreGlobal
        ),
        [1, 512, 16, 16]
    );
    assert_eq!(
        global("st.global.u16 [%at], 0;", 0, 2, Kind::StoreGlobal),
        [1, 64, 2, 2]
    );
}

#[test]
fn strides_and_offsets_cost_sectors() {
    assert_eq!(
        global("ld.global.u32 %r1, [%at];", 16, 4, Kind::LoadGlobal),
        [1, 128, 5, 4]
    );
    assert_eq!(
        global("ld.global.u32 %r1, [%at];", 0, 8, Kind::LoadGlobal),
        [1, 128, 8, 4]
    );
    assert_eq!(
        global("ld.global.u32 %r1, [%at];", 0, 128, Kind::LoadGlobal),
        [1, 128, 32, 4]
    );
    assert_eq!(
        global("ld.global.u32 %r1, [%at];", 0, 0, Kind::LoadGlobal),
        [1, 128, 1, 1]
    );
    assert_eq!(
        global("red.global.add.u32 [%at], 1;", 0, 32, Kind::AtomicGlobal),
        [1, 128, 32, 4]
    );
}

#[test]
fn generic_accesses_count_where_they_lead() {
    let tally = count(
        "st.u32 [%to], %lane; cvt.u64.u32 %at, %tile; cvta.shared.u64 %at, %at; st.u32 [%at], %lane;",
    );
    let stores = tally.kind(Kind::StoreGeneric);
    assert_eq!(
        (
            stores.warp_instructions,
            stores.global_requests,
            stores.shared_requests
        ),
        (2, 1, 1)
    );
    assert_eq!((stores.sectors, stores.wavefronts), (1, 1));
}

#[test]
fn bank_conflicts_of_words() {
    for (step, ways) in [(4, 1), (8, 2), (32, 8), (128, 32), (132, 1), (0, 1)] {
        assert_eq!(
            shared("ld.shared.u32 %r1, [%a];", step, Kind::LoadShared),
            (ways, 1),
            "{step}"
        );
        assert_eq!(
            shared("st.shared.u32 [%a], 0;", step, Kind::StoreShared),
            (ways, 1),
            "{step}"
        );
    }
}

#[test]
fn bank_conflicts_of_wide_accesses() {
    let two = "ld.shared.v2.u32 {%r1, %r2}, [%a];";
    assert_eq!(shared(two, 8, Kind::LoadShared), (2, 2));
    assert_eq!(shared(two, 16, Kind::LoadShared), (4, 2));
    let four = "st.shared.v4.u32 [%a], {%r1, %r1, %r1, %r1};";
    assert_eq!(shared(four, 16, Kind::StoreShared), (4, 4));
    assert_eq!(shared(four, 128, Kind::StoreShared), (32, 4));
    assert_eq!(
        shared("red.shared.add.u32 [%a], 1;", 0, Kind::AtomicShared),
        (32, 1)
    );
}

/// Four matrices of a tile with rows of 128 bytes: one below the other, all in the first column of
/// chunks. Unswizzled, the eight rows of a matrix share four banks.
#[test]
fn ldmatrix_with_and_without_a_swizzle() {
    let load = "ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%r1, %r2, %r3, %r4}, [%a];";
    assert_eq!(shared(load, 128, Kind::LoadMatrix), (32, 4));
    let swizzled = format!(
        "and.b32 %r1, %lane, 7; shl.b32 %r1, %r1, 4; mad.lo.s32 %r2, %lane, 128, %r1; add.u32 %a, %tile, %r2; {load}"
    );
    let tally = count(&swizzled).kind(Kind::LoadMatrix);
    assert_eq!((tally.wavefronts, tally.ideal_wavefronts), (4, 4));
    assert_eq!(
        (tally.warp_instructions, tally.lanes, tally.bank_conflicts()),
        (1, 32, 0)
    );
    // Two matrices take the addresses of 16 lanes.
    let two = "ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r1, %r2}, [%a];";
    assert_eq!(shared(two, 16, Kind::LoadMatrix), (2, 2));
}

#[test]
fn asynchronous_copies_count_both_ends() {
    let copy = |step: u32, size: &str| {
        let body = format!(
            "mul.wide.u32 %off, %lane, 16; add.s64 %at, %to, %off; mad.lo.s32 %a, %lane, {step}, %tile;
             {size} cp.async.cg.shared.global [%a], [%at], 16, %r1; cp.async.wait_all;"
        );
        count(&body).kind(Kind::CopyAsync)
    };
    let whole = copy(16, "mov.u32 %r1, 16;");
    assert_eq!(
        (whole.global_bytes, whole.sectors, whole.ideal_sectors),
        (512, 16, 16)
    );
    assert_eq!((whole.wavefronts, whole.ideal_wavefronts), (4, 4));
    assert_eq!(copy(128, "mov.u32 %r1, 16;").wavefronts, 32);
    // Half of the lanes read nothing: zeros are written all the same.
    let half = copy(16, "setp.lt.u32 %p1, %lane, 16; selp.b32 %r1, 16, 0, %p1;");
    assert_eq!(
        (half.global_bytes, half.sectors, half.wavefronts),
        (256, 8, 4)
    );
}

#[test]
fn matrix_products_count_their_work() {
    let body = "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, {%r9, %r10}, {%r1, %r2, %r3, %r4};
        mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%r1, %r2, %r3, %r4}, {%r5, %r6, %r7, %r8}, {%r9, %r10}, {%r1, %r2, %r3, %r4};";
    let counters = count_blocks(body, 5, 64);
    let mma = counters.kind(Kind::Mma);
    assert_eq!(mma.warp_instructions, 2 * 10);
    assert_eq!(mma.mma_flops, 10 * (2 * 16 * 8 * 16 + 2 * 16 * 8 * 8));
    assert_eq!(counters.total.mma_flops, mma.mma_flops);
}

/// Loop trips add up, and `.loc` leads from the PTX line to the source line.
#[test]
fn lines_are_counted_by_place() {
    let counters = count(
        ".loc 1 10 1\nmov.u32 %r1, 0;\nagain:\n.loc 1 11 1\nadd.u32 %r1, %r1, 1;\nadd.u32 %r2, %r1, 7;
        .loc 1 12 1\nsetp.lt.u32 %p1, %r1, 5;\n@%p1 bra again;",
    );
    let lines = counters.source_lines();
    let of = |line| {
        lines
            .iter()
            .find(|l| l.line == line && l.file == "k.cu")
            .map(|l| l.tally.warp_instructions)
    };
    assert_eq!([of(10), of(11), of(13)], [Some(1), Some(10), None]);
    // The comparison, the branch, and the `ret` that no other `.loc` places.
    assert_eq!(of(12), Some(11));
    let adds: Vec<u64> = counters
        .ptx_lines
        .iter()
        .filter(|l| l.line == 11)
        .map(|l| l.tally.warp_instructions)
        .collect();
    assert_eq!(adds, [5, 5]);
    let sum: u64 = counters
        .ptx_lines
        .iter()
        .map(|l| l.tally.warp_instructions)
        .sum();
    assert_eq!(sum, counters.total.warp_instructions);
}

#[test]
fn chosen_blocks_are_run_and_no_others() {
    let mut machine = Machine::new(&kernel(
        "mov.u32 %r1, %ctaid.x; mul.wide.u32 %off, %r1, 4; add.s64 %at, %to, %off; st.global.u32 [%at], 7;",
    ));
    machine.options.count = true;
    let run = |machine: &Machine| {
        let to = machine.bytes(&[0; 40]);
        let report = machine
            .launch("k", 10, 32, &[Arg::Pointer(to)])
            .expect("no fault");
        (
            machine.read_words(to, 10),
            *report.counters.expect("counters"),
        )
    };
    let (_, all) = run(&machine);
    assert!(!all.is_sampled());
    machine.options.blocks = Blocks::Every(4);
    let (words, sampled) = run(&machine);
    assert_eq!(words, [7, 0, 0, 0, 7, 0, 0, 0, 7, 0]);
    assert_eq!(
        (sampled.blocks, sampled.blocks_run, sampled.is_sampled()),
        (10, 3, true)
    );
    let stores = |counters: &KernelCounters| counters.kind(Kind::StoreGlobal).sectors;
    assert_eq!((stores(&all), stores(&sampled)), (10, 3));
    assert_eq!(sampled.estimate(stores(&sampled)), Some(10.0));
    machine.options.blocks = Blocks::listed(vec![9, 2, 2, 77]);
    assert_eq!(run(&machine).0, [0, 0, 7, 0, 0, 0, 0, 0, 0, 7]);
    machine.options.blocks = Blocks::None;
    let (words, nothing) = run(&machine);
    assert_eq!(words, [0; 10]);
    assert_eq!(
        (
            nothing.launches,
            nothing.blocks,
            nothing.blocks_run,
            nothing.total
        ),
        (1, 10, 0, Tally::default())
    );
    assert_eq!(nothing.estimate(1), None);
}

/// Counting changes nothing that a kernel computes, and costs nothing when it is off: there are no
/// counters then.
#[test]
fn nothing_is_counted_unless_asked() {
    let machine = Machine::new(&kernel("st.global.u32 [%to], 1;"));
    let to = machine.bytes(&[0; 4]);
    let report = machine
        .launch("k", 1, 32, &[Arg::Pointer(to)])
        .expect("no fault");
    assert_eq!((report.counters, report.blocks), (None, 1));
}
