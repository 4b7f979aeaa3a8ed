//! The file that `--out` writes, complete or not at all.

use std::io::Write;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::output::{self, Overwrite};
use safetensors::{Dtype, tensor::TensorView};

use crate::failure::Failure;
use crate::signals::Watch;

/// A file that gets its name when it is complete.
pub struct OutputFile {
    file: output::OutputFile,
    path: PathBuf,
    signals: Watch,
}

/// Why there is no output. The message is one line that names the file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {reason}", path.display())]
pub struct OutputError {
    path: PathBuf,
    reason: String,
}

impl OutputFile {
    /// Creates the file under a temporary name, so that a path that can't be written is found
    /// before anything runs. `input` must not be `path`.
    pub fn create(path: &Path, input: &Path) -> Result<Self, OutputError> {
        let error = |reason: String| OutputError {
            path: path.into(),
            reason,
        };
        if let (Ok(path), Ok(input)) = (path.canonicalize(), input.canonicalize())
            && path == input
        {
            return Err(error("it is the case itself, which would be lost".into()));
        }
        let file = output::OutputFile::create(path, Overwrite::Replace)
            .map_err(|e| error(e.to_string()))?;
        Ok(Self {
            file,
            path: path.into(),
            signals: Watch::begin(),
        })
    }

    /// Writes the tensors (name, type, shape, bytes) and gives the file its name.
    pub fn finish<'a>(
        mut self,
        tensors: impl Iterator<Item = (&'static str, Dtype, [usize; 2], &'a [u8])>,
        metadata: [(&str, String); 2],
    ) -> Result<(), Failure> {
        let path = self.path.clone();
        let error = |reason: String| OutputError { path, reason };
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        let bytes = tensors
            .map(|(name, dtype, shape, bytes)| {
                Ok((name, TensorView::new(dtype, shape.to_vec(), bytes)?))
            })
            .collect::<Result<Vec<_>, _>>()
            .and_then(|tensors| safetensors::serialize(tensors, Some(metadata)));
        let written = match bytes {
            Ok(bytes) => self
                .file
                .file()
                .write_all(&bytes)
                .map_err(|e| e.to_string()),
            Err(error) => Err(error.to_string()),
        };
        written.map_err(error)?;
        self.signals.check()?;
        Ok(self.file.finish()?)
    }
}
