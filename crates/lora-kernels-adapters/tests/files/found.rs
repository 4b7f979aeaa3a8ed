//! Finding an adapter in folders as trainers and caches leave them.

use std::fs::{create_dir_all, rename, write};
use std::os::unix::fs::symlink;
use std::path::Path;

use lora_kernels_adapters::{Adapter, Format, ReadOptions, Result};

use crate::made::{CONFIG, Tensors, one_module, peft};
use crate::{assert_refused, read};

fn adapter_at(folder: &Path) {
    create_dir_all(folder).unwrap();
    peft(folder, CONFIG, &one_module().bytes());
}

fn chosen(path: &Path, name: &str) -> Result<Adapter> {
    let options = ReadOptions {
        adapter: Some(name.to_owned()),
        ..ReadOptions::default()
    };
    Adapter::read(path, &options)
}

#[test]
fn the_only_checkpoint_of_a_trainer_s_folder_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let output = folder.path();
    write(output.join("trainer_state.json"), "{}").unwrap();
    adapter_at(&output.join("checkpoint-9"));
    let adapter = read(output).unwrap();
    assert_eq!(adapter.path(), output.join("checkpoint-9"));
    assert!(adapter.followed().unwrap().contains("checkpoint-9"));
    // Several are an error that suggests the newest, which isn't the last by name.
    adapter_at(&output.join("checkpoint-10"));
    assert_refused(
        read(output),
        &[
            "several",
            "checkpoint-9, checkpoint-10",
            "the newest is",
            "/checkpoint-10)",
        ],
    );
    let adapter = chosen(output, "checkpoint-9").unwrap();
    assert_eq!(adapter.path(), output.join("checkpoint-9"));
    // An adapter in the folder itself is the final one.
    adapter_at(output);
    let adapter = read(output).unwrap();
    assert_eq!((adapter.path(), adapter.followed()), (output, None));
}

/// PEFT saves adapters with other names than `default` into folders of their own.
#[test]
fn an_adapter_in_a_folder_of_its_name_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    adapter_at(&folder.path().join("checkpoint-5/reward"));
    let adapter = read(folder.path()).unwrap();
    assert_eq!(adapter.path(), folder.path().join("checkpoint-5/reward"));
    adapter_at(&folder.path().join("checkpoint-5/policy"));
    assert_refused(read(folder.path()), &["policy", "reward", "several"]);
    let adapter = chosen(folder.path(), "policy").unwrap();
    assert_eq!(adapter.path(), folder.path().join("checkpoint-5/policy"));
    assert_refused(
        chosen(folder.path(), "critic"),
        &["no adapter critic", "policy", "reward"],
    );
}

/// PEFT saves `default` into the folder itself, and the others below it.
#[test]
fn a_named_adapter_is_looked_for_in_its_folder_first() {
    let folder = tempfile::tempdir().unwrap();
    adapter_at(folder.path());
    adapter_at(&folder.path().join("other"));
    let adapter = chosen(folder.path(), "other").unwrap();
    assert_eq!(adapter.path(), folder.path().join("other"));
    assert!(adapter.followed().unwrap().contains("leads to other"));
    assert_refused(
        chosen(folder.path(), "nope"),
        &["no adapter nope", "without a name"],
    );
}

/// kohya's trainer leaves one file of any name.
#[test]
fn the_only_loose_file_of_a_folder_is_followed() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    let tensors = Tensors::default()
        .pair("lora_unet_q.lora_down.weight", "lora_unet_q.lora_up.weight")
        .number("lora_unet_q.alpha", &[], 3.0);
    tensors.write(&at("l.safetensors"));
    let adapter = read(folder.path()).unwrap();
    assert_eq!(adapter.path(), at("l.safetensors"));
    assert!(
        adapter
            .followed()
            .unwrap()
            .contains("leads to l.safetensors")
    );
    adapter_at(&at("checkpoint-3"));
    assert_refused(
        read(folder.path()),
        &["several", "l.safetensors, checkpoint-3"],
    );
    std::fs::remove_dir_all(at("checkpoint-3")).unwrap();
    tensors.write(&at("m.safetensors"));
    assert_refused(read(folder.path()), &["l.safetensors, m.safetensors"]);
    // Both names are what a folder's adapter may be called.
    tensors.write(&at("lora.safetensors"));
    tensors.write(&at("pytorch_lora_weights.safetensors"));
    assert_refused(
        read(folder.path()),
        &["lora.safetensors and pytorch_lora_weights.safetensors"],
    );
}

