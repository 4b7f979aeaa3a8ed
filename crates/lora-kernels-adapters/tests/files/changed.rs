//! Files that others change while they are open.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::base::Home;
use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{
    Adapter, BaseModel, DType, Dtype, Error, OpenedFiles, PeftWriter, Result, Tensor, TensorFile,
    regular, unnoted,
};

use crate::made::{CONFIG, one_module};
use crate::{assert_refused, read};

/// An adapter's folder, and the file of its tensors.
fn adapter(folder: &Path) -> PathBuf {
    std::fs::write(folder.join("adapter_config.json"), CONFIG).unwrap();
    let path = folder.join("adapter_model.safetensors");
    one_module().write(&path);
    path
}

fn cut_to(path: &Path, bytes: u64) {
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.set_len(bytes).unwrap();
}

fn overwrite(path: &Path, at: u64, bytes: &[u8]) {
    use std::os::unix::fs::FileExt;
    let file = OpenOptions::new().write(true).open(path).unwrap();
    file.write_all_at(bytes, at).unwrap();
}

/// Whatever reads a tensor. Before, each of these ended the process by SIGBUS.
type Reading = fn(Tensor<'_>) -> Result<usize>;
const READINGS: [(&str, Reading); 5] = [
    ("read", |tensor| Ok(tensor.read()?.len())),
    ("read_range", |tensor| {
        Ok(tensor.read_range(1..tensor.bytes())?.len() + 1)
    }),
    ("read_into", |tensor| {
        let mut into = vec![0; tensor.bytes()];
        tensor.read_into(0, &mut into)?;
        Ok(into.len())
    }),
    ("chunks", |tensor| {
        let (mut chunks, mut bytes) = (tensor.chunks(3), 0);
        while let Some(chunk) = chunks.next_chunk()? {
            bytes += chunk.len();
        }
        Ok(bytes)
    }),
    ("has_bytes_of", |tensor| {
        let same = vec![0; tensor.bytes()];
        let same = Tensor::named("same", tensor.dtype, tensor.shape, &same);
        tensor.has_bytes_of(&same)?;
        Ok(tensor.bytes())
    }),
];

#[test]
fn a_file_that_was_cut_off_is_an_error_for_every_way_of_reading() {
    let folder = tempfile::tempdir().unwrap();
    let path = adapter(folder.path());
    for (what, reading) in READINGS {
        one_module().write(&path);
        let file = TensorFile::open(&path).unwrap();
        let last = file.in_file_order().last().unwrap().0;
        assert_eq!(reading(last).unwrap(), last.bytes(), "{what}");
        file.check_unchanged().unwrap();
        cut_to(&path, path.metadata().unwrap().len() - 1);
        match reading(last) {
            Err(Error::Changed { path: at, .. }) => assert_eq!(at, path, "{what}"),
            other => panic!("{what}: {other:?}"),
        }
        assert_refused(
            file.check_unchanged(),
            &["adapter_model", "changed", "size"],
        );
        cut_to(&path, 0);
        assert_refused(file.read_header(), &["shorter"]);
    }
}

#[test]
fn parts_of_a_tensor_are_its_bytes_and_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let path = adapter(folder.path());
    let file = TensorFile::open(&path).unwrap();
    for tensor in file.tensors() {
        let all = tensor.read().unwrap().into_owned();
        let (mut chunks, mut joined) = (tensor.chunks(5), Vec::new());
        while let Some(chunk) = chunks.next_chunk().unwrap() {
            assert!(chunk.len() == 5 || joined.len() + chunk.len() == all.len());
            joined.extend_from_slice(chunk);
        }
        assert_eq!(joined, all);
        let part = tensor.part(1..3).unwrap();
        assert_eq!(part.read().unwrap(), &all[4..12]);
        assert_eq!(part.read_range(4..8).unwrap(), &all[8..12]);
        assert!(tensor.part(0..all.len() / 4 + 1).is_none());
        let (after, reversed) = (all.len() + 1, std::ops::Range { start: 2, end: 1 });
        for outside in [0..after, after..after, reversed, usize::MAX..usize::MAX] {
            assert_refused(tensor.read_range(outside), &["adapter_model", "bytes"]);
        }
        assert_refused(tensor.read_into(1, &mut vec![0; all.len()]), &["it has"]);
        assert_refused(tensor.read_into(usize::MAX, &mut [0; 2]), &["it has"]);
        // What lies behind it in the file isn't its own.
        assert!(part.read_into(4, &mut [0; 5]).is_err());
    }
    let nibbles = [0; 2];
    let of_half_bytes = Tensor::named("x", Dtype::F4, &[4], &nibbles);
    assert!(of_half_bytes.part(0..1).is_none() && of_half_bytes.part(2..4).is_some());
}

