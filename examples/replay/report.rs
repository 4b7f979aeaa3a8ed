//! What the replay prints: each result against its reference.

use std::fmt;

use lora_kernels::DType;
use lora_kernels::reference::{ShapeError, relative_error};

use crate::expected::Expected;
use crate::inputs::Number;

/// A tensor that the device computed.
pub struct Outcome {
    pub name: &'static str,
    pub rows: usize,
    pub cols: usize,
    /// Little-endian, row-major, in the run's type.
    pub bytes: Vec<u8>,
    /// ‖out − ref‖ / ‖ref‖, infinite where either is not finite.
    pub relative_error: f64,
    pub reference: Reference,
}

/// What a result was compared with.
pub enum Reference {
    /// The file's tensor.
    Recorded,
    /// This crate's f64 reference, since the file holds no such tensor.
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

/// The largest relative error that is right. The inputs are rounded to the type too, while what is recorded was
/// computed from f32.
pub fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::BF16 => 1e-2,
        DType::F16 => 2e-3,
    }
}

impl Outcome {
    pub fn new<T: Number>(
        name: &'static str,
        rows: usize,
        cols: usize,
        values: &[T],
        expected: &mut Expected<'_, T>,
    ) -> Result<Self, ShapeError> {
        let (expected, reference) = expected.tensor(name)?;
        // On a big-endian machine the format's byte order needs a conversion; CUDA has no such host.
        let bytes = bytemuck::cast_slice(values).to_vec();
        Ok(Self {
            name,
            rows,
            cols,
            bytes,
            relative_error: relative_error(values, &expected),
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

pub fn print_table(outcomes: &[Outcome], bound: f64) {
    println!(
        "{:<9} {:>12} {:>15} {:>8}   reference",
        "tensor", "shape", "relative error", "bound"
    );
    for outcome in outcomes {
        let verdict = if outcome.is_within(bound) {
            ""
        } else {
            "   BEYOND THE BOUND"
        };
        println!(
            "{:<9} {:>12} {:>15} {:>8}   {}{verdict}",
            outcome.name,
            format!("{} x {}", outcome.rows, outcome.cols),
            format!("{:.2e}", outcome.relative_error),
            format!("{bound:.0e}"),
            outcome.reference,
        );
    }
}