#[test]
fn a_file_beside_another_s_config_is_told_so() {
    let folder = tempfile::tempdir().unwrap();
    adapter_at(folder.path());
    let second = folder.path().join("second.safetensors");
    one_module().write(&second);
    assert_refused(read(&second), &["may be of another file"]);
}

#[test]
fn roots_of_the_hugging_face_cache_lead_to_a_snapshot() {
    let cache = tempfile::tempdir().unwrap();
    let root = cache.path().join("models--me--lora");
    let snapshot = |name: &str| root.join("snapshots").join(name);
    create_dir_all(root.join("refs")).unwrap();
    create_dir_all(root.join("blobs")).unwrap();
    adapter_at(&snapshot("aaaa"));
    // Every file of a snapshot is a link into blobs.
    let blob = root.join("blobs/ffff");
    rename(snapshot("aaaa").join("adapter_model.safetensors"), &blob).unwrap();
    symlink(
        "../../blobs/ffff",
        snapshot("aaaa").join("adapter_model.safetensors"),
    )
    .unwrap();
    assert_eq!(read(&root).unwrap().path(), snapshot("aaaa"));
    adapter_at(&snapshot("bbbb"));
    assert_refused(read(&root), &["2 snapshots", "aaaa, bbbb"]);
    write(root.join("refs/main"), "bbbb\n").unwrap();
    let adapter = read(&root).unwrap();
    assert_eq!(adapter.path(), snapshot("bbbb"));
    assert!(adapter.followed().unwrap().contains("refs/main"));
}

#[test]
fn an_adapter_may_be_given_by_its_config_or_as_links() {
    let folder = tempfile::tempdir().unwrap();
    let real = folder.path().join("real");
    adapter_at(&real);
    let adapter = read(&real.join("adapter_config.json")).unwrap();
    assert_eq!((adapter.format(), adapter.path()), (Format::Peft, &*real));
    let links = folder.path().join("links");
    create_dir_all(&links).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        symlink(real.join(name), links.join(name)).unwrap();
    }
    assert_eq!(read(&links).unwrap().modules().len(), 1);
    symlink(&real, folder.path().join("link")).unwrap();
    assert_eq!(
        read(&folder.path().join("link")).unwrap().modules().len(),
        1
    );
}

#[test]
fn the_config_s_file_may_have_another_name() {
    let folder = tempfile::tempdir().unwrap();
    adapter_at(folder.path());
    let mine = folder.path().join("mine.safetensors");
    rename(folder.path().join("adapter_model.safetensors"), &mine).unwrap();
    assert_eq!(read(folder.path()).unwrap().format(), Format::Peft);
    assert_eq!(read(&mine).unwrap().format(), Format::Peft);
    one_module().write(&folder.path().join("other.safetensors"));
    assert_refused(
        read(folder.path()),
        &["mine.safetensors, other.safetensors"],
    );
}

#[test]
fn diffusers_file_is_found_in_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let tensors = Tensors::default()
        .pair("unet.q.lora_A.weight", "unet.q.lora_B.weight")
        .number("unet.q.alpha", &[], 3.0);
    tensors.write(&folder.path().join("pytorch_lora_weights.safetensors"));
    let adapter = read(folder.path()).unwrap();
    assert_eq!(adapter.format(), Format::Diffusers);
    assert!(adapter.path().ends_with("pytorch_lora_weights.safetensors"));
}

#[test]
fn what_lies_there_instead_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    assert_refused(read(folder.path()), &["it is empty"]);
    write(at("notes.txt"), "").unwrap();
    assert_refused(read(folder.path()), &["it holds notes.txt"]);
    one_module().write(&at("epoch-3.safetensors"));
    assert_refused(
        read(folder.path()),
        &["epoch-3.safetensors", "given as a file"],
    );
    for name in ["adapter_model.bin", "lora.pt", "x.ckpt"] {
        write(at(name), "pickle").unwrap();
        assert_refused(read(&at(name)), &[name, "a pickle"]);
    }
    write(at("lora.gguf"), "GGUF").unwrap();
    assert_refused(read(&at("lora.gguf")), &["GGUF"]);
    std::fs::remove_file(at("epoch-3.safetensors")).unwrap();
    write(at("adapter_config.json"), CONFIG).unwrap();
    write(at("adapter_model.safetensors.index.json"), "{}").unwrap();
    std::fs::remove_file(at("adapter_model.bin")).unwrap();
    assert_refused(read(folder.path()), &["several files"]);
}
