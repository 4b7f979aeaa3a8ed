//! Files of BASE and of adapters that are no files, lead elsewhere or can't be read.

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use super::{command, names};
use crate::common::assert_refused;
use crate::scene::Scene;

fn scene(test: &str) -> Scene {
    let scene = Scene::new("unreadable", test);
    let weight = scene.random(&[4, 4]);
    let tensors: &[_] = &[("q.weight", &weight)];
    scene.shards(
        "base/model.safetensors.index.json",
        &[("model-00001-of-00001.safetensors", tensors)],
    );
    scene.text("base/config.json", "{}");
    scene.adapter_of("a", "q", [4, 4]);
    scene
}

/// Puts something that no reader may open in a file's place.
fn put(kind: &str, path: &Path) {
    let _ = std::fs::remove_file(path);
    match kind {
        "pipe" => mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap(),
        // Binding one would limit the length of its path.
        "socket" => mknodat(CWD, path, FileType::Socket, Mode::RUSR | Mode::WUSR, 0).unwrap(),
        "zero" => symlink("/dev/zero", path).unwrap(),
        "folder" => std::fs::create_dir(path).unwrap(),
        "dangling" => symlink("nowhere", path).unwrap(),
        "loop" => symlink(path.file_name().unwrap(), path).unwrap(),
        "outside" => symlink("/etc/passwd", path).unwrap(),
        _ => unreachable!(),
    }
}

const KINDS: [&str; 7] = [
    "pipe", "socket", "zero", "folder", "dangling", "loop", "outside",
];

