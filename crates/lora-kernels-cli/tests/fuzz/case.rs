//! One case: the files, the arguments, and what is known about them.

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};

use lora_kernels_fuzz::{Mutator, Random};

use super::adapter::{Adapter, Target};
use super::model::Model;
use super::tensors::Tensor;

/// What cases have; each must be merged in some of them.
pub const KINDS: [&str; 19] = [
    "linear",
    "an adapter's name in the keys",
    "diffusers",
    "Mistral",
    "kohya",
    "DoRA",
    "another component",
    "two adapters in a file",
    "wrappers",
    "a convolution",
    "experts",
    "stacked experts",
    "an embedding",
    "trained tokens",
    "a module trained whole",
    "a grown vocabulary",
    "damage",
    "disturbed tensors",
    "--force",
];

#[derive(Clone, Debug)]
pub enum Content {
    Bytes(Vec<u8>),
    Link(PathBuf),
}

#[derive(Clone, Debug)]
pub struct File {
    pub path: PathBuf,
    pub content: Content,
}

pub struct Case {
    files: Vec<File>,
    pub command: &'static str,
    base: PathBuf,
    adapters: Vec<PathBuf>,
    options: Vec<String>,
    kinds: Vec<&'static str>,
    /// The base's tensors, where its files are undamaged.
    pub tensors: Option<Vec<Tensor>>,
    /// The names of the adapters' tensors before they were disturbed, where their files are
    /// undamaged and no option maps names.
    pub names: Option<Vec<String>>,
    /// What the adapters are for, where their files and the base's are undamaged and no option
    /// chooses.
    pub targets: Option<Vec<Target>>,
}

/// The name of OUT.
pub const OUT: &str = "out";

impl Case {
    pub fn new(number: u64) -> Self {
        let mut random = Random::new(number);
        let random = &mut random;
        let model = Model::new(random);
        let (mut files, base) = model.files(random);
        let count = 1 + usize::from(random.once_in(6));
        let mut adapters = Vec::new();
        let mut options = Vec::new();
        let mut kinds = Vec::new();
        let mut names = Vec::new();
        let mut targets = Vec::new();
        let mut disturbed = false;
        for index in 0..count {
            let adapter = Adapter::new(random, &model, &format!("adapter{index}"));
            files.extend(adapter.files);
            adapters.push(adapter.path);
            if options.is_empty() {
                options = adapter.options;
            }
            kinds.extend(adapter.kinds);
            names.extend(adapter.names);
            targets.extend(adapter.targets);
            if adapter.disturbed {
                kinds.push("disturbed tensors");
                disturbed = true;
            }
        }
        if random.once_in(30) {
            // The same adapter twice.
            adapters.push(adapters[0].clone());
        }
        let damaged = match random.below(5) {
            0 | 1 => damage(random, number, &mut files),
            _ => Damage::default(),
        };
        if damaged.base || damaged.adapters {
            kinds.push("damage");
        }
        if random.once_in(8) {
            let is_file = base.extension() == Some(OsStr::new("safetensors"));
            files.extend(existing(random, is_file));
            if random.below(4) != 0 {
                options.push("--force".to_owned());
                kinds.push("--force");
            }
        }
        options.extend(more_options(random, adapters.len()));
        let command = match random.below(20) {
            0 => "inspect",
            1 | 2 => "unmerge",
            _ => "merge",
        };
        let choosing = ["--map", "--skip", "--component"];
        let is_choosing = |option: &String| choosing.contains(&option.as_str());
        let undamaged = !damaged.base && !damaged.adapters && !disturbed;
        let plain = undamaged && !options.iter().any(is_choosing);
        Self {
            command,
            files,
            base,
            adapters,
            kinds,
            tensors: (!damaged.base).then_some(model.tensors),
            names: (!damaged.adapters && !options.iter().any(|option| option == "--map"))
                .then_some(names),
            targets: plain.then_some(targets),
            options,
        }
    }

