//! Reads the adapters that arguments name.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use lora_kernels_adapters::{Adapter, Error, Format, ReadOptions, Scaling};

use crate::failure::Failure;

/// Options to read adapters in formats that hold less than PEFT's.
#[derive(Args, Clone, Copy)]
pub struct Reading {
    /// The format, if it can't be detected
    #[arg(long, value_enum)]
    format: Option<Name>,
    /// Scaling of adapters in Mistral's or loralib's format, which hold none: the factor of B·A
    #[arg(long, value_name = "S", conflicts_with = "alpha")]
    scaling: Option<f64>,
    /// lora_alpha of adapters in Mistral's or loralib's format, which hold none: the scaling is
    /// ALPHA / r
    #[arg(long)]
    alpha: Option<f64>,
}

#[derive(Clone, Copy, ValueEnum)]
enum Name {
    Peft,
    Mistral,
    Loralib,
}

impl Reading {
    /// Reads all adapters. A given scaling applies to those whose format holds none; there must be
    /// at least one.
    pub fn read(&self, paths: &[PathBuf]) -> Result<Vec<Adapter>, Failure> {
        let scaling = self
            .scaling
            .map(Scaling::Factor)
            .or(self.alpha.map(Scaling::Alpha));
        let format = self.format.map(|name| match name {
            Name::Peft => Format::Peft,
            Name::Mistral => Format::Mistral,
            Name::Loralib => Format::Loralib,
        });
        let read = |path: &Path, scaling| {
            let options = ReadOptions {
                format,
                scaling,
                ..ReadOptions::default()
            };
            Adapter::read(path, &options)
        };
        let mut used = false;
        let mut adapters = Vec::with_capacity(paths.len());
        for path in paths {
            let adapter = match read(path, None) {
                Err(Error::NoScaling { .. }) if scaling.is_some() => {
                    used = true;
                    read(path, scaling)?
                }
                Err(error @ Error::NoScaling { .. }) => {
                    return Err(Failure::Refused(format!("{error} (--alpha or --scaling)")));
                }
                other => other?,
            };
            adapters.push(adapter);
        }
        if scaling.is_some() && !used {
            return Err(Failure::Refused(
                "--scaling and --alpha are for formats without a scaling of their own, and PEFT's config has r and lora_alpha: leave them out (merge weighs \
                 adapters with --weights)"
                    .into(),
            ));
        }
        Ok(adapters)
    }
}
