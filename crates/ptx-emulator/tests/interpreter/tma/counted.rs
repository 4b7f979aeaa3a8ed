//! Counters of bulk copies, against numbers worked out by hand.

use ptx_emulator::counters::{KernelCounters, Kind, Tally};
use ptx_emulator::tensor_map::TensorMap;

use super::{Arg, Machine, matrix_map};

/// A matrix of 40 x 9 of f16, whose rows are 96 bytes apart, in boxes of 16 x 6.
fn map(address: u64) -> TensorMap {
    matrix_map(6, address, [40, 9], 96, [16, 6])
}

/// What thread 0 of a block does with a map at %rd3 and a matrix at %rd4.
fn counted(issue: &str) -> KernelCounters {
    let mut machine = Machine::new(
        ".param .align 64 .b8 map[128], .param .u64 global",
        &format!(
            ".shared .align 128 .b8 tile[256];\nmov.u64 %rd3, map;\ncvta.param.u64 %rd3, %rd3;\n\
             ld.param.u64 %rd4, [global];\n{issue}\ncp.async.bulk.commit_group;\n\
             cp.async.bulk.wait_group.read 0;"
        ),
    );
    machine.options.count = true;
    // Shared memory is moved as it is.
    machine.options.checks = false;
    let global = machine.bytes(&[0; 9 * 96]);
    let args = [Arg::Map(&map(global)), Arg::Pointer(global)];
    *machine
        .run(1, 1, &args)
        .counters
        .expect("counters were asked for")
}

/// Requests, bytes, sectors, the fewest; requests and wavefronts of shared memory.
fn numbers(tally: Tally) -> [u64; 6] {
    assert_eq!(tally.wavefronts, tally.ideal_wavefronts);
    [
        tally.global_requests,
        tally.global_bytes,
        tally.sectors,
        tally.ideal_sectors,
        tally.shared_requests,
        tally.wavefronts,
    ]
}

#[test]
fn boxes_count_the_sectors_of_their_rows() {
    let store = |x: i32, y: i32| {
        let counters = counted(&format!(
            "cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%rd3, {{{x}, {y}}}], [tile];"
        ));
        assert_eq!(counters.total.multicast_sectors, 0);
        numbers(counters.kind(Kind::BulkStore))
    };
    // Six rows of a sector each, 192 bytes of shared memory.
    assert_eq!(store(0, 0), [1, 192, 6, 6, 1, 2]);
    // Each row in two sectors.
    assert_eq!(store(8, 0), [1, 192, 12, 6, 1, 2]);
    // Rows 7 and 8 are left, and of each the last eight elements; the box is whole in shared
    // memory.
    assert_eq!(store(32, 7), [1, 32, 2, 1, 1, 2]);
    assert_eq!(store(0, 9), [0, 0, 0, 0, 1, 2]);
}

#[test]
fn copies_reductions_and_prefetches_have_kinds_of_their_own() {
    let counters = counted(
        "cp.async.bulk.global.shared::cta.bulk_group [%rd4+16], [tile], 64;
        cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%rd4], [tile], 32;
        cp.async.bulk.prefetch.L2.global [%rd4], 96;
        cp.async.bulk.prefetch.tensor.2d.L2.global [%rd3, {0, 8}];",
    );
    assert_eq!(numbers(counters.kind(Kind::BulkStore)), [1, 64, 3, 2, 1, 1]);
    assert_eq!(
        numbers(counters.kind(Kind::BulkReduce)),
        [1, 32, 1, 1, 1, 1]
    );
    let prefetches = counters.kind(Kind::BulkPrefetch);
    assert_eq!(numbers(prefetches), [2, 128, 4, 4, 0, 0]);
    assert_eq!(counters.kind(Kind::BulkCommit).warp_instructions, 1);
    assert_eq!(counters.kind(Kind::BulkWait).warp_instructions, 1);
    let lines: Vec<_> = counters
        .ptx_lines
        .iter()
        .filter(|line| line.kind == Kind::BulkPrefetch)
        .map(|line| line.tally.sectors)
        .collect();
    assert_eq!(lines, [3, 1]);
}
