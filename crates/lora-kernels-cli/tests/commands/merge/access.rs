//! The modes of what is written.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use crate::common::assert_status;
use crate::scene::Scene;

/// A model of two shards with other files, and an adapter.
fn scene(test: &str) -> Scene {
    let scene = Scene::new("access", test);
    let (one, two) = (scene.random(&[4, 4]), scene.random(&[4, 4]));
    scene.shards(
        "base/model.safetensors.index.json",
        &[
            ("model-00001-of-00002.safetensors", &[("q.weight", &one)]),
            ("model-00002-of-00002.safetensors", &[("k.weight", &two)]),
        ],
    );
    scene.put("alone.safetensors", &[("q.weight", &one)]);
    scene.text("base/config.json", "{}");
    scene.text("base/1_Pooling/config.json", "{}");
    scene.text("base/tool", "#!/bin/sh\n");
    scene.adapter_of("a", "q", [4, 4]);
    scene.text("a/tokenizer.json", "{}");
    for folder in ["base", "base/1_Pooling", "a"] {
        mode(&scene, folder, 0o755);
        for entry in scene.path(folder).read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                set_permissions(path, Permissions::from_mode(0o644)).unwrap();
            }
        }
    }
    mode(&scene, "alone.safetensors", 0o644);
    scene
}

fn mode(scene: &Scene, path: &str, mode: u32) {
    set_permissions(scene.path(path), Permissions::from_mode(mode)).unwrap();
}

/// Merges under a umask, and returns every path of the output with its mode.
fn merged(scene: &Scene, base: &str, umask: &str) -> Vec<(String, u32)> {
    let out = scene.path("out");
    let _ = std::fs::remove_dir_all(&out);
    let _ = std::fs::remove_file(&out);
    let program = crate::common::lora_kernels();
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("umask {umask} && exec \"$0\" \"$@\"")])
        .arg(program.get_program())
        .arg("merge")
        .args([&scene.path(base), &scene.path("a")])
        .arg("-o")
        .arg(&out)
        .args(["--device", "cpu"]);
    assert_status(&command.output().unwrap(), 0);
    let mut modes = Vec::new();
    collect(&out, "out", &mut modes);
    modes
}

fn collect(path: &Path, name: &str, modes: &mut Vec<(String, u32)>) {
    let metadata = path.symlink_metadata().unwrap();
    modes.push((name.to_owned(), metadata.mode() & 0o7777));
    if metadata.is_dir() {
        for entry in path.read_dir().unwrap() {
            let entry = entry.unwrap();
            let name = format!("{name}/{}", entry.file_name().to_str().unwrap());
            collect(&entry.path(), &name, modes);
        }
    }
}

/// The mode of a path, as a program would create it under this umask.
fn assert_created(modes: &[(String, u32)], umask: u32) {
    assert!(modes.len() > 7, "{modes:?}");
    for (name, mode) in modes {
        let full = match name.as_str() {
            "out" | "out/1_Pooling" => 0o777,
            _ => 0o666,
        };
        assert_eq!(*mode, full & !umask, "{name} under umask {umask:o}");
    }
}

/// Another user's program in a base would otherwise become the user's own.
#[test]
fn no_bit_of_a_file_is_carried_over() {
    let scene = scene("bits");
    for path in ["base/tool", "base/config.json", "a/tokenizer.json"] {
        mode(&scene, path, 0o6755);
    }
    mode(&scene, "base", 0o1777);
    mode(&scene, "base/1_Pooling", 0o3777);
    for (text, umask) in [("022", 0o022), ("002", 0o002), ("077", 0o077)] {
        assert_created(&merged(&scene, "base", text), umask);
    }
    mode(&scene, "alone.safetensors", 0o6755);
    let modes = merged(&scene, "alone.safetensors", "022");
    assert_eq!(modes, [("out".to_owned(), 0o644)]);
}

/// What only its owner may read is not written for all.
#[test]
fn a_private_base_gives_a_private_output() {
    let scene = scene("private_base");
    mode(&scene, "base", 0o700);
    for (name, mode) in merged(&scene, "base", "000") {
        assert_eq!(mode & 0o077, 0, "{name} of a private folder");
    }
    mode(&scene, "base", 0o755);
    mode(&scene, "base/config.json", 0o600);
    mode(&scene, "base/1_Pooling", 0o700);
    for (name, mode) in merged(&scene, "base", "000") {
        let is_private = name == "out/config.json" || name.starts_with("out/1_Pooling");
        assert_eq!(mode & 0o077 == 0, is_private, "{name}: {mode:o}");
    }
    // The group of the test's own files is the process's.
    mode(&scene, "base", 0o750);
    for (name, mode) in merged(&scene, "base", "000") {
        assert_eq!(mode & 0o007, 0, "{name}: {mode:o}");
    }
    mode(&scene, "alone.safetensors", 0o400);
    let modes = merged(&scene, "alone.safetensors", "000");
    assert_eq!(modes, [("out".to_owned(), 0o600)]);
}

/// A shard, or an adapter, makes the weights private, and with them the folder.
#[test]
fn private_weights_and_adapters_make_the_output_private() {
    let scene = scene("private_parts");
    for (path, private, public) in [
        ("base/model-00001-of-00002.safetensors", 0o600, 0o644),
        ("a/adapter_model.safetensors", 0o600, 0o644),
        ("a", 0o700, 0o755),
    ] {
        mode(&scene, path, private);
        for (name, mode) in merged(&scene, "base", "000") {
            let is_private = name == "out" || name == "out/model-00001-of-00002.safetensors";
            assert!(mode & 0o077 == 0 || !is_private, "{path}: {name}: {mode:o}");
        }
        mode(&scene, path, public);
    }
    mode(&scene, "a", 0o700);
    let modes = merged(&scene, "alone.safetensors", "000");
    assert_eq!(modes, [("out".to_owned(), 0o600)]);
}

/// A link to a file, as in a cache, has no rights of its own.
#[test]
fn the_rights_of_a_link_are_those_of_what_it_leads_to() {
    let scene = scene("links");
    std::fs::rename(scene.path("base/config.json"), scene.path("base/own.json")).unwrap();
    std::os::unix::fs::symlink("own.json", scene.path("base/config.json")).unwrap();
    mode(&scene, "base/own.json", 0o600);
    let modes = merged(&scene, "base", "022");
    let config = modes.iter().find(|(name, _)| name == "out/config.json");
    assert_eq!(config.unwrap().1, 0o600);
}
