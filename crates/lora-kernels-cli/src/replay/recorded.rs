//! A recorded layer, read from a safetensors file and checked before anything runs.

use std::path::{Path, PathBuf};

use lora_kernels::reference::ShapeError;
use lora_kernels::{DType, Element};
use safetensors::{SafeTensorError, SafeTensors, tensor::TensorView};

/// One layer and its inputs. Numbers are held in f32, which represents every type that a file may
/// have exactly.
pub struct RecordedLayer {
    pub path: PathBuf,
    /// The module that the layer was recorded from, if the file names it.
    pub module: Option<String>,
    /// The type of `x` in the file.
    pub dtype: DType,
    pub scaling: f32,
    pub x: Matrix,
    pub weight: Matrix,
    pub bias: Option<Matrix>,
    pub lora_a: Matrix,
    pub lora_b: Matrix,
    pub dy: Option<Matrix>,
    pub recorded: RecordedResults,
}

/// The results that the file holds.
pub struct RecordedResults {
    pub y: Option<Matrix>,
    pub dx: Option<Matrix>,
    pub d_lora_a: Option<Matrix>,
    pub d_lora_b: Option<Matrix>,
}

/// A tensor of the file, row-major. A bias has one row.
pub struct Matrix {
    pub name: &'static str,
    pub rows: usize,
    pub cols: usize,
    pub data: Vec<f32>,
}

/// Why a file is not a recorded layer. Each message is one line that names the file.
#[derive(Debug, thiserror::Error)]
pub enum RecordedLayerError {
    #[error("cannot read {}: {source}", path.display())]
    Read {
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("{} is not a safetensors file: {source}", path.display())]
    NotSafetensors {
        path: PathBuf,
        source: SafeTensorError,
    },
    #[error("{}: {defect}", path.display())]
    Content { path: PathBuf, defect: Defect },
}

/// A defect in a well-formed file, or in what is asked of it.
#[derive(Debug, thiserror::Error)]
pub enum Defect {
    #[error(
        "tensor {name} is missing; a case has x, weight, lora_A and lora_B, and may have bias and dy"
    )]
    Missing { name: &'static str },
    #[error("tensor {name} is {given}; it must be F32, F16 or BF16")]
    DType {
        name: &'static str,
        given: safetensors::Dtype,
    },
    #[error("tensor {name} has shape {given:?}; it must have {expected}")]
    Dimensions {
        name: &'static str,
        given: Vec<usize>,
        expected: &'static str,
    },
    #[error("tensor {name} has shape {given:?}; an empty tensor is no layer")]
    Empty {
        name: &'static str,
        given: Vec<usize>,
    },
    #[error("tensor {name} is {} x {}; {because}, so it must be {} x {}", given.0, given.1, expected.0, expected.1)]
    Shape {
        name: &'static str,
        given: (usize, usize),
        expected: (usize, usize),
        because: &'static str,
    },
    #[error("tensor {name} holds {value} at ({row}, {col}); every number must be finite")]
    NotFinite {
        name: &'static str,
        value: f32,
        row: usize,
        col: usize,
    },
    #[error("tensor {name} holds {value} at ({row}, {col}), which is too large for {dtype}")]
    TooLarge {
        name: &'static str,
        value: f32,
        row: usize,
        col: usize,
        dtype: DType,
    },
    #[error(
        "the metadata has no scaling; it must hold lora_alpha / rank (or lora_alpha / sqrt(rank)) as text"
    )]
    NoScaling,
    #[error("the metadata's scaling is {given:?}; it must be a finite number that fits f32")]
    Scaling { given: String },
    #[error("the reference refused the case: {0}")]
    Reference(#[from] ShapeError),
}

impl RecordedLayer {
    pub fn read(path: &Path) -> Result<Self, RecordedLayerError> {
        let bytes = std::fs::read(path).map_err(|source| RecordedLayerError::Read {
            path: path.into(),
            source,
        })?;
        let not_safetensors = |source| RecordedLayerError::NotSafetensors {
            path: path.into(),
            source,
        };
        let tensors = SafeTensors::deserialize(&bytes).map_err(not_safetensors)?;
        let (_, header) = SafeTensors::read_metadata(&bytes).map_err(not_safetensors)?;
        let text = |key: &str| {
            header
                .metadata()
                .as_ref()
                .and_then(|metadata| metadata.get(key))
                .map(String::as_str)
        };
        Self::from_tensors(path, &tensors, text("scaling"), text("module")).map_err(|defect| {
            RecordedLayerError::Content {
                path: path.into(),
                defect,
            }
        })
    }

