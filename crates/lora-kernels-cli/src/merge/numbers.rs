//! Converts unaligned bytes of files to numbers and back.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};
use lora_kernels::{DType, Element};
use lora_kernels_adapters::{Dtype, Tensor};

/// Whether this is a float type, which can be converted to any other.
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

/// A range of a tensor's elements, in row-major order. The result keeps the whole tensor's shape,
/// which no longer fits and must not be used.
pub fn part<'a>(tensor: &Tensor<'a>, elements: Range<usize>) -> Tensor<'a> {
    let size = tensor.dtype.bitsize() / 8;
    Tensor {
        data: &tensor.data[elements.start * size..elements.end * size],
        ..*tensor
    }
}

/// The bytes as elements, copied only if they are unaligned.
fn elements<T: Element>(bytes: &[u8]) -> Cow<'_, [T]> {
    match bytemuck::try_cast_slice(bytes) {
        Ok(elements) => Cow::Borrowed(elements),
        Err(_) => Cow::Owned(bytemuck::allocation::pod_collect_to_vec(bytes)),
    }
}

/// The elements of a float tensor converted to another type: exactly if that is wider, else rounded
/// once.
pub fn converted<'a, T: Element>(tensor: &Tensor<'a>) -> Cow<'a, [T]> {
    fn from<S: bytemuck::Pod, T: Element>(
        bytes: &[u8],
        to_f64: impl Fn(S) -> f64,
    ) -> Cow<'static, [T]> {
        let values = bytes
            .chunks_exact(size_of::<S>())
            .map(bytemuck::pod_read_unaligned);
        values.map(|value| T::from_f64(to_f64(value))).collect()
    }
    match tensor.dtype {
        _ if tensor.element_type() == Some(T::DTYPE) => elements(tensor.data),
        Dtype::F16 => from(tensor.data, f16::to_f64),
        Dtype::BF16 => from(tensor.data, bf16::to_f64),
        Dtype::F32 => from(tensor.data, |value: f32| f64::from(value)),
        Dtype::F64 => from(tensor.data, |value: f64| value),
        _ => Cow::Borrowed(&[]),
    }
}

/// The bytes of a float tensor converted to another type.
pub fn converted_bytes<'a>(tensor: &Tensor<'a>, to: Dtype) -> Cow<'a, [u8]> {
    let of = |dtype: DType| with_type!(dtype, T => Cow::Owned(bytemuck::cast_slice(&converted::<T>(tensor)).to_vec()));
    match to {
        same if same == tensor.dtype => Cow::Borrowed(tensor.data),
        Dtype::F16 => of(DType::F16),
        Dtype::BF16 => of(DType::BF16),
        Dtype::F32 => of(DType::F32),
        _ => {
            let wide = with_type!(tensor.element_type().unwrap_or(DType::F32), T => {
                let values = converted::<T>(tensor);
                values.iter().map(|value| value.to_f64()).collect::<Vec<f64>>()
            });
            Cow::Owned(bytemuck::cast_slice(&wide).to_vec())
        }
    }
}

/// The number of elements that are NaN or infinite: 0 for types without such values.
pub fn non_finite(bytes: &[u8], dtype: Dtype) -> u64 {
    floats(bytes, dtype)
        .filter(|value| !value.is_finite())
        .count() as u64
}

/// The elements if the type is a float type, else none.
fn floats(bytes: &[u8], dtype: Dtype) -> Box<dyn Iterator<Item = f64> + '_> {
    fn of<S: bytemuck::Pod>(
        bytes: &[u8],
        to_f64: fn(S) -> f64,
    ) -> Box<dyn Iterator<Item = f64> + '_> {
        let values = bytes
            .chunks_exact(size_of::<S>())
            .map(bytemuck::pod_read_unaligned);
        Box::new(values.map(to_f64))
    }
    match dtype {
        Dtype::F16 => of(bytes, f16::to_f64),
        Dtype::BF16 => of(bytes, bf16::to_f64),
        Dtype::F32 => of(bytes, |value: f32| f64::from(value)),
        Dtype::F64 => of(bytes, |value: f64| value),
        _ => Box::new(std::iter::empty()),
    }
}

/// Whether two tensors of the same shape hold the same numbers, or one holds the other's rounded to
/// its type.
pub fn same_within_types(a: &Tensor<'_>, b: &Tensor<'_>) -> bool {
    fn rounded(value: f64, to: Dtype) -> f64 {
        match to {
            Dtype::F16 => f16::from_f64(value).to_f64(),
            Dtype::BF16 => bf16::from_f64(value).to_f64(),
            Dtype::F32 => f64::from(value as f32),
            _ => value,
        }
    }
    if a.dtype == b.dtype {
        return a.data == b.data;
    }
    let same = |(x, y): (f64, f64)| {
        rounded(x, b.dtype) == y || rounded(y, a.dtype) == x || (x.is_nan() && y.is_nan())
    };
    is_float(a.dtype)
        && is_float(b.dtype)
        && floats(a.data, a.dtype)
            .zip(floats(b.data, b.dtype))
            .all(same)
}
