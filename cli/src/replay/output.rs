//! The file that `--out` writes: whole or not at all.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use safetensors::{Dtype, tensor::TensorView};

/// A file under a temporary name. It takes its own name when it is complete; dropped before that, it is removed.
pub struct OutputFile {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    finished: bool,
}

/// Why there is no output. One line that names the file.
#[derive(Debug, thiserror::Error)]
#[error("cannot write {}: {reason}", path.display())]
pub struct OutputError {
    path: PathBuf,
    reason: String,
}

impl OutputFile {
    /// Opens the temporary file, so that a path that can't be written is found out before anything runs. `input` must
    /// not be `path`.
    pub fn create(path: &Path, input: &Path) -> Result<Self, OutputError> {
        let error = |reason: String| OutputError {
            path: path.into(),
            reason,
        };
        let Some(name) = path.file_name() else {
            return Err(error("it is not the name of a file".into()));
        };
        if path.is_dir() {
            return Err(error("it is a directory".into()));
        }
        if let (Ok(path), Ok(input)) = (path.canonicalize(), input.canonicalize())
            && path == input
        {
            return Err(error("it is the case itself, which would be lost".into()));
        }
        let mut temporary_name = name.to_owned();
        temporary_name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(temporary_name);
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .open(&temporary)
            .map_err(|e| error(e.to_string()))?;
        Ok(Self {
            file,
            temporary,
            path: path.into(),
            finished: false,
        })
    }

    /// Writes the tensors (name, type, shape, bytes) and gives the file its name.
    pub fn finish<'a>(
        mut self,
        tensors: impl Iterator<Item = (&'static str, Dtype, [usize; 2], &'a [u8])>,
        metadata: [(&str, String); 2],
    ) -> Result<(), OutputError> {
        let metadata = metadata.map(|(key, value)| (key.to_owned(), value)).into();
        let bytes = tensors
            .map(|(name, dtype, shape, bytes)| Ok((name, TensorView::new(dtype, shape.to_vec(), bytes)?)))
            .collect::<Result<Vec<_>, _>>()
            .and_then(|tensors| safetensors::serialize(tensors, Some(metadata)))
            .map_err(|e| self.error(e.to_string()))?;
        self.file
            .write_all(&bytes)
            .and_then(|()| self.file.sync_all())
            .and_then(|()| std::fs::rename(&self.temporary, &self.path))
            .map_err(|e| self.error(e.to_string()))?;
        self.finished = true;
        Ok(())
    }

    fn error(&self, reason: String) -> OutputError {
        OutputError {
            path: self.path.clone(),
            reason,
        }
    }
}

impl Drop for OutputFile {
    fn drop(&mut self) {
        if !self.finished {
            // Nothing better can be done about a file that can't be removed.
            let _ = std::fs::remove_file(&self.temporary);
        }
    }
}
