//! Compiles `.cu` files to fatbins, and only those whose compiler, arguments or sources changed.
//!
//! A store holds, for each unit, the list of files that it was last made from, and fatbins named by
//! a key over all their inputs. Files are replaced by renaming, so concurrent builds can share a
//! store.

use std::collections::HashMap;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

use crate::flags::Flags;
use crate::host;

/// The number of fatbins of a unit that a store keeps, so that switching between branches or
/// settings recompiles nothing.
const KEPT: usize = 6;

/// The settings shared by all units.
pub struct Compiler {
    pub nvcc: PathBuf,
    /// All that `nvcc --version` prints.
    pub version: String,
    pub args: Vec<String>,
    /// What nvcc adds to its arguments.
    pub flags: Flags,
    /// The folder in which nvcc runs. The paths passed to it are relative to it.
    pub root: PathBuf,
    pub store: PathBuf,
}

/// The result of compiling a unit.
#[derive(Debug)]
pub struct Image {
    /// The name of the unit.
    pub name: String,
    pub fatbin: PathBuf,
    /// nvcc's warnings when it made the image.
    pub warnings: String,
    /// Whether nvcc ran. Otherwise the store had the image.
    pub compiled: bool,
}

/// One `.cu` file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// Unique among the units of a store.
    pub name: String,
    /// The file. The result doesn't depend on its location.
    pub source: PathBuf,
    /// The compiler's arguments for this unit only.
    pub args: Vec<String>,
}

