//! What is opened in the folders of models and adapters, and how much of it is read.

use std::fs::File;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use lora_kernels_adapters::base::{Home, INDEX};
use lora_kernels_adapters::output::{OutputFile, Overwrite};
use lora_kernels_adapters::{Adapter, BaseModel, Error, ReadOptions, regular};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::json;

use crate::assert_refused;
use crate::made::Tensors;

fn pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
}

/// Runs what must not wait for anybody.
#[track_caller]
fn at_once<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (send, result) = std::sync::mpsc::channel();
    std::thread::spawn(move || send.send(work()));
    { result.recv_timeout(Duration::from_secs(120)) }.expect("it ends, and without a panic")
}

/// A folder with an adapter, and one beside it.
fn adapter() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let outer = tempfile::tempdir().unwrap();
    let (own, other) = (outer.path().join("own"), outer.path().join("other"));
    for folder in [&own, &other] {
        std::fs::create_dir(folder).unwrap();
        let tensors = Tensors::default()
            .with("base_model.model.q.lora_A.weight", &[2, 3])
            .with("base_model.model.q.lora_B.weight", &[3, 2]);
        tensors.write(&folder.join("adapter_model.safetensors"));
        let config = json!({"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q"]});
        std::fs::write(folder.join("adapter_config.json"), config.to_string()).unwrap();
    }
    (outer, own, other)
}

fn read(folder: &Path) -> lora_kernels_adapters::Result<Adapter> {
    let folder = folder.to_owned();
    at_once(move || Adapter::read(&folder, &ReadOptions::default()))
}

#[test]
fn pipes_and_devices_are_refused_without_waiting() {
    let folder = tempfile::tempdir().unwrap();
    let at = folder.path().join("pipe");
    pipe(&at);
    let text = move |path: &Path| {
        let path = path.to_owned();
        at_once(move || regular::read_text(&path, 100))
    };
    assert_refused(text(&at), &["pipe is a pipe, not a file"]);
    assert_refused(text("/dev/zero".as_ref()), &["is a device, not a file"]);
    assert_refused(text(folder.path()), &["is a folder, not a file"]);
    let gone = folder.path().join("gone");
    symlink("nowhere", &gone).unwrap();
    let dangling = ["gone is a link to a file that isn't there"];
    assert_refused(text(&gone), &dangling);
    assert_refused(
        text(&folder.path().join("absent")),
        &["can't read", "absent"],
    );
    // Nor is one replaced: it isn't a file of the caller's.
    let replaced = OutputFile::create(&at, Overwrite::Replace);
    assert_refused(replaced, &["it is a pipe, socket or device"]);
}

/// Some of the system's files say that they are empty, and go on for long.
#[test]
fn texts_are_read_up_to_the_limit() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, "four").unwrap();
    assert_eq!(regular::read_text(&path, 4).unwrap(), "four");
    assert_refused(regular::read(&path, 3), &["4 bytes", "at most 3"]);
    let endless = File::create(&path).unwrap();
    endless.set_len(1 << 40).unwrap();
    assert_refused(regular::read(&path, 1 << 20), &["at most"]);
    if Path::new("/proc/self/status").exists() {
        let sizeless = regular::read("/proc/self/status".as_ref(), 8);
        assert_refused(sizeless, &["at most 8"]);
    }
    std::fs::write(&path, b"\xff").unwrap();
    assert_refused(regular::read_text(&path, 4), &["UTF-8"]);
}

/// Without its config, an adapter could be taken for another one.
#[test]
fn what_stands_for_an_adapters_config_is_no_absence() {
    for (what, fragment) in [
        ("pipe", "a pipe"),
        ("folder", "a folder"),
        ("dangling", "isn't there"),
        ("loop", "adapter_config.json"),
    ] {
        let (_outer, own, _) = adapter();
        let config = own.join("adapter_config.json");
        std::fs::remove_file(&config).unwrap();
        match what {
            "pipe" => pipe(&config),
            "folder" => std::fs::create_dir(&config).unwrap(),
            "dangling" => symlink("nowhere", &config).unwrap(),
            _ => symlink("adapter_config.json", &config).unwrap(),
        }
        assert_refused(read(&own), &["adapter_config.json", fragment]);
    }
}

