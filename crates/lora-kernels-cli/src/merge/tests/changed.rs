//! Files that others change while they are merged. Each step of a merge is met once.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{DType, PeftConfig, PeftWriter, Tensor};
use safetensors::tensor::TensorView;

use crate::between::acting;

const ROWS: usize = 24;
const COLUMNS: usize = 16;

/// A base of two shards with a config and a tokenizer, and an adapter for a weight of each shard.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("base");
        std::fs::create_dir(&base).unwrap();
        let mut map = serde_json::Map::new();
        for shard in ["1", "2"] {
            let name = format!("model-0000{shard}-of-00002.safetensors");
            let bytes = f32_bytes(ROWS * COLUMNS);
            let view =
                || TensorView::new(safetensors::Dtype::F32, vec![ROWS, COLUMNS], &bytes).unwrap();
            let tensors = ["q", "other"].map(|part| format!("layers.{shard}.{part}.weight"));
            for tensor in &tensors {
                map.insert(tensor.clone(), name.clone().into());
            }
            let views = tensors.iter().map(|tensor| (tensor.as_str(), view()));
            safetensors::serialize_to_file(views, None, &base.join(&name)).unwrap();
        }
        let index = serde_json::json!({"weight_map": map}).to_string();
        std::fs::write(base.join("model.safetensors.index.json"), index).unwrap();
        std::fs::write(base.join("config.json"), r#"{"model_type": "x"}"#).unwrap();
        std::fs::write(base.join("tokenizer.json"), r#"{"model": {}}"#).unwrap();
        let (a, b) = (f32_bytes(2 * COLUMNS), f32_bytes(ROWS * 2));
        let mut writer = PeftWriter::new(PeftConfig::new(2, 4.0, &["q"]).unwrap());
        for path in ["layers.1.q", "layers.2.q"] {
            let a = Tensor::new(DType::F32, &[2, COLUMNS], &a);
            writer
                .module(path, a, Tensor::new(DType::F32, &[ROWS, 2], &b))
                .unwrap();
        }
        writer
            .write(&folder.path().join("adapter"), Overwrite::Never)
            .unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn run(&self, command: &[&str]) -> Result<(), (u8, String)> {
        let (name, rest) = command.split_first().unwrap();
        let paths = rest
            .iter()
            .map(|word| match word.starts_with('-') || *word == "cpu" {
                true => (*word).to_owned(),
                false => self.path(word).display().to_string(),
            });
        let words = ["lora-kernels", name].map(str::to_owned).into_iter();
        crate::run_keeping(words.chain(paths)).0
    }

    fn merge(&self) -> Result<(), (u8, String)> {
        self.run(&[
            "merge", "base", "adapter", "-o", "out", "--device", "cpu", "--force",
        ])
    }

    /// Every file below the folder, but for those of the base and the adapter.
    fn others(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut folders = vec![self.folder.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in folder.read_dir().unwrap() {
                let path = entry.unwrap().path();
                if path == self.path("base") || path == self.path("adapter") {
                    continue;
                }
                match path.is_dir() {
                    true => folders.push(path),
                    false => drop(found.insert(path.clone(), std::fs::read(path).unwrap())),
                }
            }
        }
        found
    }
}

fn f32_bytes(count: usize) -> Vec<u8> {
    (0..count)
        .flat_map(|at| (at as f32 * 0.25 - 3.0).to_le_bytes())
        .collect()
}

type Change = fn(&Path);

/// The ways in which others change a file.
const CHANGES: [(&str, Change); 6] = [
    ("cut off", |path| {
        let file = OpenOptions::new().write(true).open(path).unwrap();
        file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    }),
    ("emptied", |path| drop(File::create(path).unwrap())),
    ("rewritten in place", |path| {
        let bytes = std::fs::read(path).unwrap();
        let turned: Vec<u8> = bytes.iter().rev().copied().collect();
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(&turned).unwrap();
    }),
    ("rewritten in place, with its old time", |path| {
        let modified = path.metadata().unwrap().modified().unwrap();
        let mut file = OpenOptions::new().write(true).open(path).unwrap();
        file.write_all(b"{").unwrap();
        file.set_modified(modified).unwrap();
    }),
    ("replaced", |path| {
        let new = path.with_extension("new");
        std::fs::copy(path, &new).unwrap();
        std::fs::rename(&new, path).unwrap();
    }),
    ("removed", |path| std::fs::remove_file(path).unwrap()),
];

const SOURCES: [&str; 7] = [
    "base/model-00001-of-00002.safetensors",
    "base/model-00002-of-00002.safetensors",
    "base/model.safetensors.index.json",
    "base/config.json",
    "base/tokenizer.json",
    "adapter/adapter_model.safetensors",
    "adapter/adapter_config.json",
];

/// Before, a file that was cut off ended the process by SIGBUS, and one that was rewritten in place
/// gave a mixed result with status 0.
#[test]
fn a_source_that_changes_during_a_merge_is_noticed_and_nothing_is_written() {
    let scene = Scene::new();
    let (merged, steps) = acting(|_| {}, || scene.merge());
    merged.unwrap();
    assert!(steps > 10, "a merge of {steps} steps");
    let before = scene.others();
    for source in SOURCES {
        for (what, change) in CHANGES {
            let path = scene.path(source);
            let kept = std::fs::read(&path).unwrap();
            let met: Vec<usize> = match source {
                // It is opened when its turn to be copied comes.
                "base/tokenizer.json" => vec![steps - 1],
                _ if source == SOURCES[0] && what == CHANGES[0].0 => (0..steps).collect(),
                _ => vec![0, steps / 2, steps - 1],
            };
            for step in met {
                let at = path.clone();
                let act = move |now| {
                    if now == step {
                        change(&at);
                    }
                };
                let (result, _) = acting(act, || scene.merge());
                let (status, message) = result.expect_err(&format!("{source} {what}, step {step}"));
                assert_eq!(status, 2, "{source} {what}, step {step}: {message}");
                assert!(
                    message.contains("was changed while it was read") && message.contains(source),
                    "{source} {what}, step {step}: {message}"
                );
                assert!(
                    scene.others() == before,
                    "{source} {what}, step {step}: left something"
                );
                std::fs::write(&path, &kept).unwrap();
            }
        }
    }
    scene.merge().unwrap();
    assert!(
        scene.others() == before,
        "the same files give the same result"
    );
}

/// A single file takes another way to its name.
#[test]
fn a_base_of_one_file_that_changes_is_noticed() {
    let scene = Scene::new();
    let path = scene.path("one.safetensors");
    std::fs::copy(scene.path(SOURCES[0]), &path).unwrap();
    let skip = ["--skip", "layers.2"];
    let merge = |scene: &Scene| {
        let path = |name: &str| scene.path(name).display().to_string();
        let words = ["lora-kernels", "merge"].map(str::to_owned).into_iter();
        let paths = [
            path("one.safetensors"),
            path("adapter"),
            "-o".into(),
            path("out.safetensors"),
        ];
        let device = ["--device", "cpu"]
            .into_iter()
            .chain(skip)
            .map(str::to_owned);
        crate::run_keeping(words.chain(paths).chain(device)).0
    };
    for (what, change) in CHANGES {
        let (kept, at) = (std::fs::read(&path).unwrap(), path.clone());
        let act = move |now| {
            if now == 1 {
                change(&at);
            }
        };
        let (status, message) = acting(act, || merge(&scene)).0.expect_err(what);
        assert!(
            status == 2 && message.contains("one.safetensors was changed"),
            "{message}"
        );
        std::fs::write(&path, &kept).unwrap();
        assert_eq!(scene.others().len(), 1, "{what}: the base alone is there");
    }
    merge(&scene).unwrap();
}

#[test]
fn inspect_prints_nothing_of_an_adapter_that_changes() {
    let scene = Scene::new();
    let path = scene.path("adapter/adapter_model.safetensors");
    for (what, change) in CHANGES {
        let (kept, at) = (std::fs::read(&path).unwrap(), path.clone());
        let act = move |now| {
            if now == 1 {
                change(&at);
            }
        };
        let words = [
            "lora-kernels".into(),
            "inspect".into(),
            scene.path("adapter").into_os_string(),
        ];
        let ((result, printed), steps) = acting(act, || crate::run_keeping(words));
        let (status, message) = result.expect_err(what);
        assert_eq!((status, steps, &*printed), (2, 2, ""), "{what}: {message}");
        assert!(
            message.contains("adapter_model.safetensors was changed"),
            "{what}: {message}"
        );
        std::fs::write(&path, &kept).unwrap();
    }
}
