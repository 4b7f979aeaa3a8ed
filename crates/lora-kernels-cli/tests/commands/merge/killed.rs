//! Runs that are killed or interrupted.

use std::path::Path;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use lora_kernels_adapters::{DType, PeftConfig};

use super::model::{Shapes, adapter, sharded};
use super::{command, folder, merge, names};
use crate::common::assert_status;

const SHAPES: Shapes<'static> = &[
    ("a.q.weight", &[700, 720]),
    ("a.k.weight", &[700, 720]),
    ("a.v.weight", &[700, 720]),
];

fn prepared(folder: &Path) -> (std::path::PathBuf, std::path::PathBuf) {
    let base = folder.join("base");
    sharded(&base, DType::BF16, &[SHAPES]);
    let modules = [
        ("a.q", 3, 720, 700),
        ("a.k", 3, 720, 700),
        ("a.v", 3, 720, 700),
    ];
    let config = PeftConfig::new(3, 4.0, &["q", "k", "v"]).unwrap();
    (
        base,
        adapter(&folder.join("adapter"), DType::BF16, 1, config, &modules),
    )
}

/// Starts a merge and waits until it has begun to write.
fn begun(folder: &Path, base: &Path, adapter: &Path) -> Child {
    let mut child = command("merge", base, &[adapter], &folder.join("out"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = Instant::now();
    let partial = folder.join(format!(".out.partial-{}", child.id()));
    while !partial.exists() {
        assert!(
            started.elapsed() < Duration::from_secs(60) && child.try_wait().unwrap().is_none(),
            "it never began"
        );
        std::thread::sleep(Duration::from_millis(1));
    }
    child
}

#[test]
fn a_killed_run_leaves_no_output_and_the_next_one_cleans_up() {
    let folder = folder("killed");
    let (base, adapter) = prepared(&folder);
    let mut killed = 0;
    for delay in [0, 5, 40] {
        let mut child = begun(&folder, &base, &adapter);
        std::thread::sleep(Duration::from_millis(delay));
        // SIGKILL
        child.kill().unwrap();
        let status = child.wait().unwrap();
        if status.success() {
            std::fs::remove_dir_all(folder.join("out")).unwrap();
            continue;
        }
        killed += 1;
        let left = names(&folder);
        assert!(!left.contains(&"out".to_owned()), "{left:?}");
        assert_eq!(
            left,
            [&format!(".out.partial-{}", child.id()), "adapter", "base"]
        );
    }
    assert!(killed > 0, "every run was over before it was killed");
    assert_status(&merge(&base, &[&adapter], &folder.join("out"), &[]), 0);
    assert_eq!(
        names(&folder),
        ["adapter", "base", "out"],
        "leftovers are removed"
    );
}

#[test]
fn an_interrupted_run_removes_what_it_began() {
    let folder = folder("interrupted");
    let (base, adapter) = prepared(&folder);
    let mut child = begun(&folder, &base, &adapter);
    let id = child.id().to_string();
    assert!(
        std::process::Command::new("kill")
            .args(["-INT", &id])
            .status()
            .unwrap()
            .success()
    );
    let status = child.wait().unwrap();
    // The run may already have passed its last check for an interruption.
    if status.success() {
        assert_eq!(names(&folder), ["adapter", "base", "out"]);
    } else {
        assert_eq!(status.code(), Some(130));
        assert_eq!(names(&folder), ["adapter", "base"]);
    }
}
