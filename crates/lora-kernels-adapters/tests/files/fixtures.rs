//! Adapters that PEFT and loralib wrote: merging what was read gives what PEFT merged.

use std::collections::BTreeMap;
use std::path::Path;

use lora_kernels_adapters::base::{Mapping, Resolver};
use lora_kernels_adapters::{
    Adapter, BaseModel, Bias, Format, Kind, ReadOptions, Scaling, Tensor, TensorFile,
};

use crate::{assert_refused, fixture, read};

fn values(tensor: &Tensor<'_>) -> Vec<f64> {
    let bytes = tensor.read().unwrap();
    let chunks = bytes.chunks_exact(4);
    chunks
        .map(|b| f64::from(f32::from_le_bytes(b.try_into().unwrap())))
        .collect()
}

/// Every tensor of the base that the adapter changes, after the change, in f64. Not for DoRA.
fn merged(base: &BaseModel, adapter: &Adapter) -> BTreeMap<String, Vec<f64>> {
    let names = Resolver::new(base, &adapter.wanted(), &Mapping::default(), &[]);
    let mut merged = BTreeMap::new();
    for saved in adapter.saved() {
        merged.insert(
            names.resolve(None, saved.name).unwrap().name.to_owned(),
            values(&saved.tensor),
        );
    }
    for module in adapter.modules() {
        let name = names
            .resolve(None, &format!("{}.weight", module.path))
            .unwrap()
            .name;
        let weight = base.tensor(name).unwrap().1;
        let entry = merged
            .entry(name.to_owned())
            .or_insert_with(|| values(&weight));
        let (a, b, r) = (values(&module.a), values(&module.b), module.rank);
        let columns = a.len() / r;
        let transposed = match module.kind {
            Kind::Embedding => true,
            Kind::Linear => {
                weight.shape != [module.out_features, module.in_features]
                    || adapter.config().unwrap().fan_in_fan_out()
            }
            _ => false,
        };
        for n in 0..module.out_features {
            for k in 0..columns {
                let delta: f64 = (0..r).map(|i| b[n * r + i] * a[i * columns + k]).sum();
                let at = if transposed {
                    k * module.out_features + n
                } else {
                    n * columns + k
                };
                entry[at] += f64::from(module.scaling) * delta;
            }
        }
        if let Some(bias) = module.bias {
            let name = names
                .resolve(None, &format!("{}.bias", module.path))
                .unwrap()
                .name;
            let before = values(&base.tensor(name).unwrap().1);
            let entry = merged.entry(name.to_owned()).or_insert(before);
            for (to, add) in entry.iter_mut().zip(values(&bias)) {
                *to += f64::from(module.scaling) * add;
            }
        }
    }
    merged
}

fn ranks_and_scalings(adapter: &Adapter) -> Vec<(&str, usize, f32)> {
    adapter
        .modules()
        .map(|module| (module.path, module.rank, module.scaling))
        .collect()
}

#[test]
fn what_peft_saved_merges_to_what_peft_merged() {
    let base = BaseModel::open(&fixture("base")).unwrap();
    for name in [
        "patterns",
        "lora_bias",
        "bias_all",
        "bias_lora_only",
        "conv1d",
        "embedding",
        "conv",
    ] {
        let adapter = read(&fixture(name)).unwrap();
        assert_eq!(adapter.unknown().count(), 0, "{name}");
        let ours = merged(&base, &adapter);
        let theirs = TensorFile::open(&fixture(name).join("merged.safetensors")).unwrap();
        assert_eq!(ours.len(), theirs.tensors().count(), "{name}");
        for tensor in theirs.tensors() {
            let (ours, theirs) = (&ours[tensor.name], values(&tensor));
            assert_eq!(ours.len(), theirs.len(), "{name}: {}", tensor.name);
            for (ours, theirs) in ours.iter().zip(theirs) {
                assert!(
                    (ours - theirs).abs() < 2e-6,
                    "{name}: {} has {theirs}, not {ours}",
                    tensor.name
                );
            }
        }
    }
}

/// PEFT takes the first key that matches the path, or its end after a dot, as a regular expression.
#[test]
fn patterns_match_as_in_peft() {
    let adapter = read(&fixture("patterns")).unwrap();
    let s = |alpha: f64, r: f64| (alpha / r.sqrt()) as f32;
    assert_eq!(
        ranks_and_scalings(&adapter),
        [
            ("blocks.0.attn.k", 2, s(7.5, 2.0)),
            ("blocks.0.attn.q", 5, s(7.5, 5.0)),
            ("blocks.0.attn.v", 3, s(5.0, 3.0)),
            ("blocks.1.attn.k", 2, s(5.0, 2.0)),
            ("blocks.1.attn.q", 4, s(5.0, 4.0)),
            ("blocks.1.attn.v", 3, s(5.0, 3.0)),
        ]
    );
}

