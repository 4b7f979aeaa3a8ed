//! A tiny model, merges of it, and what must hold after each.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{DType, PeftConfig, PeftWriter, Tensor};
use safetensors::tensor::TensorView;

use super::trace::{self, Action, Call, End, Traced};

/// Every file below a folder, with its contents.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

const INPUTS: [&str; 3] = ["adapter", "base", "file"];

/// What is run: what is merged, and where to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder with two shards.
    Folder,
    /// The same, over an older output.
    FolderOver,
    File,
    FileOver,
    /// No merge: the adapter is looked at.
    Inspect,
}

/// Merges.
pub const KINDS: [Kind; 4] = [Kind::Folder, Kind::FolderOver, Kind::File, Kind::FileOver];

impl Kind {
    fn is_over(self) -> bool {
        matches!(self, Kind::FolderOver | Kind::FileOver)
    }

    fn base(self) -> &'static str {
        match self {
            Kind::Folder | Kind::FolderOver => "base",
            Kind::File | Kind::FileOver | Kind::Inspect => "file/model.safetensors",
        }
    }
}

/// A folder with a model, an adapter and an OUT that is there or isn't.
pub struct Scene {
    pub root: tempfile::TempDir,
    kind: Kind,
    /// Without OUT.
    inputs: Tree,
    /// The older OUT.
    old: Tree,
    /// A complete OUT.
    new: Tree,
    /// What a run prints.
    report: String,
}

fn values(seed: u32, count: usize) -> Vec<u8> {
    let value = |i: u32| ((i * 37 + seed * 101) % 64) as f32 / 32.0 - 1.0;
    (0..count as u32)
        .flat_map(|i| value(i).to_le_bytes())
        .collect()
}

fn shard(path: &Path, names: &[&str]) {
    let data: Vec<_> = (0..).zip(names).map(|(seed, _)| values(seed, 48)).collect();
    let views = names.iter().zip(&data).map(|(name, data)| {
        let view = TensorView::new(safetensors::Dtype::F32, vec![6, 8], data).unwrap();
        (*name, view)
    });
    safetensors::serialize_to_file(views, None, path).unwrap();
}

impl Scene {
    pub fn new(kind: Kind) -> Self {
        let root = tempfile::tempdir().unwrap();
        let base = root.path().join("base");
        fs::create_dir_all(base.join("1_Pooling")).unwrap();
        let shards = [&["a.q.weight", "a.k.weight"][..], &["b.q.weight"]];
        let mut map = BTreeMap::new();
        for (number, names) in (1..).zip(shards) {
            let file = format!("model-{number:05}-of-00002.safetensors");
            shard(&base.join(&file), names);
            map.extend(names.iter().map(|name| (*name, file.clone())));
        }
        fs::create_dir(root.path().join("file")).unwrap();
        let file = root.path().join("file/model.safetensors");
        shard(&file, &shards.concat());
        let index = serde_json::json!({"metadata": {"total_size": 576}, "weight_map": map});
        for (name, text) in [
            ("model.safetensors.index.json", &*index.to_string()),
            ("config.json", "{\"vocab_size\": 6}"),
            ("tokenizer.json", "{\"of\": \"the base\"}"),
            ("1_Pooling/config.json", "{}"),
        ] {
            fs::write(base.join(name), text).unwrap();
        }
        let mut writer = PeftWriter::new(PeftConfig::new(2, 4.0, &["q"]).unwrap());
        let factors: Vec<_> = (10..14).map(|seed| values(seed, 16)).collect();
        // The shards' adapters differ.
        writer
            .module(
                "a.q",
                Tensor::new(DType::F32, &[2, 8], &factors[0]),
                Tensor::new(DType::F32, &[6, 2], &factors[1][..48]),
            )
            .unwrap();
        writer
            .module(
                "b.q",
                Tensor::new(DType::F32, &[2, 8], &factors[2]),
                Tensor::new(DType::F32, &[6, 2], &factors[3][..48]),
            )
            .unwrap();
        let adapter = root.path().join("adapter");
        writer.write(&adapter, Overwrite::Never).unwrap();
        let tokenizer = adapter.join("tokenizer.json");
        fs::write(tokenizer, "{\"of\": \"the adapter\"}").unwrap();

        let mut scene = Self {
            inputs: tree(root.path()),
            root,
            kind,
            old: Tree::new(),
            new: Tree::new(),
            report: String::new(),
        };
        if kind.is_over() {
            let output = scene.command_with(&["--weights", "0.5"]).output().unwrap();
            assert!(output.status.success(), "{output:?}");
            scene.old = scene.out();
        }
        let output = scene.command().output().unwrap();
        assert!(output.status.success(), "{output:?}");
        scene.new = scene.out();
        scene.report = String::from_utf8(output.stdout).unwrap();
        assert!(kind == Kind::Inspect || scene.new != scene.old);
        scene
    }

