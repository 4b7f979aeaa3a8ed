//! Copies between the blocks of a cluster, and multicasts to them.

use ptx_emulator::counters::Kind;
use ptx_emulator::tensor_map::TensorMap;

use super::{Arg, Machine, matrix_map, noise};

const THREADS: u32 = 32;

/// Kernel k(map, global, out) for clusters of `size` blocks of 32 threads. Each block has a tile of
/// 256 bytes, an mbarrier that waits for one arrival and `bytes` bytes, and its rank in %r1. After
/// `issue`, which thread 0 does, a block that expects bytes waits for them and all write their tile
/// to `out`, 256 bytes for each block.
fn machine(size: u32, bytes: &str, issue: &str) -> Machine {
    let mut machine = Machine::new(
        ".param .align 64 .b8 map[128], .param .u64 global, .param .u64 out",
        &format!(
            ".shared .align 1024 .b8 tile[256];\n.shared .align 8 .b64 bar;\n\
             mov.u64 %rd3, map;\ncvta.param.u64 %rd3, %rd3;\nld.param.u64 %rd1, [global];\n\
             ld.param.u64 %rd2, [out];\nmov.u32 %r1, %cluster_ctarank;\nmov.u32 %r2, %tid.x;\n\
             mov.u32 %r8, %ctaid.x;\nmul.wide.u32 %rd9, %r8, 256;\nadd.s64 %rd2, %rd2, %rd9;\n\
             shl.b32 %r3, %r2, 3;\ncvt.u64.u32 %rd8, %r3;\nadd.s64 %rd2, %rd2, %rd8;\n\
             mov.u32 %r4, tile;\nadd.u32 %r4, %r4, %r3;\n\
             add.u32 %r5, %r2, %r1;\nst.shared.v2.u32 [%r4], {{%r5, %r1}};\n\
             fence.proxy.async;\nmov.u32 %r6, {bytes};\nsetp.eq.u32 %p3, %r6, 0;\n\
             setp.ne.u32 %p1, %r2, 0;\n@%p1 bra READY;\n\
             mbarrier.init.shared::cta.b64 [bar], 1;\nfence.mbarrier_init.release.cluster;\n\
             mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], %r6;\nREADY:\n\
             barrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n\
             @%p1 bra ISSUED;\n{issue}\nISSUED:\n@%p3 bra ARRIVED;\nWAIT:\n\
             mbarrier.try_wait.parity.shared::cta.b64 %p2, [bar], 0;\n@!%p2 bra WAIT;\n\
             ARRIVED:\nbarrier.cluster.arrive.aligned;\nbarrier.cluster.wait.aligned;\n\
             ld.shared.v2.u32 {{%r10, %r11}}, [%r4];\nst.global.v2.u32 [%rd2], {{%r10, %r11}};\n\
             cp.async.bulk.wait_group 0;"
        ),
    );
    machine.cluster = Some([size, 1, 1]);
    machine
}

/// A matrix of 32 x 6 of f16 in boxes of 16 x 4.
fn map(address: u64) -> TensorMap {
    matrix_map(6, address, [32, 6], 64, [16, 4])
}

/// A block's tile before anything is copied.
fn own(rank: u32) -> Vec<u8> {
    let words = (0..THREADS).flat_map(|thread| [thread + rank, rank]);
    words.flat_map(u32::to_le_bytes).collect()
}

/// What each of `blocks` blocks has in its tile at the end.
fn tiles(machine: &Machine, blocks: u32, matrix: &[u8]) -> Vec<Vec<u8>> {
    let global = machine.bytes(matrix);
    let out = machine.bytes(&vec![0; 256 * blocks as usize]);
    let args = [
        Arg::Map(&map(global)),
        Arg::Pointer(global),
        Arg::Pointer(out),
    ];
    machine.run(blocks, THREADS, &args);
    let all = machine.read(out, 256 * blocks as usize);
    all.chunks(256).map(<[u8]>::to_vec).collect()
}

#[test]
fn a_multicast_reaches_the_blocks_of_its_mask() {
    let matrix = noise(7, 6 * 64);
    for early in [false, true] {
        // Blocks 0 and 2 get a box of 128 bytes from block 1, and 64 bytes from it after that.
        let mut machine = machine(
            3,
            "128;\nsetp.eq.u32 %p4, %r1, 1;\nselp.u32 %r6, 0, 192, %p4",
            "setp.ne.u32 %p5, %r1, 1;\n@%p5 bra ISSUED;\nmov.u16 %h1, 5;\n\
             cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes\
             .multicast::cluster [tile+128], [%rd3, {16, 4}], [bar], %h1;\n\
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes\
             .multicast::cluster [tile], [%rd1+64], 64, [bar], %h1;",
        );
        machine.options.early_copies = early;
        let found = tiles(&machine, 6, &matrix);
        for (block, tile) in found.into_iter().enumerate() {
            let rank = block % 3;
            let mut expected = own(rank as u32);
            if rank != 1 {
                expected[..64].copy_from_slice(&matrix[64..128]);
                expected[128..256].fill(0);
                expected[128..160].copy_from_slice(&matrix[4 * 64 + 32..5 * 64]);
                expected[160..192].copy_from_slice(&matrix[5 * 64 + 32..6 * 64]);
            }
            assert!(tile == expected, "block {block}, early: {early}");
        }
    }
}