    fn from_tensors(
        path: &Path,
        tensors: &SafeTensors<'_>,
        scaling: Option<&str>,
        module: Option<&str>,
    ) -> Result<Self, Defect> {
        let optional = |name: &'static str| match tensors.tensor(name) {
            Ok(view) => Matrix::new(name, &view).map(Some),
            Err(_) => Ok(None),
        };
        let required = |name: &'static str| optional(name)?.ok_or(Defect::Missing { name });

        let dtype = match tensors.tensor("x") {
            Ok(view) => dtype_of("x", &view)?,
            Err(_) => return Err(Defect::Missing { name: "x" }),
        };
        let case = Self {
            path: path.to_owned(),
            module: module.map(str::to_owned),
            dtype,
            x: required("x")?,
            weight: required("weight")?,
            bias: optional("bias")?,
            lora_a: required("lora_A")?,
            lora_b: required("lora_B")?,
            dy: optional("dy")?,
            recorded: RecordedResults {
                y: optional("y")?,
                dx: optional("dx")?,
                d_lora_a: optional("d_lora_A")?,
                d_lora_b: optional("d_lora_B")?,
            },
            scaling: parse_scaling(scaling)?,
        };
        case.check_shapes()?;
        Ok(case)
    }

    pub fn tokens(&self) -> usize {
        self.x.rows
    }

    pub fn in_features(&self) -> usize {
        self.x.cols
    }

    pub fn out_features(&self) -> usize {
        self.weight.rows
    }

    pub fn rank(&self) -> usize {
        self.lora_a.rows
    }

    fn check_shapes(&self) -> Result<(), Defect> {
        let (tokens, in_features, out_features, rank) = (
            self.tokens(),
            self.in_features(),
            self.out_features(),
            self.rank(),
        );
        self.weight.expect(
            (out_features, in_features),
            "x has as many columns as weight",
        )?;
        self.lora_a
            .expect((rank, in_features), "x has as many columns as lora_A")?;
        self.lora_b.expect(
            (out_features, rank),
            "weight has as many rows as lora_B, and lora_A as many rows as lora_B columns",
        )?;
        let output = "it has x's rows and a column per row of weight";
        for (matrix, shape, because) in [
            (
                &self.bias,
                (1, out_features),
                "weight has a row per element of bias",
            ),
            (&self.dy, (tokens, out_features), output),
            (&self.recorded.y, (tokens, out_features), output),
            (
                &self.recorded.dx,
                (tokens, in_features),
                "it has the shape of x",
            ),
            (
                &self.recorded.d_lora_a,
                (rank, in_features),
                "it has the shape of lora_A",
            ),
            (
                &self.recorded.d_lora_b,
                (out_features, rank),
                "it has the shape of lora_B",
            ),
        ] {
            if let Some(matrix) = matrix {
                matrix.expect(shape, because)?;
            }
        }
        Ok(())
    }
}

impl Matrix {
    fn new(name: &'static str, view: &TensorView<'_>) -> Result<Self, Defect> {
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

    fn expect(&self, expected: (usize, usize), because: &'static str) -> Result<(), Defect> {
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

fn dtype_of(name: &'static str, view: &TensorView<'_>) -> Result<DType, Defect> {
    match view.dtype() {
        safetensors::Dtype::F32 => Ok(DType::F32),
        safetensors::Dtype::F16 => Ok(DType::F16),
        safetensors::Dtype::BF16 => Ok(DType::BF16),
        given => Err(Defect::DType { name, given }),
    }
}

fn parse_scaling(text: Option<&str>) -> Result<f32, Defect> {
    let text = text.ok_or(Defect::NoScaling)?;
    match text.trim().parse::<f32>() {
        Ok(scaling) if scaling.is_finite() => Ok(scaling),
        _ => Err(Defect::Scaling {
            given: text.to_owned(),
        }),
    }
}
