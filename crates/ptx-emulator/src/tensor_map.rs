//! Tensor maps: the 128 bytes that describe a tiled region of device memory to the tensor memory
//! accelerator (TMA).
//!
//! A real driver's bytes are opaque, and so are these: [`TensorMap::encode`] has a layout of its
//! own, which only [`TensorMap::decode`] reads. The rules are those that the CUDA driver API
//! documents for `cuTensorMapEncodeTiled`.

use crate::decode::op::MapField;

/// Words of an encoded map.
pub const WORDS: usize = 16;
/// Alignment of an encoded map.
pub const ALIGNMENT: usize = 64;

const MAX_RANK: usize = 5;
/// The first word of an encoded map starts with these bytes.
const MAGIC: u64 = u32::from_le_bytes(*b"PTXE") as u64;

/// A tiled region, as given to `cuTensorMapEncodeTiled`. Dimension 0 is the innermost one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TensorMap {
    /// `CUtensorMapDataType`.
    pub data_type: u32,
    /// Device address of the first element.
    pub address: u64,
    /// Elements of each of 1 to 5 dimensions.
    pub dims: Vec<u64>,
    /// Bytes from an index to the next, of every dimension but dimension 0.
    pub strides: Vec<u64>,
    /// Elements of the box that one copy moves, of each dimension.
    pub box_dims: Vec<u32>,
    /// Steps of the traversal, of each dimension.
    pub element_strides: Vec<u32>,
    /// `CUtensorMapInterleave`.
    pub interleave: u32,
    /// `CUtensorMapSwizzle`.
    pub swizzle: u32,
    /// `CUtensorMapL2promotion`.
    pub l2_promotion: u32,
    /// `CUtensorMapFloatOOBfill`.
    pub fill: u32,
}

/// What is wrong with a region: the argument, what was given, what is allowed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{argument} is {given}: {rule}")]
pub struct TensorMapError {
    /// The argument of `cuTensorMapEncodeTiled`.
    pub argument: String,
    /// Its value.
    pub given: String,
    /// What the driver API asks of it.
    pub rule: String,
}

/// The error is put together only where there is one: programs encode several maps per call.
fn need<A: ToString, G: ToString, R: ToString>(
    fine: bool,
    error: impl FnOnce() -> (A, G, R),
) -> Result<(), TensorMapError> {
    if fine {
        return Ok(());
    }
    let (argument, given, rule) = error();
    Err(TensorMapError {
        argument: argument.to_string(),
        given: given.to_string(),
        rule: rule.to_string(),
    })
}

/// Packed types: 16 values of 4 or 6 bits each.
const U4_ALIGN8: u32 = 13;
const U4_ALIGN16: u32 = 14;
const U6_ALIGN16: u32 = 15;

/// Bits of an element.
pub(crate) fn element_bits(data_type: u32) -> Option<u32> {
    Some(match data_type {
        0 => 8,                         // UINT8
        1 | 6 | 9 => 16,                // UINT16, FLOAT16, BFLOAT16
        2 | 3 | 7 | 10 | 11 | 12 => 32, // UINT32, INT32, FLOAT32, FLOAT32_FTZ, TFLOAT32 and _FTZ
        4 | 5 | 8 => 64,                // UINT64, INT64, FLOAT64
        U4_ALIGN8 | U4_ALIGN16 => 4,
        U6_ALIGN16 => 6,
        _ => return None,
    })
}

const INTERLEAVE_NONE: u32 = 0;
const INTERLEAVE_32B: u32 = 2;
const SWIZZLE_NONE: u32 = 0;
const SWIZZLE_32B: u32 = 1;

/// The bytes within which a mode swizzles.
fn swizzle_span(swizzle: u32) -> Option<u32> {
    Some(match swizzle {
        SWIZZLE_32B => 32,
        2 => 64,
        3..=6 => 128, // 128B, 128B_ATOM_32B, 128B_ATOM_32B_FLIP_8B, 128B_ATOM_64B
        _ => return None,
    })
}

impl TensorMap {
    fn in_wide_groups(&self) -> bool {
        matches!(self.data_type, U4_ALIGN16 | U6_ALIGN16)
    }

    /// What the address and the strides must be multiples of.
    fn granule(&self) -> u64 {
        let wide = self.interleave == INTERLEAVE_32B || self.in_wide_groups();
        if wide { 32 } else { 16 }
    }

    /// Checks the region against the rules of the driver API.
    ///
    /// # Errors
    /// [`TensorMapError`] names the first argument that breaks one.
    pub fn validate(&self) -> Result<(), TensorMapError> {
        self.validate_modes()?;
        self.validate_tensor()?;
        self.validate_box()
    }