#[test]
fn what_is_beside_lora_is_kept_and_told() {
    let dora = read(&fixture("dora")).unwrap();
    assert!(dora.config().unwrap().use_dora());
    let magnitudes: Vec<_> = dora
        .modules()
        .map(|module| (module.kind, module.magnitude.unwrap().shape))
        .collect();
    assert_eq!(
        magnitudes,
        [
            (Kind::Linear, &[10][..]),
            (Kind::Linear, &[10][..]),
            (Kind::Embedding, &[12][..])
        ]
    );

    let conv = read(&fixture("conv")).unwrap();
    let module = conv.module("conv").unwrap();
    assert_eq!(
        (
            module.kind,
            module.rank,
            module.in_features,
            module.out_features
        ),
        (Kind::Convolution, 2, 3, 5)
    );

    let saved = |name| {
        let adapter = read(&fixture(name)).unwrap();
        let config = adapter.config().unwrap().clone();
        let names: Vec<String> = adapter.saved().map(|saved| saved.name.to_owned()).collect();
        (names, config)
    };
    let (names, config) = saved("lora_bias");
    assert_eq!(names, ["classifier.bias", "classifier.weight"]);
    assert_eq!(
        (config.modules_to_save(), config.lora_bias()),
        (&["classifier".to_owned()][..], true)
    );
    let (names, config) = saved("bias_lora_only");
    assert_eq!(names, ["blocks.0.attn.q.bias", "blocks.1.attn.q.bias"]);
    assert_eq!(config.bias(), Bias::LoraOnly);
    let (names, config) = saved("bias_all");
    assert_eq!((names.len(), config.bias()), (12, Bias::All));
    assert!(config.variants().is_empty(), "{:?}", config.variants());
}

fn with_scaling(path: &Path, scaling: Scaling) -> lora_kernels_adapters::Result<Adapter> {
    let options = ReadOptions {
        scaling: Some(scaling),
        ..ReadOptions::default()
    };
    Adapter::read(path, &options)
}

#[test]
fn loralib_state_dicts_take_alpha_or_scaling() {
    let path = fixture("loralib.safetensors");
    let adapter = with_scaling(&path, Scaling::Alpha(5.0)).unwrap();
    assert_eq!(adapter.format(), Format::Loralib);
    let (third, half) = ((5.0f64 / 3.0) as f32, 2.5);
    assert_eq!(
        ranks_and_scalings(&adapter),
        [("embed", 3, third), ("q", 3, third), ("v", 2, half)]
    );
    let adapter = with_scaling(&path, Scaling::Factor(1.5)).unwrap();
    assert_eq!(
        ranks_and_scalings(&adapter),
        [("embed", 3, 1.5), ("q", 3, 1.5), ("v", 2, 1.5)]
    );
    assert_refused(
        read(&path),
        &["loralib.safetensors", "loralib format", "lora_alpha"],
    );
    for wrong in [0.0, -2.0, f64::NAN, f64::INFINITY, 1e-60, 1e60] {
        assert_refused(
            with_scaling(&path, Scaling::Factor(wrong)),
            &["scaling", "more than 0"],
        );
    }
}

#[test]
fn a_merged_linear_of_loralib_is_recognised_and_refused() {
    assert_refused(
        with_scaling(&fixture("loralib_merged.safetensors"), Scaling::Factor(2.0)),
        &[
            "qkv.lora_A",
            "[4, 12]",
            "[24, 2]",
            "2 adapters of a MergedLinear",
            "enable_lora",
        ],
    );
}

#[test]
fn mistrals_file_is_found_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = crate::made::Tensors::default()
        .typed("layers.0.attention.wq.lora_A.weight", "BF16", &[3, 8])
        .typed("layers.0.attention.wq.lora_B.weight", "BF16", &[5, 3]);
    tensors.write(&folder.path().join("lora.safetensors"));
    let adapter = with_scaling(folder.path(), Scaling::Factor(2.0)).unwrap();
    assert_eq!(adapter.format(), Format::Mistral);
    assert_eq!(
        ranks_and_scalings(&adapter),
        [("layers.0.attention.wq", 3, 2.0)]
    );
    assert_refused(read(folder.path()), &["Mistral format", "scaling"]);
}

#[test]
fn a_scaling_beside_a_config_is_refused() {
    assert_refused(
        with_scaling(&fixture("patterns"), Scaling::Alpha(3.0)),
        &["PEFT", "contradict"],
    );
}

#[test]
fn the_file_of_a_peft_folder_stands_for_the_folder() {
    let adapter = read(&fixture("patterns").join("adapter_model.safetensors")).unwrap();
    assert_eq!(
        (adapter.format(), adapter.modules().len()),
        (Format::Peft, 6)
    );
}
