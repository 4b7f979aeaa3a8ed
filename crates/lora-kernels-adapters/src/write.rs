//! Writing PEFT folders.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, btree_map::Entry};
use std::path::Path;

use safetensors::Dtype;
use safetensors::tensor::View;

use crate::opened::unnoted;
use crate::output::{OutputFolder, Overwrite};
use crate::shown::shape;
use crate::tensor::Tensor;
use crate::tensor_file::TensorFile;
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
    /// [`Error::Unwritable`] if the adapter could not be read back, [`Error::Changed`] if a file
    /// that tensors were read from changed meanwhile, [`Error::Exists`], [`Error::Io`].
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
        // Why a tensor couldn't be read: `View` has no place for errors.
        let unread = RefCell::new(None);
        let mut views = Vec::with_capacity(self.tensors.len());
        for (name, tensor) in &self.tensors {
            if bytes_of(tensor) != Some(tensor.bytes()) {
                return Err(unwritable(format!(
                    "tensor {name} has {} bytes, which its type {:?} and its shape {} don't give",
                    tensor.bytes(),
                    tensor.dtype,
                    shape(tensor.shape)
                )));
            }
            let unread = &unread;
            views.push((name.as_str(), Written { tensor, unread }));
        }
        // transformers requires this entry.
        let metadata = HashMap::from([("format".to_owned(), "pt".to_owned())]);
        let file = output.path().join("adapter_model.safetensors");
        let written = safetensors::serialize_to_file(views, Some(metadata), &file);
        if let Some(error) = unread.take() {
            return Err(error);
        }
        written.map_err(|error| match error {
            safetensors::SafeTensorError::IoError(source) => failed(source),
            other => unwritable(other.to_string()),
        })?;
        match unnoted(|| Adapter::read(output.path(), &ReadOptions::default())) {
            Ok(_) => {}
            Err(error @ Error::Io { .. }) => return Err(error),
            Err(error) => return Err(unwritable(error.to_string())),
        }
        let files = self.tensors.values().filter_map(Tensor::place);
        let files: BTreeMap<*const TensorFile, &TensorFile> = files
            .map(|(file, _)| (std::ptr::from_ref(file), file))
            .collect();
        files.values().try_for_each(|file| file.check_unchanged())?;
        output.finish()
    }
}

/// The bytes that a tensor's type and shape give.
fn bytes_of(tensor: &Tensor<'_>) -> Option<usize> {
    let elements = { tensor.shape.iter() }.try_fold(1usize, |all, &size| all.checked_mul(size))?;
    let bits = elements.checked_mul(tensor.dtype.bitsize())?;
    bits.is_multiple_of(8).then_some(bits / 8)
}

/// A tensor as safetensors writes it. One of them is in memory at a time.
struct Written<'w, 'a> {
    tensor: &'w Tensor<'a>,
    unread: &'w RefCell<Option<Error>>,
}

impl View for Written<'_, '_> {
    fn dtype(&self) -> Dtype {
        self.tensor.dtype
    }

    fn shape(&self) -> &[usize] {
        self.tensor.shape
    }

    fn data(&self) -> Cow<'_, [u8]> {
        self.tensor.read().unwrap_or_else(|error| {
            self.unread.borrow_mut().get_or_insert(error);
            Cow::Borrowed(&[])
        })
    }

    fn data_len(&self) -> usize {
        self.tensor.bytes()
    }
}

fn unwritable(reason: String) -> Error {
    Error::Unwritable { reason }
}
