//! The product of adapters on the CPU, with the same bits as the kernels' and the reference's.
//!
//! Each element's sum over the rank is taken in the order of the rank with fused multiply-adds, so
//! that only whole elements can be computed at the same time, and not parts of a sum. The loops are
//! plain Rust over arrays of fixed sizes. They are compiled once for processors with AVX2 and FMA,
//! and once for all others. There is no other difference between the two, so they have the same
//! bits.

mod lanes;
#[cfg(test)]
mod tests;

use lora_kernels::MergeReport;

use lanes::Tally;
pub use lanes::{LANES, Lanes, each, rounded_to_odd};

/// Rows whose sums are in registers at the same time. With [`LANES`] columns these are 12 of the 16
/// registers of AVX2, and the others hold a row of `across` and a factor of `down`.
const ROWS: usize = 6;
/// Columns that are finished before the next ones, so that their part of `across` stays in a
/// processor's own cache: 64 KB at rank 64.
const STRIP: usize = 16 * LANES;

/// How a factor lies in memory.
#[derive(Debug, Clone, Copy)]
pub struct Strides {
    rank: usize,
    /// From an element to that of the next rank.
    to_rank: usize,
    /// From an element to that of the next feature.
    to_feature: usize,
}

impl Strides {
    /// Of lora_A (rank, features).
    pub fn of_ranks(rank: usize, features: usize) -> Self {
        Self {
            rank,
            to_rank: features,
            to_feature: 1,
        }
    }

    /// Of lora_B (features, rank).
    pub fn of_features(rank: usize) -> Self {
        Self {
            rank,
            to_rank: 1,
            to_feature: rank,
        }
    }

    /// N features for each rank, then the next N. Those beyond the last one are 0.
    fn packed<const N: usize>(&self, values: &[f32], features: usize) -> Vec<[f32; N]> {
        let mut packed = Vec::with_capacity(features.div_ceil(N) * self.rank);
        for begin in (0..features).step_by(N) {
            for rank in 0..self.rank {
                let mut line = [0.0; N];
                for (feature, value) in (begin..features).zip(&mut line) {
                    *value = values[rank * self.to_rank + feature * self.to_feature];
                }
                packed.push(line);
            }
        }
        packed
    }
}

/// The factor that has a weight's columns, (rank, columns): lora_A, or lora_B of a transposed
/// weight.
pub struct Across {
    rank: usize,
    /// [`LANES`] columns of each rank, then the next columns.
    packed: Vec<[f32; LANES]>,
}

impl Across {
    /// # Panics
    /// If `values` has fewer elements.
    pub fn new(values: &[f32], strides: Strides, columns: usize) -> Self {
        Self {
            rank: strides.rank,
            packed: strides.packed(values, columns),
        }
    }
}

/// The factor that has a weight's rows, (rows, rank): lora_B, or lora_A of a transposed weight.
pub struct Down(Vec<[f32; ROWS]>);

impl Down {
    /// # Panics
    /// If `values` has fewer elements.
    pub fn new(values: &[f32], strides: Strides, rows: usize) -> Self {
        Self(strides.packed(values, rows))
    }
}

/// The part of one adapter: scaling · down · across.
pub struct Term<'a> {
    pub scaling: f32,
    pub down: &'a Down,
    pub across: &'a Across,
}

/// values += Σ scaling·down·across, where `values` are rows of `columns` elements. The sums are
/// taken as `lora_kernels::reference::merge` takes them, and have its bits. The squares of the
/// report are summed in an order of their own, which doesn't depend on the processor.
///
/// # Panics
/// If a term's factors were made for fewer rows or columns.
pub fn add<T: Lanes>(values: &mut [T], columns: usize, terms: &[Term<'_>]) -> MergeReport {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        // SAFETY: this processor has both.
        return unsafe { add_with_fma(values, columns, terms) };
    }
    add_in_order(values, columns, terms)
}

/// The same compiled for processors that fuse multiply-adds. For others, each is a call.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
fn add_with_fma<T: Lanes>(values: &mut [T], columns: usize, terms: &[Term<'_>]) -> MergeReport {
    add_in_order(values, columns, terms)
}

#[inline(always)]
fn add_in_order<T: Lanes>(values: &mut [T], columns: usize, terms: &[Term<'_>]) -> MergeReport {
    let mut tally = Tally::default();
    for begin in (0..columns).step_by(STRIP) {
        let width = STRIP.min(columns - begin);
        for (tile, rows) in values.chunks_mut(ROWS * columns).enumerate() {
            let mut deltas = [[0.0; STRIP]; ROWS];
            for term in terms {
                let rank = term.across.rank;
                let down = &term.down.0[tile * rank..(tile + 1) * rank];
                for (at, panel) in (begin / LANES..(begin + width).div_ceil(LANES)).enumerate() {
                    let across = &term.across.packed[panel * rank..(panel + 1) * rank];
                    let sums = product(down, across);
                    for (deltas, sums) in deltas.iter_mut().zip(&sums) {
                        let deltas = &mut deltas[at * LANES..(at + 1) * LANES];
                        for (delta, &sum) in deltas.iter_mut().zip(sums) {
                            *delta = term.scaling.mul_add(sum, *delta);
                        }
                    }
                }
            }
            for (row, deltas) in rows.chunks_exact_mut(columns).zip(&deltas) {
                tally.add(&mut row[begin..begin + width], &deltas[..width]);
            }
            tally.settle();
        }
    }
    tally.report()
}

/// down · across, in the order of the rank. All sums stay in registers.
#[inline(always)]
fn product(down: &[[f32; ROWS]], across: &[[f32; LANES]]) -> [[f32; LANES]; ROWS] {
    let mut sums = [[0.0; LANES]; ROWS];
    for (factors, line) in down.iter().zip(across) {
        for (sums, factor) in sums.iter_mut().zip(factors) {
            for (sum, &value) in sums.iter_mut().zip(line) {
                *sum = factor.mul_add(value, *sum);
            }
        }
    }
    sums
}
