//! Detecting an adapter's format, and reading it.

mod chosen;
mod find;
mod keys;
mod metadata;
mod module;
mod modules;
mod names;
mod parameters;
mod scalings;
mod shapes;
mod sorted;
mod tokens;

use std::path::Path;

use crate::tensor_file::TensorFile;
use crate::{Adapter, Error, Format, PeftConfig, Result};
use modules::Configs;

/// How to read an adapter.
#[derive(Debug, Clone, Default)]
pub struct ReadOptions {
    /// The format. If `None`, it is detected from the names of files and tensors.
    pub format: Option<Format>,
    /// The scaling of the modules for which the file holds none. It is refused if there are no
    /// such.
    pub scaling: Option<Scaling>,
    /// The adapter's name, where the tensors' names hold several adapters (`lora_A.first.weight`
    /// and `lora_A.second.weight`), or where several lie in folders of their own below the path. A
    /// folder of this name in the path is looked at first. An adapter without this name is refused.
    pub adapter: Option<String>,
    /// Whether modules whose tensors are wrong or don't fit each other become unknown tensors, with
    /// the error as their reason, rather than ending the reading with that error.
    pub partial: bool,
}

/// The scaling of an adapter whose format holds none.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Scaling {
    /// The factor of B·A.
    Factor(f64),
    /// lora_alpha. The factor of each module is lora_alpha / r with the module's r.
    Alpha(f64),
}

pub(crate) fn read(path: &Path, options: &ReadOptions) -> Result<Adapter> {
    let files = find::find(path, options.adapter.as_deref())?;
    let home = files.home(path)?;
    let file = TensorFile::open(&files.tensors)?;
    let no_adapter = |reason: String| Error::NoAdapter {
        path: path.into(),
        reason,
    };
    let header = match files.config {
        Some(_) => Vec::new(),
        None => metadata::configs(&file)?,
    };
    let format = match (options.format, &files.config) {
        (Some(format), _) => format,
        (None, Some(_)) => Format::Peft,
        (None, None) => names::format_of(&file, !header.is_empty())
            .map_err(|reason| no_adapter(reason.into()))?
            .ok_or_else(|| no_adapter(nothing_of(&file)))?,
    };
    let config = match (format, &files.config) {
        (Format::Peft, Some(_)) if options.scaling.is_some() => {
            return Err(Error::ScalingGiven {
                path: path.into(),
                holder: scalings::holder(crate::ScalingSource::Config),
            });
        }
        (Format::Peft, Some(config)) => {
            let text = home.read_text(config, crate::config::LARGEST)?;
            Some(PeftConfig::parse(&text, config)?)
        }
        (Format::Peft, None) if header.is_empty() && !has_alphas(&file) => {
            let config = find::CONFIG;
            let beside = match files.tensors.with_file_name(config).is_file() {
                true => {
                    "that beside it may be of another file: give this one and its config a folder \
                     of their own"
                }
                false => "none lies beside it",
            };
            let reason = format!(
                "it has PEFT's tensors without {config}, where r and lora_alpha stand: {beside}"
            );
            return Err(no_adapter(reason));
        }
        _ => None,
    };
    let params = match format {
        Format::Mistral => scalings::of_params(&home, &files.tensors)?,
        _ => None,
    };
    let configs = Configs {
        file: config,
        header,
        params,
    };
    let wanted = options.adapter.clone().filter(|_| !files.is_wanted);
    let options = ReadOptions {
        adapter: wanted,
        ..options.clone()
    };
    let adapter = modules::adapter(file, format, configs, &options)?;
    Ok(Adapter {
        followed: files.how,
        ..adapter
    })
}

/// Whether a file without a config is an adapter that can be read.
fn is_adapter(file: &TensorFile) -> bool {
    let has_header = metadata::configs(file).is_ok_and(|configs| !configs.is_empty());
    match names::format_of(file, has_header) {
        Ok(Some(Format::Peft)) => has_header || has_alphas(file),
        Ok(format) => format.is_some(),
        Err(_) => false,
    }
}

fn has_alphas(file: &TensorFile) -> bool {
    file.tensors().any(|tensor| tensor.name.ends_with(".alpha"))
}

/// Why a file without any lora_A is no adapter.
fn nothing_of(file: &TensorFile) -> String {
    let other = file.tensors().find_map(|tensor| {
        match keys::parse(tensor.name, Format::Diffusers, None, false).meaning {
            keys::Meaning::Unknown(reason) | keys::Meaning::Foreign { reason, .. } => {
                Some(format!("; {} {reason}", crate::shown::shown(tensor.name)))
            }
            _ => None,
        }
    });
    format!(
        "it has no lora_A, in no format's way of naming it{}",
        other.unwrap_or_default()
    )
}