    pub fn write(&self, root: &Path) {
        for file in &self.files {
            let path = root.join(&file.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match &file.content {
                Content::Bytes(bytes) => fs::write(&path, bytes).unwrap(),
                Content::Link(to) => link(to, &path),
            }
        }
    }

    pub fn arguments(&self, root: &Path) -> Vec<String> {
        let place = |path: &Path| root.join(path).to_str().unwrap().to_owned();
        let mut arguments = vec!["lora-kernels".to_owned(), self.command.to_owned()];
        if self.command == "inspect" {
            arguments.push(place(&self.adapters[0]));
            let shared = ["--scaling", "0.5", "--adapter", "default", "--json"];
            let is_shared = |option: &&String| shared.contains(&option.as_str());
            arguments.extend(self.options.iter().filter(is_shared).cloned());
            return arguments;
        }
        arguments.push(place(&self.base));
        arguments.extend(self.adapters.iter().map(|path| place(path)));
        arguments.extend(["-o".to_owned(), place(Path::new(OUT))]);
        arguments.extend(["--device".to_owned(), "cpu".to_owned()]);
        arguments.extend(self.options.iter().cloned());
        arguments
    }

    /// What kind of case it was, for the counts.
    pub fn kinds(&self, result: &Result<(), (u8, String)>) -> Vec<String> {
        let mut counted = vec!["cases".to_owned()];
        let command = self.command;
        counted.push(match result {
            Ok(()) => format!("{command}: status 0"),
            Err((status, _)) => format!("{command}: status {status}"),
        });
        if result.is_ok() && command != "inspect" {
            let mut kinds = self.kinds.clone();
            kinds.sort_unstable();
            kinds.dedup();
            counted.extend(kinds.iter().map(|kind| format!("merged: {kind}")));
        }
        counted
    }
}

#[cfg(unix)]
fn link(to: &Path, path: &Path) {
    std::os::unix::fs::symlink(to, path).unwrap();
}

#[cfg(windows)]
fn link(to: &Path, path: &Path) {
    std::os::windows::fs::symlink_file(to, path).unwrap();
}

#[derive(Default)]
struct Damage {
    base: bool,
    adapters: bool,
}

/// Damages one of the files, or removes one.
fn damage(random: &mut Random, number: u64, files: &mut Vec<File>) -> Damage {
    let index = random.below(files.len());
    let damaged = Damage {
        base: files[index].path.starts_with("base")
            || files[index].path.starts_with("base.safetensors"),
        adapters: !files[index].path.starts_with("base"),
    };
    if random.once_in(20) {
        files.remove(index);
        return damaged;
    }
    let mut mutator = Mutator::new(number);
    let file = &mut files[index];
    let is_safetensors =
        file.path.extension() == Some(OsStr::new("safetensors")) || file.path.ends_with("blobs/aa");
    file.content = match &file.content {
        Content::Bytes(bytes) if is_safetensors => Content::Bytes(mutator.safetensors(bytes)),
        Content::Bytes(bytes) => Content::Bytes(mutator.text(bytes)),
        Content::Link(_) => Content::Link(random.of(&["../..", "nowhere", "/dev/null"]).into()),
    };
    damaged
}

/// Something that has OUT's name already.
fn existing(random: &mut Random, is_file: bool) -> Vec<File> {
    let bytes = |path: String| File {
        path: path.into(),
        content: Content::Bytes(b"what was there".to_vec()),
    };
    match random.below(4) {
        0 => vec![bytes(format!("{OUT}/notes.txt"))],
        1 => vec![bytes(OUT.to_owned())],
        // Of a file, an empty one is replaced.
        _ if is_file => vec![File {
            path: OUT.into(),
            content: Content::Bytes(Vec::new()),
        }],
        _ => ["model.safetensors", "config.json"]
            .map(|name| bytes(format!("{OUT}/{name}")))
            .into(),
    }
}

fn more_options(random: &mut Random, adapters: usize) -> Vec<String> {
    let mut options = Vec::new();
    let mut add = |words: &[&str]| options.extend(words.iter().map(|&word| word.to_owned()));
    if random.once_in(10) {
        let weight = random.of(&["0.5", "1", "1", "-1", "2.25", "0", "nan"]);
        add(&["--weights", &vec![weight; adapters].join(",")]);
    }
    if random.below(4) != 0 {
        add(&["--allow-non-finite"]);
    }
    if random.once_in(2) {
        add(&["--fan-in-fan-out", random.of(&["yes", "no"])]);
    }
    if random.once_in(20) {
        let maps = [
            "model.=",
            "=model.",
            "transformer.=model.",
            "x=y",
            "=",
            "lm_head=score",
        ];
        add(&["--map", random.of(&maps)]);
    }
    if random.once_in(20) {
        let skips = [
            "embed_tokens",
            "layers.0",
            "*_proj",
            "nothing",
            "",
            "*",
            "norm",
        ];
        add(&["--skip", random.of(&skips)]);
    }
    if random.once_in(12) {
        add(&["--untie"]);
    }
    if random.once_in(40) {
        add(&["--component", random.of(&["transformer", "unet", ""])]);
    }
    if random.once_in(40) {
        add(&["--adapter", random.of(&["default", "other", ""])]);
    }
    if random.once_in(40) {
        add(&["--alpha", random.of(&["2", "0", "-1", "inf"])]);
    }
    if random.once_in(40) {
        add(&["--files-from", random.of(&["base", "1", "2", "0"])]);
    }
    if random.once_in(4) {
        add(&["--json"]);
    }
    options
}