    fn validate_modes(&self) -> Result<(), TensorMapError> {
        let rank = self.dims.len();
        need(element_bits(self.data_type).is_some(), || {
            ("tensorDataType", self.data_type, "the types are 0 to 15")
        })?;
        need((1..=MAX_RANK).contains(&rank), || {
            ("tensorRank", rank, "1 to 5 are possible")
        })?;
        need(self.interleave <= INTERLEAVE_32B, || {
            ("interleave", self.interleave, "0 to 2")
        })?;
        need(self.interleave == INTERLEAVE_NONE || rank >= 3, || {
            ("tensorRank", rank, "an interleaved layout has at least 3")
        })?;
        let swizzle = self.swizzle;
        let known = swizzle == SWIZZLE_NONE || swizzle_span(swizzle).is_some();
        need(known, || ("swizzle", swizzle, "0 to 6"))?;
        need(
            self.interleave != INTERLEAVE_32B || swizzle == SWIZZLE_32B,
            || {
                (
                    "swizzle",
                    swizzle,
                    "with interleave 2 (32 bytes) it must be 1 (32 bytes)",
                )
            },
        )?;
        // NONE, 128B, 128B_ATOM_32B; of 6-bit values 128B_ATOM_64B, too.
        let packed = match self.data_type {
            U4_ALIGN16 => matches!(swizzle, 0 | 3 | 4),
            U6_ALIGN16 => matches!(swizzle, 0 | 3 | 4 | 6) && self.interleave == INTERLEAVE_NONE,
            _ => true,
        };
        need(packed, || {
            ("swizzle", swizzle, "this packed type does not take it")
        })?;
        need(self.l2_promotion <= 3, || {
            ("l2Promotion", self.l2_promotion, "0 to 3")
        })?;
        need(self.fill <= 1, || ("oobFill", self.fill, "0 or 1"))?;
        let float = matches!(self.data_type, 6..=12);
        need(self.fill == 0 || float, || {
            ("oobFill", self.fill, "NaN needs a floating-point type")
        })
    }

    fn validate_tensor(&self) -> Result<(), TensorMapError> {
        let granule = self.granule();
        need(self.address.is_multiple_of(granule), || {
            (
                "globalAddress",
                format!("{:#x}", self.address),
                format!("it must be a multiple of {granule}"),
            )
        })?;
        for (index, &size) in self.dims.iter().enumerate() {
            let fine = (1..=1 << 32).contains(&size);
            need(fine, || {
                (
                    format!("globalDim[{index}]"),
                    size,
                    "1 to 2^32 are possible",
                )
            })?;
        }
        let inner = self.dims.first().copied().unwrap_or_default();
        let multiple = match self.data_type {
            U4_ALIGN16 | U6_ALIGN16 => 128,
            U4_ALIGN8 => 2,
            _ => 1,
        };
        need(inner.is_multiple_of(multiple), || {
            (
                "globalDim[0]",
                inner,
                format!("this packed type needs a multiple of {multiple}"),
            )
        })?;
        let count = self.dims.len() - 1;
        need(self.strides.len() == count, || {
            (
                "globalStrides",
                format!("{} numbers", self.strides.len()),
                format!("{count} are needed"),
            )
        })?;
        for (index, &stride) in self.strides.iter().enumerate() {
            need(stride.is_multiple_of(granule) && stride < 1 << 40, || {
                (
                    format!("globalStrides[{index}]"),
                    stride,
                    format!("it must be a multiple of {granule} below 2^40"),
                )
            })?;
        }
        Ok(())
    }

    fn validate_box(&self) -> Result<(), TensorMapError> {
        let rank = self.dims.len();
        for (name, numbers, most) in [
            ("boxDim", &self.box_dims, 256),
            ("elementStrides", &self.element_strides, 8),
        ] {
            need(numbers.len() == rank, || {
                (
                    name,
                    format!("{} numbers", numbers.len()),
                    format!("{rank} are needed"),
                )
            })?;
            // Dimension 0 of a layout that is not interleaved has no step.
            let ignored =
                usize::from(name == "elementStrides" && self.interleave == INTERLEAVE_NONE);
            for (index, &number) in numbers.iter().enumerate().skip(ignored) {
                let fine = (1..=most).contains(&number);
                need(fine, || {
                    (
                        format!("{name}[{index}]"),
                        number,
                        format!("1 to {most} are possible"),
                    )
                })?;
            }
        }
        let inner = self.box_dims.first().copied().unwrap_or_default();
        need(!self.in_wide_groups() || inner == 128, || {
            ("boxDim[0]", inner, "this packed type needs 128")
        })?;
        if self.interleave != INTERLEAVE_NONE {
            return Ok(());
        }
        let bits = element_bits(self.data_type).unwrap_or_default();
        let given = || format!("{inner} elements of {bits} bits");
        // A wide group's values are padded in shared memory, so its rule is the 128 above.
        need(
            self.in_wide_groups() || (inner * bits).is_multiple_of(16 * 8),
            || {
                (
                    "boxDim[0]",
                    given(),
                    "the box's inner dimension must be a multiple of 16 bytes",
                )
            },
        )?;
        match swizzle_span(self.swizzle) {
            Some(span) => need(inner * bits <= span * 8, || {
                (
                    "boxDim[0]",
                    given(),
                    format!(
                        "swizzle {} needs an inner dimension of at most {span} bytes",
                        self.swizzle
                    ),
                )
            }),
            None => Ok(()),
        }
    }

