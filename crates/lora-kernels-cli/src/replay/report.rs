//! The table that a replay prints: each result against its reference.

use std::fmt;

use lora_kernels::DType;
use lora_kernels::reference::{ShapeError, relative_error};

use super::Number;
use super::expected::Expected;

/// A tensor that the device computed.
pub struct Outcome {
    pub name: &'static str,
    pub rows: usize,
    pub cols: usize,
    /// The type of `bytes`: the run's, or f32 if a scale was divided out.
    pub dtype: DType,
    /// Little-endian, row-major.
    pub bytes: Vec<u8>,
    /// ‖out − ref‖ / ‖ref‖, infinite if either has an element that is not finite.
    pub relative_error: f64,
    pub reference: Reference,
}

/// The source of the values that a result was compared with.
pub enum Reference {
    /// The tensor in the file.
    Recorded,
    /// The f64 reference, because the file lacks the tensor.
    Computed,
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reference::Recorded => "recorded in the file",
            Reference::Computed => "f64 reference",
        })
    }
}

impl Outcome {
    /// `values` are the device's results, which are `scale` times too large.
    pub fn new<T: Number>(
        name: &'static str,
        (rows, cols): (usize, usize),
        values: &[T],
        scale: f64,
        expected: &mut Expected<'_, T>,
    ) -> Result<Self, ShapeError> {
        let (expected, reference) = expected.tensor(name)?;
        // The format is little-endian, and so is every host that CUDA supports.
        let (dtype, bytes, relative_error) = if scale == 1.0 {
            let bytes = bytemuck::cast_slice(values).to_vec();
            (T::DTYPE, bytes, relative_error(values, &expected))
        } else {
            let values: Vec<f32> = values
                .iter()
                .map(|value| (value.to_f64() / scale) as f32)
                .collect();
            let bytes = bytemuck::cast_slice(&values).to_vec();
            (DType::F32, bytes, relative_error(&values, &expected))
        };
        Ok(Self {
            name,
            rows,
            cols,
            dtype,
            bytes,
            relative_error,
            reference,
        })
    }

    pub fn shape(&self) -> [usize; 2] {
        [self.rows, self.cols]
    }

    pub fn is_within(&self, bound: f64) -> bool {
        self.relative_error <= bound
    }
}

/// A table with one line per outcome.
pub fn table(outcomes: &[Outcome], bound: f64) -> String {
    let mut lines = vec![format!(
        "{:<9} {:>12} {:>15} {:>8}   reference",
        "tensor", "shape", "relative error", "bound"
    )];
    lines.extend(outcomes.iter().map(|outcome| {
        let verdict = if outcome.is_within(bound) {
            ""
        } else {
            "   BEYOND THE BOUND"
        };
        format!(
            "{:<9} {:>12} {:>15} {:>8}   {}{verdict}",
            outcome.name,
            format!("{} x {}", outcome.rows, outcome.cols),
            format!("{:.2e}", outcome.relative_error),
            format!("{bound:.0e}"),
            outcome.reference,
        )
    }));
    lines.join("\n")
}
