//! Files and folders that appear complete or not at all.
//!
//! An output is written under a temporary name beside its target, `.<name>.partial-<process>`, and
//! renamed when it is complete and on disk. A killed process leaves the temporary name behind; the
//! next process that writes the same target removes it. A complete output that can't be renamed is
//! kept under its temporary name, and the error says so.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, RenameFlags, flock, renameat_with};
use rustix::io::Errno;

use crate::{Error, Result};

/// Whether an existing target may be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// An existing target is an error.
    Never,
    /// An existing target is replaced.
    Replace,
}

/// A file being written. It is removed if it is dropped before [`OutputFile::finish`].
#[derive(Debug)]
pub struct OutputFile {
    partial: Partial,
}

/// A folder being written. It is removed with its contents if it is dropped before
/// [`OutputFolder::finish`].
#[derive(Debug)]
pub struct OutputFolder {
    partial: Partial,
}

impl OutputFile {
    /// Creates the temporary file, so that a target that can't be written is found before any work
    /// is done.
    ///
    /// # Errors
    /// [`Error::Exists`] if the target is a folder, or exists and `overwrite` doesn't allow
    /// replacing it; [`Error::Io`].
    pub fn create(target: &Path, overwrite: Overwrite) -> Result<Self> {
        if target.is_dir() {
            return Err(Error::Exists {
                path: target.into(),
                hint: "it is a folder, and a file is to be written; name another",
            });
        }
        let partial = Partial::new(target, overwrite, |path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .open(path)
        })?;
        Ok(Self { partial })
    }

    /// The temporary file, to write to.
    pub fn file(&mut self) -> &mut File {
        &mut self.partial.lock
    }

    /// The temporary path.
    pub fn path(&self) -> &Path {
        &self.partial.path
    }

    /// Flushes the file to disk and renames it to the target.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::NotPlaced`], for example if the target was created meanwhile.
    pub fn finish(mut self) -> Result<()> {
        sync(&self.partial.path, &self.partial.lock)?;
        self.partial.put_in_place()
    }
}

impl OutputFolder {
    /// Creates the temporary folder.
    ///
    /// # Errors
    /// [`Error::Exists`] if the target exists and `overwrite` doesn't allow replacing it, or if it
    /// isn't a folder; [`Error::Io`].
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

    /// The temporary folder, to write files into.
    pub fn path(&self) -> &Path {
        &self.partial.path
    }

    /// Flushes every file in it to disk and renames it to the target. An existing folder is
    /// exchanged with the new one in one step and then removed. On a file system that can't
    /// exchange, the existing folder is first renamed to `.<name>.replaced-<process>`.
    ///
    /// # Errors
    /// [`Error::Io`], or [`Error::NotPlaced`], for example if the target was created meanwhile.
    pub fn finish(mut self) -> Result<()> {
        sync_folder(&self.partial.path)?;
        self.partial.put_in_place()
    }
}

/// A file or folder under a temporary name, locked while its process lives.
#[derive(Debug)]
struct Partial {
    target: PathBuf,
    path: PathBuf,
    lock: File,
    overwrite: Overwrite,
    finished: bool,
}

impl Partial {
    fn new(
        target: &Path,
        overwrite: Overwrite,
        mut create: impl FnMut(&Path) -> std::io::Result<File>,
    ) -> Result<Self> {
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
        let lock = loop {
            let lock = create(&path).map_err(failed("write", target))?;
            // Before it is locked, another process may take it for a leftover, and removes it while
            // holding the lock.
            flock(&lock, FlockOperation::LockExclusive)
                .map_err(|error| failed("lock", &path)(error.into()))?;
            if lies_at(&path, &lock) {
                break lock;
            }
        };
        Ok(Self {
            target: target.into(),
            path,
            lock,
            overwrite,
            finished: false,
        })
    }

    /// Renames the complete output. It is never removed, whatever fails here.
    fn put_in_place(&mut self) -> Result<()> {
        self.finished = true;
        let replaced = self.rename().map_err(|source| Error::NotPlaced {
            path: self.target.clone(),
            kept: self.path.clone(),
            source,
        })?;
        sync_parent(&self.target)?;
        match replaced {
            Some(old) => std::fs::remove_dir_all(&old).map_err(failed("remove the old", &old)),
            None => Ok(()),
        }
    }

