//! Bulk copies, tensor maps, wgmma, clusters: `hopper.cu`.

use super::{Buffers, Gpu, Pair, Suite, T, Type};
use crate::gpu::{Arg, Tile};
use crate::numbers::Random;

/// Columns of the matrices, 5 steps of 64.
const DEPTH: usize = 320;
const TILE: usize = 64;

pub fn suite() -> Suite {
    Suite {
        ptx: include_str!("hopper.ptx"),
        pairs: pairs(),
        arguments,
    }
}

/// Whole numbers that bf16 holds, and whose products sum exactly.
fn matrix(seed: u64, rows: usize) -> Vec<f64> {
    Random::new(seed).values(Type::I32, rows * DEPTH, -3.0, 4.0)
}

fn a() -> Vec<f64> {
    matrix(5, 2 * TILE)
}

fn b() -> Vec<f64> {
    matrix(6, TILE)
}

fn arguments(gpu: &Gpu, pair: &Pair) -> Result<Buffers, String> {
    let input = gpu.upload(Type::I32, &pair.input)?;
    let out = gpu.output(Type::I32, pair.wanted.len())?;
    let (a, b) = (gpu.upload(Type::Bf16, &a())?, gpu.upload(Type::Bf16, &b())?);
    let stored = gpu.output(Type::Bf16, TILE * TILE)?;
    let tile = |rows, columns| Tile {
        sizes: [rows, columns],
        stride: columns,
        part: [TILE, TILE],
        swizzle: 3,
    };
    let arguments = vec![
        input.arg(),
        out.arg(),
        a.tensor_map(&tile(2 * TILE, DEPTH))?,
        b.tensor_map(&tile(TILE, DEPTH))?,
        stored.tensor_map(&tile(TILE, TILE))?,
        Arg::int(pair.n),
    ];
    let result = if pair.twin == "ok_map_store_fence" {
        4
    } else {
        1
    };
    Ok(Buffers {
        held: vec![input, out, a, b, stored],
        result,
        arguments,
    })
}

/// The product of a's first rows and b's rows, over the first `depth` columns.
fn product(rows: usize, depth: usize) -> Vec<f64> {
    let (a, b) = (a(), b());
    let at = |i: usize, j: usize| {
        (0..depth)
            .map(|x| a[i * DEPTH + x] * b[j * DEPTH + x])
            .sum()
    };
    (0..rows * TILE)
        .map(|place| at(place / TILE, place % TILE))
        .collect()
}

fn part_of_a(first: usize) -> Vec<f64> {
    let a = a();
    let at = |place: usize| (first + place / TILE) * DEPTH + first + place % TILE;
    (0..TILE * TILE).map(|place| a[at(place)]).collect()
}

fn pairs() -> Vec<Pair> {
    let numbers = Random::new(7).values(Type::I32, 4 * T, 0.0, 1000.0);
    let small = Random::new(8).values(Type::I32, 2 * TILE * TILE, -3.0, 4.0);
    let x = |place: usize| numbers[place];
    let backwards = |first: usize| (0..T).map(move |t| first + T - 1 - t);
    let doubled: Vec<f64> = backwards(0).map(|place| 2.0 * x(place)).collect();
    let sums: Vec<f64> = (0..T).map(|t| x(T - 1 - t) + x(2 * T - 1 - t)).collect();
    let ring = (0..T).map(|t| (0..4).map(|r| (r + 1) as f64 * x(r * T + T - 1 - t)).sum());
    let both: Vec<f64> = (0..2 * T).map(|place| 2.0 * x(place)).collect();
    let exchanged: Vec<f64> = backwards(T)
        .chain(backwards(0))
        .map(|p| 2.0 * x(p))
        .collect();
    let twice = [part_of_a(0), part_of_a(0)].concat();
    let of_stores: Vec<f64> = (0..TILE * TILE)
        .map(|place| {
            let (i, j) = (place / TILE, TILE + place % TILE);
            (0..TILE)
                .map(|k| small[i * TILE + k] * small[j * TILE + k])
                .sum()
        })
        .collect();
    let stored = small[..TILE * TILE].to_vec();
    let one_more: Vec<f64> = product(TILE, TILE).iter().map(|v| v + 1.0).collect();
    let gemm = product(2 * TILE, DEPTH);

    let make = |bug, twin, blocks, wanted: &[f64]| Pair {
        bug,
        twin,
        blocks,
        threads: if twin.starts_with("ok_gemm") {
            3 * T
        } else {
            T
        },
        // A ring of two stages of a's 128 and b's 64 rows.
        shared: if twin.starts_with("ok_gemm") {
            2 * 3 * 64 * 128
        } else {
            0
        },
        n: DEPTH,
        input: match twin {
            "ok_map_store_fence" | "ok_wgmma_proxy" => small.clone(),
            _ => numbers.clone(),
        },
        wanted: wanted.to_vec(),
        fresh: false,
    };
    let mut pairs = vec![
        make(Some("bug_bulk_wait"), "ok_bulk_wait", 1, &doubled),
        make(Some("bug_bulk_bytes"), "ok_bulk_bytes", 1, &doubled),
        make(Some("bug_bulk_count"), "ok_bulk_count", 1, &doubled),
        make(
            Some("bug_bulk_late_expect"),
            "ok_bulk_late_expect",
            1,
            &doubled,
        ),
        make(Some("bug_bulk_parity"), "ok_bulk_parity", 1, &sums),
        make(
            Some("bug_bulk_store_fence"),
            "ok_bulk_store_fence",
            1,
            &doubled,
        ),
        make(
            Some("bug_bulk_store_overwritten"),
            "ok_bulk_store_overwritten",
            1,
            &both,
        ),
        make(
            Some("bug_bulk_reused"),
            "ok_bulk_reused",
            1,
            &ring.collect::<Vec<f64>>(),
        ),
        make(Some("bug_cluster_read"), "ok_cluster_read", 2, &exchanged),
        make(Some("bug_cluster_exit"), "ok_cluster_exit", 2, &exchanged),
        make(Some("bug_cluster_push"), "ok_cluster_push", 2, &exchanged),
        make(Some("bug_cluster_init"), "ok_cluster_init", 2, &exchanged),
        make(
            Some("bug_cluster_multicast"),
            "ok_cluster_multicast",
            2,
            &twice,
        ),
        make(None, "ok_map_load", 1, &part_of_a(TILE)),
        make(
            Some("bug_map_store_fence"),
            "ok_map_store_fence",
            1,
            &stored,
        ),
        make(Some("bug_wgmma_proxy"), "ok_wgmma_proxy", 1, &of_stores),
    ];
    for bug in [
        "bug_wgmma_fence",
        "bug_wgmma_touched",
        "bug_wgmma_overwritten",
        "bug_wgmma_wait",
        "bug_wgmma_one_waits",
    ] {
        pairs.push(make(Some(bug), "ok_product", 1, &one_more));
    }
    for bug in [
        "bug_gemm_one_arrives",
        "bug_gemm_no_empty",
        "bug_gemm_empty_parity",
        "bug_gemm_full_parity",
        "bug_gemm_arrive_early",
        "bug_gemm_empty_count",
    ] {
        pairs.push(make(Some(bug), "ok_gemm", 1, &gemm));
    }
    pairs.push(make(
        Some("bug_gemm_cluster_window"),
        "ok_gemm_cluster_window",
        1,
        &gemm,
    ));
    pairs
}
