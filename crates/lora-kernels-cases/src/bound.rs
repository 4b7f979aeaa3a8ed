//! The bounds within which a result counts as right.

use lora_kernels::DType;

/// The largest allowed relative error ‖out − ref‖ / ‖ref‖. It covers the rounding of the inputs to
/// the type: the recorded results were computed from f32.
pub fn largest_relative_error(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::BF16 => 1e-2,
        DType::F16 => 2e-3,
    }
}