    /// The map as the bytes of 16 little-endian words. Word 0: magic number, type, rank, interleave
    /// and swizzle. Word 1: L2 promotion, fill, then the steps of each dimension. Word 2: address.
    /// Words 3 to 7: dimensions. Words 8 to 11: strides. Words 12 to 14: box. Word 15: 0.
    ///
    /// # Errors
    /// [`TensorMapError`], as [`Self::validate`].
    pub fn encode(&self) -> Result<[u64; WORDS], TensorMapError> {
        self.validate()?;
        let mut words = [0; WORDS];
        let modes = [
            self.data_type,
            self.dims.len() as u32,
            self.interleave,
            self.swizzle,
        ];
        words[0] = MAGIC | bytes(4, &modes);
        words[1] = bytes(0, &[self.l2_promotion, self.fill]) | bytes(2, &self.element_strides);
        words[2] = self.address;
        words[3..8]
            .iter_mut()
            .zip(&self.dims)
            .for_each(|(word, &size)| *word = size);
        words[8..12]
            .iter_mut()
            .zip(&self.strides)
            .for_each(|(word, &stride)| *word = stride);
        for (index, &size) in self.box_dims.iter().enumerate() {
            words[12 + index / 2] |= u64::from(size) << (32 * (index % 2));
        }
        Ok(words)
    }

    /// The region that [`Self::encode`] made this map of; `None` if it didn't.
    pub fn decode(words: &[u64; WORDS]) -> Option<TensorMap> {
        Self::read(words).ok()
    }

    /// The region that a map describes, which a kernel may have changed since it was encoded.
    ///
    /// # Errors
    /// [`TensorMapError`] if the bytes are no map, or names what a change has made wrong.
    pub(crate) fn read(words: &[u64; WORDS]) -> Result<TensorMap, TensorMapError> {
        let byte = |word: usize, at: usize| (words[word] >> (8 * at) & 0xff) as u32;
        let rank = byte(0, 5) as usize;
        need(words[0] & 0xffff_ffff == MAGIC, || {
            (
                "the tensor map's first word",
                format!("{:#x}", words[0]),
                "it is none that cuTensorMapEncodeTiled makes",
            )
        })?;
        need((1..=MAX_RANK).contains(&rank), || {
            ("tensorRank", rank, "1 to 5 are possible")
        })?;
        let map = TensorMap {
            data_type: byte(0, 4),
            address: words[2],
            dims: words[3..3 + rank].to_vec(),
            strides: words[8..8 + rank - 1].to_vec(),
            box_dims: (0..rank)
                .map(|index| (words[12 + index / 2] >> (32 * (index % 2))) as u32)
                .collect(),
            element_strides: (0..rank).map(|index| byte(1, 2 + index)).collect(),
            interleave: byte(0, 6),
            swizzle: byte(0, 7),
            l2_promotion: byte(1, 0),
            fill: byte(1, 1),
        };
        map.validate()?;
        Ok(map)
    }
}

/// Sets a field of an encoded map as `tensormap.replace` does. Whether the value is possible shows
/// when the map is used: others may have to change with it.
pub(crate) fn replace(words: &mut [u64; WORDS], field: MapField, value: u64) {
    // A kernel makes a map of its own out of zeros.
    if words[0] & 0xffff_ffff == 0 {
        words[0] |= MAGIC;
    }
    let mut byte = |word: usize, at: usize| {
        words[word] = words[word] & !(0xff << (8 * at)) | (value & 0xff) << (8 * at);
    };
    match field {
        // The value is one less than the rank.
        MapField::Rank => words[0] = words[0] & !(0xff << 40) | (value.min(0xfe) + 1) << 40,
        MapField::ElementType => {
            let data_type = ELEMENT_TYPES.get(value as usize).copied();
            let data_type = u64::from(data_type.unwrap_or(u32::from(u8::MAX)));
            words[0] = words[0] & !(0xff << 32) | data_type << 32;
        }
        MapField::Interleave => byte(0, 6),
        MapField::Swizzle => byte(0, 7),
        MapField::Fill => byte(1, 1),
        MapField::ElementStride(index) => byte(1, 2 + usize::from(index)),
        MapField::Address => words[2] = value,
        MapField::Dim(index) => words[3 + usize::from(index)] = value,
        MapField::Stride(index) => words[8 + usize::from(index)] = value,
        MapField::BoxDim(index) => {
            let shift = 32 * (index % 2);
            let word = &mut words[12 + usize::from(index / 2)];
            *word = *word & !(0xffff_ffff << shift) | (value & 0xffff_ffff) << shift;
        }
    }
}

/// The driver's data type for each element type of `tensormap.replace`: `.u8` to `.f16`, `.f32`,
/// `.f32.ftz`, `.f64`, `.bf16`, `.tf32`, `.tf32.ftz`.
const ELEMENT_TYPES: [u32; 13] = [0, 1, 2, 3, 4, 5, 6, 7, 10, 8, 9, 11, 12];

/// Small numbers as the bytes of a word, from byte `start` on.
fn bytes(start: usize, numbers: &[u32]) -> u64 {
    let mut word = 0;
    for (index, &number) in numbers.iter().enumerate() {
        word |= u64::from(number & 0xff) << (8 * (start + index));
    }
    word
}
