//! Against PEFT itself, where it is installed: `cargo xtask peft`.

use std::process::Command;

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{DType, PeftConfig, PeftWriter, Tensor};

use crate::{fixture, read};

/// PEFT makes new adapters, and this crate reads and writes them. PEFT then loads both and finds
/// equal tensors and equal merged weights.
#[test]
#[ignore = "needs the packages of tests/peft/requirements.txt: cargo xtask peft installs them and runs it"]
fn peft_loads_what_this_crate_writes() {
    let folder = tempfile::tempdir().unwrap();
    let python = |arguments: &[&str]| {
        let mut python = Command::new("python3");
        python.args(["-B"]).args(arguments).arg(folder.path());
        assert!(python.status().unwrap().success(), "{arguments:?} failed");
    };
    python(&["tests/peft/make.py"]);
    let mut count = 0;
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if !path.join("adapter_config.json").is_file() {
            continue;
        }
        let name = path.file_name().unwrap();
        let same = |file: &str| {
            std::fs::read(path.join(file)).unwrap()
                == std::fs::read(fixture("").join(name).join(file)).unwrap()
        };
        assert!(
            same("adapter_model.safetensors") && same("adapter_config.json"),
            "{name:?} is no longer what PEFT makes"
        );
        let adapter = read(&path).unwrap();
        let mut target = name.to_owned();
        target.push("-ours");
        let writer = PeftWriter::from_adapter(&adapter).unwrap();
        writer
            .write(&folder.path().join(target), Overwrite::Never)
            .unwrap();
        count += 1;
    }
    assert_eq!(count, 8);
    // This crate also writes an adapter of its own, with only the required fields in its config.
    let numbers: Vec<u8> = (0..36)
        .flat_map(|i: u8| (f32::from(i) / 16.0 - 1.0).to_le_bytes())
        .collect();
    let mut writer = PeftWriter::new(PeftConfig::new(3, 4.5, &["q"]).unwrap());
    for path in ["blocks.0.attn.q", "blocks.1.attn.q"] {
        let tensor = |shape, bytes| Tensor::new(DType::F32, shape, &numbers[..bytes]);
        writer
            .module(path, tensor(&[3, 12], 144), tensor(&[10, 3], 120))
            .unwrap();
    }
    writer
        .write(&folder.path().join("new"), Overwrite::Never)
        .unwrap();
    python(&["tests/peft/check.py"]);
}
