//! The models that a path can mean.

use std::path::{Path, PathBuf};

use lora_kernels_adapters::{BaseModel, Result};
use serde_json::json;

use crate::assert_refused;
use crate::made::Tensors;

/// Writes a file, and the folders that it lies in.
fn file(folder: &Path, name: &str, content: &[u8]) {
    let path = folder.join(name);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, content).unwrap();
}

/// Writes a safetensors file with these matrices.
fn model(folder: &Path, name: &str, tensors: &[&str]) {
    let all = tensors.iter();
    let all = all.fold(Tensors::default(), |all, name| all.with(name, &[2, 3]));
    file(folder, name, &all.bytes());
}

/// Writes an index that maps tensors to shards.
fn index(folder: &Path, name: &str, map: &[(&str, &str)]) {
    let map: serde_json::Map<String, serde_json::Value> = map
        .iter()
        .map(|(tensor, shard)| ((*tensor).into(), (*shard).into()))
        .collect();
    file(
        folder,
        name,
        json!({"weight_map": map}).to_string().as_bytes(),
    );
}

/// The names of all candidates' tensors, in the candidates' order.
fn tensors(path: &Path) -> Vec<Vec<String>> {
    let models = BaseModel::candidates(path).unwrap();
    let names = |model: &BaseModel| model.names().map(str::to_owned).collect();
    models.iter().map(names).collect()
}

/// The names of the opened model's tensors.
fn opened(path: &Path) -> Result<Vec<String>> {
    let model = BaseModel::open(path)?;
    Ok(model.names().map(str::to_owned).collect())
}

fn notes(path: &Path) -> String {
    BaseModel::open(path).unwrap().notes().join("; ")
}

/// Mistral's repositories hold both; transformers never looks at consolidated.safetensors.
#[test]
fn shards_come_before_mistrals_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "consolidated.safetensors", &["layers.0.wq.weight"]);
    model(
        folder,
        "model-00001-of-00001.safetensors",
        &["model.q.weight"],
    );
    let map = [("model.q.weight", "model-00001-of-00001.safetensors")];
    index(folder, "model.safetensors.index.json", &map);
    file(folder, "config.json", br#"{"model_type": "mistral"}"#);
    file(folder, "params.json", br#"{"dim": 8}"#);
    assert_eq!(
        tensors(folder),
        [["model.q.weight"], ["layers.0.wq.weight"]]
    );
    assert_eq!(opened(folder).unwrap(), ["model.q.weight"]);
    let models = BaseModel::candidates(folder).unwrap();
    let all: Vec<&BaseModel> = models.iter().collect();
    assert_eq!(BaseModel::preferred(&all).len(), 1);
    assert_eq!(BaseModel::preferred(&all[1..]).len(), 1);
    // Each has the config of its own format.
    assert_eq!(models[0].config().unwrap()["model_type"], "mistral");
    assert_eq!(models[1].config().unwrap()["dim"], 8);
}

/// People download consolidated.safetensors alone, with all of the small files.
#[test]
fn an_index_without_any_of_its_shards_is_passed_over_and_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let map = [
        ("a.weight", "model-00001-of-00002.safetensors"),
        ("b.weight", "model-00002-of-00002.safetensors"),
    ];
    index(folder, "model.safetensors.index.json", &map);
    let lacks = [
        "model-00001-of-00002.safetensors",
        "isn't there",
        "2 of the model's 2",
    ];
    assert_refused(BaseModel::open(folder), &lacks);
    model(folder, "consolidated.safetensors", &["wq.weight"]);
    assert_eq!(opened(folder).unwrap(), ["wq.weight"]);
    let notes = notes(folder);
    assert!(notes.contains("model.safetensors.index.json"), "{notes}");

    // Where a part is there, the download is incomplete, and no other file stands in for it.
    model(folder, "model-00001-of-00002.safetensors", &["a.weight"]);
    assert_refused(
        BaseModel::open(folder),
        &["model-00002-of-00002.safetensors", "isn't complete"],
    );
}

