//! Base models: shards, their allowed names, and finding an adapter's modules.

use std::os::unix::fs::symlink;
use std::path::Path;

use lora_kernels_adapters::BaseModel;
use lora_kernels_adapters::base::INDEX;
use serde_json::json;

use crate::assert_refused;
use crate::made::Tensors;

fn index(folder: &Path, map: &[(&str, &str)]) {
    let map: serde_json::Map<String, serde_json::Value> = map
        .iter()
        .map(|(k, v)| ((*k).into(), (*v).into()))
        .collect();
    let text = json!({"metadata": {"total_size": 1}, "weight_map": map}).to_string();
    std::fs::write(folder.join(INDEX), text).unwrap();
}

fn weight(name: &str) -> Tensors {
    Tensors::default().with(name, &[2, 3])
}

#[test]
fn shards_are_found_by_their_index() {
    let folder = tempfile::tempdir().unwrap();
    weight("a.weight").write(&folder.path().join("one.safetensors"));
    weight("b.weight").write(&folder.path().join("two.safetensors"));
    index(
        folder.path(),
        &[
            ("a.weight", "one.safetensors"),
            ("b.weight", "two.safetensors"),
        ],
    );
    let base = BaseModel::open(folder.path()).unwrap();
    assert_eq!(base.shards().len(), 2);
    let (shard, tensor) = base.tensor("b.weight").unwrap();
    assert_eq!(
        (base.shards()[shard].name.as_str(), tensor.shape),
        ("two.safetensors", &[2, 3][..])
    );
    // A whole model takes precedence over shards, as in transformers.
    weight("c.weight").write(&folder.path().join("model.safetensors"));
    assert!(
        BaseModel::open(folder.path())
            .unwrap()
            .tensor("c.weight")
            .is_some()
    );
}

#[test]
fn an_index_cannot_lead_out_of_its_folder() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("model");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    for path in ["secret.safetensors", "model/sub/x.safetensors"] {
        weight("a.weight").write(&outer.path().join(path));
    }
    symlink("../secret.safetensors", folder.join("link.safetensors")).unwrap();
    symlink(outer.path(), folder.join("out.safetensors")).unwrap();
    let absolute = outer.path().join("secret.safetensors");
    for name in [
        "../secret.safetensors",
        absolute.to_str().unwrap(),
        "./../secret.safetensors",
        "sub/x.safetensors",
        "sub\\x.safetensors",
        "./x.safetensors",
        "link.safetensors",
        "out.safetensors",
        "..",
        ".",
        "",
        "x.safetensors\u{0}",
        "C:x.safetensors",
        "pickle.bin",
    ] {
        index(&folder, &[("a.weight", name)]);
        assert_refused(BaseModel::open(&folder), &[INDEX, "shard"]);
    }
    index(&folder, &[("a.weight", "absent.safetensors")]);
    assert_refused(BaseModel::open(&folder), &["absent.safetensors"]);
    symlink("../secret.safetensors", folder.join("model.safetensors")).unwrap();
    assert_refused(
        BaseModel::open(&folder),
        &["model.safetensors", "a link that leads out of the folder"],
    );
}

/// In such a snapshot, every file of a model is a link into ../../blobs.
#[test]
fn snapshots_of_the_hugging_face_cache_are_read() {
    let cache = tempfile::tempdir().unwrap();
    let model = cache.path().join("models--me--model");
    let snapshot = model.join("snapshots/0123abcd");
    std::fs::create_dir_all(&snapshot).unwrap();
    std::fs::create_dir_all(model.join("blobs")).unwrap();
    weight("a.weight").write(&model.join("blobs/ffff"));
    symlink("../../blobs/ffff", snapshot.join("model.safetensors")).unwrap();
    assert!(
        BaseModel::open(&snapshot)
            .unwrap()
            .tensor("a.weight")
            .is_some()
    );
    std::fs::remove_file(snapshot.join("model.safetensors")).unwrap();
    symlink(
        "../../../elsewhere.safetensors",
        snapshot.join("model.safetensors"),
    )
    .unwrap();
    weight("a.weight").write(&cache.path().join("elsewhere.safetensors"));
    assert_refused(BaseModel::open(&snapshot), &["leads out"]);
}

#[test]
fn shards_and_index_must_agree() {
    let folder = tempfile::tempdir().unwrap();
    weight("a.weight").write(&folder.path().join("one.safetensors"));
    weight("a.weight")
        .with("b.weight", &[2])
        .write(&folder.path().join("two.safetensors"));
    index(
        folder.path(),
        &[
            ("a.weight", "one.safetensors"),
            ("c.weight", "two.safetensors"),
        ],
    );
    assert_refused(
        BaseModel::open(folder.path()),
        &["two.safetensors", "doesn't hold", "c.weight"],
    );
    index(
        folder.path(),
        &[
            ("a.weight", "one.safetensors"),
            ("b.weight", "two.safetensors"),
        ],
    );
    // Both hold a.weight: the one that the index names counts.
    let base = BaseModel::open(folder.path()).unwrap();
    let home = base.tensor("a.weight").unwrap().0;
    assert_eq!(base.shards()[home].name, "one.safetensors");
    assert_eq!(base.copies("a.weight"), [1]);
    assert_eq!(base.copies("b.weight"), [0; 0]);
    for (text, fragment) in [
        ("{}", "weight_map"),
        (r#"{"weight_map": {}}"#, "no tensor"),
        (r#"{"weight_map": {"a": 1}}"#, "JSON"),
        ("[", "JSON"),
    ] {
        std::fs::write(folder.path().join(INDEX), text).unwrap();
        assert_refused(BaseModel::open(folder.path()), &[INDEX, fragment]);
    }
    std::fs::remove_file(folder.path().join(INDEX)).unwrap();
    assert_refused(
        BaseModel::open(folder.path()),
        &["model.safetensors", INDEX, "pickles"],
    );
}
