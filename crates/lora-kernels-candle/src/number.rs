//! Element types that candle, cudarc, the kernels and the reference all support.

use candle_core::{CpuStorage, WithDType};
use half::{bf16, f16};
use lora_kernels::Element;

#[cfg(feature = "cuda")]
pub(crate) trait OnDevice: candle_core::cuda::CudaDType {}
#[cfg(feature = "cuda")]
impl<T: candle_core::cuda::CudaDType> OnDevice for T {}

/// Without feature `cuda` there is no further requirement.
#[cfg(not(feature = "cuda"))]
pub(crate) trait OnDevice {}
#[cfg(not(feature = "cuda"))]
impl<T> OnDevice for T {}

/// f32, f16 or bf16.
pub(crate) trait Number: Element + Into<f64> + WithDType + OnDevice {}

impl Number for f32 {}
impl Number for f16 {}
impl Number for bf16 {}

/// The elements of a tensor on candle's CPU device.
pub(crate) fn cpu_slice<T: Number>(storage: &CpuStorage) -> candle_core::Result<&[T]> {
    T::cpu_storage_as_slice(storage)
}

/// Calls a function with the element types of a problem's tensors and adapters.
macro_rules! with_types {
    ($problem:expr, $function:ident($($argument:expr),* $(,)?)) => {{
        use half::{bf16, f16};
        use lora_kernels::DType::{BF16, F16, F32};
        let problem = $problem;
        match (problem.dtype(), problem.adapter_dtype()) {
            (F32, _) => $function::<f32, f32>($($argument),*),
            (F16, F32) => $function::<f16, f32>($($argument),*),
            (F16, _) => $function::<f16, f16>($($argument),*),
            (BF16, F32) => $function::<bf16, f32>($($argument),*),
            (BF16, _) => $function::<bf16, bf16>($($argument),*),
        }
    }};
}
pub(crate) use with_types;