#[test]
fn a_damaged_model_is_not_replaced_by_another_format() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    file(folder, "model.safetensors", b"damaged");
    model(folder, "consolidated.safetensors", &["wq.weight"]);
    model(folder, "model.fp16.safetensors", &["q.weight"]);
    assert_refused(BaseModel::open(folder), &["model.safetensors", "7 bytes"]);
    // The other way round, the preferred model is whole.
    model(folder, "model.safetensors", &["q.weight"]);
    file(folder, "consolidated.safetensors", b"damaged");
    assert_eq!(opened(folder).unwrap(), ["q.weight"]);
    assert!(notes(folder).contains("consolidated.safetensors"));
}

#[test]
fn an_index_and_a_config_can_be_given_for_the_folder() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "model.safetensors", &["whole.weight"]);
    model(folder, "part.safetensors", &["q.weight"]);
    index(
        folder,
        "other.safetensors.index.json",
        &[("q.weight", "part.safetensors")],
    );
    file(folder, "config.json", br#"{"vocab_size": 7}"#);
    let by_index = BaseModel::open(&folder.join("other.safetensors.index.json")).unwrap();
    assert!(by_index.tensor("q.weight").is_some());
    assert_eq!(by_index.folder(), Some(folder));
    assert_eq!(by_index.config().unwrap()["vocab_size"], 7);
    assert_eq!(
        opened(&folder.join("config.json")).unwrap(),
        ["whole.weight"]
    );
    // A file is that file alone; a model's has a config beside it.
    let whole = BaseModel::open(&folder.join("model.safetensors")).unwrap();
    assert_eq!(whole.folder(), None);
    assert_eq!(whole.config().unwrap()["vocab_size"], 7);
    let part = BaseModel::open(&folder.join("part.safetensors")).unwrap();
    assert!(part.config().is_none());
    // By its name, a file is a shard of the folder's model.
    assert_eq!(part.part_of(), None);
    for (name, is_shard) in [("x-00001-of-00002", true), ("x-00001-of-00001", false)] {
        model(folder, &format!("{name}.safetensors"), &["q.weight"]);
        let part = BaseModel::open(&folder.join(format!("{name}.safetensors"))).unwrap();
        assert_eq!(part.part_of(), is_shard.then_some(folder), "{name}");
    }
}

#[test]
fn diffusers_names_and_variants_are_models() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let stem = "diffusion_pytorch_model";
    model(
        folder,
        &format!("{stem}.fp16.safetensors"),
        &["half.weight"],
    );
    assert_eq!(opened(folder).unwrap(), ["half.weight"]);
    let shard = format!("{stem}.bf16-00001-of-00001.safetensors");
    model(folder, &shard, &["brain.weight"]);
    index(
        folder,
        &format!("{stem}.safetensors.index.bf16.json"),
        &[("brain.weight", &shard)],
    );
    // Nothing says which variant is meant.
    assert_eq!(tensors(folder).len(), 2);
    let both = ["holds 2 models", "fp16.safetensors", "index.bf16.json"];
    assert_refused(BaseModel::open(folder), &both);
    model(folder, &format!("{stem}.safetensors"), &["full.weight"]);
    assert_eq!(opened(folder).unwrap(), ["full.weight"]);
    assert_eq!(tensors(folder).len(), 3);
}

#[test]
fn files_of_other_names_are_taken_where_nothing_else_is() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "flux1-dev.safetensors", &["double_blocks.0.weight"]);
    for adapter in ["adapter_model", "pytorch_lora_weights", "lora", "optimizer"] {
        model(
            folder,
            &format!("{adapter}.safetensors"),
            &["x.lora_A.weight"],
        );
    }
    assert_eq!(tensors(folder), [["double_blocks.0.weight"]]);
    model(folder, "ae.safetensors", &["decoder.weight"]);
    assert_refused(
        BaseModel::open(folder),
        &["ae.safetensors", "flux1-dev.safetensors", "name one"],
    );
    assert_eq!(tensors(folder).len(), 2);
    model(folder, "model.safetensors", &["q.weight"]);
    assert_eq!(tensors(folder), [["q.weight"]]);
}