/// An adapter that someone else made must not read other files of this machine.
#[test]
fn links_out_of_an_adapters_folder_are_not_followed() {
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        let (_outer, own, other) = adapter();
        std::fs::remove_file(own.join(name)).unwrap();
        let secret = other.join("secret");
        std::fs::rename(other.join(name), &secret).unwrap();
        symlink(&secret, own.join(name)).unwrap();
        assert_refused(read(&own), &[name, "leads out of its folder"]);
        // Inside of the folder, a link is as good as a file.
        std::fs::rename(&secret, own.join("here")).unwrap();
        std::fs::remove_file(own.join(name)).unwrap();
        symlink("here", own.join(name)).unwrap();
        assert!(read(&own).is_ok());
    }
    // A folder of links into one other folder is that folder.
    let (outer, _, other) = adapter();
    let links = outer.path().join("links");
    std::fs::create_dir(&links).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        symlink(other.join(name), links.join(name)).unwrap();
    }
    assert!(read(&links).is_ok());
}

/// Neither are folders, where the one that was named holds no adapter itself.
#[test]
fn folders_out_of_an_adapters_folder_are_not_looked_into() {
    let (outer, own, other) = adapter();
    let named = outer.path().join("named");
    std::fs::create_dir(&named).unwrap();
    symlink(&other, named.join("latest")).unwrap();
    assert_refused(read(&named), &["named", "it holds latest"]);
    let options = ReadOptions {
        adapter: Some("latest".into()),
        ..ReadOptions::default()
    };
    assert_refused(Adapter::read(&named, &options), &["named"]);
    std::fs::rename(&own, named.join("checkpoint-1")).unwrap();
    assert!(read(&named).unwrap().path().ends_with("checkpoint-1"));
    // A cache's snapshot is in the cache.
    let cache = outer.path().join("models--me--lora");
    std::fs::create_dir_all(cache.join("snapshots")).unwrap();
    symlink(&other, cache.join("snapshots/aaaa")).unwrap();
    assert_refused(read(&cache), &["without a snapshot"]);
}

/// An index that leads elsewhere isn't read, and its error tells nothing of what lies there.
#[test]
fn an_index_out_of_the_folder_is_not_read() {
    let outer = tempfile::tempdir().unwrap();
    let (model, other) = (outer.path().join("model"), outer.path().join("other"));
    for folder in [&model, &other] {
        std::fs::create_dir(folder).unwrap();
    }
    let tensors = Tensors::default().with("q.weight", &[2, 3]);
    tensors.write(&model.join("one.safetensors"));
    let map = json!({"weight_map": {"q.weight": "one.safetensors"}}).to_string();
    let secret = other.join(INDEX);
    symlink(&secret, model.join(INDEX)).unwrap();
    for text in [map.as_str(), "hunter2", r#"{"weight_map": "hunter2"}"#] {
        std::fs::write(&secret, text).unwrap();
        let error = BaseModel::open(&model).unwrap_err();
        assert!(matches!(error, Error::Outside { .. }), "{error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }
    // Where the weights are links into the same folder, it is the model's.
    tensors.write(&other.join("one.safetensors"));
    std::fs::remove_file(model.join("one.safetensors")).unwrap();
    symlink(other.join("one.safetensors"), model.join("one.safetensors")).unwrap();
    std::fs::write(&secret, &map).unwrap();
    assert_eq!(BaseModel::open(&model).unwrap().names().len(), 1);
}

/// A config beside a single file could lead anywhere, too.
#[test]
fn a_config_beside_a_file_is_read_only_inside_of_the_folder() {
    let outer = tempfile::tempdir().unwrap();
    let model = outer.path().join("model");
    std::fs::create_dir(&model).unwrap();
    let file = model.join("model.safetensors");
    Tensors::default().with("q.weight", &[2, 3]).write(&file);
    std::fs::write(outer.path().join("secret"), r#"{"vocab_size": 3}"#).unwrap();
    symlink("../secret", model.join("config.json")).unwrap();
    assert!(BaseModel::open(&file).unwrap().config().is_none());
    std::fs::remove_file(model.join("config.json")).unwrap();
    std::fs::write(model.join("config.json"), r#"{"vocab_size": 3}"#).unwrap();
    assert!(BaseModel::open(&file).unwrap().config().is_some());
}

#[test]
fn a_home_opens_what_it_holds() {
    let outer = tempfile::tempdir().unwrap();
    let folder = outer.path().join("folder");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("own"), "own").unwrap();
    std::fs::write(outer.path().join("secret"), "secret").unwrap();
    symlink("../secret", folder.join("out")).unwrap();
    symlink("own", folder.join("in")).unwrap();
    let home = Home::of(&folder).unwrap();
    for name in ["own", "in"] {
        assert_eq!(home.read_text(&folder.join(name), 9).unwrap(), "own");
    }
    assert_refused(
        home.read_text(&folder.join("out"), 9),
        &["out is a link that leads out of its folder", "secret"],
    );
    assert_refused(home.read(&folder.join("../secret"), 9), &["secret"]);
}
