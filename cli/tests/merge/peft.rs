//! What PEFT merged, from what PEFT saved.

use std::path::Path;

use lora_kernels_adapters::{BaseModel, MappedFile};

use crate::common::assert_status;
use crate::numbers::values;
use crate::{fixture, folder, merge};

/// rsLoRA with patterns, lora_bias with modules_to_save, biases, Conv1D's transposed weights, an embedding.
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
        assert_status(&merge(&fixture("base"), &[&fixture(name)], &out, &[]), 0);
        let ours = BaseModel::open(&out).unwrap();
        let theirs = MappedFile::open(&fixture(name).join("merged.safetensors")).unwrap();
        for before in base.names().map(|tensor| base.tensor(tensor).unwrap().1) {
            let ours = ours.tensor(before.name).unwrap().1;
            let Some(theirs) = theirs.tensor(before.name) else {
                assert_eq!(ours.data, before.data, "{name}: {}", before.name);
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

/// modules_to_save on a model without a head, as the base of a classifier is: the result has one more tensor.
#[test]
fn a_head_that_the_base_lacks_is_added() {
    let folder = folder("head");
    let base = folder.join("base");
    crate::model::sharded(
        &base,
        lora_kernels_adapters::DType::F32,
        &[
            &[("blocks.0.attn.q.weight", &[10, 12]), ("blocks.0.attn.q.bias", &[10])],
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
    let (before, after) = (BaseModel::open(&base).unwrap(), BaseModel::open(&out).unwrap());
    assert_eq!(after.names().len(), before.names().len() + 2);
    let adapter = MappedFile::open(&fixture("lora_bias").join("adapter_model.safetensors")).unwrap();
    for name in ["classifier.weight", "classifier.bias"] {
        let theirs = adapter.tensor(&format!("base_model.model.{name}")).unwrap();
        let (shard, ours) = after.tensor(name).unwrap();
        assert_eq!((shard, ours.shape, ours.data), (1, theirs.shape, theirs.data));
    }
    let index: serde_json::Value =
        serde_json::from_slice(&std::fs::read(out.join("model.safetensors.index.json")).unwrap()).unwrap();
    assert_eq!(
        index["weight_map"]["classifier.bias"],
        "model-00002-of-00002.safetensors"
    );
    assert_eq!(index["metadata"]["total_size"], 1000 + 4 * 39);
    assert_eq!(after.shards()[1].file.metadata()["kept"], "yes");
    assert!(after.shards()[1].file.header().len().is_multiple_of(8));
    assert!(Path::new(&out).join("config.json").is_file());
}
