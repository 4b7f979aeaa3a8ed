//! A tensor of a file.

use lora_kernels::{DType, Element};
use safetensors::tensor::TensorView;

use crate::error::Defect;

/// A tensor of the file, row-major. A bias has one row.
#[derive(Debug, Clone)]
pub struct Matrix {
    /// Its name in the file.
    pub name: &'static str,
    /// 1 for a bias.
    pub rows: usize,
    /// The number of elements in a row.
    pub cols: usize,
    /// All elements; every one is finite.
    pub data: Vec<f32>,
}

impl Matrix {
    pub(crate) fn new(name: &'static str, view: &TensorView<'_>) -> Result<Self, Defect> {
        let dtype = dtype_of(name, view)?;
        let (rows, cols) = match (name, view.shape()) {
            ("bias", &[cols]) => (1, cols),
            ("bias", given) => {
                return Err(Defect::Dimensions {
                    name,
                    given: given.to_vec(),
                    expected: "one dimension",
                });
            }
            (_, &[rows, cols]) => (rows, cols),
            (_, given) => {
                return Err(Defect::Dimensions {
                    name,
                    given: given.to_vec(),
                    expected: "two dimensions",
                });
            }
        };
        if rows == 0 || cols == 0 {
            return Err(Defect::Empty {
                name,
                given: view.shape().to_vec(),
            });
        }
        // The format doesn't guarantee alignment, so numbers are assembled from bytes.
        let halves = || {
            view.data()
                .chunks_exact(2)
                .map(|bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
        };
        let data: Vec<f32> = match dtype {
            DType::F32 => view
                .data()
                .chunks_exact(4)
                .map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]]))
                .collect(),
            DType::F16 => halves()
                .map(|bits| half::f16::from_bits(bits).to_f32())
                .collect(),
            DType::BF16 => halves()
                .map(|bits| half::bf16::from_bits(bits).to_f32())
                .collect(),
        };
        if let Some(index) = data.iter().position(|value| !value.is_finite()) {
            return Err(Defect::NotFinite {
                name,
                value: data[index],
                row: index / cols,
                col: index % cols,
            });
        }
        Ok(Self {
            name,
            rows,
            cols,
            data,
        })
    }

    pub(crate) fn expect(
        &self,
        expected: (usize, usize),
        because: &'static str,
    ) -> Result<(), Defect> {
        let given = (self.rows, self.cols);
        if given == expected {
            Ok(())
        } else {
            Err(Defect::Shape {
                name: self.name,
                given,
                expected,
                because,
            })
        }
    }

    /// The numbers multiplied by `factor`, rounded to `T`.
    ///
    /// # Errors
    /// [`Defect::TooLarge`] if a number is not finite in `T`.
    pub fn rounded<T: Element>(&self, factor: f64) -> Result<Vec<T>, Defect> {
        let rounded: Vec<T> = self
            .data
            .iter()
            .map(|&value| T::from_f64(f64::from(value) * factor))
            .collect();
        match rounded.iter().position(|value| !value.to_f64().is_finite()) {
            None => Ok(rounded),
            Some(index) => Err(Defect::TooLarge {
                name: self.name,
                value: self.data[index],
                row: index / self.cols,
                col: index % self.cols,
                dtype: T::DTYPE,
            }),
        }
    }
}

/// The element type of a tensor, if the kernels support it.
pub(crate) fn dtype_of(name: &'static str, view: &TensorView<'_>) -> Result<DType, Defect> {
    match view.dtype() {
        safetensors::Dtype::F32 => Ok(DType::F32),
        safetensors::Dtype::F16 => Ok(DType::F16),
        safetensors::Dtype::BF16 => Ok(DType::BF16),
        given => Err(Defect::DType { name, given }),
    }
}
