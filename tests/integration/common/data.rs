//! Matrices in host memory, placed anywhere in a larger buffer as the kernels will find them. The
//! numbers around them must not affect results.

use lora_kernels::reference::View;
use lora_kernels::{Element, Layout};
use rand::{Rng, SeedableRng, rngs::SmallRng};

/// Guard elements before and after a matrix.
const GUARD: usize = 256;

/// The placement of a matrix in device memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// Aligned and dense.
    Dense,
    /// A view into a larger matrix. Every row starts at a multiple of 16 bytes for any number of
    /// columns.
    AlignedView,
    /// A view with an odd offset and an odd row stride, which is aligned to one element only.
    OddView,
    /// Rows that are aligned like dense ones and so far apart that the last starts beyond 2³²
    /// elements. Host memory holds them densely.
    Far,
}

/// Guard elements behind each far row, copied with it.
const FAR_GUARD: usize = 64;

impl Placement {
    fn offset(self, element: usize) -> usize {
        match self {
            Placement::Dense | Placement::Far => 0,
            Placement::AlignedView => 48 / element,
            Placement::OddView => 3,
        }
    }

    /// The layout to give to a problem.
    pub fn layout<T>(self, rows: usize, cols: usize) -> Layout {
        let element = size_of::<T>();
        let row_stride = match self {
            Placement::Dense => cols,
            Placement::AlignedView => cols.next_multiple_of(16 / element) + 32 / element,
            Placement::OddView => cols + 1 + cols % 2,
            Placement::Far => {
                (1usize << 32)
                    .div_ceil((rows - 1).max(1))
                    .next_multiple_of(64)
                    + FAR_GUARD
            }
        };
        let alignment = if self == Placement::OddView {
            element
        } else {
            16
        };
        Layout {
            row_stride: row_stride as i64,
            alignment,
        }
    }
}

/// A matrix inside a larger buffer that is NaN elsewhere. A kernel that reads outside of the matrix
/// spoils its result, and one that writes there is detected.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    pub rows: usize,
    pub cols: usize,
    pub row_stride: usize,
    /// The row stride on the device. If it differs from the host's, only rows are copied, each with
    /// its guard elements.
    pub device_stride: usize,
    /// Index of the first element in `buffer`.
    pub start: usize,
    /// The buffer that goes to the device.
    pub buffer: Vec<T>,
}

impl<T: Element + Into<f64>> Placed<T> {
    /// A matrix of NaN in a buffer of NaN.
    pub fn poisoned(rows: usize, cols: usize, placement: Placement) -> Self {
        let device_stride = placement.layout::<T>(rows, cols).row_stride as usize;
        let row_stride = match placement {
            Placement::Far => cols + FAR_GUARD,
            _ => device_stride,
        };
        let start = GUARD + placement.offset(size_of::<T>());
        let length = start + rows.saturating_sub(1) * row_stride + cols + GUARD;
        Self {
            rows,
            cols,
            row_stride,
            device_stride,
            start,
            buffer: vec![poison(); length],
        }
    }

    /// Uniform numbers in [-magnitude, magnitude), rounded to `T`.
    pub fn random(
        rows: usize,
        cols: usize,
        placement: Placement,
        magnitude: f32,
        seed: u64,
    ) -> Self {
        let mut matrix = Self::poisoned(rows, cols, placement);
        let mut random = SmallRng::seed_from_u64(seed);
        for row in 0..rows {
            let from = matrix.start + row * matrix.row_stride;
            for value in &mut matrix.buffer[from..from + cols] {
                *value = T::from_f64(f64::from(random.random_range(-magnitude..magnitude)));
            }
        }
        matrix
    }

    /// The matrix with these elements, in row-major order.
    pub fn from_rows(values: &[T], rows: usize, cols: usize, placement: Placement) -> Self {
        let mut matrix = Self::poisoned(rows, cols, placement);
        for (row, line) in values.chunks_exact(cols).enumerate() {
            let from = matrix.start + row * matrix.row_stride;
            matrix.buffer[from..from + cols].copy_from_slice(line);
        }
        matrix
    }

    /// The same elements in another placement.
    pub fn moved(&self, placement: Placement) -> Self {
        Self::from_rows(&self.rows(), self.rows, self.cols, placement)
    }

    /// The matrix with each element replaced.
    pub fn map(&self, mut change: impl FnMut(usize, usize, f64) -> f64) -> Self {
        let mut matrix = self.clone();
        for (row, col) in (0..self.rows).flat_map(|row| (0..self.cols).map(move |col| (row, col))) {
            let value = &mut matrix.buffer[self.start + row * self.row_stride + col];
            *value = T::from_f64(change(row, col, value.to_f64()));
        }
        matrix
    }

    /// The range of the matrix in `buffer`, from its first element to its last.
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start..self.start + (self.rows - 1) * self.row_stride + self.cols
    }

    pub fn view(&self) -> View<'_, T> {
        View::with_row_stride(
            &self.buffer[self.start..],
            self.rows,
            self.cols,
            self.row_stride,
        )
        .expect("the buffer holds the matrix")
    }

    /// The elements of a matrix with one row.
    pub fn row(&self) -> &[T] {
        assert_eq!(self.rows, 1);
        &self.buffer[self.range()]
    }

    /// The elements in row-major order, without the gaps between rows.
    pub fn rows(&self) -> Vec<T> {
        let line = |row| &self.buffer[self.start + row * self.row_stride..][..self.cols];
        (0..self.rows).flat_map(line).copied().collect()
    }

    /// Panics if anything around the matrix has changed.
    pub fn assert_surroundings_untouched(&self, name: &str) {
        let is_inside = |index: usize| {
            let from_start = index.checked_sub(self.start);
            from_start
                .is_some_and(|i| i / self.row_stride < self.rows && i % self.row_stride < self.cols)
        };
        let poison = poison::<T>();
        for (index, value) in self.buffer.iter().enumerate() {
            if !is_inside(index) && bytemuck::bytes_of(value) != bytemuck::bytes_of(&poison) {
                let offset = index as i64 - self.start as i64;
                panic!(
                    "{name} ({} x {}, row stride {}): element {offset} from its start lies outside, but {value:?} was written there",
                    self.rows, self.cols, self.row_stride
                );
            }
        }
    }
}

/// A NaN with every bit set, which arithmetic never produces.
pub fn poison<T: Element>() -> T {
    bytemuck::pod_read_unaligned(&[0xFF; 4][..size_of::<T>()])
}