    /// Renames it to the target, and returns the path where the replaced folder now lies, if there
    /// was one.
    fn rename(&self) -> std::io::Result<Option<PathBuf>> {
        let (new, target) = (&self.path, &self.target);
        let rename = |flags| renameat_with(CWD, new, CWD, target, flags);
        let there = target.symlink_metadata().is_ok();
        match self.overwrite {
            Overwrite::Replace if there && target.is_dir() => match rename(RenameFlags::EXCHANGE) {
                // The temporary name now belongs to the old folder.
                Ok(()) => Ok(Some(new.clone())),
                // The file system or the kernel lacks this flag.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                    replace_in_two_steps(new, target).map(Some)
                }
                Err(error) => Err(error.into()),
            },
            Overwrite::Replace => std::fs::rename(new, target).map(|()| None),
            Overwrite::Never => match rename(RenameFlags::NOREPLACE) {
                Ok(()) => Ok(None),
                // The target's absence was checked above; this system can't check it atomically.
                Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) if !there => {
                    std::fs::rename(new, target).map(|()| None)
                }
                Err(error) => Err(error.into()),
            },
        }
    }
}

/// Renames the old folder aside and the new one to the target, and returns where the old one lies.
/// If the second rename fails, the first is undone.
fn replace_in_two_steps(new: &Path, target: &Path) -> std::io::Result<PathBuf> {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".replaced-{}", std::process::id()));
    let aside = target.with_file_name(name);
    std::fs::rename(target, &aside)?;
    match std::fs::rename(new, target) {
        Ok(()) => Ok(aside),
        Err(error) => match std::fs::rename(&aside, target) {
            Ok(()) => Err(error),
            Err(undo) => {
                let text = format!(
                    "{error}; what was there lies in {} ({undo})",
                    aside.display()
                );
                Err(std::io::Error::new(error.kind(), text))
            }
        },
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
    move |source| Error::Io {
        doing,
        path,
        source,
    }
}

fn partial_prefix(name: &OsStr) -> OsString {
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".partial-");
    prefix
}

/// Removes what earlier processes left beside this target. A process that still runs holds its
/// lock.
fn remove_leftovers(target: &Path, prefix: &OsStr) {
    let Ok(entries) = std::fs::read_dir(parent(target)) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let rest = name
            .as_encoded_bytes()
            .strip_prefix(prefix.as_encoded_bytes());
        let is_ours =
            rest.is_some_and(|rest| !rest.is_empty() && rest.iter().all(u8::is_ascii_digit));
        let is_plain = entry
            .file_type()
            .is_ok_and(|kind| kind.is_file() || kind.is_dir());
        if !is_ours || !is_plain {
            continue;
        }
        let Ok(leftover) = File::open(entry.path()) else {
            continue;
        };
        let is_locked = flock(&leftover, FlockOperation::NonBlockingLockExclusive).is_ok();
        if is_locked && lies_at(&entry.path(), &leftover) {
            remove(&entry.path());
        }
    }
}

/// Whether this path still leads to the open file or folder.
fn lies_at(path: &Path, open: &File) -> bool {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let there = path.symlink_metadata().map(place).ok();
    there.is_some() && there == open.metadata().map(place).ok()
}

/// Errors are ignored: the leftover's name says what it is.
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

#[cfg(test)]
mod tests {
    use super::*;

    /// The path taken on file systems without an exchange.
    #[test]
    fn a_folder_is_replaced_in_two_steps_or_stays() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let (new, target) = (at("new"), at("target"));
        std::fs::create_dir(&target).unwrap();
        std::fs::write(target.join("old"), "").unwrap();
        assert!(
            replace_in_two_steps(&new, &target).is_err(),
            "there is no new one"
        );
        assert!(target.join("old").exists());
        std::fs::create_dir(&new).unwrap();
        let aside = replace_in_two_steps(&new, &target).unwrap();
        assert!(aside.join("old").exists() && !target.join("old").exists() && !new.exists());
    }

    /// As if another process took it for a leftover before it was locked.
    #[test]
    fn what_was_removed_before_it_was_locked_is_made_again() {
        let folder = tempfile::tempdir().unwrap();
        let mut made = 0;
        let partial = Partial::new(&folder.path().join("out"), Overwrite::Never, |path| {
            made += 1;
            let file = File::create_new(path)?;
            if made == 1 {
                std::fs::remove_file(path)?;
            }
            Ok(file)
        });
        let partial = partial.unwrap();
        assert!(made == 2 && lies_at(&partial.path, &partial.lock));
    }
}
