//! Converts unaligned bytes of files to numbers and back.

use std::borrow::Cow;
use std::ops::Range;

use half::{bf16, f16};
use lora_kernels::Element;
use lora_kernels_adapters::{Dtype, Tensor, release};

/// Bytes of an element; 0 for types smaller than a byte.
pub fn element_bytes(dtype: Dtype) -> usize {
    dtype.bitsize() / 8
}

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

/// A float type that tensors are stored in.
pub trait Float: bytemuck::Pod {
    /// Exact.
    fn wide(self) -> f64;
    /// Rounded once.
    fn rounded(value: f64) -> Self;
}

macro_rules! floats {
    ($($T:ty: $wide:expr, $rounded:expr;)*) => {
        $(impl Float for $T {
            fn wide(self) -> f64 {
                $wide(self)
            }

            fn rounded(value: f64) -> Self {
                $rounded(value)
            }
        })*
    };
}
floats! {
    // half's own from_f64 rounds twice, or drops bits before it rounds.
    f16: f16::to_f64, <f16 as Element>::from_f64;
    bf16: bf16::to_f64, <bf16 as Element>::from_f64;
    f32: f64::from, |value| value as f32;
    f64: |value| value, |value| value;
}

/// Runs `$body` with `$S` as the Rust type of a float type of files; else is `$other`.
macro_rules! with_float {
    ($dtype:expr, $S:ident => $body:expr, else $other:expr) => {
        match $dtype {
            lora_kernels_adapters::Dtype::F16 => {
                type $S = half::f16;
                $body
            }
            lora_kernels_adapters::Dtype::BF16 => {
                type $S = half::bf16;
                $body
            }
            lora_kernels_adapters::Dtype::F32 => {
                type $S = f32;
                $body
            }
            lora_kernels_adapters::Dtype::F64 => {
                type $S = f64;
                $body
            }
            _ => $other,
        }
    };
}
pub(crate) use with_float;

/// The numbers of bytes that hold elements of `S`.
pub fn read<S: Float>(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    let values = bytes.chunks_exact(size_of::<S>());
    values.map(|bytes| bytemuck::pod_read_unaligned::<S>(bytes).wide())
}

/// Elements of a float tensor at these places, converted to another type.
pub fn gathered<T: Element>(tensor: &Tensor<'_>, places: impl Iterator<Item = usize>) -> Vec<T> {
    with_float!(tensor.dtype, S => {
        let size = size_of::<S>();
        let bytes = places.filter_map(|at| tensor.data.get(at * size..(at + 1) * size));
        bytes.map(|bytes| T::from_f64(bytemuck::pod_read_unaligned::<S>(bytes).wide())).collect()
    }, else Vec::new())
}

/// A range of a tensor's elements, in row-major order. The result keeps the whole tensor's shape,
/// which no longer fits and must not be used.
pub fn part<'a>(tensor: &Tensor<'a>, elements: Range<usize>) -> Tensor<'a> {
    let size = element_bytes(tensor.dtype);
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
    if tensor.element_type() == Some(T::DTYPE) {
        return elements(tensor.data);
    }
    with_float!(tensor.dtype, S => {
        read::<S>(tensor.data).map(T::from_f64).collect()
    }, else Cow::Borrowed(&[]))
}

/// Writes the numbers in a float type. The shorter of both sides ends it.
pub fn store(values: impl Iterator<Item = f64>, dtype: Dtype, into: &mut [u8]) {
    with_float!(dtype, S => {
        for (into, value) in into.chunks_exact_mut(size_of::<S>()).zip(values) {
            into.copy_from_slice(bytemuck::bytes_of(&S::rounded(value)));
        }
    }, else ())
}

/// Writes the bytes of a tensor of float type `from` in another float type.
pub fn convert(bytes: &[u8], from: Dtype, to: Dtype, into: &mut [u8]) {
    if from == to {
        into.copy_from_slice(bytes);
        return;
    }
    with_float!(from, S => store(read::<S>(bytes), to, into), else ());
}

/// The number of elements that are NaN or infinite: 0 for types without such values.
pub fn non_finite(bytes: &[u8], dtype: Dtype) -> u64 {
    with_float!(dtype, S => {
        read::<S>(bytes).filter(|value| !value.is_finite()).count() as u64
    }, else 0)
}

/// The elements if the type is a float type, else none.
fn floats(bytes: &[u8], dtype: Dtype) -> Box<dyn Iterator<Item = f64> + '_> {
    with_float!(dtype, S => Box::new(read::<S>(bytes)), else Box::new(std::iter::empty()))
}

/// Elements or bytes of a tensor that are looked at before their pages are released.
const LOOKED_AT: usize = 4 << 20;

/// Whether this holds for all parts of some bytes. Those of a file don't stay in memory.
pub fn all_parts(bytes: &[u8], holds: impl Fn(&[u8]) -> bool) -> bool {
    bytes.chunks(LOOKED_AT).all(|part| {
        let holds = holds(part);
        release(part);
        holds
    })
}

/// Whether these are the same bytes. Those of files don't stay in memory.
pub fn same_bytes(a: &[u8], b: &[u8]) -> bool {
    let parts = a.chunks(LOOKED_AT).zip(b.chunks(LOOKED_AT));
    a.len() == b.len() && both_released(parts, |a, b| a == b)
}

/// Whether this holds for all pairs of parts. Those of files don't stay in memory.
fn both_released<'a>(
    mut parts: impl Iterator<Item = (&'a [u8], &'a [u8])>,
    holds: impl Fn(&[u8], &[u8]) -> bool,
) -> bool {
    parts.all(|(a, b)| {
        let holds = holds(a, b);
        release(a);
        release(b);
        holds
    })
}

/// Whether two tensors of the same shape hold the same numbers, or one holds the other's rounded to
/// its type.
pub fn same_within_types<'a>(a: &Tensor<'a>, b: &Tensor<'a>) -> bool {
    fn rounded(value: f64, to: Dtype) -> f64 {
        match to {
            Dtype::F16 => f16::rounded(value).wide(),
            Dtype::BF16 => bf16::rounded(value).wide(),
            Dtype::F32 => f32::rounded(value).wide(),
            _ => value,
        }
    }
    if a.dtype == b.dtype {
        return same_bytes(a.data, b.data);
    }
    if !is_float(a.dtype) || !is_float(b.dtype) {
        return false;
    }
    let same = |(x, y): (f64, f64)| {
        rounded(x, b.dtype) == y || rounded(y, a.dtype) == x || (x.is_nan() && y.is_nan())
    };
    let parts = |tensor: &Tensor<'a>| tensor.data.chunks(LOOKED_AT * element_bytes(tensor.dtype));
    both_released(parts(a).zip(parts(b)), |x, y| {
        floats(x, a.dtype).zip(floats(y, b.dtype)).all(same)
    })
}
