//! candle's layouts in the kernels' terms: matrices with contiguous columns and one row stride.

use candle_core::Tensor;

use crate::error::{Error, Result};

/// The position of a matrix in its storage, in elements.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Matrix {
    pub offset: usize,
    pub rows: usize,
    pub columns: usize,
    pub row_stride: usize,
}

impl Matrix {
    /// Takes the last dimension of (..., columns) as columns and all others as rows.
    pub fn of(name: &dyn Fn() -> String, tensor: &Tensor) -> Result<Self> {
        let layout = tensor.layout();
        let (dims, strides) = (layout.dims(), layout.stride());
        let Some((&columns, leading)) = dims.split_last() else {
            return Err(Error::Shape {
                tensor: name(),
                given: dims.to_vec(),
                expected: "of rank 1 or more".to_owned(),
            });
        };
        let refuse = || Error::Layout {
            tensor: name(),
            dims: dims.to_vec(),
            strides: strides.to_vec(),
            columns,
        };
        if columns > 1 && strides[leading.len()] != 1 {
            return Err(refuse());
        }
        // The strides of dimensions of size 1 are arbitrary, so they are ignored.
        let mut axes = leading
            .iter()
            .zip(strides)
            .filter(|(dim, _)| **dim != 1)
            .rev();
        let (mut rows, row_stride) = axes
            .next()
            .map_or((1, columns), |(&dim, &stride)| (dim, stride));
        for (&dim, &stride) in axes {
            if stride != rows * row_stride {
                return Err(refuse());
            }
            rows *= dim;
        }
        if rows > 1 && row_stride < columns {
            return Err(refuse());
        }
        Ok(Self {
            offset: layout.start_offset(),
            rows,
            columns,
            row_stride: row_stride.max(columns),
        })
    }

    /// The number of elements from the first to the last, both included.
    pub fn span(&self) -> usize {
        if self.rows == 0 || self.columns == 0 {
            return 0;
        }
        (self.rows - 1) * self.row_stride + self.columns
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{DType, Device, Result};

    use super::*;

    fn matrix(tensor: &Tensor) -> std::result::Result<Matrix, String> {
        Matrix::of(&|| "x".to_owned(), tensor).map_err(|error| error.to_string())
    }

    #[test]
    fn leading_dimensions_become_rows_where_they_follow_each_other() -> Result<()> {
        let tensor = Tensor::zeros((4, 6, 10), DType::F32, &Device::Cpu)?;
        let of = |offset, rows, columns, row_stride| Matrix {
            offset,
            rows,
            columns,
            row_stride,
        };
        assert_eq!(matrix(&tensor), Ok(of(0, 24, 10, 10)));
        assert_eq!(matrix(&tensor.narrow(2, 3, 5)?), Ok(of(3, 24, 5, 10)));
        assert_eq!(matrix(&tensor.narrow(0, 1, 2)?), Ok(of(60, 12, 10, 10)));
        assert_eq!(
            matrix(&tensor.narrow(0, 3, 1)?.narrow(1, 2, 1)?),
            Ok(of(200, 1, 10, 10))
        );
        assert_eq!(matrix(&tensor.narrow(1, 5, 1)?), Ok(of(50, 4, 10, 60)));
        assert_eq!(matrix(&tensor.get(1)?.get(1)?), Ok(of(70, 1, 10, 10)));
        Ok(())
    }

    #[test]
    fn what_would_take_a_copy_is_refused() -> Result<()> {
        let tensor = Tensor::zeros((4, 6, 10), DType::F32, &Device::Cpu)?;
        let row = Tensor::zeros((1, 10), DType::F32, &Device::Cpu)?;
        for (what, tensor) in [
            ("columns apart", tensor.transpose(1, 2)?),
            ("rows at two strides", tensor.narrow(1, 0, 5)?),
            ("one row many times", row.broadcast_as((5, 10))?),
        ] {
            let error = matrix(&tensor).expect_err(what);
            assert!(error.contains("x.contiguous()"), "{what}: {error}");
        }
        assert!(matrix(&Tensor::zeros((), DType::F32, &Device::Cpu)?).is_err());
        Ok(())
    }
}
