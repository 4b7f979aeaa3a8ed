//! The memory of a call's arguments: no output may share a byte with an input or another output.

use super::{DevicePointer, check};
use crate::{Argument, DType, Error, Layout, Problem, Result, Role};

/// What a call does with the memory of an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Read,
    Written,
}

/// The memory of one argument: rows of equal size, at equal distances.
#[derive(Debug, Clone, Copy)]
struct Extent {
    what: Argument,
    start: DevicePointer,
    /// The address behind the last byte
    end: DevicePointer,
    /// At least 1
    rows: u64,
    row_bytes: u64,
    /// Bytes from one row to the next, at least `row_bytes`
    stride: u64,
}

impl Extent {
    const NONE: Self = Self {
        what: Argument::Workspace,
        start: 0,
        end: 0,
        rows: 1,
        row_bytes: 0,
        stride: 0,
    };

    /// # Errors
    /// [`Error::AddressRange`] if it reaches beyond the last address.
    fn new(
        what: Argument,
        start: DevicePointer,
        rows: u64,
        row_bytes: u64,
        stride: u64,
    ) -> Result<Self> {
        let bytes = (rows - 1).saturating_mul(stride).saturating_add(row_bytes);
        let end = start.checked_add(bytes).ok_or(Error::AddressRange {
            what,
            address: start,
            bytes,
        })?;
        // Rows without gaps are one row.
        let (rows, row_bytes, stride) = if rows == 1 || row_bytes == stride {
            (1, bytes, bytes)
        } else {
            (rows, row_bytes, stride)
        };
        Ok(Self {
            what,
            start,
            end,
            rows,
            row_bytes,
            stride,
        })
    }

    /// Whether any byte belongs to both.
    #[inline]
    fn shares_with(&self, other: &Self) -> bool {
        self.start < other.end && other.start < self.end && self.rows_meet(other)
    }

    /// The same of extents whose first to last bytes overlap: the rows of each may still lie in the
    /// gaps of the other, as those of q, k and v in one buffer do.
    #[cold]
    fn rows_meet(&self, other: &Self) -> bool {
        if self.rows == 1 && other.rows == 1 {
            return true;
        }
        if self.stride != other.stride {
            return pairs_that_meet(self, other) > 0;
        }
        let (low, high) = if self.start <= other.start {
            (self, other)
        } else {
            (other, self)
        };
        // The first row of `high` starts in row `row` of `low`, or in the gap after it. If it meets
        // neither that row nor the next one, no later row meets one either.
        let distance = high.start - low.start;
        let (row, column) = (distance / low.stride, distance % low.stride);
        column < low.row_bytes || (row + 1 < low.rows && column + high.row_bytes > low.stride)
    }
}

/// How many pairs of a row of `a` and a row of `b` share a byte, in logarithmic time.
///
/// A row of `a` from `first` to `last`, exclusive, meets the rows of `b` that start before `last`,
/// but for those that end at or before `first`.
fn pairs_that_meet(a: &Extent, b: &Extent) -> i128 {
    let distance = i128::from(a.start) - i128::from(b.start);
    let stride = i128::from(b.stride);
    let started = sum_of_clamped(a, b, distance + i128::from(a.row_bytes) + stride - 1);
    let ended = sum_of_clamped(a, b, distance - i128::from(b.row_bytes) + stride);
    started - ended
}

/// Σ over the rows i of `a` of ⌊(first + i · a.stride) / b.stride⌋, each held between 0 and the
/// rows of `b`.
fn sum_of_clamped(a: &Extent, b: &Extent, first: i128) -> i128 {
    let (rows, step) = (i128::from(a.rows), i128::from(a.stride));
    let (most, stride) = (i128::from(b.rows), i128::from(b.stride));
    // The terms grow with i: they are 0 before `positive`, and `most` from `full` on.
    let least = |target: i128| (target - first + step - 1).div_euclid(step);
    let positive = least(0).clamp(0, rows);
    let full = least(most * stride).clamp(positive, rows);
    let between = sum_of_quotients(full - positive, stride, step, first + positive * step);
    between + (rows - full) * most
}

