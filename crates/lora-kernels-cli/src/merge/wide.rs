//! Values that are computed in wider types than the result's, and rounded at the end.

use std::ops::Range;

use lora_kernels::MergeReport;
use lora_kernels_adapters::{Dtype, Tensor};

use super::numbers::{element_bytes, part, read, with_float};
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

impl<'v> Values<'v> {
    pub fn row(&self, row: usize) -> impl Iterator<Item = f64> + Clone + use<'v> {
        let places = row * self.columns..(row + 1) * self.columns;
        let wide = match self.dtype {
            Dtype::F64 => Some(&self.source[places.start * 8..places.end * 8]),
            _ => None,
        };
        let sums = self.sums[places].iter().enumerate();
        sums.map(move |(column, sum)| match wide {
            Some(wide) => {
                bytemuck::pod_read_unaligned::<f64>(&wide[column * 8..(column + 1) * 8])
                    + f64::from(*sum)
            }
            None => f64::from(*sum),
        })
    }

    /// A row of the source.
    pub fn old(&self, row: usize) -> Vec<f64> {
        let row_bytes = self.columns * element_bytes(self.dtype);
        collected(
            &self.source[row * row_bytes..(row + 1) * row_bytes],
            self.dtype,
        )
    }
}

/// The numbers of bytes that hold elements of a float type.
pub fn collected(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    with_float!(dtype, S => read::<S>(bytes).collect(), else Vec::new())
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

/// Counts what storing an element loses, as the kernels do.
pub fn count(report: &mut MergeReport, old: f64, wanted: f64, stored: f64) {
    report.elements += 1;
    if !stored.is_finite() {
        report.non_finite += 1;
        return;
    }
    let delta = wanted - old;
    report.nonzero += u64::from(delta != 0.0);
    report.unchanged += u64::from(delta != 0.0 && stored == old);
    report.delta_squares += delta * delta;
    report.error_squares += (stored - wanted) * (stored - wanted);
}
