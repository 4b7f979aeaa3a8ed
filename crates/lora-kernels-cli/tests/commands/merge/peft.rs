//! Merging adapters that PEFT saved gives what PEFT merged.

use std::path::Path;

use lora_kernels_adapters::{Adapter, BaseModel, DType, ReadOptions, TensorFile};

use super::numbers::{half_ulp, values};
use super::{fixture, folder, merge};
use crate::common::assert_status;

/// Covers rsLoRA with patterns, lora_bias with modules_to_save, biases, Conv1D's transposed
/// weights, and an embedding.
#[test]
fn every_kind_that_can_be_merged_equals_pefts_merge() {
    let folder = folder("peft");
    let base = BaseModel::open(&fixture("base")).unwrap();
    for name in [
        "patterns",
        "lora_bias",
        "bias_all",
        "bias_lora_only",
        "conv1d",
        "embedding",
    ] {
        let out = folder.join(name);
        // The model has transposed weights beside square ones that aren't transposed.
        let arguments: &[&str] = match name {
            "conv1d" => &[],
            _ => &["--fan-in-fan-out", "no"],
        };
        assert_status(
            &merge(&fixture("base"), &[&fixture(name)], &out, arguments),
            0,
        );
        let ours = BaseModel::open(&out).unwrap();
        let theirs = TensorFile::open(&fixture(name).join("merged.safetensors")).unwrap();
        for before in base.names().map(|tensor| base.tensor(tensor).unwrap().1) {
            let ours = ours.tensor(before.name).unwrap().1;
            let Some(theirs) = theirs.tensor(before.name) else {
                assert_eq!(
                    ours.read().unwrap(),
                    before.read().unwrap(),
                    "{name}: {}",
                    before.name
                );
                continue;
            };
            // PEFT sums the delta in another order, and rounds it before it adds it.
            for (ours, theirs) in values(&ours).into_iter().zip(values(&theirs)) {
                assert!(
                    (ours - theirs).abs() < 2e-6,
                    "{name}: {} has {ours}, not {theirs}",
                    before.name
                );
            }
        }
    }
}

/// modules_to_save on a base model without a head, such as a classifier's: the result has one more
/// tensor.
#[test]
fn a_head_that_the_base_lacks_is_added() {
    let folder = folder("head");
    let base = folder.join("base");
    super::model::sharded(
        &base,
        DType::F32,
        &[
            &[
                ("blocks.0.attn.q.weight", &[10, 12]),
                ("blocks.0.attn.q.bias", &[10]),
            ],
            &[
                ("blocks.0.attn.k.weight", &[6, 12]),
                ("blocks.0.attn.k.bias", &[6]),
                ("blocks.1.attn.q.weight", &[10, 12]),
                ("blocks.1.attn.q.bias", &[10]),
                ("blocks.1.attn.k.weight", &[6, 12]),
                ("blocks.1.attn.k.bias", &[6]),
            ],
        ],
    );
    let out = folder.join("out");
    assert_status(&merge(&base, &[&fixture("lora_bias")], &out, &[]), 0);
    let (before, after) = (
        BaseModel::open(&base).unwrap(),
        BaseModel::open(&out).unwrap(),
    );
    assert_eq!(after.names().len(), before.names().len() + 2);
    let adapter =
        TensorFile::open(&fixture("lora_bias").join("adapter_model.safetensors")).unwrap();
    for name in ["classifier.weight", "classifier.bias"] {
        let theirs = adapter.tensor(&format!("base_model.model.{name}")).unwrap();
        let (shard, ours) = after.tensor(name).unwrap();
        assert_eq!(
            (shard, ours.shape, ours.read().unwrap()),
            (1, theirs.shape, theirs.read().unwrap())
        );
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("model.safetensors.index.json")).unwrap())
            .unwrap();
    assert_eq!(
        index["weight_map"]["classifier.bias"],
        "model-00002-of-00002.safetensors"
    );
    assert_eq!(index["metadata"]["total_size"], 1000 + 4 * 39);
    assert_eq!(after.shards()[1].file.metadata().get("kept"), Some("yes"));
    assert!(after.shards()[1].file.header_bytes().is_multiple_of(8));
    assert!(Path::new(&out).join("config.json").is_file());
}

