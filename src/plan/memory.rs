//! The layout of `saved` and the workspace. The code that sizes them also places their regions.

use crate::{Mask, Problem};

/// The alignment that the addresses of `saved` and `workspace` must have, in bytes.
pub const BUFFER_ALIGNMENT: usize = 16;

/// A region of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region {
    /// The offset from the start of the buffer, in bytes.
    pub offset: usize,
    /// The size in bytes.
    pub bytes: usize,
}

/// The layout of a buffer with consecutive regions. [`BufferLayout::bytes`] is the size of a buffer
/// for all of them.
#[derive(Debug, Default)]
pub(crate) struct BufferLayout {
    end: usize,
}

impl BufferLayout {
    /// Regions start at multiples of 256 bytes, so that no two share an L2 line or a DRAM burst.
    const LINE: usize = 256;

    /// Appends a region of `count` elements of `size` bytes. Sizes that overflow are saturated: no
    /// allocation of that size can succeed.
    pub fn region(&mut self, count: &[usize], size: usize) -> Region {
        let bytes = count.iter().fold(size, |bytes, &n| bytes.saturating_mul(n));
        let region = Region {
            offset: self.end,
            bytes,
        };
        self.end = self
            .end
            .saturating_add(bytes)
            .checked_next_multiple_of(Self::LINE)
            .unwrap_or(usize::MAX);
        region
    }

    pub fn bytes(&self) -> usize {
        self.end
    }
}

/// The data that forward saves for backward: S and, if it is stored, the dropout mask. For
/// inference it is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedLayout {
    /// S = drop(x) · Aᵀ of all adapted projections side by side, unscaled: (tokens,
    /// [`Problem::padded_ranks`]) in the problem's dtype, with contiguous rows. Projection i's
    /// columns start at [`Problem::rank_offset`] and are zero from its rank on.
    pub s: Region,
    /// The mask as 64-bit words (⌈in_features / 64⌉, tokens). Bit c of word (b, row) is set if x
    /// (row, 64·b + c) is kept, and clear beyond the last column.
    pub mask: Option<Region>,
    bytes: usize,
}

impl SavedLayout {
    pub(crate) fn new(problem: &Problem) -> Self {
        let mut saved = BufferLayout::default();
        if problem.is_inference() {
            return Self {
                s: saved.region(&[0], 1),
                mask: None,
                bytes: 0,
            };
        }
        let s = saved.region(
            &[problem.tokens(), problem.padded_ranks()],
            problem.dtype().size(),
        );
        let stored = problem.has_dropout() && problem.mask() == Mask::Stored;
        let mask = stored.then(|| {
            let words = problem.in_features().div_ceil(64);
            saved.region(&[words, problem.tokens()], size_of::<u64>())
        });
        Self {
            s,
            mask,
            bytes: saved.bytes(),
        }
    }

    /// The size of the `saved` buffer in bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
