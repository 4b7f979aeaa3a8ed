//! Folders put together at random from what lies in folders of models. The cases are the same on
//! every run.

use std::os::unix::fs::symlink;
use std::path::Path;

use lora_kernels_adapters::BaseModel;
use serde_json::json;

use crate::made::Tensors;

/// Numbers that look random.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

const FOLDERS: [&str; 7] = [
    "",
    "transformer",
    "checkpoint-5",
    "models--a--b/snapshots/abc",
    "models--a--b/refs",
    "models--a--b/blobs",
    "snapshots/abc",
];
const FILES: [&str; 16] = [
    "model.safetensors",
    "model.fp16.safetensors",
    "consolidated.safetensors",
    "consolidated.00.safetensors",
    "consolidated.01.safetensors",
    "diffusion_pytorch_model.safetensors",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "other.safetensors",
    "adapter_model.safetensors",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "config.json",
    "params.json",
    "main",
    "pytorch_model.bin",
];

/// Puts something under the name into the folder. Links out of it lead to `secret`, whose name no
/// link has.
fn put(random: &mut Random, folder: &Path, name: &str, secret: &Path) {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(name);
    if path.symlink_metadata().is_ok() {
        return;
    }
    let tensors = ["a.weight", "b.weight", "c.qweight", "c.scales"];
    let text = |text: &str| std::fs::write(&path, text).unwrap();
    match random.below(12) {
        0 => symlink(secret, &path).unwrap(),
        1 => symlink("nowhere", &path).unwrap(),
        2 => symlink(random.of(&FILES), &path).unwrap(),
        3 => symlink(secret.parent().unwrap(), &path).unwrap(),
        4 => std::fs::create_dir(&path).unwrap(),
        5 => text(random.of(&["", "{", "version https://git-lfs", "GGUF", "../..", "abc"])),
        _ if name.contains(".index.") => {
            let mut shard = || {
                let names = [
                    "../secret.safetensors",
                    "secret.safetensors",
                    "gone.safetensors",
                ];
                match random.below(4) {
                    0 => random.of(&names),
                    _ => random.of(&FILES),
                }
            };
            let map = json!({"a.weight": shard(), "b.weight": shard()});
            text(&json!({"weight_map": map}).to_string());
        }
        _ if name.ends_with(".json") => text(random.of(&["{}", "[1, NaN]", r#"{"a": {}}"#])),
        _ => {
            let count = 1 + random.below(3);
            let all = (0..count).map(|_| random.of(&tensors));
            let all = all.fold(Tensors::default(), |all, name| all.with(name, &[2]));
            all.write(&path);
        }
    }
}

/// Whatever lies there, the models are opened or one line says why not, and no link leads to a file
/// that isn't the model's.
#[test]
fn any_folder_is_read_or_refused_and_never_left() {
    let (mut opened, mut refused) = (0, 0);
    for case in 1..=600_u64 {
        let mut random = Random(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(case) | 1);
        let outer = tempfile::tempdir().unwrap();
        let secret = outer.path().join("secret.safetensors");
        Tensors::default()
            .with("secret.weight", &[2])
            .write(&secret);
        let base = outer.path().join("base");
        std::fs::create_dir(&base).unwrap();
        for _ in 0..random.below(8) {
            let folder = base.join(random.of(&FOLDERS));
            let name = random.of(&FILES);
            put(&mut random, &folder, name, &secret);
        }
        match BaseModel::candidates(&base) {
            Err(error) => {
                refused += 1;
                let text = error.to_string();
                assert!(
                    text.lines().count() == 1 && text.len() < 2000,
                    "case {case}: {text}"
                );
            }
            Ok(models) => {
                opened += 1;
                assert!(!models.is_empty(), "case {case}");
                let all: Vec<&BaseModel> = models.iter().collect();
                let preferred = BaseModel::preferred(&all).len();
                assert!((1..=models.len()).contains(&preferred), "case {case}");
                assert_eq!(
                    BaseModel::open(&base).is_ok(),
                    preferred == 1,
                    "case {case}"
                );
                for model in models {
                    assert!(
                        model.tensor("secret.weight").is_none(),
                        "case {case}: {model:?}"
                    );
                    for name in model.names() {
                        let (shard, tensor) = model.tensor(name).unwrap();
                        assert_eq!(tensor.bytes(), 8, "case {case}");
                        assert!(!model.copies(name).contains(&shard), "case {case}");
                    }
                    for (weight, stored) in model.quantised_weights() {
                        assert_eq!((weight, stored), ("c.weight", "c.qweight"));
                        assert!(model.quantised(weight).is_some(), "case {case}");
                    }
                }
            }
        }
    }
    assert!(
        opened > 100 && refused > 100,
        "{opened} opened, {refused} refused"
    );
}
