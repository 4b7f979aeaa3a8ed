//! The other files of a model's folder.

use std::path::{Path, PathBuf};

use lora_kernels_adapters::BaseModel;
use lora_kernels_adapters::base::INDEX;
use serde_json::Value;

use super::Work;
use super::change::Changes;
use crate::failure::Failure;

/// Extensions of weights in other formats. They aren't copied, because they hold the unmerged
/// weights.
const WEIGHTS: [&str; 9] = [
    "bin", "pt", "pth", "ckpt", "gguf", "ggml", "h5", "msgpack", "onnx",
];

/// Copies files that aren't weights, and returns the files that it left out.
pub fn copy_others(work: &Work<'_>, folder: &Path, to: &Path) -> Result<Vec<String>, Failure> {
    let Work { base, changes, .. } = work;
    let mut left_out = Vec::new();
    copy(work, folder, folder, to, &mut left_out)?;
    if let Some(index) = base.index() {
        let name = index.file_name().unwrap_or(INDEX.as_ref());
        write_index(index, base, changes, &to.join(name))?;
    }
    left_out.sort();
    Ok(left_out)
}

fn copy(
    work: &Work<'_>,
    root: &Path,
    from: &Path,
    to: &Path,
    left_out: &mut Vec<String>,
) -> Result<(), Failure> {
    let unread = |path: &Path, error: std::io::Error| {
        Failure::Refused(format!("can't read {}: {error}", path.display()))
    };
    let unwritten = |path: &Path, error: std::io::Error| {
        Failure::Refused(format!("can't write {}: {error}", path.display()))
    };
    for entry in from.read_dir().map_err(|error| unread(from, error))? {
        work.go_on()?;
        let entry = entry.map_err(|error| unread(from, error))?;
        let (path, name) = (entry.path(), entry.file_name());
        let target = to.join(&name);
        let is_written = from == root
            && (work.base.index().and_then(Path::file_name) == Some(&name)
                || work
                    .base
                    .shards()
                    .iter()
                    .any(|shard| name == shard.name.as_str()));
        if is_written {
            continue;
        }
        let below = path
            .strip_prefix(root)
            .unwrap_or(&path)
            .display()
            .to_string();
        // Names that begin with a dot belong to tools (.git, .cache). An adapter's config would
        // make readers look for its tensors.
        if name.as_encoded_bytes().starts_with(b".")
            || (from == root && name == "adapter_config.json")
        {
            left_out.push(below);
            continue;
        }
        let kind = entry.file_type().map_err(|error| unread(&path, error))?;
        if kind.is_dir() {
            std::fs::create_dir(&target).map_err(|error| unwritten(&target, error))?;
            copy(work, root, &path, &target, left_out)?;
        } else if is_weights(&path, from == root) {
            left_out.push(below);
        } else if !work.base.holds(&path).unwrap_or(false) || !path.is_file() {
            left_out.push(format!("{below} (a link out of the folder, or no file)"));
        } else {
            let failed = |error: std::io::Error| {
                let (from, to) = (path.display(), target.display());
                Failure::Refused(format!("can't copy {from} to {to}: {error}"))
            };
            std::fs::copy(&path, &target).map_err(failed)?;
        }
    }
    Ok(())
}

/// Whether a file holds weights, by its extension before any `.index.json`. A safetensors file in a
/// subfolder belongs to another module, as in sentence-transformers.
fn is_weights(path: &Path, in_root: bool) -> bool {
    let name = path
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .to_lowercase();
    let name = PathBuf::from(name.strip_suffix(".index.json").unwrap_or(&name));
    let extension = name
        .extension()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    WEIGHTS.contains(&extension.as_str()) || (in_root && extension == "safetensors")
}

/// Whether this model's head may be tied to its embeddings. transformers ties them unless the
/// config says otherwise.
pub fn ties_embeddings(folder: &Path) -> bool {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap_or_default();
    let config: Value = serde_json::from_str(&text).unwrap_or_default();
    let says = |config: &Value| config["tie_word_embeddings"].as_bool();
    says(&config)
        .or_else(|| says(&config["text_config"]))
        .unwrap_or(true)
}

/// Writes the base's index with the added tensors.
fn write_index(
    index: &Path,
    base: &BaseModel,
    changes: &Changes<'_>,
    to: &Path,
) -> Result<(), Failure> {
    let failed = |what: &str, reason: String| {
        Failure::Refused(format!("can't {what} {}: {reason}", index.display()))
    };
    let mut text =
        std::fs::read_to_string(index).map_err(|error| failed("read", error.to_string()))?;
    if let (false, Some(last)) = (changes.added.is_empty(), base.shards().last()) {
        let mut document: Value =
            serde_json::from_str(&text).map_err(|error| failed("read", error.to_string()))?;
        for saved in &changes.added {
            document["weight_map"][saved.name.as_str()] = last.name.as_str().into();
        }
        if let Some(bytes) = document["metadata"]["total_size"].as_u64() {
            let more: usize = changes
                .added
                .iter()
                .map(|added| added.from.data.len())
                .sum();
            document["metadata"]["total_size"] = (bytes + more as u64).into();
        }
        text = serde_json::to_string_pretty(&document)
            .map_err(|error| failed("write", error.to_string()))?
            + "\n";
    }
    std::fs::write(to, text).map_err(|error| failed("write", error.to_string()))
}
