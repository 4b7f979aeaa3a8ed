//! Reads the adapters that arguments name.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lora_kernels_adapters::{Adapter, Error, Format, ReadOptions, Scaling};

use crate::failure::Failure;

/// Options to read adapters whose files say less than PEFT's.
#[derive(Args, Clone)]
pub struct Reading {
    /// The format, if it can't be detected
    #[arg(long, value_enum)]
    format: Option<Name>,
    /// Scaling of adapters whose files hold none (Mistral's, loralib's, diffusers' without a
    /// header): the factor of B·A
    #[arg(long, value_name = "S", conflicts_with = "alpha")]
    scaling: Option<f64>,
    /// lora_alpha of adapters whose files hold none: the scaling is ALPHA / r
    #[arg(long)]
    alpha: Option<f64>,
    /// The adapter to read where a file holds several by name, or a folder holds several in
    /// folders of their own
    #[arg(long = "adapter", id = "adapter_name", value_name = "NAME")]
    adapter_name: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Peft,
    Mistral,
    Loralib,
    Diffusers,
    Kohya,
}

impl Reading {
    /// Reads all adapters. A given scaling applies to those whose files hold none, and a given name
    /// to those that hold several; there must be at least one such. If `partial`, modules that
    /// can't be read are tensors that aren't understood.
    pub fn read(&self, paths: &[PathBuf], partial: bool) -> Result<Vec<Adapter>, Failure> {
        let mut used = Used::default();
        let adapters = paths
            .iter()
            .map(|path| self.read_one(path, partial, &mut used));
        let adapters = adapters.collect::<Result<Vec<_>, _>>()?;
        if self.scaling().is_some() && !used.scaling {
            return Err(Failure::Refused(
                "--scaling and --alpha are for adapters whose files hold no scaling, and these hold theirs (PEFT's in its config): leave \
                 them out (merge weighs adapters with --weights)"
                    .into(),
            ));
        }
        match &self.adapter_name {
            Some(name) if !used.name => Err(Failure::Refused(format!(
                "no adapter given is called {name}: leave out --adapter, which chooses one of \
                 several by its name"
            ))),
            _ => Ok(adapters),
        }
    }

    fn scaling(&self) -> Option<Scaling> {
        let factor = self.scaling.map(Scaling::Factor);
        factor.or(self.alpha.map(Scaling::Alpha))
    }

    fn read_one(&self, path: &Path, partial: bool, used: &mut Used) -> Result<Adapter, Failure> {
        let mut options = ReadOptions {
            format: self.format.map(Format::from),
            partial,
            ..ReadOptions::default()
        };
        let mut unnamed = None;
        loop {
            let (scaling, name) = (options.scaling.is_some(), options.adapter.is_some());
            match Adapter::read(path, &options) {
                Err(error @ Error::NoScaling { .. }) if !scaling => {
                    options.scaling = self.scaling();
                    if options.scaling.is_none() {
                        return Err(Failure::Refused(format!("{error} (--alpha or --scaling)")));
                    }
                }
                Err(error @ (Error::Adapters { .. } | Error::AdapterFolders { .. })) if !name => {
                    options.adapter.clone_from(&self.adapter_name);
                    if options.adapter.is_none() {
                        return Err(Failure::Refused(format!("{error} (--adapter NAME)")));
                    }
                }
                Ok(adapter) if !name && self.may_name_another(&adapter) => {
                    options.adapter.clone_from(&self.adapter_name);
                    unnamed = Some(adapter);
                }
                Ok(adapter) => {
                    used.scaling |= scaling;
                    let given = self.adapter_name.as_deref();
                    let of_folder = adapter.path().file_name().and_then(|name| name.to_str());
                    used.name |=
                        given.is_some() && (adapter.name() == given || name && of_folder == given);
                    return Ok(adapter);
                }
                Err(Error::NoSuchAdapter { .. }) if unnamed.is_some() => {
                    used.scaling |= scaling;
                    return unnamed.ok_or_else(|| Failure::Refused("no adapter".into()));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Whether `--adapter` may mean another adapter than this, which was read without the name: one
    /// in a folder of its own below, or that of a copy of a module, which isn't understood without
    /// the name.
    fn may_name_another(&self, adapter: &Adapter) -> bool {
        let Some(name) = &self.adapter_name else {
            return false;
        };
        adapter.name().is_none()
            && (adapter.unknown().next().is_some() || adapter.path().join(name).is_dir())
    }
}

/// The options that were needed.
#[derive(Default)]
struct Used {
    scaling: bool,
    name: bool,
}

impl From<Name> for Format {
    fn from(name: Name) -> Self {
        match name {
            Name::Peft => Format::Peft,
            Name::Mistral => Format::Mistral,
            Name::Loralib => Format::Loralib,
            Name::Diffusers => Format::Diffusers,
            Name::Kohya => Format::Kohya,
        }
    }
}