#[test]
fn a_multicast_reads_its_sectors_once() {
    let mut machine = machine(
        2,
        "128",
        "setp.ne.u32 %p5, %r1, 0;\n@%p5 bra ISSUED;\nmov.u16 %h1, 3;\n\
         cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes\
         .multicast::cluster [tile], [%rd3, {0, 0}], [bar], %h1;",
    );
    machine.options.count = true;
    let global = machine.bytes(&[0; 6 * 64]);
    let out = machine.bytes(&[0; 512]);
    let args = [
        Arg::Map(&map(global)),
        Arg::Pointer(global),
        Arg::Pointer(out),
    ];
    let counters = machine
        .run(2, THREADS, &args)
        .counters
        .expect("counters were asked for");
    let tally = counters.kind(Kind::BulkLoad);
    assert_eq!((tally.global_requests, tally.sectors), (1, 4));
    assert_eq!(tally.multicast_sectors, 8);
    assert_eq!((tally.shared_requests, tally.wavefronts), (2, 2));
}

#[test]
fn blocks_send_each_other_their_shared_memory() {
    for early in [false, true] {
        // Each block's second half gets the first half of the block before it.
        let mut machine = machine(
            4,
            "128",
            "add.u32 %r12, %r1, 1;\nand.b32 %r12, %r12, 3;\nmov.u32 %r13, tile;\n\
             add.u32 %r14, %r13, 128;\nmapa.shared::cluster.u32 %r14, %r14, %r12;\n\
             mov.u32 %r15, bar;\nmapa.shared::cluster.u32 %r15, %r15, %r12;\n\
             cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes \
             [%r14], [%r13], 128, [%r15];",
        );
        machine.options.early_copies = early;
        for (block, tile) in tiles(&machine, 4, &[0; 384]).into_iter().enumerate() {
            let (rank, before) = (block as u32, (block as u32 + 3) % 4);
            assert!(
                tile[..128] == own(rank)[..128],
                "block {block}, early: {early}"
            );
            assert!(
                tile[128..] == own(before)[..128],
                "block {block}, early: {early}"
            );
        }
    }
}

#[test]
fn blocks_reduce_into_each_other() {
    let machine = machine(
        2,
        "128",
        "xor.b32 %r12, %r1, 1;\nmov.u32 %r13, tile;\n\
         add.u32 %r14, %r13, 128;\nmapa.shared::cluster.u32 %r14, %r14, %r12;\n\
         mov.u32 %r15, bar;\nmapa.shared::cluster.u32 %r15, %r15, %r12;\n\
         cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32 \
         [%r14], [%r13], 128, [%r15];",
    );
    let words = |bytes: &[u8]| -> Vec<u32> {
        let words = bytes.chunks_exact(4);
        words
            .map(|word| u32::from_le_bytes(word.try_into().expect("four bytes")))
            .collect()
    };
    for (block, tile) in tiles(&machine, 2, &[0; 384]).into_iter().enumerate() {
        let (mine, other) = (own(block as u32), own(1 - block as u32));
        let sums: Vec<u32> = words(&mine[128..])
            .iter()
            .zip(words(&other[..128]))
            .map(|(a, b)| a + b)
            .collect();
        assert_eq!(words(&tile[128..]), sums, "block {block}");
    }
}

#[test]
fn wrong_targets_are_named() {
    for (issue, words) in [
        (
            "mov.u16 %h1, 4;\ncp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes\
             .multicast::cluster [tile], [%rd1], 64, [bar], %h1;",
            "multicast to blocks 0x0004 of a cluster of 2",
        ),
        (
            "mov.u16 %h1, 0;\ncp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes\
             .multicast::cluster [tile], [%rd1], 64, [bar], %h1;",
            "multicast to blocks 0x0000 of a cluster of 2",
        ),
        (
            "mov.u32 %r12, bar;\nxor.b32 %r13, %r1, 1;\nmapa.shared::cluster.u32 %r12, %r12, %r13;\n\
             cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [%rd1], 64, \
             [%r12];",
            "they must be in the same block",
        ),
    ] {
        let machine = machine(2, "0", issue);
        let global = machine.bytes(&[0; 384]);
        let out = machine.bytes(&[0; 512]);
        let args = [
            Arg::Map(&map(global)),
            Arg::Pointer(global),
            Arg::Pointer(out),
        ];
        let fault = machine.launch(2, THREADS, &args).expect_err(issue);
        assert!(fault.message.contains(words), "{issue}: {fault}");
    }
}
