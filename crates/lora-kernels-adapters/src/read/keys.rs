//! Parsing tensor names.

use std::path::Path;

use crate::mapped::MappedFile;
use crate::{Error, Format, Kind, Result};

/// The prefix that PEFT puts before the path of every module.
const PEFT_PREFIX: &str = "base_model.model.";

/// The meaning of a tensor's name in an adapter's file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key<'a> {
    /// A part of the module at this path.
    Part(&'a str, Part),
    /// A tensor of the base model, given by its name there.
    Saved(String),
    /// Any other tensor.
    Unknown,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    A(Kind),
    B(Kind),
    Bias,
    Magnitude,
}

/// Suffixes of PEFT's and Mistral's names, without the leading dot.
const PARTS: [(&str, Part); 7] = [
    ("lora_A.weight", Part::A(Kind::Linear)),
    ("lora_B.weight", Part::B(Kind::Linear)),
    ("lora_B.bias", Part::Bias),
    ("lora_embedding_A", Part::A(Kind::Embedding)),
    ("lora_embedding_B", Part::B(Kind::Embedding)),
    ("lora_magnitude_vector", Part::Magnitude),
    ("lora_magnitude_vector.weight", Part::Magnitude),
];

const LORALIB_PARTS: [(&str, Part); 2] = [
    ("lora_A", Part::A(Kind::Linear)),
    ("lora_B", Part::B(Kind::Linear)),
];

pub(super) fn parse(name: &str, format: Format) -> Key<'_> {
    let (path, parts) = match format {
        Format::Peft => (name.strip_prefix(PEFT_PREFIX).unwrap_or(name), &PARTS[..]),
        Format::Mistral | Format::Diffusers | Format::Kohya => (name, &PARTS[..]),
        Format::Loralib => (name, &LORALIB_PARTS[..]),
    };
    for &(suffix, part) in parts {
        if let Some(module) = without(path, suffix) {
            return Key::Part(module, part);
        }
    }
    if path.contains("lora_") || path.contains("trainable_tokens") {
        return Key::Unknown;
    }
    // PEFT wraps an adapted layer, and saves its trained bias under the wrapped name.
    Key::Saved(path.replace(".base_layer.", "."))
}

/// The path of the module whose wrapped base weight has this name.
pub(super) fn module_of_base_weight(name: &str) -> Option<&str> {
    let path = name.strip_prefix(PEFT_PREFIX).unwrap_or(name);
    without(path, "base_layer.weight")
}

/// The part of `path` before `.suffix`, which is empty if `path` is `suffix` alone.
fn without<'a>(path: &'a str, suffix: &str) -> Option<&'a str> {
    let before = path.strip_suffix(suffix)?;
    if before.is_empty() {
        Some(before)
    } else {
        before.strip_suffix('.')
    }
}

/// Detects the format of a file that has no config.
pub(super) fn format_of(file: &MappedFile) -> Result<Format> {
    let ends = |name: &str, suffix| without(name, suffix).is_some();
    let mut format = None;
    for tensor in file.tensors() {
        let found = if ends(tensor.name, "lora_A.weight") || ends(tensor.name, "lora_embedding_A") {
            let is_peft =
                tensor.name.starts_with("base_model.") || ends(tensor.name, "lora_embedding_A");
            if is_peft {
                Format::Peft
            } else {
                Format::Mistral
            }
        } else if ends(tensor.name, "lora_A") {
            Format::Loralib
        } else {
            continue;
        };
        if format.is_some_and(|other| other != found) {
            return Err(no_adapter(
                file.path(),
                "its tensors have names of more than one format",
            ));
        }
        format = Some(found);
    }
    format.ok_or_else(|| {
        no_adapter(
            file.path(),
            "it has no lora_A, in no format's way of naming it",
        )
    })
}

fn no_adapter(path: &Path, reason: &str) -> Error {
    Error::NoAdapter {
        path: path.into(),
        reason: reason.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_every_format_come_apart() {
        let linear = Kind::Linear;
        for (name, format, key) in [
            (
                "base_model.model.a.q.lora_A.weight",
                Format::Peft,
                Key::Part("a.q", Part::A(linear)),
            ),
            (
                "base_model.model.a.q.lora_B.bias",
                Format::Peft,
                Key::Part("a.q", Part::Bias),
            ),
            (
                "base_model.model.lora_B.weight",
                Format::Peft,
                Key::Part("", Part::B(linear)),
            ),
            (
                "a.q.lora_magnitude_vector",
                Format::Peft,
                Key::Part("a.q", Part::Magnitude),
            ),
            (
                "base_model.model.e.lora_embedding_A",
                Format::Peft,
                Key::Part("e", Part::A(Kind::Embedding)),
            ),
            (
                "base_model.model.a.q.base_layer.bias",
                Format::Peft,
                Key::Saved("a.q.bias".into()),
            ),
            (
                "base_model.model.classifier.weight",
                Format::Peft,
                Key::Saved("classifier.weight".into()),
            ),
            (
                "base_model.model.a.q.lora_A.default.weight",
                Format::Peft,
                Key::Unknown,
            ),
            (
                "base_model.model.e.token_adapter.trainable_tokens_delta",
                Format::Peft,
                Key::Unknown,
            ),
            ("xlora_A.weight", Format::Mistral, Key::Unknown),
            (
                "layers.0.attention.wq.lora_A.weight",
                Format::Mistral,
                Key::Part("layers.0.attention.wq", Part::A(linear)),
            ),
            (
                "a.q.lora_A",
                Format::Loralib,
                Key::Part("a.q", Part::A(linear)),
            ),
            ("a.q.bias", Format::Loralib, Key::Saved("a.q.bias".into())),
            ("a.q.lora_A.weight", Format::Loralib, Key::Unknown),
        ] {
            assert_eq!(parse(name, format), key, "{name}");
        }
    }
}