#[test]
fn shards_without_an_index_are_one_model_if_all_are_there() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "model-00001-of-00003.safetensors", &["a.weight"]);
    model(folder, "model-00003-of-00003.safetensors", &["c.weight"]);
    assert_refused(
        BaseModel::open(folder),
        &[
            "model-00001-of-00003.safetensors",
            "2 such files",
            "no index",
        ],
    );
    model(folder, "model-00002-of-00003.safetensors", &["b.weight"]);
    let base = BaseModel::open(folder).unwrap();
    assert_eq!((base.shards().len(), base.names().len()), (3, 3));
    assert_eq!((base.index(), base.folder()), (None, Some(folder)));
    // No index says which of two copies counts.
    model(
        folder,
        "model-00002-of-00003.safetensors",
        &["b.weight", "a.weight"],
    );
    assert_refused(BaseModel::open(folder), &["a.weight", "no index"]);
}

#[test]
fn slices_for_several_devices_are_no_shards() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "consolidated.00.safetensors", &["wq.weight"]);
    assert_eq!(opened(folder).unwrap(), ["wq.weight"]);
    model(folder, "consolidated.01.safetensors", &["wq.weight"]);
    assert_refused(BaseModel::open(folder), &["slices of a model"]);
}

#[test]
fn the_models_of_a_pipeline_are_all_candidates() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    file(folder, "model_index.json", b"{}");
    let stem = "diffusion_pytorch_model";
    model(
        folder,
        &format!("transformer/{stem}.safetensors"),
        &["to_q.weight"],
    );
    model(folder, &format!("vae/{stem}.safetensors"), &["conv.weight"]);
    model(folder, "text_encoder/model.safetensors", &["q_proj.weight"]);
    model(
        folder,
        "text_encoder/model.fp16.safetensors",
        &["q_proj.weight"],
    );
    file(folder, "scheduler/scheduler_config.json", b"{}");
    file(
        folder,
        "text_encoder/config.json",
        br#"{"model_type": "clip_text_model"}"#,
    );
    let found = BaseModel::candidates(folder).unwrap();
    let folders: Vec<PathBuf> = found
        .iter()
        .map(|model| model.folder().unwrap().strip_prefix(folder).unwrap().into())
        .collect();
    let expected = ["text_encoder", "text_encoder", "transformer", "vae"];
    assert_eq!(folders, expected.map(PathBuf::from));
    assert_eq!(found[0].config().unwrap()["model_type"], "clip_text_model");
    // One format is preferred in each folder, and no folder to another.
    let all: Vec<&BaseModel> = found.iter().collect();
    assert_eq!(BaseModel::preferred(&all).len(), 3);
    assert_eq!(BaseModel::preferred(&all[..2]).len(), 1);
    assert_refused(
        BaseModel::open(folder),
        &["4 models", "transformer", "vae", "name one"],
    );
    assert_eq!(opened(&folder.join("vae")).unwrap(), ["conv.weight"]);
}

#[test]
fn checkpoints_below_are_found_and_several_are_listed() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    file(folder, "trainer_state.json", b"{}");
    model(folder, "checkpoint-500/model.safetensors", &["q.weight"]);
    model(
        folder,
        "checkpoint-500/optimizer.safetensors",
        &["q.weight"],
    );
    assert_eq!(opened(folder).unwrap(), ["q.weight"]);
    assert!(notes(folder).contains("checkpoint-500"));
    model(folder, "checkpoint-1000/model.safetensors", &["q.weight"]);
    assert_refused(
        BaseModel::open(folder),
        &["2 models", "checkpoint-500", "checkpoint-1000"],
    );
    // The folder's own model is the one that is meant by it.
    model(folder, "model.safetensors", &["own.weight"]);
    assert_eq!(tensors(folder), [["own.weight"]]);
}

