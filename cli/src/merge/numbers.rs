//! Elements of files, which have no alignment, as numbers and back.

use half::{bf16, f16};
use lora_kernels::{DType, Element};
use lora_kernels_adapters::{Dtype, Tensor};

/// Whether numbers of this type can be converted to another such.
pub fn is_float(dtype: Dtype) -> bool {
    matches!(dtype, Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64)
}

/// Runs `$body` with `$T` as the Rust type of a [`DType`].
macro_rules! with_type {
    ($dtype:expr, $T:ident => $body:expr) => {
        match $dtype {
            lora_kernels::DType::F16 => {
                type $T = half::f16;
                $body
            }
            lora_kernels::DType::BF16 => {
                type $T = half::bf16;
                $body
            }
            lora_kernels::DType::F32 => {
                type $T = f32;
                $body
            }
        }
    };
}
pub(crate) use with_type;

/// Elements of the tensor's own type.
pub fn elements<T: Element>(bytes: &[u8]) -> Vec<T> {
    bytemuck::allocation::pod_collect_to_vec(bytes)
}

/// Elements of a float type in another: exactly where that is wider, else rounded once.
pub fn converted<T: Element>(tensor: &Tensor<'_>) -> Vec<T> {
    fn from<S: bytemuck::Pod, T: Element>(bytes: &[u8], to_f64: impl Fn(S) -> f64) -> Vec<T> {
        let source: Vec<S> = bytemuck::allocation::pod_collect_to_vec(bytes);
        source.into_iter().map(|value| T::from_f64(to_f64(value))).collect()
    }
    match tensor.dtype {
        _ if tensor.element_type() == Some(T::DTYPE) => elements(tensor.data),
        Dtype::F16 => from(tensor.data, f16::to_f64),
        Dtype::BF16 => from(tensor.data, bf16::to_f64),
        Dtype::F32 => from(tensor.data, |value: f32| f64::from(value)),
        Dtype::F64 => from(tensor.data, |value: f64| value),
        _ => Vec::new(),
    }
}

/// The bytes of a float tensor in another type.
pub fn converted_bytes(tensor: &Tensor<'_>, to: Dtype) -> Vec<u8> {
    let of = |dtype: DType| with_type!(dtype, T => bytemuck::cast_slice(&converted::<T>(tensor)).to_vec());
    match to {
        same if same == tensor.dtype => tensor.data.to_vec(),
        Dtype::F16 => of(DType::F16),
        Dtype::BF16 => of(DType::BF16),
        Dtype::F32 => of(DType::F32),
        _ => {
            let wide = with_type!(tensor.element_type().unwrap_or(DType::F32), T => {
                let values = converted::<T>(tensor).into_iter();
                values.map(Element::to_f64).collect::<Vec<f64>>()
            });
            bytemuck::cast_slice(&wide).to_vec()
        }
    }
}

/// How many elements of these bytes are NaN or infinite; none of a type that has no such.
pub fn non_finite(bytes: &[u8], dtype: Dtype) -> u64 {
    fn count<T: Element>(bytes: &[u8]) -> u64 {
        let size = size_of::<T>();
        let values = bytes.chunks_exact(size).map(bytemuck::pod_read_unaligned::<T>);
        values.filter(|value| !value.to_f64().is_finite()).count() as u64
    }
    match dtype {
        Dtype::F16 => count::<f16>(bytes),
        Dtype::BF16 => count::<bf16>(bytes),
        Dtype::F32 => count::<f32>(bytes),
        _ => 0,
    }
}
