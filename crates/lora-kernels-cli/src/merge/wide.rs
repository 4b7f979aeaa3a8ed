//! Values that are computed in wider types than the result's, and rounded at the end.

use std::ops::Range;

use lora_kernels::MergeReport;
use lora_kernels_adapters::{Dtype, Tensor};

use super::numbers::{collected, element_bytes, part, store, widen};
use super::product::LANES;
use crate::failure::Failure;

/// The values of a piece with the adapters added, exactly as they are computed on with.
pub struct Values<'v> {
    /// The source with the adapters added; of a source in f64, what is to be added to it.
    pub sums: &'v [f32],
    pub source: &'v [u8],
    /// Of the source.
    pub dtype: Dtype,
    pub columns: usize,
}

impl Values<'_> {
    /// The values of a row. There are as many `values` as columns.
    #[inline(always)]
    pub fn read(&self, row: usize, values: &mut [f64]) {
        let sums = &self.sums[row * self.columns..(row + 1) * self.columns];
        match self.dtype {
            Dtype::F64 => {
                self.read_source(row, values);
                for (value, sum) in values.iter_mut().zip(sums) {
                    *value += f64::from(*sum);
                }
            }
            _ => {
                for (value, sum) in values.iter_mut().zip(sums) {
                    *value = f64::from(*sum);
                }
            }
        }
    }

    /// A row of the source.
    #[inline(always)]
    fn read_source(&self, row: usize, values: &mut [f64]) {
        let row_bytes = self.columns * element_bytes(self.dtype);
        let bytes = &self.source[row * row_bytes..(row + 1) * row_bytes];
        widen(bytes, self.dtype, values);
    }

    /// The sum of the squares of each of the first rows.
    pub fn squares(&self, rows: usize) -> Vec<f64> {
        let mut values = vec![0.0; self.columns];
        let squares = (0..rows).map(|row| {
            self.read(row, &mut values);
            let mut sums = [0.0; LANES];
            let (lines, rest) = values.as_chunks::<LANES>();
            for line in lines {
                for (sum, value) in sums.iter_mut().zip(line) {
                    *sum += value * value;
                }
            }
            for (sum, value) in sums.iter_mut().zip(rest) {
                *sum += value * value;
            }
            sums.iter().sum()
        });
        squares.collect()
    }
}

/// What a row is multiplied by.
#[derive(Clone, Copy)]
pub enum Factors<'f> {
    One(f64),
    OfColumns(&'f [f64]),
}

/// Brings the rows of a piece to their bytes.
pub struct Rows<'r> {
    values: Values<'r>,
    biases: Biases,
    /// Of the result.
    dtype: Dtype,
    wanted: Vec<f64>,
    old: Vec<f64>,
    stored: Vec<f64>,
}

impl<'r> Rows<'r> {
    pub fn new(values: Values<'r>, biases: Biases, dtype: Dtype) -> Self {
        let row = || vec![0.0; values.columns];
        let (wanted, old, stored) = (row(), row(), row());
        Self {
            values,
            biases,
            dtype,
            wanted,
            old,
            stored,
        }
    }

    /// Writes a row, and counts what that loses if there is a report.
    pub fn write(
        &mut self,
        row: usize,
        factors: Factors<'_>,
        bytes: &mut [u8],
        report: Option<&mut MergeReport>,
    ) {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") {
            // SAFETY: this processor has it.
            return unsafe { self.write_with_avx2(row, factors, bytes, report) };
        }
        self.write_in_order(row, factors, bytes, report);
    }

    /// The same, compiled for wider vectors.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn write_with_avx2(
        &mut self,
        row: usize,
        factors: Factors<'_>,
        bytes: &mut [u8],
        report: Option<&mut MergeReport>,
    ) {
        self.write_in_order(row, factors, bytes, report);
    }

    #[inline(always)]
    fn write_in_order(
        &mut self,
        row: usize,
        factors: Factors<'_>,
        bytes: &mut [u8],
        report: Option<&mut MergeReport>,
    ) {
        self.values.read(row, &mut self.wanted);
        match factors {
            Factors::One(factor) => self.wanted.iter_mut().for_each(|value| *value *= factor),
            Factors::OfColumns(factors) => {
                for (value, factor) in self.wanted.iter_mut().zip(factors) {
                    *value *= factor;
                }
            }
        }
        if !self.biases.biases.is_empty() {
            let first = row * self.values.columns;
            for (column, value) in self.wanted.iter_mut().enumerate() {
                *value = self.biases.added(*value, first + column);
            }
        }
        store(&self.wanted, self.dtype, bytes);
        if let Some(report) = report {
            widen(bytes, self.dtype, &mut self.stored);
            self.values.read_source(row, &mut self.old);
            count(report, &self.old, &self.wanted, &self.stored);
        }
    }
}

