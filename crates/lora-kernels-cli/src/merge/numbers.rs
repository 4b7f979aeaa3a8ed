//! Converts unaligned bytes of files to numbers and back.

use std::ops::Range;

use half::{bf16, f16};
use lora_kernels::{DType, Element};
use lora_kernels_adapters::{Dtype, Tensor};

use super::product::{LANES, Lanes, each, rounded_to_odd};
use crate::failure::Failure;

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
    /// Many of them at once.
    fn all_wide(values: [Self; LANES]) -> [f64; LANES];
    /// Many of them at once.
    fn all_rounded(values: [f64; LANES]) -> [Self; LANES];
}

macro_rules! floats {
    ($($T:ty: $wide:expr, $rounded:expr, $all_wide:expr, $all_rounded:expr;)*) => {
        $(impl Float for $T {
            fn wide(self) -> f64 {
                $wide(self)
            }

            fn rounded(value: f64) -> Self {
                $rounded(value)
            }

            #[inline(always)]
            fn all_wide(values: [Self; LANES]) -> [f64; LANES] {
                $all_wide(values)
            }

            #[inline(always)]
            fn all_rounded(values: [f64; LANES]) -> [Self; LANES] {
                $all_rounded(values)
            }
        })*
    };
}
floats! {
    // half's own from_f64 rounds twice, or drops bits before it rounds.
    f16: f16::to_f64, <f16 as Element>::from_f64,
        |values| doubled(f16::widened(values)), |values| f16::narrowed(rounded_to_odd(values));
    bf16: bf16::to_f64, <bf16 as Element>::from_f64,
        |values| doubled(bf16::widened(values)), |values| bf16::narrowed(rounded_to_odd(values));
    f32: f64::from, |value| value as f32,
        doubled, |values| each(values, |value| value as f32);
    f64: |value| value, |value| value,
        |values| values, |values| values;
}

#[inline(always)]
fn doubled(values: [f32; LANES]) -> [f64; LANES] {
    each(values, f64::from)
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
#[cfg(test)]
pub(crate) use with_float;

/// The numbers of bytes that hold elements of `S`.
pub fn read<S: Float>(bytes: &[u8]) -> impl Iterator<Item = f64> + '_ {
    let values = bytes.chunks_exact(size_of::<S>());
    values.map(|bytes| bytemuck::pod_read_unaligned::<S>(bytes).wide())
}

/// Elements of a float tensor at these places, converted to another type. What lies between the
/// first and the last of them is read.
pub fn gathered<T: Element>(
    tensor: &Tensor<'_>,
    places: impl Iterator<Item = usize> + Clone,
) -> Result<Vec<T>, Failure> {
    let Some((first, last)) = places.clone().fold(None, |ends, at| match ends {
        None => Some((at, at)),
        Some((first, last)) => Some((at.min(first), at.max(last))),
    }) else {
        return Ok(Vec::new());
    };
    let bytes = part(tensor, first..last + 1)?.read()?;
    Ok(with_float!(tensor.dtype, S => {
        let values = places.map(|at| {
            let begin = (at - first) * size_of::<S>();
            bytemuck::pod_read_unaligned::<S>(&bytes[begin..begin + size_of::<S>()])
        });
        values.map(|value| T::from_f64(value.wide())).collect()
    }, else Vec::new()))
}

/// A range of a tensor's elements, in row-major order. The result keeps the whole tensor's shape,
/// which no longer fits and must not be used.
pub fn part<'a>(tensor: &Tensor<'a>, elements: Range<usize>) -> Result<Tensor<'a>, Failure> {
    tensor.part(elements.clone()).ok_or_else(|| {
        Failure::Wrong(format!(
            "elements {elements:?} of {} were to be read, and its shape is {:?}",
            tensor.name, tensor.shape
        ))
    })
}

/// The elements of a float tensor converted to another type: exactly if that is wider, else rounded
/// once. Of other tensors none.
pub fn converted<T: Element>(tensor: &Tensor<'_>) -> Result<Vec<T>, Failure> {
    if !is_float(tensor.dtype) {
        return Ok(Vec::new());
    }
    let mut values = vec![T::zeroed(); tensor.bytes() / element_bytes(tensor.dtype)];
    converted_into(tensor, &mut values)?;
    Ok(values)
}

