//! DRAM traffic of launches that really ran: exact where it can be worked out by hand, and against
//! the model of a tiled product.

use ptx_emulator::counters::{Blocks, Dram};
use ptx_emulator::device::{A100, DeviceModel};
use ptx_emulator::exec::LaunchConfig;
use ptx_emulator::l2::{DramModel, Product, Raster, Schedule};

use super::harness::{Arg, Machine};

/// 64 blocks of 32 threads with 16 bytes each.
const BYTES: u64 = 64 * 512;

/// Kernel k(from, to), in which %from and %to point at 16 bytes of each thread, %start at the first
/// of %from's.
fn machine(body: &str, l2_bytes: u64) -> Machine {
    let mut machine = Machine::new(&format!(
        ".version 8.0 .target sm_80 .address_size 64
        .visible .entry k(.param .u64 from, .param .u64 to) {{
            .reg .pred %p;
            .reg .b32 %lane, %block, %thread, %i, %r<8>;
            .reg .b64 %from, %start, %to, %at, %end;
            ld.param.u64 %start, [from];
            ld.param.u64 %to, [to];
            mov.u32 %lane, %tid.x;
            mov.u32 %block, %ctaid.x;
            mad.lo.u32 %thread, %block, 32, %lane;
            mad.wide.u32 %from, %thread, 16, %start;
            mad.wide.u32 %to, %thread, 16, %to;
            {body}
            ret;
        }}"
    ));
    machine.options.count = true;
    machine.options.dram = Some(DramModel::new(l2_bytes));
    machine
}

const LOAD: &str = "ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%from];";
const STORE: &str = "st.global.v4.u32 [%to], {%r1, %r2, %r3, %r4};";

/// A device that holds so many blocks of 32 threads.
fn device(blocks: u32) -> DeviceModel {
    DeviceModel {
        multiprocessors: blocks,
        max_blocks_per_multiprocessor: 1,
        ..A100
    }
}

struct Buffers {
    from: u64,
    to: u64,
}

fn buffers(machine: &Machine) -> Buffers {
    let fill = || machine.bytes(&vec![0; BYTES as usize]);
    Buffers {
        from: fill(),
        to: fill(),
    }
}

fn counted(
    machine: &Machine,
    device: &DeviceModel,
    grid: u32,
    block: u32,
    shared: u32,
    args: &[Arg],
) -> Dram {
    let info = machine.module.kernels().next().expect("a kernel");
    let mut params = vec![0; info.param_bytes as usize];
    for (param, arg) in info.params.iter().zip(args) {
        let at = param.offset as usize;
        match arg {
            Arg::Pointer(va) => params[at..at + 8].copy_from_slice(&va.to_le_bytes()),
            Arg::Word(word) => params[at..at + 4].copy_from_slice(&word.to_le_bytes()),
        }
    }
    let config = LaunchConfig {
        grid: [grid, 1, 1],
        block: [block, 1, 1],
        dynamic_shared: shared,
        params,
        ..LaunchConfig::default()
    };
    let report = machine
        .module
        .launch(&info.name, &config, device, &machine.options);
    let report = report.unwrap_or_else(|fault| panic!("{fault}"));
    report
        .counters
        .expect("counters")
        .dram
        .expect("the model is on")
}

/// Bytes read and written.
fn traffic(machine: &Machine, device: &DeviceModel, buffers: &Buffers) -> (u64, u64) {
    let args = [Arg::Pointer(buffers.from), Arg::Pointer(buffers.to)];
    let dram = counted(machine, device, 64, 32, 0, &args);
    (dram.read_bytes, dram.write_bytes)
}

fn once(body: &str, l2_bytes: u64, device: &DeviceModel) -> (u64, u64) {
    let machine = machine(body, l2_bytes);
    traffic(&machine, device, &buffers(&machine))
}

#[test]
fn a_copy_reads_and_writes_every_byte_once() {
    let copy = [LOAD, STORE].concat();
    for l2_bytes in [0, 4 << 10, 1 << 20] {
        assert_eq!(once(&copy, l2_bytes, &A100), (BYTES, BYTES), "{l2_bytes}");
    }
    let asynchronous = format!(
        ".shared .align 16 .b8 tile[512]; mov.u32 %r5, tile; mad.lo.u32 %r5, %lane, 16, %r5;
         cp.async.cg.shared.global [%r5], [%from], 16; cp.async.wait_all;
         ld.shared.v4.u32 {{%r1, %r2, %r3, %r4}}, [%r5]; {STORE}"
    );
    assert_eq!(once(&asynchronous, 1 << 20, &A100), (BYTES, BYTES));
}

/// Each thread reads its 16 bytes, and after all blocks have done so, reads them again.
#[test]
fn what_fits_is_read_once_and_what_does_not_is_read_again() {
    let twice = [LOAD, "bar.sync 0;", LOAD].concat();
    assert_eq!(once(&twice, BYTES, &device(64)), (BYTES, 0));
    assert_eq!(once(&twice, BYTES - 128, &device(64)), (2 * BYTES, 0));
    // Half of the blocks at a time: the half of L2 is enough.
    assert_eq!(once(&twice, BYTES / 2, &device(32)), (BYTES, 0));
    // The device may hold 64, but registers are said to allow no more than one on each of 32
    // multiprocessors.
    let two_each = DeviceModel {
        max_blocks_per_multiprocessor: 2,
        ..device(32)
    };
    assert_eq!(once(&twice, BYTES / 2, &two_each), (2 * BYTES, 0));
    let mut limited = machine(&twice, BYTES / 2);
    limited.options.dram = limited.options.dram.map(|model| DramModel {
        blocks_per_multiprocessor: Some(1),
        ..model
    });
    assert_eq!(traffic(&limited, &two_each, &buffers(&limited)), (BYTES, 0));
}

