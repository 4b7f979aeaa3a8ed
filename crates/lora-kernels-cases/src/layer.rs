//! A recorded layer, read from a safetensors file and checked before anything runs.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use lora_kernels::DType;
use safetensors::SafeTensors;

use crate::error::{Defect, RecordedLayerError};
use crate::matrix::{Matrix, dtype_of};

/// One layer and its inputs. Numbers are held in f32, which represents every type that a file may
/// have exactly.
#[derive(Debug, Clone)]
pub struct RecordedLayer {
    /// The file.
    pub path: PathBuf,
    /// The module that the layer was recorded from, if the file names it.
    pub module: Option<String>,
    /// The type of `x` in the file.
    pub dtype: DType,
    /// The adapter's scaling.
    pub scaling: f32,
    /// (tokens, in_features)
    pub x: Matrix,
    /// (out_features, in_features)
    pub weight: Matrix,
    /// (1, out_features)
    pub bias: Option<Matrix>,
    /// (rank, in_features)
    pub lora_a: Matrix,
    /// (out_features, rank)
    pub lora_b: Matrix,
    /// (tokens, out_features)
    pub dy: Option<Matrix>,
    /// The recorded results.
    pub results: RecordedResults,
}

/// The results that the file holds.
#[derive(Debug, Clone)]
pub struct RecordedResults {
    /// (tokens, out_features)
    pub y: Option<Matrix>,
    /// (tokens, in_features)
    pub dx: Option<Matrix>,
    /// (rank, in_features)
    pub d_lora_a: Option<Matrix>,
    /// (out_features, rank)
    pub d_lora_b: Option<Matrix>,
}

impl RecordedLayer {
    /// Reads a safetensors file.
    ///
    /// # Errors
    /// [`RecordedLayerError`] if it can't be read or holds no layer.
    pub fn read(path: &Path) -> Result<Self, RecordedLayerError> {
        let bytes = read_regular(path).map_err(|source| RecordedLayerError::Read {
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
        let layer = Self {
            path: path.to_owned(),
            module: module.map(str::to_owned),
            dtype,
            x: required("x")?,
            weight: required("weight")?,
            bias: optional("bias")?,
            lora_a: required("lora_A")?,
            lora_b: required("lora_B")?,
            dy: optional("dy")?,
            results: RecordedResults {
                y: optional("y")?,
                dx: optional("dx")?,
                d_lora_a: optional("d_lora_A")?,
                d_lora_b: optional("d_lora_B")?,
            },
            scaling: parse_scaling(scaling)?,
        };
        layer.check_shapes()?;
        Ok(layer)
    }

    /// Rows of x.
    pub fn tokens(&self) -> usize {
        self.x.rows
    }

    /// Columns of x.
    pub fn in_features(&self) -> usize {
        self.x.cols
    }

    /// Rows of the weight.
    pub fn out_features(&self) -> usize {
        self.weight.rows
    }

    /// Rows of lora_A.
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
            (&self.results.y, (tokens, out_features), output),
            (
                &self.results.dx,
                (tokens, in_features),
                "it has the shape of x",
            ),
            (
                &self.results.d_lora_a,
                (rank, in_features),
                "it has the shape of lora_A",
            ),
            (
                &self.results.d_lora_b,
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

fn parse_scaling(text: Option<&str>) -> Result<f32, Defect> {
    let text = text.ok_or(Defect::NoScaling)?;
    match text.trim().parse::<f32>() {
        Ok(scaling) if scaling.is_finite() => Ok(scaling),
        _ => Err(Defect::Scaling {
            given: text.to_owned(),
        }),
    }
}

/// Reads a regular file: a pipe would block, and a device has no end.
fn read_regular(path: &Path) -> std::io::Result<Vec<u8>> {
    let metadata = path.metadata()?;
    if !metadata.is_file() {
        return Err(std::io::Error::new(
            std::io::ErrorKind::InvalidInput,
            "it is not a file",
        ));
    }
    let mut bytes = Vec::new();
    File::open(path)?
        .take(metadata.len())
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}
