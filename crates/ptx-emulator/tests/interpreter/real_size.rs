//! A matrix product of a real model's size on a virtual H100, sampled: some of its 8192 blocks run,
//! the host holds only what they touch.

use std::process::Command;
use std::sync::Arc;

use half::bf16;
use ptx_emulator::counters::{Blocks, Kind};
use ptx_emulator::decode::Program;
use ptx_emulator::device::H100;
use ptx_emulator::exec::{LaunchConfig, LaunchOptions, LoadedModule};
use ptx_emulator::l2::{DramModel, usable_bytes};
use ptx_emulator::memory::DeviceMemory;
use ptx_emulator::parse::parse_module;

const M: u64 = 8192;
const N: u64 = 4096;
const K: u64 = 4096;
const TILE: u64 = 64;
/// Blocks go down four rows of tiles before they go right.
const GROUP: u64 = 4;

/// Small integers: every sum is exact.
fn a(row: u64, k: u64) -> i64 {
    ((row * 7 + k * 3) % 5) as i64 - 2
}

fn b(k: u64, column: u64) -> i64 {
    ((k * 5 + column * 11) % 3) as i64 - 1
}

fn bytes(values: impl Iterator<Item = i64>) -> Vec<u8> {
    values
        .flat_map(|value| bf16::from_f32(value as f32).to_le_bytes())
        .collect()
}

/// Memory of this process in KiB: what is resident now, and the most there has been.
fn resident_kib() -> (u64, u64) {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux tells");
    let field = |name: &str| -> u64 {
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .expect("the field");
        line.trim()
            .trim_end_matches(" kB")
            .parse()
            .expect("a number")
    };
    (field("VmRSS:"), field("VmHWM:"))
}

/// In a process of its own, since it looks at how much memory its process takes.
#[test]
fn a_product_of_8192_4096_4096_in_bf16_is_sampled_on_an_h100() {
    const TEST: &str = "real_size::a_product_of_8192_4096_4096_in_bf16_is_sampled_on_an_h100";
    if std::env::var_os("ALONE").is_some() {
        return sample();
    }
    let output = Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", TEST])
        .env("ALONE", "1")
        .output()
        .expect("a process");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    assert!(output.status.success(), "{}", text.concat());
    assert!(text.concat().contains("1 passed"), "{}", text.concat());
}

fn sample() {
    let before = resident_kib().0;
    let memory = Arc::new(DeviceMemory::new(H100.memory_bytes));
    let parsed = parse_module(include_str!("../conformance/triton/matmul_bf16.ptx")).expect("PTX");
    let program = Program::decode(&parsed).expect("the PTX decodes");
    let module = LoadedModule::load(program, &memory).expect("room");
    let alloc = |bytes| memory.alloc(bytes).expect("room on the device");
    // A model's other layers, say: most of the device, and nobody looks.
    alloc(64 << 30);
    let [at_a, at_b, at_c] = [M * K, K * N, M * N].map(|elements| alloc(2 * elements));

    let blocks = [0, 5, 2050, 4099, 8191];
    let tiles = blocks.map(|block| {
        let (columns, inner) = (N / TILE, block % (GROUP * (N / TILE)));
        (
            block / (GROUP * columns) * GROUP + inner % GROUP,
            inner / GROUP,
        )
    });
    for (row, column) in tiles {
        for row in TILE * row..TILE * (row + 1) {
            let line = bytes((0..K).map(|k| a(row, k)));
            memory.write(at_a + 2 * row * K, &line).expect("in bounds");
        }
        for k in 0..K {
            let first = TILE * column;
            let line = bytes((first..first + TILE).map(|column| b(k, column)));
            memory
                .write(at_b + 2 * (k * N + first), &line)
                .expect("in bounds");
        }
    }

    let info = module.kernel("matmul").expect("the kernel");
    let mut params = vec![0; info.param_bytes as usize];
    let values = [at_a, at_b, at_c, M, N, K, K, N, N, 0, 0];
    assert_eq!(values.len(), info.params.len());
    for (param, value) in info.params.iter().zip(values) {
        let size = param.size as usize;
        params[param.offset as usize..][..size].copy_from_slice(&value.to_le_bytes()[..size]);
    }
    let config = LaunchConfig {
        grid: [(M / TILE * N / TILE) as u32, 1, 1],
        block: [128, 1, 1],
        dynamic_shared: 16384,
        params,
        ..LaunchConfig::default()
    };
    let options = LaunchOptions {
        numerics: H100.tensor_core,
        blocks: Blocks::listed(blocks.to_vec()),
        count: true,
        dram: Some(DramModel::new(usable_bytes(H100.l2_bytes))),
        ..LaunchOptions::default()
    };
    let report = module
        .launch("matmul", &config, &H100, &options)
        .expect("no fault");
    let counters = report.counters.expect("counters");

    // Each block does its tile's share of the work, and reads its rows and its columns once.
    let run = blocks.len() as u64;
    assert_eq!((counters.blocks, counters.blocks_run), (8192, run));
    assert_eq!(counters.total.mma_flops, run * 2 * TILE * TILE * K);
    assert_eq!(
        counters.estimate(counters.total.mma_flops),
        Some((2 * M * N * K) as f64)
    );
    let read = counters.kind(Kind::CopyAsync);
    let operands = run * 2 * TILE * K * 2;
    assert_eq!((read.global_bytes, read.sectors * 32), (operands, operands));
    let written = counters.kind(Kind::StoreGlobal);
    assert_eq!(written.sectors * 32, run * TILE * TILE * 2);
    let dram = counters.dram.expect("the model is on");
    let shared =
        (TILE * K * 2) * (2 * run - distinct(tiles.map(|t| t.0)) - distinct(tiles.map(|t| t.1)));
    assert_eq!(dram.read_bytes, operands - shared);
    assert_eq!(dram.write_bytes, run * TILE * TILE * 2);

    for (row, column) in tiles {
        for (row, column) in
            [(0, 0), (17, 42), (63, 63)].map(|(i, j)| (TILE * row + i, TILE * column + j))
        {
            let sum: i64 = (0..K).map(|k| a(row, k) * b(k, column)).sum();
            let mut given = [0; 2];
            memory
                .read(at_c + 2 * (row * N + column), &mut given)
                .expect("in bounds");
            assert_eq!(
                bf16::from_le_bytes(given),
                bf16::from_f32(sum as f32),
                "{row}, {column}"
            );
        }
    }

    let taken = (resident_kib().1 - before) >> 10;
    assert!(taken < 400, "{taken} MiB");
}

fn distinct(mut values: [u64; 5]) -> u64 {
    values.sort_unstable();
    1 + values.windows(2).filter(|pair| pair[0] != pair[1]).count() as u64
}
