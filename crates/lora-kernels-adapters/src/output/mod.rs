//! Files and folders that appear complete or not at all.
//!
//! An output is written under a temporary name beside its target, `.<name>.partial-<process>`, and
//! renamed when it is complete and on disk. One run at a time writes a target: another one gets
//! [`Error::Busy`] at once. A killed process leaves the temporary name behind; the next process
//! that writes the same target removes it. A complete output that can't be renamed is kept under
//! its temporary name, and the error says so.
//!
//! Locks tell a run that lives from what a killed one left. On a file system without locks, runs
//! don't see each other, and leftovers stay: each run still gives its target a complete output, or
//! none.

mod disk;
mod partial;
mod place;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::{Error, Result};
use partial::Partial;

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

/// Refuses a target that another run is writing, and changes nothing. A long preparation can begin
/// with it; creating the output checks again.
///
/// # Errors
/// [`Error::Busy`]; [`Error::Io`] if the target is no name of a file or folder.
pub fn check_free(target: &Path) -> Result<()> {
    partial::check_free(target)
}

impl OutputFile {
    /// Creates the temporary file, so that a target that can't be written is found before any work
    /// is done.
    ///
    /// # Errors
    /// [`Error::Exists`] if the target is a folder, pipe, socket or device, or exists and
    /// `overwrite` doesn't allow replacing it; [`Error::Busy`]; [`Error::Io`].
    pub fn create(target: &Path, overwrite: Overwrite) -> Result<Self> {
        Self::create_with_mode(target, overwrite, 0o666)
    }

    /// As [`OutputFile::create`]. The file has this mode from the first moment, less what the
    /// process's umask takes away.
    ///
    /// # Errors
    /// As [`OutputFile::create`].
    pub fn create_with_mode(target: &Path, overwrite: Overwrite, mode: u32) -> Result<Self> {
        if place::is_folders_name(target) {
            let reason = "it ends as a folder's name does, and a file is to be written";
            return Err(failed("write", target)(std::io::Error::new(
                ErrorKind::InvalidInput,
                reason,
            )));
        }
        let hint = match place::kind(target)? {
            Some(kind) if kind.is_dir() => {
                Some("it is a folder, and a file is to be written; name another")
            }
            // A link that leads nowhere is replaced as a file is.
            Some(kind) if !kind.is_file() && !kind.is_symlink() => {
                Some("it is a pipe, socket or device, and a file is to be written; name another")
            }
            _ => None,
        };
        if let Some(hint) = hint {
            return Err(Error::Exists {
                path: target.into(),
                hint,
            });
        }
        let partial = Partial::new(target, overwrite, |path| {
            OpenOptions::new()
                .read(true)
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(path)
        })?;
        Ok(Self { partial })
    }

    /// The temporary file, to write to.
    pub fn file(&mut self) -> &mut File {
        self.partial.file()
    }

    /// The temporary path.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Flushes the file to disk. [`OutputFile::finish`] does it too; here, a caller can still give
    /// up after the wait.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush(&mut self) -> Result<()> {
        let path = self.partial.path().to_owned();
        disk::sync(&path, self.partial.file())
    }

    /// Flushes the file to disk and renames it to the target.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotPlaced`], for example if the target was created meanwhile;
    /// [`Error::Placed`] if the file has its name and what follows failed.
    pub fn finish(mut self) -> Result<()> {
        self.flush()?;
        self.partial.put_in_place(&mut |_| true)
    }
}

impl OutputFolder {
    /// Creates the temporary folder.
    ///
    /// # Errors
    /// [`Error::Exists`] if the target exists and `overwrite` doesn't allow replacing it, or if it
    /// isn't a folder that can be replaced; [`Error::Busy`]; [`Error::Io`].
    pub fn create(target: &Path, overwrite: Overwrite) -> Result<Self> {
        Self::create_with_mode(target, overwrite, 0o777)
    }

    /// As [`OutputFolder::create`]. The folder has this mode from the first moment, less what the
    /// process's umask takes away.
    ///
    /// # Errors
    /// As [`OutputFolder::create`].
    pub fn create_with_mode(target: &Path, overwrite: Overwrite, mode: u32) -> Result<Self> {
        if place::kind(target)?.is_some_and(|kind| !kind.is_dir()) {
            return Err(Error::Exists {
                path: target.into(),
                hint: "it is a file, and a folder is to be written; name another",
            });
        }
        if place::is_mount_point(target) {
            return Err(Error::Exists {
                path: target.into(),
                hint: "a file system is mounted there, which can't be replaced; name a folder in it",
            });
        }
        let partial = Partial::new(target, overwrite, |path| {
            DirBuilder::new().mode(mode).create(path)?;
            // A folder that can't be opened must not stay behind.
            File::open(path).inspect_err(|_| drop(std::fs::remove_dir(path)))
        })?;
        Ok(Self { partial })
    }

    /// The temporary folder, to write files into.
    pub fn path(&self) -> &Path {
        self.partial.path()
    }

    /// Flushes every file in it to disk. [`OutputFolder::finish`] does it too; here, a caller can
    /// still give up after the wait.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn flush(&mut self) -> Result<()> {
        disk::sync_folder(self.partial.path())
    }

    /// Flushes every file in it to disk and renames it to the target. An existing folder is
    /// exchanged with the new one in one step and then removed. On a file system that can't
    /// exchange, the existing folder is first renamed to `.<name>.replaced-<process>`.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::NotPlaced`], for example if the target was created meanwhile;
    /// [`Error::Placed`] if the folder has its name and what follows failed, such as removing the
    /// old one.
    pub fn finish(self) -> Result<()> {
        self.finish_removing(|_| true)
    }

    /// As [`OutputFolder::finish`]. Of an existing folder, only the files are removed that `known`
    /// allows, by their paths in that folder. If others are left, they stay in
    /// `.<name>.replaced-<process>`, and [`Error::Placed`] says so.
    ///
    /// # Errors
    /// As [`OutputFolder::finish`].
    pub fn finish_removing(mut self, mut known: impl FnMut(&Path) -> bool) -> Result<()> {
        self.flush()?;
        self.partial.put_in_place(&mut known)
    }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Error {
    let path: PathBuf = path.to_owned();
    move |source| Error::Io {
        doing,
        path,
        source,
    }
}
