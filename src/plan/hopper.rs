//! What limits a GEMM on compute capability 9.0, in the terms of the report's modelled bound.
//!
//! All is relative to the plain product, 745 TFLOP/s on an H100 (published for cuBLAS: 716 to 798).
//! A multiply-add of two elements is one product, so 372 · 10¹² products per second. An H200 and an
//! H100 PCIe keep about the same proportions, since both differ in DRAM above all.

use super::{Arch, DeviceProps, Variant};

/// Products in the time that a byte takes from L2: 9.7 TB/s (gpu-benches, gpu-l2-cache, H200).
const PER_L2_BYTE: f64 = 38.4;
/// The same from DRAM: 2.7 TB/s of an H100's 3.35.
const PER_DRAM_BYTE: f64 = 137.0;
/// Products of one multiprocessor in the time that it takes a byte in, whichever memory that comes
/// from: 64 bytes per clock.
const PER_INGRESS_BYTE: f64 = 24.1;
/// `mma.sync` beside `wgmma`: 62.9 % of the peak against 95 % (arXiv 2501.12084, section 6.2).
const MMA_SYNC: f64 = 0.629 / 0.95;
/// Bytes of an element. f32 is not compared.
const ELEMENT: f64 = 2.0;

/// The rate of a main loop: that of its instructions, or that at which L2 brings the operands. The
/// blocks of a cluster bring the weight's columns once.
pub(super) fn quality(variant: Variant, cluster: u64) -> f64 {
    let instructions = match variant.arch {
        Arch::Sm80 => variant.quality() * MMA_SYNC,
        Arch::Sm90a => variant.quality(),
    };
    let (rows, columns) = variant.block();
    let (rows, columns) = (rows as f64, columns as f64);
    let bytes = ELEMENT * (rows + columns / cluster as f64);
    instructions.min(rows * columns / (PER_L2_BYTE * bytes))
}

/// The depth of a product that takes as long as a slab does when a tile has `splits`. Every block
/// writes its own; the last block of a tile reads all, and there may be few such blocks.
pub(super) fn slab(splits: u64, tiles: u64, in_l2: bool, device: &DeviceProps) -> f64 {
    let element = size_of::<f32>() as f64;
    let together = if in_l2 { PER_L2_BYTE } else { PER_DRAM_BYTE };
    let readers = (tiles as f64 / f64::from(device.multiprocessors())).min(1.0);
    let write = element * together;
    let read = element * PER_INGRESS_BYTE.max(together * readers) * splits as f64;
    write + read
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::DType;

    #[test]
    fn slabs_cost_more_the_more_a_block_has_to_read_alone() {
        let device = DeviceProps::h100();
        let all_read = slab(2, 132, true, &device);
        // Each writes its own, and reads those of two, at the rate of L2 for all.
        assert!((all_read - 4.0 * PER_L2_BYTE * 3.0).abs() < 1e-9);
        // One block reads no faster than a multiprocessor takes bytes in.
        let alone = slab(16, 1, true, &device);
        assert!((alone - 4.0 * (PER_L2_BYTE + 16.0 * PER_INGRESS_BYTE)).abs() < 1e-9);
        assert!(slab(16, 1, false, &device) > alone);
    }

    #[test]
    fn mma_sync_reaches_two_thirds_and_clusters_help_what_l2_limits() {
        for variant in Variant::all().filter(|variant| variant.dtype == DType::BF16) {
            if !variant.tile.name.starts_with('m') || variant.tile.depth == 0 {
                continue;
            }
            let (one, two) = (quality(variant, 1), quality(variant, 2));
            let most = match variant.arch {
                Arch::Sm80 => variant.quality() * 2.0 / 3.0,
                Arch::Sm90a => variant.quality(),
            };
            assert!(
                one > 0.0 && one <= two && two <= most,
                "{variant}: {one} {two}"
            );
            let limited = variant.block() == (64, 128);
            assert!(!limited || one < two, "{variant}: {one} {two}");
        }
    }
}
