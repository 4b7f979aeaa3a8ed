//! Detecting an adapter's format, and reading it.

mod keys;
mod modules;

use std::path::{Path, PathBuf};

use crate::mapped::MappedFile;
use crate::{Adapter, Error, Format, PeftConfig, Result};

const CONFIG: &str = "adapter_config.json";
const PEFT_TENSORS: &str = "adapter_model.safetensors";
const PEFT_PICKLE: &str = "adapter_model.bin";
const MISTRAL_TENSORS: &str = "lora.safetensors";

/// How to read an adapter.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// The format. If `None`, it is detected from the names of files and tensors.
    pub format: Option<Format>,
    /// The scaling: required for formats that hold none, refused for PEFT's, which holds its own.
    pub scaling: Option<Scaling>,
    /// The adapter's name, where the tensors' names hold several adapters (`lora_A.first.weight`
    /// and `lora_A.second.weight`), or where several lie in a folder.
    pub adapter: Option<String>,
}

/// The scaling of an adapter whose format holds none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// The factor of B·A.
    Factor(f64),
    /// lora_alpha. The factor of each module is lora_alpha / r with the module's r.
    Alpha(f64),
}

impl Scaling {
    fn of_rank(self, rank: usize) -> Result<f32> {
        let (name, given, factor) = match self {
            Scaling::Factor(factor) => ("scaling", factor, factor),
            Scaling::Alpha(alpha) => ("lora_alpha", alpha, alpha / rank as f64),
        };
        let factor = factor as f32;
        if given > 0.0 && factor > 0.0 && factor.is_finite() {
            Ok(factor)
        } else {
            Err(Error::Scaling { name, given })
        }
    }
}

/// The paths of an adapter's files.
struct Files {
    config: Option<PathBuf>,
    tensors: PathBuf,
}

pub(crate) fn read(path: &Path, options: &ReadOptions) -> Result<Adapter> {
    let files = find(path)?;
    let file = MappedFile::open(&files.tensors)?;
    let format = match options.format {
        Some(format) => format,
        None if files.config.is_some() => Format::Peft,
        None => keys::format_of(&file)?,
    };
    match (format, files.config) {
        (Format::Peft, Some(config)) => {
            if options.scaling.is_some() {
                return Err(Error::ScalingGiven { path: path.into() });
            }
            modules::adapter(file, format, Some(PeftConfig::read(&config)?), |_| Ok(0.0))
        }
        (Format::Peft, None) => Err(Error::NoAdapter {
            path: path.into(),
            reason: format!(
                "it has PEFT's tensors, and no {CONFIG} lies beside them: r and lora_alpha stand there"
            ),
        }),
        (format, _) => {
            let scaling = options.scaling.ok_or_else(|| Error::NoScaling {
                path: path.into(),
                format,
            })?;
            modules::adapter(file, format, None, |rank| scaling.of_rank(rank))
        }
    }
}

fn find(path: &Path) -> Result<Files> {
    let metadata = std::fs::metadata(path).map_err(|source| Error::Io {
        doing: "read",
        path: path.into(),
        source,
    })?;
    if !metadata.is_dir() {
        let beside = path.with_file_name(CONFIG);
        let is_peft = path.file_name().is_some_and(|name| name == PEFT_TENSORS) && beside.is_file();
        return Ok(Files {
            config: is_peft.then_some(beside),
            tensors: path.into(),
        });
    }
    let config = path.join(CONFIG);
    let tensors = path.join(PEFT_TENSORS);
    let refuse = |reason: String| {
        Err(Error::NoAdapter {
            path: path.into(),
            reason,
        })
    };
    match (
        config.is_file(),
        tensors.is_file(),
        path.join(MISTRAL_TENSORS).is_file(),
    ) {
        (true, true, _) => Ok(Files {
            config: Some(config),
            tensors,
        }),
        (true, false, _) if path.join(PEFT_PICKLE).is_file() => refuse(format!(
            "{PEFT_PICKLE} is a pickle, which can run code and is not read; load it with PEFT and save it again, as safetensors"
        )),
        (true, false, _) => refuse(format!("{CONFIG} lies there without {PEFT_TENSORS}")),
        (false, true, _) => refuse(format!(
            "{PEFT_TENSORS} lies there without {CONFIG}, where r and lora_alpha stand"
        )),
        (false, false, true) => Ok(Files {
            config: None,
            tensors: path.join(MISTRAL_TENSORS),
        }),
        (false, false, false) => refuse(format!(
            "the folder has neither {CONFIG} with {PEFT_TENSORS} (PEFT) nor {MISTRAL_TENSORS} (Mistral); name a safetensors file to \
             read a loralib state dict"
        )),
    }
}
