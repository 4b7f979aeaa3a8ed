//! What must hold after a command.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use lora_kernels_adapters::BaseModel;

use super::adapter::Target;
use super::case::{Case, OUT};

/// The files of a case before the command.
pub struct Before(BTreeMap<PathBuf, Vec<u8>>);

impl Before {
    pub fn new(root: &Path) -> Self {
        Self(listing(root))
    }

    /// Compares with what is there now.
    ///
    /// # Errors
    /// What is wrong.
    pub fn compare(
        &self,
        case: &Case,
        root: &Path,
        result: &Result<(), (u8, String)>,
    ) -> Result<(), String> {
        match result {
            Ok(()) => {}
            // The status 1 is for weights that are not finite.
            Err((1 | 2, text)) if text.lines().count() == 1 && text.len() < 4000 => {}
            // An option's value is refused by clap, with its own text.
            Err((2, text)) if text.contains("For more information, try '--help'") => {}
            Err((1 | 2, _)) => return Err("the error isn't one line of some size".to_owned()),
            Err(_) => return Err("there is no reason for this status".to_owned()),
        }
        let after = listing(root);
        let has_output = result.is_ok() && case.command != "inspect";
        let is_output = |path: &Path| has_output && path.starts_with(OUT);
        for path in self.0.keys().chain(after.keys()) {
            if !is_output(path) && self.0.get(path) != after.get(path) {
                return Err(format!("{} is not as it was", path.display()));
            }
        }
        match has_output {
            true => check_output(case, &root.join(OUT)),
            false => Ok(()),
        }
    }
}

/// Every file and link below a folder, with its contents or where it leads; folders with nothing.
fn listing(root: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let kind = path.symlink_metadata().unwrap().file_type();
            let contents = if kind.is_symlink() {
                fs::read_link(&path)
                    .unwrap()
                    .into_os_string()
                    .into_encoded_bytes()
            } else if kind.is_dir() {
                folders.push(path.clone());
                Vec::new()
            } else {
                fs::read(&path).unwrap()
            };
            found.insert(path.strip_prefix(root).unwrap().to_owned(), contents);
        }
    }
    found
}

/// OUT is a model. It has all tensors of the base, and no other but those that an adapter brings.
fn check_output(case: &Case, out: &Path) -> Result<(), String> {
    let model = BaseModel::open(out).map_err(|error| format!("OUT can't be read: {error}"))?;
    let Some(tensors) = &case.tensors else {
        return Ok(());
    };
    let names: BTreeSet<&str> = model.names().collect();
    let mut changed = BTreeSet::new();
    for tensor in tensors {
        if !names.contains(tensor.name.as_str()) {
            return Err(format!("OUT has no {}", tensor.name));
        }
        let (_, view) = model
            .tensor(&tensor.name)
            .ok_or_else(|| format!("OUT's {} can't be read", tensor.name))?;
        let grown = view.shape.len() == 2 && view.shape[1..] == tensor.shape[1..];
        if view.shape != tensor.shape && !grown {
            return Err(format!(
                "{} has shape {:?}, and the base's is {:?}",
                tensor.name, view.shape, tensor.shape
            ));
        }
        if *view.read().unwrap() != *tensor.data {
            changed.insert(tensor.name.as_str());
        }
    }
    if let Some(targets) = &case.targets {
        let named: BTreeSet<&str> = targets.iter().map(|target| target.name.as_str()).collect();
        let original = |name: &str| tensors.iter().find(|tensor| tensor.name == name);
        // A head that is a copy of the embedding is tied to it, and changes with it.
        let is_copy = |name: &str| {
            name.contains("head")
                && named.iter().any(|target| {
                    target.ends_with("embed_tokens.weight")
                        && original(target).map(|tensor| &tensor.data)
                            == original(name).map(|tensor| &tensor.data)
                })
        };
        if let Some(name) = changed.difference(&named).find(|name| !is_copy(name)) {
            return Err(format!("{name} is changed, and no adapter is for it"));
        }
        let missed = |target: &&Target| target.sure && !changed.contains(target.name.as_str());
        if let Some(target) = targets.iter().find(missed) {
            return Err(format!("{} is not changed", target.name));
        }
    }
    let Some(brought) = &case.names else {
        return Ok(());
    };
    let base: BTreeSet<&str> = tensors.iter().map(|tensor| tensor.name.as_str()).collect();
    for name in names.difference(&base) {
        let module = name.strip_suffix(".weight").unwrap_or(name);
        let last = module.rsplit('.').next().unwrap_or(module);
        let is_whole = |brought: &&String| {
            !brought.contains("lora_")
                && !brought.contains("original_module")
                && brought.contains(last)
        };
        let is_head = name.ends_with("lm_head.weight");
        if !is_head && brought.iter().find(is_whole).is_none() {
            return Err(format!("OUT has {name}, which nothing brings"));
        }
        for word in [
            "modules_to_save",
            "original_module",
            "lora_",
            "alpha",
            "token_adapter",
        ] {
            if name.contains(word) {
                return Err(format!("OUT has {name}"));
            }
        }
    }
    Ok(())
}