/// As [`converted`]. There are as many `values` as elements.
pub fn converted_into<T: Element>(tensor: &Tensor<'_>, values: &mut [T]) -> Result<(), Failure> {
    if tensor.element_type() == Some(T::DTYPE) {
        tensor.read_into(0, bytemuck::cast_slice_mut(values))?;
        return Ok(());
    }
    let elements = CHUNK / size_of::<f64>();
    let mut chunks = tensor.chunks(elements * element_bytes(tensor.dtype));
    for values in values.chunks_mut(elements) {
        let Some(chunk) = chunks.next_chunk()? else {
            break;
        };
        match (tensor.dtype, T::DTYPE) {
            (_, DType::F32) => narrow(chunk, tensor.dtype, bytemuck::cast_slice_mut(values)),
            (from, _) => with_float!(from, S => {
                let numbers = values.iter_mut().zip(read::<S>(chunk));
                numbers.for_each(|(into, number)| *into = T::from_f64(number));
            }, else ()),
        }
    }
    Ok(())
}

/// The numbers of bytes that hold elements of a float type. There are as many `values`.
#[inline(always)]
pub fn widen(bytes: &[u8], dtype: Dtype, values: &mut [f64]) {
    with_float!(dtype, S => lines::<S, f64>(bytes, values, S::all_wide), else ());
}

/// The numbers of bytes that hold elements of a float type.
pub fn collected(bytes: &[u8], dtype: Dtype) -> Vec<f64> {
    let mut values = vec![0.0; bytes.len() / element_bytes(dtype).max(1)];
    widen(bytes, dtype, &mut values);
    values
}

/// The numbers in f32, rounded once. There are as many `values`.
pub fn narrow(bytes: &[u8], dtype: Dtype, values: &mut [f32]) {
    match dtype {
        Dtype::F16 => lines(bytes, values, f16::widened),
        Dtype::BF16 => lines(bytes, values, bf16::widened),
        Dtype::F32 => lines(bytes, values, |line: [f32; LANES]| line),
        Dtype::F64 => lines(bytes, values, f32::all_rounded),
        _ => {}
    }
}

/// Writes the numbers in a float type. There are as many elements.
#[inline(always)]
pub fn store(values: &[f64], dtype: Dtype, into: &mut [u8]) {
    with_float!(dtype, S => {
        let (lines, rest) = values.as_chunks::<LANES>();
        let mut bytes = into.chunks_exact_mut(LANES * size_of::<S>());
        for (line, into) in lines.iter().zip(&mut bytes) {
            into.copy_from_slice(bytemuck::bytes_of(&S::all_rounded(*line)));
        }
        let into = bytes.into_remainder();
        for (value, into) in rest.iter().zip(into.chunks_exact_mut(size_of::<S>())) {
            into.copy_from_slice(bytemuck::bytes_of(&S::rounded(*value)));
        }
    }, else ())
}

/// Writes the bytes of a tensor of float type `from` in another float type.
pub fn convert(bytes: &[u8], from: Dtype, to: Dtype, into: &mut [u8]) {
    if from == to {
        into.copy_from_slice(bytes);
        return;
    }
    let (size, new_size) = (element_bytes(from).max(1), element_bytes(to).max(1));
    let mut values = [0.0; 16 * LANES];
    let parts = bytes.chunks(values.len() * size);
    for (bytes, into) in parts.zip(into.chunks_mut(values.len() * new_size)) {
        let values = &mut values[..bytes.len() / size];
        widen(bytes, from, values);
        store(values, to, into);
    }
}

/// Converts elements of `S`, many at once.
#[inline(always)]
fn lines<S: bytemuck::Pod, T: Copy>(
    bytes: &[u8],
    values: &mut [T],
    converted: impl Fn([S; LANES]) -> [T; LANES],
) {
    let (lines, rest) = values.as_chunks_mut::<LANES>();
    let mut bytes = bytes.chunks_exact(LANES * size_of::<S>());
    for (bytes, line) in (&mut bytes).zip(lines) {
        *line = converted(bytemuck::pod_read_unaligned(bytes));
    }
    let bytes = bytes.remainder();
    let mut elements = [S::zeroed(); LANES];
    bytemuck::cast_slice_mut(&mut elements)[..bytes.len()].copy_from_slice(bytes);
    rest.copy_from_slice(&converted(elements)[..rest.len()]);
}

