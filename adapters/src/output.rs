//! Files and folders that are there whole or not at all.
//!
//! What is written lies under a temporary name beside its target, `.<name>.partial-<process>`, until it is complete and on the disk; then it is
//! renamed. A process that is killed leaves that name behind: the next one that writes the same target removes it.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::{Error, Result};

/// Whether something that exists may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// No: it is an error.
    Never,
    /// Yes.
    Replace,
}

/// A file in the making. Dropped before [`OutputFile::finish`], it is removed.
#[derive(Debug)]
pub struct OutputFile {
    partial: Partial,
}

/// A folder in the making. Dropped before [`OutputFolder::finish`], it is removed with everything in it.
#[derive(Debug)]
pub struct OutputFolder {
    partial: Partial,
}

impl OutputFile {
    /// Makes the temporary file, so that a target that can't be written is found out before any work.
    ///
    /// # Errors
    /// [`Error::Exists`] if there is a folder, or anything and `overwrite` doesn't allow it; [`Error::Io`].
    pub fn create(target: &Path, overwrite: Overwrite) -> Result<Self> {
        if target.is_dir() {
            return Err(Error::Exists {
                path: target.into(),
                hint: "it is a folder, and a file is to be written; name another",
            });
        }
        let partial = Partial::new(target, overwrite, |path| {
            OpenOptions::new().read(true).write(true).create_new(true).open(path)
        })?;
        Ok(Self { partial })
    }

    /// To write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.partial.lock
    }

    /// The temporary name.
    pub fn path(&self) -> &Path {
        &self.partial.path
    }

    /// Brings it to the disk and gives it its name.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Exists`] if the target has come into being meanwhile.
    pub fn finish(mut self) -> Result<()> {
        sync(&self.partial.path, &self.partial.lock)?;
        self.partial.put_in_place()
    }
}

impl OutputFolder {
    /// Makes the temporary folder.
    ///
    /// # Errors
    /// [`Error::Exists`] if the target does and `overwrite` doesn't allow it, or if it isn't a folder; [`Error::Io`].
    pub fn create(target: &Path, overwrite: Overwrite) -> Result<Self> {
        if target.exists() && !target.is_dir() {
            return Err(Error::Exists {
                path: target.into(),
                hint: "it is a file, and a folder is to be written; name another",
            });
        }
        let partial = Partial::new(target, overwrite, |path| {
            std::fs::create_dir(path)?;
            File::open(path)
        })?;
        Ok(Self { partial })
    }

    /// The temporary folder, to write files to.
    pub fn path(&self) -> &Path {
        &self.partial.path
    }

    /// Brings every file in it to the disk and gives it its name. A folder that was there is exchanged for it in one step and then removed.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::Exists`] if the target has come into being meanwhile.
    pub fn finish(mut self) -> Result<()> {
        sync_folder(&self.partial.path)?;
        self.partial.put_in_place()
    }
}

/// Something with a temporary name, locked as long as its process lives.
#[derive(Debug)]
struct Partial {
    target: PathBuf,
    path: PathBuf,
    lock: File,
    overwrite: Overwrite,
    finished: bool,
}

impl Partial {
    fn new(target: &Path, overwrite: Overwrite, create: impl FnOnce(&Path) -> std::io::Result<File>) -> Result<Self> {
        let name = target.file_name().ok_or_else(|| Error::Io {
            doing: "write",
            path: target.into(),
            source: std::io::Error::new(
                std::io::ErrorKind::InvalidInput,
                "it is not the name of a file or folder",
            ),
        })?;
        if overwrite == Overwrite::Never && target.symlink_metadata().is_ok() {
            return Err(exists(target));
        }
        let prefix = partial_prefix(name);
        remove_leftovers(target, &prefix);
        let mut temporary = prefix;
        temporary.push(std::process::id().to_string());
        let path = target.with_file_name(temporary);
        let lock = create(&path).map_err(failed("write", target))?;
        // Until here another process may take it for a leftover; it holds the lock meanwhile.
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|error| failed("lock", &path)(error.into()))?;
        Ok(Self {
            target: target.into(),
            path,
            lock,
            overwrite,
            finished: false,
        })
    }

    fn put_in_place(&mut self) -> Result<()> {
        let rename = |flags| renameat_with(CWD, &self.path, CWD, &self.target, flags);
        let plain = || std::fs::rename(&self.path, &self.target);
        let there = self.target.symlink_metadata().is_ok();
        let old_folder = there && self.target.is_dir();
        match self.overwrite {
            Overwrite::Replace if old_folder => match rename(RenameFlags::EXCHANGE) {
                Ok(()) => {
                    self.finished = true;
                    sync_parent(&self.target)?;
                    // What has the temporary name now is the old folder.
                    return std::fs::remove_dir_all(&self.path).map_err(failed("remove the old", &self.path));
                }
                Err(error) => return Err(failed("replace", &self.target)(error.into())),
            },
            Overwrite::Replace => plain().map_err(failed("write", &self.target))?,
            Overwrite::Never => match rename(RenameFlags::NOREPLACE) {
                Ok(()) => {}
                Err(Errno::EXIST) => return Err(exists(&self.target)),
                // A file system without this flag: the check from the beginning, once more.
                Err(Errno::INVAL | Errno::NOSYS) if !there => plain().map_err(failed("write", &self.target))?,
                Err(error) => return Err(failed("write", &self.target)(error.into())),
            },
        }
        self.finished = true;
        sync_parent(&self.target)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            remove(&self.path);
        }
    }
}

fn exists(path: &Path) -> Error {
    Error::Exists {
        path: path.into(),
        hint: "it would be replaced; name another, or allow it to be overwritten",
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::Io { doing, path, source }
}

fn partial_prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".partial-");
    prefix
}

/// Removes what earlier processes left of this target; those that still run hold their locks.
fn remove_leftovers(target: &Path, prefix: &OsStr) {
    let Ok(entries) = std::fs::read_dir(parent(target)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name.as_encoded_bytes().strip_prefix(prefix.as_encoded_bytes());
        let is_ours = rest.is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
        let is_plain = entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir());
        if !is_ours || !is_plain {
            continue;
        }
        let Ok(leftover) = File::open(entry.path()) else {
            continue;
        };
        if flock(&leftover, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove(&entry.path());
        }
    }
}

/// Nothing better can be done about what can't be removed: its name says what it is.
fn remove(path: &Path) {
    let _ = match path.is_dir() {
        true => std::fs::remove_dir_all(path),
        false => std::fs::remove_file(path),
    };
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn sync(path: &Path, file: &File) -> Result<()> {
    file.sync_all().map_err(failed("bring to the disk", path))
}

fn sync_parent(path: &Path) -> Result<()> {
    let folder = parent(path);
    sync(folder, &File::open(folder).map_err(failed("open", folder))?)
}

fn sync_folder(folder: &Path) -> Result<()> {
    let entries = std::fs::read_dir(folder).map_err(failed("list", folder))?;
    for entry in entries {
        let path = entry.map_err(failed("list", folder))?.path();
        let metadata = path.symlink_metadata().map_err(failed("read", &path))?;
        if metadata.is_dir() {
            sync_folder(&path)?;
        } else if metadata.is_file() {
            sync(&path, &File::open(&path).map_err(failed("read", &path))?)?;
        }
    }
    sync(folder, &File::open(folder).map_err(failed("open", folder))?)
}