/// All blocks read the same rows in the same order, a barrier after each: in lockstep they share
/// even a tiny L2, one after the other nothing.
#[test]
fn blocks_that_run_at_once_share_what_they_read() {
    let stream = "mad.wide.u32 %at, %lane, 16, %start; add.s64 %end, %at, 32768;
        more: ld.global.v4.u32 {%r1, %r2, %r3, %r4}, [%at]; bar.sync 0;
        add.s64 %at, %at, 512; setp.lt.u64 %p, %at, %end; @%p bra more;";
    assert_eq!(once(stream, 512, &device(64)), (BYTES, 0));
    assert_eq!(once(stream, 512, &device(16)), (4 * BYTES, 0));
    assert_eq!(once(stream, 512, &device(1)), (64 * BYTES, 0));
    assert_eq!(once(stream, BYTES, &device(1)), (BYTES, 0));
}

#[test]
fn a_launch_finds_what_an_earlier_one_left() {
    let machine = machine(&[LOAD, STORE].concat(), 4 * BYTES);
    let there = buffers(&machine);
    let back = Buffers {
        from: there.to,
        to: there.from,
    };
    assert_eq!(traffic(&machine, &A100, &there), (BYTES, BYTES));
    // Both are in L2, and what is written again before it has left goes to DRAM once.
    assert_eq!(traffic(&machine, &A100, &there), (0, 0));
    assert_eq!(traffic(&machine, &A100, &back), (0, BYTES));
    let model = machine.options.dram.as_ref().expect("a model");
    model.l2.lock().expect("nobody panicked").flush();
    assert_eq!(traffic(&machine, &A100, &back), (BYTES, BYTES));
}

#[test]
fn single_words_cost_a_sector_and_atomics_both_ways() {
    let word = "mad.wide.u32 %at, %thread, 128, %start; ld.global.u32 %r1, [%at];";
    let mut machine = machine(word, 1 << 20);
    machine.options.checks = false;
    let from = machine.bytes(&vec![0; 64 * 32 * 128]);
    let there = Buffers { from, to: from };
    assert_eq!(traffic(&machine, &A100, &there), (64 * 32 * 32, 0));
    assert_eq!(
        once("red.global.add.u32 [%to], 1;", 1 << 20, &A100),
        (BYTES, BYTES)
    );
    // All blocks add to one word.
    let same = "red.global.add.u32 [%start], 1;";
    assert_eq!(once(same, 1 << 20, &A100), (32, 32));
}

#[test]
fn of_chosen_blocks_only_theirs_is_counted() {
    let mut machine = machine(&[LOAD, STORE].concat(), 1 << 20);
    machine.options.blocks = Blocks::Every(4);
    let there = buffers(&machine);
    assert_eq!(traffic(&machine, &A100, &there), (BYTES / 4, BYTES / 4));
    machine.options.blocks = Blocks::None;
    let args = [Arg::Pointer(there.from), Arg::Pointer(there.to)];
    let report = machine.launch("k", 64, 32, &args).expect("no fault");
    assert_eq!(report.counters.expect("counters").dram, None);
}

/// A Triton kernel with tiles of 64 x 64 x 32 in bands of four rows, f32 operands: its rows of k
/// and of n are whole lines, as the pieces of the tile model are. From an L2 that holds everything
/// to one that holds two steps of all blocks, the two agree within 2 %.
#[test]
fn a_matrix_product_agrees_with_the_model_of_its_tiles() {
    let (m, n, k) = (512, 512, 256);
    let product = Product {
        m,
        n,
        k,
        element_bytes: 4,
    };
    let mut machine = Machine::new(include_str!("../conformance/triton/matmul_tf32.ptx"));
    machine.options.count = true;
    let bytes = |count: u64| Arg::Pointer(machine.bytes(&vec![0; 4 * count as usize]));
    let sizes = [m, n, k, k, n, n].map(|size| Arg::Word(size as u32));
    let matrices = [bytes(m * k), bytes(k * n), bytes(m * n)];
    let args = [&matrices[..], &sizes, &[Arg::Pointer(0), Arg::Pointer(0)]].concat();
    let mut ratios = Vec::new();
    for (blocks, l2_kib) in [
        (8, 1280),
        (8, 256),
        (12, 2048),
        (12, 1536),
        (12, 768),
        (12, 640),
        (12, 128),
        (20, 1152),
        (20, 896),
        (20, 192),
    ] {
        let l2_bytes = l2_kib << 10;
        machine.options.dram = Some(DramModel::new(l2_bytes));
        let replayed = counted(&machine, &device(blocks), 64, 128, 32768, &args);
        let modelled = product.traffic(
            &Schedule {
                tile_m: 64,
                tile_n: 64,
                tile_k: 32,
                blocks: u64::from(blocks),
                raster: Raster::GroupM(4),
                serpentine: false,
            },
            l2_bytes,
        );
        let off = replayed.read_bytes as f64 / modelled.read as f64 - 1.0;
        assert!(
            off.abs() < 0.02,
            "{blocks} blocks, {l2_kib} KiB: {replayed:?}, {modelled:?}"
        );
        assert_eq!(replayed.write_bytes, modelled.written);
        ratios.push(modelled.read / product.compulsory().read);
    }
    // They cover the range from each operand once to each for every row or column of tiles.
    assert_eq!(
        (ratios.iter().min(), ratios.iter().max()),
        (Some(&1), Some(&3))
    );
}