#[test]
fn a_folder_of_the_hub_cache_leads_to_its_snapshot() {
    let cache = tempfile::tempdir().unwrap();
    let root = cache.path().join("models--me--model");
    model(&root, "snapshots/aaaa/model.safetensors", &["first.weight"]);
    for path in [
        root.clone(),
        root.join("snapshots"),
        cache.path().to_owned(),
    ] {
        assert_eq!(
            opened(&path).unwrap(),
            ["first.weight"],
            "{}",
            path.display()
        );
    }
    let notes = notes(&root);
    assert!(
        notes.contains("models--me--model leads to snapshots/aaaa"),
        "{notes}"
    );
    model(
        &root,
        "snapshots/bbbb/model.safetensors",
        &["second.weight"],
    );
    assert_refused(
        BaseModel::open(&root),
        &["2 snapshots", "refs/main", "aaaa, bbbb"],
    );
    file(&root, "refs/main", b"bbbb\n");
    assert_eq!(opened(&root).unwrap(), ["second.weight"]);
    // A ref can't lead elsewhere.
    model(cache.path(), "other/model.safetensors", &["other.weight"]);
    file(&root, "refs/main", b"../../other");
    assert_refused(BaseModel::open(&root), &["2 snapshots"]);
    // A snapshot without weights says so.
    file(&root, "refs/main", b"cccc");
    file(&root, "snapshots/cccc/config.json", b"{}");
    assert_refused(
        BaseModel::open(&root),
        &["snapshots/cccc", "config.json", "another snapshot"],
    );
}

#[test]
fn what_lies_there_instead_of_a_model_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let refused = |fragments: &[&str]| assert_refused(BaseModel::open(folder), fragments);
    refused(&["no base model", "model.safetensors"]);
    file(folder, "pytorch_model.bin", b"PK\x03\x04");
    refused(&["pytorch_model.bin", "pickles"]);
    file(folder, "model-Q4_K_M.gguf", b"GGUF");
    refused(&["model-Q4_K_M.gguf", "llama.cpp", "quantised"]);
    file(folder, "pytorch_model.bin.index.json", b"{}");
    assert_refused(
        BaseModel::open(&folder.join("pytorch_model.bin.index.json")),
        &["no index of safetensors shards"],
    );
    for (name, fragment) in [
        ("pytorch_model.bin", "pickles"),
        ("model-Q4_K_M.gguf", "quantised"),
    ] {
        assert_refused(BaseModel::open(&folder.join(name)), &[name, fragment]);
    }
    model(folder, "adapter_model.safetensors", &["x.lora_A.weight"]);
    refused(&["adapter_model.safetensors", "an adapter"]);
    for number in 0..20 {
        file(folder, &format!("a{number}.txt"), b"");
    }
    refused(&["16 others"]);
    let pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\nsize 5\n";
    file(folder, "model.safetensors", pointer);
    refused(&["model.safetensors", "Git LFS", "git lfs pull"]);
}

#[test]
fn a_name_on_the_hub_has_to_be_downloaded_first() {
    let name = Path::new("some-organisation/some-model");
    assert_refused(
        BaseModel::open(name),
        &["hf download some-organisation/some-model"],
    );
    for path in [
        "./some-organisation/some-model",
        "a/b/c",
        "alone",
        "/some/model",
    ] {
        assert_refused(BaseModel::open(Path::new(path)), &["can't read", path]);
    }
}

/// Each checkpoint is a model, and opening thousands of them would take long.
#[test]
fn many_folders_with_models_are_not_looked_into() {
    let folder = tempfile::tempdir().unwrap();
    for number in 0..65 {
        let name = format!("checkpoint-{number}/model.safetensors");
        model(folder.path(), &name, &["q.weight"]);
    }
    assert_refused(BaseModel::open(folder.path()), &["more than 64 folders"]);
}

/// Mamba 2's config has `Infinity`, which Python writes and JSON lacks.
#[test]
fn a_config_of_python_is_read_and_a_broken_one_is_said() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    model(folder, "model.safetensors", &["q.weight"]);
    let text = br#"{"time_step_limit": [0.0, Infinity], "tie_word_embeddings": true}"#;
    file(folder, "config.json", text);
    let base = BaseModel::open(folder).unwrap();
    assert_eq!(base.config().unwrap()["tie_word_embeddings"], true);
    assert!(base.notes().is_empty(), "{:?}", base.notes());
    file(folder, "config.json", b"{");
    let base = BaseModel::open(folder).unwrap();
    assert!(base.config().is_none());
    assert!(notes(folder).contains("config.json"));
}