/// A real model: f32 is within one rounding of PEFT's merge, bf16 within two, because PEFT rounds
/// twice.
#[test]
#[ignore = "needs the packages of crates/lora-kernels-adapters/tests/peft/requirements.txt: cargo xtask peft installs them and runs it"]
fn minilm_merges_to_what_peft_merges() {
    let folder = folder("minilm");
    let mut python = std::process::Command::new("python3");
    python.args(["-B", "tests/peft/minilm.py"]).arg(&folder);
    assert!(python.status().unwrap().success());
    for name in ["float32", "bfloat16"] {
        let out = folder.join("out");
        let output = merge(
            &folder.join(name),
            &[&folder.join("adapter")],
            &out,
            &["--force"],
        );
        assert_status(&output, 0);
        println!(
            "{name}: {}",
            crate::common::stdout(&output)
                .lines()
                .find(|line| line.starts_with("in all"))
                .unwrap()
        );
        let (base, ours) = (
            BaseModel::open(&folder.join(name)).unwrap(),
            BaseModel::open(&out).unwrap(),
        );
        assert!(base.shards().len() > 1);
        let theirs = TensorFile::open(&folder.join(name).with_extension("safetensors")).unwrap();
        let (mut changed, mut equal, mut elements) = (0, 0, 0);
        for theirs in theirs.tensors() {
            let (before, after) = (
                base.tensor(theirs.name).unwrap().1,
                ours.tensor(theirs.name).unwrap().1,
            );
            if before.read().unwrap() == theirs.read().unwrap() {
                assert!(
                    after.read().unwrap() == theirs.read().unwrap(),
                    "{}",
                    theirs.name
                );
                continue;
            }
            changed += 1;
            let dtype = theirs.element_type().unwrap();
            let (before, after) = (values(&before), values(&after));
            for ((before, ours), theirs) in before.into_iter().zip(after).zip(values(&theirs)) {
                let of_delta = if dtype == DType::F32 {
                    0.0
                } else {
                    half_ulp(dtype, ours - before)
                };
                let bound = 2.0 * half_ulp(dtype, ours.abs().max(theirs.abs())) + of_delta;
                assert!((ours - theirs).abs() <= bound, "{ours}, not {theirs}");
                equal += u64::from(ours == theirs);
                elements += 1;
            }
        }
        assert_eq!(changed, 30);
        println!(
            "{name}: {equal} of {elements} elements of {changed} weights are PEFT's to the bit"
        );
    }
}

/// PEFT loads an f32 adapter over a bf16 model in this way.
#[test]
fn what_was_trained_whole_and_biases_take_the_types_of_the_base() {
    let folder = folder("narrow");
    let (base, out) = (
        folder.join("base.safetensors"),
        folder.join("out.safetensors"),
    );
    let shapes: &[(&str, &[usize])] = &[
        ("blocks.0.attn.q.weight", &[10, 12]),
        ("blocks.0.attn.q.bias", &[10]),
        ("blocks.0.attn.k.weight", &[6, 12]),
        ("blocks.0.attn.k.bias", &[6]),
        ("blocks.1.attn.q.weight", &[10, 12]),
        ("blocks.1.attn.q.bias", &[10]),
        ("blocks.1.attn.k.weight", &[6, 12]),
        ("blocks.1.attn.k.bias", &[6]),
        ("classifier.weight", &[3, 12]),
        ("classifier.bias", &[3]),
    ];
    super::model::write(&base, DType::BF16, shapes);
    assert_status(&merge(&base, &[&fixture("lora_bias")], &out, &[]), 0);
    let (before, after) = (
        TensorFile::open(&base).unwrap(),
        TensorFile::open(&out).unwrap(),
    );
    let adapter = Adapter::read(&fixture("lora_bias"), &ReadOptions::default()).unwrap();
    for saved in adapter.saved() {
        let expected = super::numbers::bytes(DType::BF16, &values(&saved.tensor));
        assert_eq!(
            after.tensor(saved.name).unwrap().read().unwrap(),
            expected,
            "{}",
            saved.name
        );
    }
    for module in adapter.modules() {
        let of =
            |file: &TensorFile| values(&file.tensor(&format!("{}.bias", module.path)).unwrap());
        let (old, new, added) = (of(&before), of(&after), values(&module.bias.unwrap()));
        for ((old, new), added) in old.into_iter().zip(new).zip(added) {
            let exact = old + f64::from(module.scaling) * added;
            assert!(
                (new - exact).abs() <= half_ulp(DType::BF16, exact) + 1e-6,
                "{}: {new}, not {exact}",
                module.path
            );
        }
    }
}