/// Σ of ⌊(a·i + b) / m⌋ over i from 0 to n, exclusive, of numbers that are not negative: Euclid's
/// algorithm on m and a.
fn sum_of_quotients(mut n: i128, mut m: i128, mut a: i128, mut b: i128) -> i128 {
    let mut sum = 0;
    while n > 0 {
        sum += n * (n - 1) / 2 * (a / m) + n * (b / m);
        (a, b) = (a % m, b % m);
        // What is left are the lattice points under a line, which are counted along the other axis.
        let highest = a * n + b;
        (n, b) = (highest / m, highest % m);
        (m, a) = (a, m);
    }
    sum
}

/// The memory of all arguments of a call.
pub(super) struct Extents {
    read: List<MOST_READ>,
    written: List<MOST_WRITTEN>,
}

/// Of a backward: x, `saved` in two buffers, the words of a dropout, the rows' slots, weights and
/// table, where the table's gradients go, and dy, the weight, lora_A and lora_B of each projection.
const MOST_READ: usize = 8 + 4 * Problem::MAX_PROJECTIONS;

/// Of a backward: dx, the workspace, d_lora_A and d_lora_B of each projection, a table's word; of a
/// forward also the flags.
const MOST_WRITTEN: usize = 4 + 2 * Problem::MAX_PROJECTIONS;

/// A list without an allocation: a call makes none.
struct List<const MOST: usize> {
    extents: [Extent; MOST],
    count: usize,
}

impl<const MOST: usize> List<MOST> {
    const EMPTY: Self = Self {
        extents: [Extent::NONE; MOST],
        count: 0,
    };

    fn push(&mut self, extent: Extent) {
        if let Some(slot) = self.extents.get_mut(self.count) {
            *slot = extent;
            self.count += 1;
        }
    }

    fn as_slice(&self) -> &[Extent] {
        &self.extents[..self.count]
    }
}

impl Extents {
    pub fn new() -> Self {
        Self {
            read: List::EMPTY,
            written: List::EMPTY,
        }
    }

    /// Checks the address of a tensor, and adds its memory. A tensor without elements needs none.
    #[inline]
    pub fn tensor(
        &mut self,
        problem: &Problem,
        projection: usize,
        tensor: Role,
        start: DevicePointer,
    ) -> Result<()> {
        let shape = problem.shape_of(projection, tensor);
        if shape.0 == 0 {
            return Ok(());
        }
        let access = match tensor {
            Role::Y | Role::DX | Role::DLoraA | Role::DLoraB | Role::Merged => Access::Written,
            Role::X | Role::Weight | Role::LoraA | Role::LoraB | Role::DY | Role::Bias => {
                Access::Read
            }
        };
        let what = check::argument(problem, projection, tensor);
        let layout = problem.layout_of(projection, tensor);
        let dtype = problem.dtype_of(tensor);
        self.matrix(access, what, shape, layout, dtype, start)
    }

    /// Checks the address of a matrix with elements, and adds its memory.
    #[inline]
    pub fn matrix(
        &mut self,
        access: Access,
        what: Argument,
        (rows, columns): (usize, usize),
        layout: Layout,
        dtype: DType,
        start: DevicePointer,
    ) -> Result<()> {
        check::address(what, layout.alignment, start)?;
        let bytes = |elements: u64| elements.saturating_mul(dtype.size() as u64);
        let stride = bytes(layout.row_stride as u64);
        let extent = Extent::new(what, start, rows as u64, bytes(columns as u64), stride)?;
        self.add(access, extent);
        Ok(())
    }