/// The writer reads its tensors when it writes.
#[test]
fn an_adapter_that_changes_while_it_is_copied_is_not_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = adapter(folder.path());
    let target = folder.path().join("new");
    let changes: [fn(&Path); 2] = [
        |path| cut_to(path, path.metadata().unwrap().len() - 1),
        |path| overwrite(path, path.metadata().unwrap().len() - 4, &[1; 4]),
    ];
    for change in changes {
        one_module().write(&path);
        let adapter = read(folder.path()).unwrap();
        let writer = PeftWriter::from_adapter(&adapter).unwrap();
        // Later than the tick of the clock that the file was written in.
        std::thread::sleep(std::time::Duration::from_millis(20));
        change(&path);
        assert_refused(
            writer.write(&target, Overwrite::Never),
            &["adapter_model", "changed"],
        );
        assert!(!target.exists());
    }
    let data = [0; 12];
    let config = lora_kernels_adapters::PeftConfig::new(1, 1.0, &["q"]).unwrap();
    let mut writer = PeftWriter::new(config);
    let tensor = Tensor::new(DType::F32, &[1, 4], &data);
    writer.module("a.q", tensor, tensor).unwrap();
    let refused = writer.write(&target, Overwrite::Never);
    assert_refused(refused, &["can't write", "lora_A", "12 bytes", "[1, 4]"]);
}

/// What is done to a file.
type Act<'a> = &'a dyn Fn(&Path);

/// The stamps show every change, however soon it comes after the file was opened.
#[test]
fn opened_files_are_noted_and_their_changes_found() {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    for name in ["adapter", "base"] {
        std::fs::create_dir(at(name)).unwrap();
    }
    let base = at("base");
    let write = || {
        adapter(&at("adapter"));
        one_module().write(&base.join("model.safetensors"));
        for name in ["config.json", "generation_config.json", "other", "unnoted"] {
            std::fs::write(base.join(name), "{}").unwrap();
        }
    };
    let open = || {
        let opened = OpenedFiles::begin();
        Adapter::read(&at("adapter"), &Default::default()).unwrap();
        BaseModel::open(&base).unwrap();
        Home::of(&base)
            .unwrap()
            .read(&base.join("generation_config.json"), 9)
            .unwrap();
        regular::read_text(&base.join("other"), 9).unwrap();
        unnoted(|| regular::read(&base.join("unnoted"), 9)).unwrap();
        opened
    };
    let noted = [
        "adapter/adapter_config.json",
        "adapter/adapter_model.safetensors",
        "base/config.json",
        "base/generation_config.json",
        "base/model.safetensors",
        "base/other",
    ];
    for name in noted {
        let changes: [(&str, Act<'_>); 4] = [
            ("size", &|path| {
                cut_to(path, path.metadata().unwrap().len() + 1)
            }),
            ("written", &|path| overwrite(path, 0, b"[")),
            ("another file", &|path| {
                std::fs::copy(path, at("copy")).unwrap();
                std::fs::rename(at("copy"), path).unwrap();
            }),
            ("any more", &|path| std::fs::remove_file(path).unwrap()),
        ];
        for (what, change) in changes {
            write();
            let opened = open();
            opened.check_unchanged().unwrap();
            change(&at(name));
            assert_refused(opened.check_unchanged(), &[name, "changed", what]);
        }
    }
    write();
    let opened = open();
    std::fs::remove_file(base.join("unnoted")).unwrap();
    opened.check_unchanged().unwrap();
    // A later list begins anew.
    let later = OpenedFiles::begin();
    std::fs::remove_file(at(noted[0])).unwrap();
    later.check_unchanged().unwrap();
}

/// A time that was set back doesn't hide a change.
#[test]
fn a_rewritten_file_with_its_old_time_is_changed() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("text");
    std::fs::write(&path, "before").unwrap();
    let opened = OpenedFiles::begin();
    let modified = regular::open(&path)
        .unwrap()
        .metadata()
        .unwrap()
        .modified()
        .unwrap();
    let mut file = OpenOptions::new().write(true).open(&path).unwrap();
    file.write_all(b"behind").unwrap();
    file.set_modified(modified).unwrap();
    assert_refused(opened.check_unchanged(), &["text", "changed"]);
}