impl Compiler {
    /// Compiles `units` on `jobs` threads. After a failure, no further unit is started.
    pub fn build(&self, units: &[Unit], jobs: usize) -> Result<Vec<Image>, String> {
        fs::create_dir_all(&self.store)
            .map_err(|error| format!("can't create {}: {error}", self.store.display()))?;
        let contents = Contents::default();
        let next = AtomicUsize::new(0);
        let images = Mutex::new(Vec::new());
        let errors = Mutex::new(Vec::new());
        std::thread::scope(|scope| {
            for _ in 0..jobs.clamp(1, units.len().max(1)) {
                scope.spawn(|| {
                    while let Some(unit) = units.get(next.fetch_add(1, Ordering::Relaxed)) {
                        match self.image(unit, &contents) {
                            Ok(image) => lock(&images).push(image),
                            Err(error) => {
                                lock(&errors).push(error);
                                next.store(units.len(), Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
        let errors = errors.into_inner().unwrap_or_default();
        if !errors.is_empty() {
            return Err(errors.join("\n"));
        }
        let mut images = images.into_inner().unwrap_or_default();
        images.sort_by(|a: &Image, b: &Image| a.name.cmp(&b.name));
        Ok(images)
    }

    fn image(&self, unit: &Unit, contents: &Contents) -> Result<Image, String> {
        let name = unit.name.clone();
        let source = contents
            .hash(&unit.source)
            .ok_or_else(|| format!("can't read {}", unit.source.display()))?;
        let settings = hex(&(&self.version, self.flags.around(&self.args), &unit.args));
        let stored = |rest: &str| self.store.join(format!("{name}.{settings}.{rest}"));
        let depfile = stored("d");
        if let Some(key) = self.key(unit, source, &depfile, contents) {
            let fatbin = stored(&format!("{key}.fatbin"));
            if let Ok(warnings) = fs::read_to_string(fatbin.with_extension("log"))
                && fatbin.exists()
            {
                return Ok(Image {
                    name,
                    fatbin,
                    warnings,
                    compiled: false,
                });
            }
        }

        let started = SystemTime::now();
        let temporary = stored(&format!("{}.tmp", std::process::id()));
        let temporary_depfile = temporary.with_extension("tmp.d");
        let warnings = self
            .compile(unit, &temporary, &temporary_depfile)
            .inspect_err(|_| {
                let _ = fs::remove_file(&temporary_depfile);
            })?;

        // A file that was edited meanwhile may be newer than the one that was read. The image then
        // gets a name that no key finds.
        let files = self.dependencies(unit, &temporary_depfile);
        let current = files.is_some_and(|files| {
            files.iter().chain([&unit.source]).all(|file| {
                fs::metadata(file)
                    .and_then(|m| m.modified())
                    .is_ok_and(|time| time <= started)
            })
        });
        let key = current
            .then(|| self.key(unit, source, &temporary_depfile, &Contents::default()))
            .flatten();
        let key = key.unwrap_or_else(|| "unkeyed".to_owned());
        let fatbin = stored(&format!("{key}.fatbin"));
        fs::write(fatbin.with_extension("log"), &warnings)
            .and_then(|()| fs::rename(&temporary, &fatbin))
            .and_then(|()| fs::rename(&temporary_depfile, &depfile))
            .map_err(|error| format!("can't store {}: {error}", fatbin.display()))?;
        self.prune(&name, &fatbin);
        Ok(Image {
            name,
            fatbin,
            warnings,
            compiled: true,
        })
    }

    fn compile(&self, unit: &Unit, fatbin: &Path, depfile: &Path) -> Result<String, String> {
        let mut command = Command::new(&self.nvcc);
        command
            .current_dir(&self.root)
            .args(&self.args)
            .args(&unit.args)
            .arg("--fatbin");
        self.flags.give(&mut command);
        command
            .arg(&unit.source)
            .arg("-o")
            .arg(fatbin)
            .arg("-MD")
            .arg("-MF")
            .arg(depfile);
        let output = command
            .output()
            .map_err(|error| format!("can't run {}: {error}", self.nvcc.display()))?;
        let said = [
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        ]
        .concat();
        if output.status.success() {
            return Ok(said);
        }
        let advice = host::advice(&said).map_or_else(String::new, |advice| format!("\n{advice}"));
        Err(format!(
            "nvcc failed on {} ({})\n{}{advice}\nthe command was {command:?}",
            unit.source.display(),
            output.status,
            said.trim_end()
        ))
    }

    /// The key over a unit's source and all other files that `depfile` lists; `None` if one of them
    /// can't be read.
    fn key(&self, unit: &Unit, source: u64, depfile: &Path, contents: &Contents) -> Option<String> {
        let files = self.dependencies(unit, depfile)?;
        let hashes = files
            .iter()
            .map(|file| Some((file, contents.hash(file)?)))
            .collect::<Option<Vec<_>>>()?;
        Some(hex(&(source, hashes)))
    }

    /// The files that the unit's source includes. The source itself is left out, because another
    /// build may have it elsewhere.
    fn dependencies(&self, unit: &Unit, depfile: &Path) -> Option<Vec<PathBuf>> {
        let text = fs::read_to_string(depfile).ok()?;
        let (source, files) = {
            let mut files = dependencies(&text).into_iter();
            (files.next()?, files)
        };
        let same = Path::new(&source).file_name() == unit.source.file_name();
        same.then(|| files.map(|file| self.root.join(file)).collect())
    }

    /// Removes the oldest fatbins of a unit, but never `newest`. A file that can't be removed only
    /// costs space.
    fn prune(&self, name: &str, newest: &Path) {
        let Ok(entries) = fs::read_dir(&self.store) else {
            return;
        };
        let mut fatbins: Vec<(SystemTime, PathBuf)> = entries
            .flatten()
            .filter(|entry| {
                entry
                    .file_name()
                    .to_string_lossy()
                    .starts_with(&format!("{name}."))
            })
            .filter(|entry| {
                entry
                    .path()
                    .extension()
                    .is_some_and(|extension| extension == "fatbin")
            })
            .filter(|entry| entry.path() != newest)
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        fatbins.sort();
        let surplus = (fatbins.len() + 1).saturating_sub(KEPT);
        for (_, fatbin) in fatbins.into_iter().take(surplus) {
            let _ = fs::remove_file(&fatbin);
            let _ = fs::remove_file(fatbin.with_extension("log"));
        }
    }
}

/// The files of a makefile rule, `target : file file \`, as `-MD` writes it.
pub fn dependencies(rule: &str) -> Vec<String> {
    let mut files = Vec::new();
    let mut file = String::new();
    let mut characters = rule
        .split_once(": ")
        .map_or("", |(_, files)| files)
        .chars()
        .peekable();
    while let Some(c) = characters.next() {
        match c {
            '\\' if characters.peek().is_some_and(|next| " #\\".contains(*next)) => {
                file.extend(characters.next())
            }
            '\\' if characters.peek().is_some_and(|next| "\r\n".contains(*next)) => {}
            '$' if characters.peek() == Some(&'$') => file.extend(characters.next()),
            c if c.is_whitespace() => {
                files.extend((!file.is_empty()).then(|| std::mem::take(&mut file)))
            }
            c => file.push(c),
        }
    }
    files.extend((!file.is_empty()).then_some(file));
    files
}

/// Hashes of file contents. Each file is read once, because the units share nearly all of their
/// several hundred headers.
#[derive(Default)]
struct Contents(Mutex<HashMap<PathBuf, Option<u64>>>);

impl Contents {
    fn hash(&self, file: &Path) -> Option<u64> {
        *lock(&self.0)
            .entry(file.to_owned())
            .or_insert_with(|| fs::read(file).ok().map(|bytes| digest(&bytes)))
    }
}

fn digest(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn hex(value: &impl Hash) -> String {
    format!("{:016x}", digest(value))
}

/// The data behind these locks is consistent even if a thread panicked while it held one.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner)
}
