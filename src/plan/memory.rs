//! The layout of `saved` and the workspace: what sizes them also says where each region lies.

use crate::{Mask, Problem};

/// What the addresses of `saved` and `workspace` must be a multiple of, in bytes.
pub const BUFFER_ALIGNMENT: usize = 16;

/// A part of a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Region {
    /// Bytes from the start of the buffer.
    pub offset: usize,
    /// Length in bytes.
    pub bytes: usize,
}

/// The layout of a buffer: regions one after the other. [`BufferLayout::bytes`] is what a buffer
/// for all of them must have.
#[derive(Debug, Default)]
pub(crate) struct BufferLayout {
    end: usize,
}

impl BufferLayout {
    /// Regions start on lines of 256 bytes, so that no two share an L2 line or a burst of DRAM.
    const LINE: usize = 256;

    /// A region of `count` elements of `size` bytes. Saturates where the sizes overflow: no
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

/// What forward leaves for backward: S, and with a stored dropout mask the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedLayout {
    /// S = scaling · drop(x) · Aᵀ of all adapted projections side by side, (tokens,
    /// [`Problem::padded_ranks`]) in the problem's dtype, rows contiguous; projection i's columns
    /// start at [`Problem::rank_offset`] and are zero from its rank on.
    pub s: Region,
    /// 64-bit words (⌈in_features / 64⌉, tokens): bit c of word (b, row) is set where x (row,
    /// 64·b + c) is kept, and clear beyond the last column.
    pub mask: Option<Region>,
    bytes: usize,
}

impl SavedLayout {
    pub(crate) fn new(problem: &Problem) -> Self {
        let mut saved = BufferLayout::default();
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

    /// Bytes that the `saved` buffer must have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