    /// Checks the address of a buffer of `bytes` bytes, and adds its memory. No bytes need none.
    pub fn buffer(
        &mut self,
        access: Access,
        what: Argument,
        start: Option<DevicePointer>,
        bytes: usize,
    ) -> Result<()> {
        if bytes == 0 {
            return Ok(());
        }
        let start = check::buffer(what, start)?;
        self.add(
            access,
            Extent::new(what, start, 1, bytes as u64, bytes as u64)?,
        );
        Ok(())
    }

    fn add(&mut self, access: Access, extent: Extent) {
        match access {
            Access::Read => self.read.push(extent),
            Access::Written => self.written.push(extent),
        }
    }

    /// # Errors
    /// [`Error::Overlap`] if an output shares a byte with another output or an input.
    pub fn check_apart(&self) -> Result<()> {
        let written = self.written.as_slice();
        for (index, output) in written.iter().enumerate() {
            let others = written[index + 1..].iter().chain(self.read.as_slice());
            for other in others {
                if output.shares_with(other) {
                    return Err(Error::Overlap {
                        output: output.what,
                        other: other.what,
                    });
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn extent(start: u64, rows: u64, row_bytes: u64, gap: u64) -> Extent {
        Extent::new(Argument::Workspace, start, rows, row_bytes, row_bytes + gap)
            .expect("an extent that doesn't wrap")
    }

    /// Every byte.
    fn bytes(start: u64, rows: u64, row_bytes: u64, gap: u64) -> Vec<u64> {
        (0..rows)
            .flat_map(|row| (0..row_bytes).map(move |byte| (row, byte)))
            .map(|(row, byte)| start + row * (row_bytes + gap) + byte)
            .collect()
    }

    proptest! {
        #[test]
        fn extents_share_memory_exactly_if_a_byte_is_in_both(
            (start, rows, row_bytes, gap) in (1..80u64, 1..12u64, 1..9u64, 0..9u64),
            (other_start, other_rows, other_bytes, other_gap) in
                (1..80u64, 1..12u64, 1..9u64, 0..9u64),
            same_stride: bool,
        ) {
            let other_gap = if same_stride {
                (row_bytes + gap).saturating_sub(other_bytes)
            } else {
                other_gap
            };
            let own = bytes(start, rows, row_bytes, gap);
            let others = bytes(other_start, other_rows, other_bytes, other_gap);
            let expected = own.iter().any(|byte| others.contains(byte));
            let own = extent(start, rows, row_bytes, gap);
            let other = extent(other_start, other_rows, other_bytes, other_gap);
            prop_assert_eq!(own.shares_with(&other), expected);
            prop_assert_eq!(other.shares_with(&own), expected);
        }
    }

    #[test]
    fn the_largest_matrices_are_compared_without_overflow() {
        let (rows, start) = (Problem::MAX_DIMENSION as u64, 1 << 40);
        // Single bytes, 2^32 and 2^32 - 1 bytes apart: the second matrix begins `ahead` bytes after
        // the first and falls back by one byte per row, so that its row `ahead` is the first that
        // meets one.
        let first = extent(start, rows, 1, (1 << 32) - 1);
        let second = |ahead| extent(start + ahead, rows, 1, (1 << 32) - 2);
        for (ahead, shared) in [(0, true), (rows - 1, true), (rows, false)] {
            assert_eq!(first.shares_with(&second(ahead)), shared, "{ahead}");
            assert_eq!(second(ahead).shares_with(&first), shared, "{ahead}");
        }
    }

    #[test]
    fn memory_up_to_the_last_address_is_taken_and_beyond_it_refused() {
        let at = |start, rows, row_bytes, stride| {
            Extent::new(Argument::Workspace, start, rows, row_bytes, stride)
        };
        assert!(at(u64::MAX - 16, 1, 16, 16).is_ok());
        assert!(at(u64::MAX - 15, 1, 17, 17).is_err());
        assert!(at(16, u64::MAX / 16, 16, 32).is_err());
        assert!(at(1, 1, u64::MAX, u64::MAX).is_err());
    }
}
