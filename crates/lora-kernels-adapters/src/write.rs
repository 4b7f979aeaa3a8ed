//! Writing PEFT folders.

use std::collections::{BTreeMap, HashMap, btree_map::Entry};
use std::path::Path;

use safetensors::tensor::TensorView;

use crate::mapped::Tensor;
use crate::output::{OutputFolder, Overwrite};
use crate::{Adapter, Error, PeftConfig, ReadOptions, Result};

/// Writes an adapter as a PEFT folder.
///
/// ```no_run
/// use lora_kernels_adapters::{DType, PeftConfig, PeftWriter, Tensor, output::Overwrite};
/// # let (a, b) = (vec![0u8; 8 * 384 * 4], vec![0u8; 384 * 8 * 4]);
/// let mut writer = PeftWriter::new(PeftConfig::new(8, 16.0, &["query"])?);
/// let tensor = |shape, data| Tensor::new(DType::F32, shape, data);
/// let path = "encoder.layer.0.attention.self.query";
/// writer.module(path, tensor(&[8, 384], &a), tensor(&[384, 8], &b))?;
/// writer.write("my-adapter".as_ref(), Overwrite::Never)?;
/// # Ok::<(), lora_kernels_adapters::Error>(())
/// ```
#[derive(Debug)]
pub struct PeftWriter<'a> {
    config: PeftConfig,
    tensors: BTreeMap<String, Tensor<'a>>,
}

impl<'a> PeftWriter<'a> {
    /// A writer without modules.
    pub fn new(config: PeftConfig) -> Self {
        Self {
            config,
            tensors: BTreeMap::new(),
        }
    }

    /// A writer with every tensor and every config field of an adapter read from a PEFT folder,
    /// including those that this crate doesn't know.
    ///
    /// # Errors
    /// [`Error::Unwritable`] if the adapter has no config because it was read from another format.
    pub fn from_adapter(adapter: &'a Adapter) -> Result<Self> {
        let Some(config) = adapter.config() else {
            return Err(unwritable(format!(
                "it was read in {} format, which has no config: make one and add the modules",
                adapter.format()
            )));
        };
        let tensors = adapter
            .file()
            .tensors()
            .map(|tensor| (tensor.name.to_owned(), tensor));
        Ok(Self {
            config: config.clone(),
            tensors: tensors.collect(),
        })
    }

    /// Adds a linear module at `path` in the base model, with A (rank, in_features) and B
    /// (out_features, rank). The tensors' own names are ignored.
    ///
    /// # Errors
    /// [`Error::Unwritable`] if the path was added before.
    pub fn module(&mut self, path: &str, a: Tensor<'a>, b: Tensor<'a>) -> Result<()> {
        self.tensor(&format!("base_model.model.{path}.lora_A.weight"), a)?;
        self.tensor(&format!("base_model.model.{path}.lora_B.weight"), b)
    }

    /// Adds a tensor under a name in the file, such as `base_model.model.classifier.weight` for a
    /// module that was trained in full.
    ///
    /// # Errors
    /// [`Error::Unwritable`] if the name was added before.
    pub fn tensor(&mut self, name: &str, tensor: Tensor<'a>) -> Result<()> {
        match self.tensors.entry(name.to_owned()) {
            Entry::Vacant(entry) => {
                entry.insert(tensor);
                Ok(())
            }
            Entry::Occupied(_) => Err(unwritable(format!("tensor {name} was added twice"))),
        }
    }

    /// Writes `adapter_config.json` and `adapter_model.safetensors` into a new folder. The folder
    /// gets its final name when both files are on disk and have been read back without an error.
    /// With [`Overwrite::Replace`], an existing folder is replaced with all its contents.
    ///
    /// # Errors
    /// [`Error::Unwritable`] if the adapter could not be read back, [`Error::Exists`],
    /// [`Error::Io`].
    pub fn write(&self, folder: &Path, overwrite: Overwrite) -> Result<()> {
        let output = OutputFolder::create(folder, overwrite)?;
        let failed = |source| Error::Io {
            doing: "write",
            path: folder.into(),
            source,
        };
        std::fs::write(
            output.path().join("adapter_config.json"),
            self.config.to_json(),
        )
        .map_err(failed)?;
        let mut views = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            let view = TensorView::new(tensor.dtype, tensor.shape.to_vec(), tensor.data)
                .map_err(|error| unwritable(format!("tensor {name}: {error}")))?;
            views.push((name.as_str(), view));
        }
        // transformers requires this entry.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = output.path().join("adapter_model.safetensors");
        safetensors::serialize_to_file(views, Some(metadata), &file).map_err(
            |error| match error {
                safetensors::SafeTensorError::IoError(source) => failed(source),
                other => unwritable(other.to_string()),
            },
        )?;
        match Adapter::read(output.path(), &ReadOptions::default()) {
            Ok(_) => output.finish(),
            Err(error @ Error::Io { .. }) => Err(error),
            Err(error) => Err(unwritable(error.to_string())),
        }
    }
}

fn unwritable(reason: String) -> Error {
    Error::Unwritable { reason }
}