/// The number of elements that are NaN or infinite: 0 for types without such values.
pub fn non_finite(bytes: &[u8], dtype: Dtype) -> u64 {
    /// Those whose exponent has all bits.
    fn count<T: bytemuck::Pod>(bytes: &[u8], is_non_finite: impl Fn(T) -> bool) -> u64 {
        let elements = bytes.chunks_exact(size_of::<T>());
        let elements = elements.map(bytemuck::pod_read_unaligned::<T>);
        elements.map(|bits| u64::from(is_non_finite(bits))).sum()
    }
    match dtype {
        Dtype::F16 => count(bytes, |bits: u16| bits & 0x7c00 == 0x7c00),
        Dtype::BF16 => count(bytes, |bits: u16| bits & 0x7f80 == 0x7f80),
        Dtype::F32 => count(bytes, |value: f32| !value.is_finite()),
        Dtype::F64 => count(bytes, |value: f64| !value.is_finite()),
        _ => 0,
    }
}

/// Bytes of a tensor that are in memory at a time while it is looked through: whole elements of
/// every type. Tests have several chunks in small tensors.
pub const CHUNK: usize = if cfg!(test) { 1 << 6 } else { 1 << 20 };

/// Whether this holds for all chunks of a tensor's bytes. Each has whole elements.
pub fn all_chunks(tensor: &Tensor<'_>, holds: impl Fn(&[u8]) -> bool) -> Result<bool, Failure> {
    let mut chunks = tensor.chunks(CHUNK);
    while let Some(chunk) = chunks.next_chunk()? {
        if !holds(chunk) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Whether two tensors of the same shape hold the same numbers, or one holds the other's rounded to
/// its type.
pub fn same_within_types(a: &Tensor<'_>, b: &Tensor<'_>) -> Result<bool, Failure> {
    if a.dtype == b.dtype {
        return Ok(a.has_bytes_of(b)?);
    }
    if !is_float(a.dtype) || !is_float(b.dtype) {
        return Ok(false);
    }
    let bytes = |tensor: &Tensor<'_>| WIDE * element_bytes(tensor.dtype);
    let (mut of_a, mut of_b) = (a.chunks(bytes(a)), b.chunks(bytes(b)));
    while let (Some(x), Some(y)) = (of_a.next_chunk()?, of_b.next_chunk()?) {
        if !same_numbers((x, a.dtype), (y, b.dtype)) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How many rows of so many elements differ in two tensors that have as many elements.
pub fn differing_rows(a: &Tensor<'_>, b: &Tensor<'_>, columns: usize) -> Result<usize, Failure> {
    let of = |tensor: &Tensor<'_>| element_bytes(tensor.dtype) * columns;
    let (of_a, of_b) = (of(a), of(b));
    if of_a == 0 || of_b == 0 {
        return Ok(0);
    }
    let mut differing = 0;
    if columns > WIDE {
        for row in 0..a.bytes() / of_a {
            let row = row * columns..(row + 1) * columns;
            let same = same_within_types(&part(a, row.clone())?, &part(b, row)?)?;
            differing += usize::from(!same);
        }
        return Ok(differing);
    }
    let rows = WIDE / columns;
    let (mut of_both, mut others) = (a.chunks(rows * of_a), b.chunks(rows * of_b));
    while let (Some(x), Some(y)) = (of_both.next_chunk()?, others.next_chunk()?) {
        let pairs = x.chunks(of_a).zip(y.chunks(of_b));
        let differ = |(x, y): &(&[u8], &[u8])| !same_numbers((x, a.dtype), (y, b.dtype));
        differing += pairs.filter(differ).count();
    }
    Ok(differing)
}

/// Elements of both tensors that are compared at a time.
const WIDE: usize = CHUNK / size_of::<f64>();

/// Whether elements are the same bytes, or floats of which one is the other rounded to its type.
fn same_numbers((a, of_a): (&[u8], Dtype), (b, of_b): (&[u8], Dtype)) -> bool {
    fn rounded(value: f64, to: Dtype) -> f64 {
        with_float!(to, S => S::rounded(value).wide(), else value)
    }
    if of_a == of_b {
        return a == b;
    }
    if !is_float(of_a) || !is_float(of_b) {
        return false;
    }
    let (a, b) = (collected(a, of_a), collected(b, of_b));
    let same = |(&x, &y): (&f64, &f64)| {
        rounded(x, of_b) == y || rounded(y, of_a) == x || (x.is_nan() && y.is_nan())
    };
    a.iter().zip(&b).all(same)
}
