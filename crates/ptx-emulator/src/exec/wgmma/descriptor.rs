//! Matrices in shared memory as descriptors give them (PTX ISA section 9.7.15.5), in pieces of 16
//! bytes. T elements are in a piece.
//!
//! - K is the dimension of neighbours: of a row (of A; of B, a column) two pieces are read. Eight
//!   rows lie a span apart; the next eight follow after the stride. Without a swizzle the second
//!   piece follows after the leading offset, else right behind the first.
//! - M (or N) is the dimension of neighbours: the pieces at one k. Eight k lie a span apart. With a
//!   swizzle a span's pieces lie side by side, the next ones follow after the leading offset, and
//!   the next eight k after the stride. Without one, pieces are a stride apart and the next eight k
//!   follow after the leading offset.
//!
//! The span is 128, 64 or 32 bytes with the swizzle of that name, else 16. A swizzle exchanges bits
//! 4 to 6 of the address in shared memory by those above bit 7, as many as the span has pieces: so
//! a start address may lie within a pattern.

/// Bytes of a piece.
pub(crate) const PIECE: usize = 16;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    start: usize,
    leading: usize,
    stride: usize,
    /// Bytes from one row, or one k, to the next.
    span: usize,
}

impl Layout {
    /// # Errors
    /// What is not supported.
    pub fn new(descriptor: u64) -> Result<Layout, String> {
        let field = |at: u32| ((descriptor >> at & 0x3fff) << 4) as usize;
        let base_offset = descriptor >> 49 & 7;
        if base_offset != 0 {
            return Err(format!(
                "matrix descriptor {descriptor:#018x} has base offset {base_offset}; only 0 is \
                 supported: align the matrix to its swizzle's pattern"
            ));
        }
        Ok(Layout {
            start: field(0),
            leading: field(16),
            stride: field(32),
            span: [16, 128, 64, 32][(descriptor >> 62) as usize],
        })
    }

    /// Bytes of the swizzle's span; 16 without a swizzle.
    pub fn span(&self) -> usize {
        self.span
    }

    fn swizzled(&self, offset: usize) -> usize {
        let at = self.start + offset;
        at ^ (((at >> 7) & (self.span / PIECE - 1)) << 4)
    }

    /// Address in shared memory of a row's first or second piece.
    #[inline(always)]
    pub fn row_piece(&self, row: usize, half: usize) -> usize {
        let between = if self.span == PIECE {
            self.leading
        } else {
            PIECE
        };
        self.swizzled(row % 8 * self.span + row / 8 * self.stride + half * between)
    }

    /// Address in shared memory of a piece at one k.
    #[inline(always)]
    pub fn column_piece(&self, piece: usize, k: usize) -> usize {
        let pieces = self.span / PIECE;
        let (beside, next) = if pieces == 1 {
            (self.stride, self.leading)
        } else {
            (self.leading, self.stride)
        };
        self.swizzled(
            piece % pieces * PIECE + piece / pieces * beside + k % 8 * self.span + k / 8 * next,
        )
    }

    /// Address of a matrix' piece of this number. `transposed`: M or N is the dimension of
    /// neighbours. `extent` is M or N.
    pub fn piece(&self, number: usize, transposed: bool, extent: usize) -> usize {
        if transposed {
            self.column_piece(number % (extent / 8), number / (extent / 8))
        } else {
            self.row_piece(number / 2, number % 2)
        }
    }
}

/// Pieces of a matrix whose M or N is `extent`: each row takes 32 bytes.
pub(crate) fn pieces(extent: usize) -> usize {
    2 * extent
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swizzle_takes_its_bits_from_the_address() {
        // 128 bytes, at 1024, stride 1024.
        let layout = Layout::new(1 << 62 | 64 << 32 | 64).unwrap();
        assert_eq!(layout.row_piece(0, 1), 1024 + 16);
        assert_eq!(layout.row_piece(1, 0), 1024 + 128 + 16);
        assert_eq!(layout.row_piece(15, 1), 2048 + 7 * 128 + 6 * 16);
        // 32 bytes within the pattern: the swizzle is that of the address.
        let advanced = Layout::new(1 << 62 | 64 << 32 | 66).unwrap();
        assert_eq!(advanced.row_piece(1, 0), 1024 + 128 + 3 * 16);
    }

    #[test]
    fn a_base_offset_is_refused_by_name() {
        let error = Layout::new(1 << 62 | 1 << 49).unwrap_err();
        assert!(error.contains("base offset 1"), "{error}");
    }
}
