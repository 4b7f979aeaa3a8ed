//! What counts as right.

use lora_kernels::DType;

/// The largest relative error ‖out − ref‖ / ‖ref‖ that is right. The inputs are rounded to the type
/// too, while what is recorded was computed from f32.
pub fn bound(dtype: DType) -> f64 {
    match dtype {
        DType::F32 => 1e-5,
        DType::BF16 => 1e-2,
        DType::F16 => 2e-3,
    }
}
