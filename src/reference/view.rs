//! Strided matrices over slices.

/// Why inputs don't form a layer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ShapeError {
    /// The slice is too short for the matrix.
    #[error(
        "a {rows}x{cols} matrix with row stride {row_stride} needs {needed} elements; the slice has {given}"
    )]
    TooShort {
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// Elements from one row to the next.
        row_stride: usize,
        /// The number of elements from the first to the last, both included.
        needed: usize,
        /// The number of elements in the slice.
        given: usize,
    },
    /// The rows would overlap.
    #[error(
        "the row stride is {row_stride}, but a row has {cols} columns; it must be at least that"
    )]
    RowStride {
        /// Elements from one row to the next.
        row_stride: usize,
        /// Columns of a row.
        cols: usize,
    },
    /// The tensor's shape doesn't fit the others.
    #[error("{tensor} is {given:?}; with these other tensors it must be {expected:?}")]
    Mismatch {
        /// The tensor's name.
        tensor: &'static str,
        /// Its (rows, columns).
        given: (usize, usize),
        /// The (rows, columns) it must have.
        expected: (usize, usize),
    },
    /// The number of dy differs from that of the projections.
    #[error("there are {given} dy for {expected} projections; each has its own")]
    Projections {
        /// The number of dy given.
        given: usize,
        /// The number of projections in the layer.
        expected: usize,
    },
}

/// A strided view of a matrix in a slice.
#[derive(Debug)]
pub struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<T> Clone for View<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for View<'_, T> {}

impl<'a, T: Copy + Into<f64>> View<'a, T> {
    /// A dense matrix `rows` x `cols`.
    pub fn new(data: &'a [T], rows: usize, cols: usize) -> Result<Self, ShapeError> {
        Self::with_row_stride(data, rows, cols, cols)
    }

    /// A matrix `rows` x `cols` with `row_stride` elements from one row to the next.
    pub fn with_row_stride(
        data: &'a [T],
        rows: usize,
        cols: usize,
        row_stride: usize,
    ) -> Result<Self, ShapeError> {
        if row_stride < cols {
            return Err(ShapeError::RowStride { row_stride, cols });
        }
        let needed = if rows == 0 || cols == 0 {
            0
        } else {
            (rows - 1).saturating_mul(row_stride).saturating_add(cols)
        };
        if data.len() < needed {
            return Err(ShapeError::TooShort {
                rows,
                cols,
                row_stride,
                needed,
                given: data.len(),
            });
        }
        Ok(Self {
            data,
            rows,
            cols,
            row_stride,
            col_stride: 1,
        })
    }

    /// A dense matrix whose slice has exactly `rows` x `cols` elements.
    pub(super) fn dense(data: &'a [T], rows: usize, cols: usize) -> Self {
        debug_assert_eq!(data.len(), rows * cols);
        Self {
            data,
            rows,
            cols,
            row_stride: cols,
            col_stride: 1,
        }
    }

    /// Rows of the matrix.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Columns of the matrix.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The transposed matrix over the same elements.
    pub fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }

    /// The element at (row, col), as f64.
    ///
    /// # Panics
    /// If (row, col) is outside of the slice.
    pub fn at(&self, row: usize, col: usize) -> f64 {
        self.data[row * self.row_stride + col * self.col_stride].into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strides_and_transposition_reach_the_right_elements() {
        let data: Vec<f32> = (0..20).map(|i| i as f32).collect();
        let view = View::with_row_stride(&data[3..], 3, 4, 6).unwrap();
        assert_eq!((view.at(0, 0), view.at(2, 3)), (3.0, 18.0));
        let transposed = view.transposed();
        assert_eq!((transposed.rows(), transposed.cols()), (4, 3));
        assert_eq!(transposed.at(3, 2), 18.0);
    }

    #[test]
    fn a_slice_that_ends_before_the_matrix_is_refused() {
        let data = [0.0f32; 15];
        assert!(View::with_row_stride(&data, 3, 4, 6).is_err());
        assert!(View::with_row_stride(&data[..], 2, 4, 3).is_err());
        assert!(View::with_row_stride(&data, 3, 3, 6).is_ok());
    }
}