/// Merges as a program that is ended if it doesn't end by itself.
#[track_caller]
fn merge(scene: &Scene, more: &[&str]) -> std::process::Output {
    let adapter = scene.path("a");
    let mut child = command(
        "merge",
        &scene.path("base"),
        &[&adapter],
        &scene.path("out"),
    )
    .args(["--device", "cpu"])
    .args(more)
    .stdout(Stdio::piped())
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let started = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if started.elapsed() > Duration::from_secs(120) {
            child.kill().unwrap();
            panic!("it reads for ever");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

/// What a model or an adapter can't be read without.
#[test]
fn what_is_no_file_ends_a_merge_at_once() {
    for name in [
        "base/model.safetensors.index.json",
        "base/model-00001-of-00001.safetensors",
        "a/adapter_config.json",
        "a/adapter_model.safetensors",
    ] {
        for kind in KINDS {
            if kind == "folder" && name.ends_with(".index.json") {
                // The shards are a model without it, too.
                continue;
            }
            let scene = scene("needed");
            put(kind, &scene.path(name));
            let file = Path::new(name).file_name().unwrap().to_str().unwrap();
            assert_refused(&merge(&scene, &[]), 2, &[file]);
            assert!(!scene.path("out").exists());
        }
    }
}

/// What a reader of the result would miss.
#[test]
fn what_is_no_file_beside_the_weights_is_an_error_too() {
    for name in [
        "base/config.json",
        "base/tokenizer.json",
        "a/tokenizer.json",
    ] {
        for kind in KINDS {
            let scene = scene("beside");
            put(kind, &scene.path(name));
            let output = merge(&scene, &["--json"]);
            let file = scene.path(name);
            let file = file.to_str().unwrap();
            match kind {
                // A link out of the folder could lead to any file of this machine.
                "outside" => {
                    crate::common::assert_status(&output, 0);
                    let said = crate::common::stdout(&output);
                    assert!(said.contains("link"), "{said}");
                    assert!(!scene.path("out").join("tokenizer.json").exists());
                }
                // A folder has any name.
                "folder" => crate::common::assert_status(&output, 0),
                _ => {
                    assert_refused(&output, 2, &[file, "--skip-unreadable"]);
                    assert!(!scene.path("out").exists());
                }
            }
        }
    }
}

/// Files of any name that can't be read, in a folder of any depth.
#[test]
fn the_others_are_an_error_or_left_out_where_that_is_asked_for() {
    let scene = scene("others");
    scene.text("base/kept.txt", "kept");
    scene.text("base/1_Pooling/config.json", "{}");
    put("dangling", &scene.path("base/notes.txt"));
    put("loop", &scene.path("base/1_Pooling/other.json"));
    put("dangling", &scene.path("a/tokenizer.json"));
    let fragments = [
        "notes.txt (a link to a file that isn't there)",
        "1_Pooling/other.json",
        "a/tokenizer.json",
    ];
    assert_refused(&merge(&scene, &[]), 2, &fragments);
    assert_eq!(names(&scene.folder), ["a", "base"]);
    let output = merge(&scene, &["--skip-unreadable", "--json"]);
    assert_refused(&output, 5, &fragments);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report["unreadable"].as_array().unwrap().len(),
        3,
        "{report}"
    );
    assert_eq!(
        names(&scene.path("out")),
        [
            "1_Pooling",
            "config.json",
            "kept.txt",
            "model-00001-of-00001.safetensors",
            "model.safetensors.index.json"
        ]
    );
    std::fs::remove_dir_all(scene.path("out")).unwrap();
    let output = merge(&scene, &["--skip-unreadable"]);
    let printed = crate::common::stdout(&output);
    assert_eq!(printed.matches("warning: left out").count(), 3, "{printed}");
}

/// Root may read everything, so that this says nothing there.
#[test]
fn what_the_user_may_not_read_is_an_error() {
    use std::os::unix::fs::PermissionsExt;
    let scene = scene("forbidden");
    scene.text("base/notes.txt", "secret");
    scene.text("base/sub/notes.txt", "secret");
    for name in ["base/notes.txt", "base/sub"] {
        let path = scene.path(name);
        let mode = |mode: u32| {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        let before = path.metadata().unwrap().permissions().mode();
        mode(0);
        let is_forbidden = std::fs::File::open(&path).is_err();
        let output = merge(&scene, &[]);
        mode(before);
        if is_forbidden {
            assert_refused(&output, 2, &[name.trim_start_matches("base/"), "denied"]);
            assert!(!scene.path("out").exists());
        } else {
            let _ = std::fs::remove_dir_all(scene.path("out"));
        }
    }
}

/// Other things with names that no reader looks for are said to be left out.
#[test]
fn pipes_and_links_of_other_names_are_left_out() {
    let scene = scene("left_out");
    put("pipe", &scene.path("base/queue"));
    put("socket", &scene.path("base/agent"));
    put("outside", &scene.path("base/users"));
    std::fs::create_dir(scene.path("base/real")).unwrap();
    symlink("real", scene.path("base/linked")).unwrap();
    let output = merge(&scene, &["--json"]);
    crate::common::assert_status(&output, 0);
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        report["left_out"],
        json!([
            "agent (a socket)",
            "linked (a link to a folder)",
            "queue (a pipe)",
            "users (a link out of the folder)"
        ])
    );
}

/// A text of a gigabyte is no config, and a hole in a file takes no place on the disk.
#[test]
fn texts_are_read_up_to_a_limit() {
    for (name, bytes) in [
        ("base/model.safetensors.index.json", 101 << 20),
        ("a/adapter_config.json", 101 << 20),
    ] {
        let scene = scene("large");
        let file = std::fs::File::create(scene.path(name)).unwrap();
        file.set_len(bytes).unwrap();
        assert_refused(&merge(&scene, &[]), 2, &[name, "at most"]);
    }
    for (name, bytes) in [
        ("base/config.json", (16 << 20) + 1),
        ("base/params.json", 1 << 40),
        ("base/tokenizer.json", 1 << 40),
    ] {
        let scene = scene("large_beside");
        let file = std::fs::File::create(scene.path(name)).unwrap();
        file.set_len(bytes).unwrap();
        assert_refused(&merge(&scene, &[]), 2, &[name, "at most"]);
        assert!(!scene.path("out").exists());
    }
    let scene = scene("large_brought");
    let file = std::fs::File::create(scene.path("a/tokenizer.json")).unwrap();
    file.set_len(1 << 40).unwrap();
    let output = merge(&scene, &[]);
    crate::common::assert_status(&output, 0);
    let printed = crate::common::stdout(&output);
    assert_eq!(
        printed.matches("was not taken over").count(),
        1,
        "{printed}"
    );
}