/// lora_B's biases for a piece, with their factors.
pub struct Biases {
    pub biases: Vec<(f32, Vec<f64>)>,
    /// Whether they are added in f64, and not in f32.
    pub in_f64: bool,
}

impl Biases {
    /// Adds those of one element, in the adapters' order.
    pub fn added(&self, value: f64, at: usize) -> f64 {
        self.biases
            .iter()
            .fold(value, |sum, (factor, bias)| match self.in_f64 {
                true => f64::from(*factor).mul_add(bias[at], sum),
                false => f64::from(factor.mul_add(bias[at] as f32, sum as f32)),
            })
    }
}

/// What DoRA multiplies rows or columns by.
pub struct Scales {
    pub scales: Vec<f64>,
    /// Those that are 0, so that nothing multiplied by them has the magnitude.
    pub without_norm: u64,
}

impl Scales {
    /// The magnitudes of these out_features, divided by the norms.
    pub fn new(
        magnitude: &Tensor<'_>,
        out_features: Range<usize>,
        squares: &[f64],
    ) -> Result<Self, Failure> {
        let magnitude = part(magnitude, out_features)?;
        let magnitudes = collected(&magnitude.read()?, magnitude.dtype);
        let scales = magnitudes
            .iter()
            .zip(squares)
            .map(|(magnitude, squares)| magnitude / squares.sqrt());
        Ok(Self {
            scales: scales.collect(),
            without_norm: squares.iter().filter(|squares| **squares == 0.0).count() as u64,
        })
    }
}

/// Counts what storing elements loses, as the kernels do.
#[inline(always)]
fn count(report: &mut MergeReport, old: &[f64], wanted: &[f64], stored: &[f64]) {
    let mut lanes = Counted::default();
    let (old, rest_of_old) = old.as_chunks();
    let (wanted, rest_of_wanted) = wanted.as_chunks();
    let (stored, rest_of_stored) = stored.as_chunks();
    for ((old, wanted), stored) in old.iter().zip(wanted).zip(stored) {
        lanes.add(old, wanted, stored);
    }
    // Zeros that stay zeros count as nothing.
    let padded = |rest: &[f64]| {
        let mut line = [0.0; LANES];
        line[..rest.len()].copy_from_slice(rest);
        line
    };
    lanes.add(
        &padded(rest_of_old),
        &padded(rest_of_wanted),
        &padded(rest_of_stored),
    );
    report.elements += (old.len() * LANES + rest_of_old.len()) as u64;
    report.non_finite += lanes.non_finite.iter().sum::<u64>();
    report.nonzero += lanes.nonzero.iter().sum::<u64>();
    report.unchanged += lanes.unchanged.iter().sum::<u64>();
    report.delta_squares += lanes.delta_squares.iter().sum::<f64>();
    report.error_squares += lanes.error_squares.iter().sum::<f64>();
}

#[derive(Default)]
struct Counted {
    non_finite: [u64; LANES],
    nonzero: [u64; LANES],
    unchanged: [u64; LANES],
    delta_squares: [f64; LANES],
    error_squares: [f64; LANES],
}

impl Counted {
    #[inline(always)]
    fn add(&mut self, old: &[f64; LANES], wanted: &[f64; LANES], stored: &[f64; LANES]) {
        for lane in 0..LANES {
            let is_finite = stored[lane].abs() < f64::INFINITY;
            let delta = wanted[lane] - old[lane];
            let error = stored[lane] - wanted[lane];
            let is_nonzero = is_finite & (delta != 0.0);
            self.non_finite[lane] += u64::from(!is_finite);
            self.nonzero[lane] += u64::from(is_nonzero);
            self.unchanged[lane] += u64::from(is_nonzero & (stored[lane] == old[lane]));
            let (delta, error) = if is_finite {
                (delta, error)
            } else {
                (0.0, 0.0)
            };
            self.delta_squares[lane] += delta * delta;
            self.error_squares[lane] += error * error;
        }
    }
}
