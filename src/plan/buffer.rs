//! The layout of `saved` and `workspace`: one code path sizes them and carves them.

use crate::Problem;

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

/// Hands out regions of a buffer that does not exist yet; [`Carver::bytes`] is what it must hold.
#[derive(Debug, Default)]
pub(crate) struct Carver {
    end: usize,
}

impl Carver {
    /// Regions start on lines of 256 bytes, so that none shares a DRAM page's burst or an L2 line with another.
    const LINE: usize = 256;

    /// A region of `count` elements of `size` bytes. Saturates where the sizes overflow: no allocation of that size can succeed.
    pub fn take(&mut self, count: &[usize], size: usize) -> Region {
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

/// What forward leaves for backward: S, and with dropout the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedLayout {
    /// S = scaling · drop(x) · Aᵀ, (tokens, [`Problem::padded_rank`]) in the problem's dtype, rows contiguous; zero in the columns from the
    /// rank on.
    pub s: Region,
    /// One bit per element of x, set where it is kept: bit `column % 8` of byte `column / 8` of each row.
    pub mask: Option<Region>,
    /// Bytes from one row of the mask to the next: 4 · ⌈in_features / 32⌉.
    pub mask_row_bytes: usize,
    bytes: usize,
}

impl SavedLayout {
    pub(crate) fn new(problem: &Problem) -> Self {
        let mut carver = Carver::default();
        let s = carver.take(&[problem.tokens(), problem.padded_rank()], problem.dtype().size());
        let mask_row_bytes = problem.in_features().div_ceil(32) * 4;
        let mask = problem
            .has_dropout()
            .then(|| carver.take(&[problem.tokens(), mask_row_bytes], 1));
        Self {
            s,
            mask,
            mask_row_bytes,
            bytes: carver.bytes(),
        }
    }

    /// Bytes that the `saved` buffer must have.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