    pub fn is_over(&self) -> bool {
        self.kind.is_over()
    }

    /// Puts everything back as it is before a run.
    pub fn reset(&self) {
        for entry in fs::read_dir(self.root.path()).unwrap() {
            let path = entry.unwrap().path();
            if INPUTS.iter().any(|name| path.ends_with(name)) {
                continue;
            }
            match path.is_dir() {
                true => fs::remove_dir_all(&path).unwrap(),
                false => fs::remove_file(&path).unwrap(),
            }
        }
        for (name, bytes) in &self.old {
            let path = self.root.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    pub fn command(&self) -> Command {
        self.command_with(&[])
    }

    fn command_with(&self, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_lora-kernels"));
        command.current_dir(self.root.path());
        match self.kind {
            Kind::Inspect => command.args(["inspect", "adapter", "--json"]),
            kind => command
                .args(["merge", kind.base(), "adapter", "-o", "out"])
                .args(["--device", "cpu"])
                .args(more),
        };
        // The weights of the loader's and of the allocator's own make no calls differ.
        command.env_clear();
        if self.kind.is_over() {
            command.arg("--force");
        }
        command
    }

    /// Runs a merge, and acts at its system calls.
    pub fn run(&self, act: impl FnMut(&Call) -> Action) -> std::io::Result<Traced> {
        self.reset();
        trace::run(&mut self.command(), act)
    }

    fn out(&self) -> Tree {
        let mut tree = tree(self.root.path());
        tree.retain(|path, _| path.starts_with("out"));
        tree
    }

    /// What lies beside the inputs, but OUT.
    pub fn leftovers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.root.path()).unwrap();
        let names = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut names: Vec<_> = names
            .filter(|name| name != "out" && !INPUTS.contains(&name.as_str()))
            .collect();
        names.sort();
        names
    }

    /// Whether OUT is complete.
    ///
    /// # Errors
    /// It is neither complete nor as it was, or the inputs aren't as they were.
    pub fn is_complete(&self) -> Result<bool, String> {
        let mut inputs = tree(self.root.path());
        inputs.retain(|path, _| INPUTS.iter().any(|name| path.starts_with(name)));
        if inputs != self.inputs {
            return Err("the inputs aren't as they were".into());
        }
        match self.out() {
            out if out == self.new => Ok(true),
            out if out == self.old => Ok(false),
            out => Err(format!(
                "OUT is broken: it has {:?}, and differs in {:?}",
                out.keys().collect::<Vec<_>>(),
                { self.new.iter() }
                    .filter(|(path, bytes)| out.get(*path) != Some(bytes))
                    .map(|(path, _)| path)
                    .collect::<Vec<_>>()
            )),
        }
    }

    /// Checks a run in which a call failed.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check(&self, traced: &Traced) -> Result<(), String> {
        let is_complete = self.is_complete()?;
        let End::Status(status) = traced.end else {
            return Err("a signal ended it".into());
        };
        let (expected, lines) = match status {
            0 => (true, 0),
            4 => (true, 1),
            2 | 3 => (false, 1),
            _ => return Err("no such status is documented for this".into()),
        };
        if self.kind != Kind::Inspect && is_complete != expected {
            return Err(format!("OUT is complete: {is_complete}"));
        }
        // A fault of stderr itself leaves nothing to read.
        if !(traced.stderr.is_empty() && status != 0) && traced.stderr.lines().count() != lines {
            return Err(format!("there should be {lines} lines on stderr"));
        }
        // A config beside a single file, or an adapter's, is said to be left out of account.
        let is_folder = matches!(self.kind, Kind::Folder | Kind::FolderOver);
        let said =
            |line: &&str| is_folder || !line.starts_with("found: ") || !line.contains("can't read");
        let report: Vec<&str> = traced.stdout.lines().filter(said).collect();
        if status == 0 && report != self.report.lines().collect::<Vec<_>>() {
            return Err(format!("it printed another report:\n{}", traced.stdout));
        }
        // What stays is said, with its place.
        let unsaid = |name: &&String| !traced.stderr.contains(name.as_str());
        match self.leftovers().iter().find(unsaid) {
            Some(left) => Err(format!("{left} is left, and not named")),
            None => Ok(()),
        }
    }
}

fn tree(root: &Path) -> Tree {
    let mut found = Tree::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let below = path.strip_prefix(root).unwrap().to_owned();
                found.insert(below, fs::read(&path).unwrap());
            }
        }
    }
    found
}
