//! Links in a model's folder.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::BaseModel;
use lora_kernels_adapters::base::INDEX;
use serde_json::json;

use crate::assert_refused;
use crate::made::Tensors;

/// A folder with two shards, their index and a config, and an empty folder beside it.
fn two() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let (real, linked) = (outer.path().join("real"), outer.path().join("linked"));
    std::fs::create_dir(&real).unwrap();
    std::fs::create_dir(&linked).unwrap();
    for name in ["one", "two"] {
        let tensors = Tensors::default().with(&format!("{name}.weight"), &[2, 3]);
        tensors.write(&real.join(format!("{name}.safetensors")));
    }
    let map = json!({"one.weight": "one.safetensors", "two.weight": "two.safetensors"});
    std::fs::write(real.join(INDEX), json!({"weight_map": map}).to_string()).unwrap();
    std::fs::write(real.join("config.json"), r#"{"vocab_size": 9}"#).unwrap();
    (outer, real, linked)
}

fn link_all(real: &Path, linked: &Path) {
    for entry in real.read_dir().unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), linked.join(entry.file_name())).unwrap();
    }
}

#[test]
fn a_folder_of_links_into_one_other_folder_is_a_model() {
    let (_outer, real, linked) = two();
    link_all(&real, &linked);
    let base = BaseModel::open(&linked).unwrap();
    assert_eq!((base.shards().len(), base.names().len()), (2, 2));
    assert_eq!(base.config().unwrap()["vocab_size"], 9);
    let notes = base.notes().join("; ");
    assert!(
        notes.contains("links into") && notes.contains("real"),
        "{notes}"
    );
    // Of the other files, those of the same name in the same folder belong to the model.
    assert!(base.holds(&linked.join("config.json")).unwrap());
    std::fs::write(real.join("secret.json"), "{}").unwrap();
    symlink(real.join("secret.json"), linked.join("tokenizer.json")).unwrap();
    assert!(!base.holds(&linked.join("tokenizer.json")).unwrap());
}

#[test]
fn weights_that_are_links_out_only_in_part_are_refused() {
    let (outer, real, linked) = two();
    link_all(&real, &linked);
    std::fs::remove_file(linked.join("two.safetensors")).unwrap();
    std::fs::copy(real.join("two.safetensors"), linked.join("two.safetensors")).unwrap();
    let out = [
        "one.safetensors",
        "leads out of the folder",
        "real/one.safetensors",
    ];
    assert_refused(BaseModel::open(&linked), &out);

    // Into two folders.
    let third = outer.path().join("third");
    std::fs::create_dir(&third).unwrap();
    std::fs::rename(
        linked.join("two.safetensors"),
        third.join("two.safetensors"),
    )
    .unwrap();
    symlink(
        third.join("two.safetensors"),
        linked.join("two.safetensors"),
    )
    .unwrap();
    assert_refused(BaseModel::open(&linked), &["leads out"]);

    // Under other names.
    std::fs::remove_file(linked.join("two.safetensors")).unwrap();
    symlink(real.join("one.safetensors"), linked.join("two.safetensors")).unwrap();
    assert_refused(BaseModel::open(&linked), &["leads out"]);
}

#[test]
fn a_linked_config_beside_own_weights_is_not_read() {
    let (_outer, real, linked) = two();
    symlink(real.join("config.json"), linked.join("config.json")).unwrap();
    let own = Tensors::default().with("own.weight", &[2, 3]);
    own.write(&linked.join("model.safetensors"));
    let base = BaseModel::open(&linked).unwrap();
    assert!(base.config().is_none());
    let notes = base.notes().join("; ");
    assert!(notes.contains("config.json is a link out"), "{notes}");
}

/// `hf download --local-dir` of older versions, DVC and git-annex link to a hash's place.
#[test]
fn links_to_a_contents_address_are_followed() {
    let outer = tempfile::tempdir().unwrap();
    let hash = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    for place in [
        format!("hub/models--me--model/blobs/{hash}"),
        format!("dvc/files/md5/{}/{}", &hash[..2], &hash[2..32]),
        format!("annex/SHA256E-s96--{hash}.safetensors"),
    ] {
        let place = outer.path().join(place);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        Tensors::default().with("q.weight", &[2, 3]).write(&place);
        let folder = tempfile::tempdir().unwrap();
        symlink(&place, folder.path().join("model.safetensors")).unwrap();
        let base = BaseModel::open(folder.path());
        assert!(base.is_ok(), "{}: {base:?}", place.display());
    }
    let place = outer.path().join(&hash[..29]);
    Tensors::default().with("q.weight", &[2, 3]).write(&place);
    let folder = tempfile::tempdir().unwrap();
    symlink(&place, folder.path().join("model.safetensors")).unwrap();
    assert_refused(BaseModel::open(folder.path()), &["leads out"]);
}

#[test]
fn a_link_to_the_folder_is_the_folder_and_a_dangling_one_is_said() {
    let (outer, real, linked) = two();
    let link = outer.path().join("link");
    symlink(&real, &link).unwrap();
    assert_eq!(BaseModel::open(&link).unwrap().shards().len(), 2);
    link_all(&real, &linked);
    std::fs::remove_file(real.join("two.safetensors")).unwrap();
    assert_refused(
        BaseModel::open(&linked),
        &["two.safetensors", "a link to a file that isn't there"],
    );
    // Folders that are links are no part of a folder.
    let pipeline = tempfile::tempdir().unwrap();
    symlink(&real, pipeline.path().join("transformer")).unwrap();
    let named = ["no base model", "1 links to folders", "(transformer)"];
    assert_refused(BaseModel::open(pipeline.path()), &named);
}
