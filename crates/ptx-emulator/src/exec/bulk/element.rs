//! The elements of a tensor: their size, what fills places outside of it, what a load makes of
//! their values, and how they are reduced.

use crate::decode::bulk::exists;
use crate::decode::op::{AtomicKind, AtomicOp, Reduce};
use crate::tensor_map::TensorMap;

/// What a load does to values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Convert {
    Nothing,
    /// f32 below the normal range becomes zero.
    Flush,
    /// f32 is rounded to tf32.
    Round,
    RoundAndFlush,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Element {
    pub bytes: u32,
    convert: Convert,
    /// A byte pattern of an element outside of the tensor, the low `bytes` of it.
    outside: u64,
}

/// The NaN of each size that stands for a place outside of the tensor.
const NANS: [(u32, u64); 3] = [(2, 0x7fff), (4, 0x7fff_ffff), (8, 0x7fff_ffff_ffff_ffff)];

impl Element {
    pub const BYTE: Element = Element {
        bytes: 1,
        convert: Convert::Nothing,
        outside: 0,
    };

    /// Of a valid map.
    pub fn of(map: &TensorMap) -> Result<Element, String> {
        let bytes = match crate::tensor_map::element_bits(map.data_type) {
            Some(bits) if bits.is_multiple_of(8) => bits / 8,
            _ => {
                return Err(format!(
                    "data type {} of the tensor map needs a device of compute capability 10.0 or \
                     later; 0 to 12 are possible",
                    map.data_type
                ));
            }
        };
        let convert = match map.data_type {
            10 => Convert::Flush,
            11 => Convert::Round,
            12 => Convert::RoundAndFlush,
            _ => Convert::Nothing,
        };
        let nan = NANS
            .iter()
            .find(|(size, _)| *size == bytes && map.fill == 1);
        Ok(Element {
            bytes,
            convert,
            outside: nan.map_or(0, |(_, nan)| *nan),
        })
    }

    pub fn fill(self, row: &mut [u8]) {
        for place in row.chunks_mut(self.bytes as usize) {
            place.copy_from_slice(&self.outside.to_le_bytes()[..place.len()]);
        }
    }

    pub fn convert(self, row: &mut [u8]) {
        if self.convert == Convert::Nothing {
            return;
        }
        for place in row.chunks_exact_mut(4) {
            let mut bits = u32::from_le_bytes([place[0], place[1], place[2], place[3]]);
            if matches!(self.convert, Convert::Round | Convert::RoundAndFlush) {
                bits = to_tf32(bits);
            }
            if matches!(self.convert, Convert::Flush | Convert::RoundAndFlush) {
                bits = flushed(bits);
            }
            place.copy_from_slice(&bits.to_le_bytes());
        }
    }
}

/// Rounds to the nearest tf32, ties to even.
fn to_tf32(bits: u32) -> u32 {
    let is_finite = bits >> 23 & 0xff != 0xff;
    if !is_finite {
        return bits & !0x1fff | u32::from(bits & 0x007f_ffff != 0) << 22;
    }
    let odd = bits >> 13 & 1;
    (bits + 0xfff + odd) & !0x1fff
}

/// Below the normal range: zero of the same sign.
pub(super) fn flushed(bits: u32) -> u32 {
    if bits >> 23 & 0xff == 0 {
        bits & 0x8000_0000
    } else {
        bits
    }
}

/// What an operation does to the elements of a map's type.
pub(super) fn reduction(map: &TensorMap, op: AtomicOp) -> Result<Reduce, String> {
    use AtomicKind::{Bf16, F16, F32, F64, S32, S64, U32, U64};
    let is_bitwise = matches!(op, AtomicOp::And | AtomicOp::Or | AtomicOp::Xor);
    let kind = match map.data_type {
        2 => Some(U32),
        3 if is_bitwise => Some(U32),
        3 => Some(S32),
        4 => Some(U64),
        5 if is_bitwise => Some(U64),
        5 => Some(S64),
        6 => Some(F16),
        7 | 10 => Some(F32),
        8 => Some(F64),
        9 => Some(Bf16),
        _ => None,
    };
    match kind.filter(|&kind| exists(op, kind)) {
        Some(kind) => Ok(Reduce { op, kind }),
        None => Err(format!(
            "a reduction of this kind of elements of data type {} does not exist",
            map.data_type
        )),
    }
}
