//! The L2 model against what was measured and published.

use ptx_emulator::device::{H100, RTX4090};
use ptx_emulator::l2::{Product, Raster, Schedule, usable_bytes};

const GIB: f64 = (1_u64 << 30) as f64;

fn product(m: u64, n: u64, k: u64) -> Product {
    Product {
        m,
        n,
        k,
        element_bytes: 2,
    }
}

/// Triton's persistent kernel on an H100.
const LORA_FUSION: Schedule = Schedule {
    tile_m: 128,
    tile_n: 256,
    tile_k: 64,
    blocks: 132,
    raster: Raster::GroupM(8),
    serpentine: false,
};

/// DRAM bytes of LoRAFusion's forward and backward with dropout: `tokens` rows, square weights of
/// `width`. Its two products go through the model. The rest reads and writes each of its tensors
/// once, far apart: x, x after dropout in 16 bits and a mask of bytes in the dropout kernel, x
/// after dropout again for S and for the gradient of A, dy for the gradient of B, the mask in
/// backward.
fn lora_fusion(tokens: u64, width: u64, l2_bytes: u64) -> f64 {
    let forward = product(tokens, width, width)
        .traffic(&LORA_FUSION, l2_bytes)
        .total();
    let backward = forward;
    let dropout = 2 + 2 + 1;
    let streams = (dropout + 2 + 2 + 2 + 1) * tokens * width;
    (forward + backward + streams) as f64 / GIB
}

/// NCU's DRAM bytes on an H100 (LoRAFusion, arXiv 2510.00206, evaluation figure 7): within 10 %,
/// whatever part of L2 serves.
#[test]
fn lora_fusion_on_an_h100() {
    for (width, measured, modelled) in [
        (4096, 1.258, 1.215),
        (5120, 1.836, 1.763),
        (8192, 4.044, 3.781),
    ] {
        for share in [0.5, 0.75, 1.0] {
            let bytes = lora_fusion(8192, width, (share * H100.l2_bytes as f64) as u64);
            assert!(
                (bytes / measured - 1.0).abs() < 0.1,
                "{width}: {bytes} GiB, measured {measured}"
            );
        }
        let bytes = lora_fusion(8192, width, usable_bytes(H100.l2_bytes));
        assert_eq!((1000.0 * bytes).round() / 1000.0, modelled, "{width}");
    }
}

/// Reads over compulsory reads, as research with an independent implementation of the model found.
#[test]
fn rasters_and_serpentines() {
    let large = product(8192, 4096, 4096);
    let reads = |product: Product, schedule: &Schedule, l2: u64| {
        product.traffic(schedule, l2).read as f64 / product.compulsory().read as f64
    };
    let h100 = |raster, blocks, serpentine| Schedule {
        raster,
        blocks,
        serpentine,
        ..LORA_FUSION
    };
    for (schedule, expected) in [
        (h100(Raster::GroupM(8), 132, false), 3.81),
        (h100(Raster::GroupM(8), 132, true), 3.04),
        (h100(Raster::GroupM(16), 132, false), 3.21),
        (h100(Raster::GroupM(16), 132, true), 2.85),
        (h100(Raster::GroupN(8), 132, false), 2.88),
        (h100(Raster::GroupN(8), 132, true), 2.51),
        (h100(Raster::GroupN(8), 128, false), 2.67),
        (h100(Raster::GroupN(8), 128, true), 2.34),
    ] {
        let found = reads(large, &schedule, usable_bytes(H100.l2_bytes));
        let tolerance = if schedule.serpentine { 0.04 } else { 0.01 };
        assert!(
            (found / expected - 1.0).abs() < tolerance,
            "{schedule:?}: {found}, expected {expected}"
        );
    }
    for (m, n, k, expected) in [
        (4096, 4096, 4096, 2.78),
        (8192, 14336, 4096, 6.81),
        (16384, 4096, 4096, 4.64),
    ] {
        let found = reads(product(m, n, k), &LORA_FUSION, usable_bytes(H100.l2_bytes));
        assert!(
            (found / expected - 1.0).abs() < 0.01,
            "{m} x {n} x {k}: {found}, expected {expected}"
        );
    }
    let ada = Schedule {
        tile_n: 128,
        ..h100(Raster::GroupN(16), 128, false)
    };
    let found = reads(large, &ada, usable_bytes(RTX4090.l2_bytes));
    assert!((found / 1.67 - 1.0).abs() < 0.01, "RTX 4090: {found}");
}

/// Where everything fits, everything is read once, whatever the order; edges are not counted as
/// whole tiles.
#[test]
fn what_fits_is_read_once() {
    let small = product(1000, 700, 520);
    let found = small.traffic(&LORA_FUSION, usable_bytes(H100.l2_bytes));
    assert_eq!(found, small.compulsory());
    assert_eq!(found.total(), 2 * (1000 * 520 + 520 * 700 + 1000 * 700));
    // Without any L2 every tile reads both its operands.
    let alone = small.traffic(&LORA_FUSION, 0);
    assert_eq!(alone.read, 2 * 520 * (3 * 1000 + 8 * 700));
}
