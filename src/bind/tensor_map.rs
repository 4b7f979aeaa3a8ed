//! Tensor maps: what a Hopper kernel's bulk copies know of a matrix.

use bytemuck::{Pod, Zeroable};

use super::DevicePointer;
use crate::{DType, Error, Result};

/// A `CUtensorMap`, encoded by the driver: a field of a kernel's parameters, which are
/// `__grid_constant__`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
#[repr(C, align(64))]
pub struct TensorMap([u64; 16]);

/// How the rows of a box lie in shared memory, so that reading a column of them has no bank
/// conflicts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Swizzle {
    /// One after the other.
    #[default]
    None,
    /// 16-byte chunks permuted within 32 bytes.
    Bytes32,
    /// 16-byte chunks permuted within 64 bytes.
    Bytes64,
    /// 16-byte chunks permuted within 128 bytes.
    Bytes128,
}

impl Swizzle {
    /// Bytes that a row of a box may have.
    const fn row_bytes(self) -> Option<u64> {
        match self {
            Swizzle::None => None,
            Swizzle::Bytes32 => Some(32),
            Swizzle::Bytes64 => Some(64),
            Swizzle::Bytes128 => Some(128),
        }
    }
}

/// A row-major matrix that is copied box by box; what a box covers outside of the matrix is read as
/// zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BoxedMatrix {
    /// Of the first element; a multiple of 16
    pub address: DevicePointer,
    /// Type of the elements
    pub dtype: DType,
    /// Rows, from 1 to 2³²
    pub rows: u64,
    /// Columns, from 1 to 2³²
    pub columns: u64,
    /// Elements from one row to the next; in bytes a multiple of 16 and below 2⁴⁰
    pub row_stride: u64,
    /// Rows of a box, from 1 to 256
    pub box_rows: u32,
    /// Columns of a box, from 1 to 256; in bytes a multiple of 16
    pub box_columns: u32,
    /// How a box lies in shared memory; it limits the bytes of a box's row
    pub swizzle: Swizzle,
}

impl BoxedMatrix {
    /// What the driver asks of a tiled tensor map (CUDA driver API, `cuTensorMapEncodeTiled`).
    pub(crate) fn check(&self) -> Result<()> {
        let size = self.dtype.size() as u64;
        let stride_bytes = self.row_stride.saturating_mul(size);
        let box_bytes = u64::from(self.box_columns) * size;
        let refuse = |what, given, allowed| {
            Err(Error::TensorMap {
                what,
                given,
                allowed,
            })
        };
        if self.address == 0 || !self.address.is_multiple_of(16) {
            return refuse("address", self.address, "a multiple of 16, not null");
        }
        for (what, extent) in [("rows", self.rows), ("columns", self.columns)] {
            if extent == 0 || extent > 1 << 32 {
                return refuse(what, extent, "from 1 to 2^32");
            }
        }
        if !stride_bytes.is_multiple_of(16) || stride_bytes >= 1 << 40 {
            return refuse(
                "row stride in bytes",
                stride_bytes,
                "a multiple of 16 below 2^40",
            );
        }
        if self.row_stride < self.columns && self.rows > 1 {
            return refuse("row stride", self.row_stride, "at least the columns");
        }
        for (what, extent) in [
            ("box rows", self.box_rows),
            ("box columns", self.box_columns),
        ] {
            if extent == 0 || extent > 256 {
                return refuse(what, extent.into(), "from 1 to 256");
            }
        }
        if !box_bytes.is_multiple_of(16) {
            return refuse("bytes of a box's row", box_bytes, "a multiple of 16");
        }
        if self
            .swizzle
            .row_bytes()
            .is_some_and(|most| box_bytes > most)
        {
            return refuse(
                "bytes of a box's row",
                box_bytes,
                "at most those of the swizzle",
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MATRIX: BoxedMatrix = BoxedMatrix {
        address: 1 << 20,
        dtype: DType::BF16,
        rows: 4096,
        columns: 896,
        row_stride: 896,
        box_rows: 128,
        box_columns: 64,
        swizzle: Swizzle::Bytes128,
    };

    #[test]
    fn a_map_has_the_size_and_alignment_of_the_drivers() {
        assert_eq!((size_of::<TensorMap>(), align_of::<TensorMap>()), (128, 64));
    }

    #[test]
    fn what_the_driver_would_refuse_is_named() {
        MATRIX.check().expect("a map");
        type Change = fn(&mut BoxedMatrix);
        let cases: [(Change, &str); 9] = [
            (|map| map.address += 8, "address"),
            (|map| map.address = 0, "address"),
            (|map| map.rows = 0, "rows"),
            (|map| map.columns = (1 << 32) + 1, "columns"),
            (|map| map.row_stride = 897, "row stride in bytes"),
            (|map| map.row_stride = 888, "row stride"),
            (|map| map.box_rows = 257, "box rows"),
            (|map| map.box_columns = 60, "bytes of a box's row"),
            (|map| map.swizzle = Swizzle::Bytes64, "swizzle"),
        ];
        for (change, named) in cases {
            let mut map = MATRIX;
            change(&mut map);
            let text = map.check().expect_err("refused").to_string();
            assert!(text.contains(named), "{text}");
        }
    }
}
