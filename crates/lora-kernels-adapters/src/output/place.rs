//! Gives a complete output its name, and removes what it replaces.

use std::ffi::OsString;
use std::fs::{FileType, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FlockOperation, OFlags, RenameFlags, flock, renameat_with};
use rustix::io::{Errno, retry_on_intr};

use super::partial::Partial;
use super::{Overwrite, disk, failed};
use crate::regular::folder_of;
use crate::{Error, Result};

/// A file system or a kernel lacks a flag of a rename.
const LACKING: [Errno; 3] = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP];

impl Partial {
    /// Renames the complete output. It is never removed, whatever fails here. Of a folder that it
    /// replaces, what `known` allows is removed.
    pub fn put_in_place(&mut self, known: &mut dyn FnMut(&Path) -> bool) -> Result<()> {
        self.finished = true;
        // While it is removed, no other run may take the old folder for a leftover.
        let flags = (OFlags::DIRECTORY | OFlags::NOFOLLOW).bits() as i32;
        let old = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&self.target);
        let old =
            { old.ok() }.filter(|old| flock(old, FlockOperation::NonBlockingLockExclusive).is_ok());
        let replaced = self.rename().map_err(|source| Error::NotPlaced {
            path: self.target.clone(),
            kept: self.path.clone(),
            source,
        })?;
        let placed = |reason: String| Error::Placed {
            path: self.target.clone(),
            reason,
        };
        let folder = folder_of(&self.target);
        let synced = disk::sync_parent(folder, &self.lock).map_err(|source| {
            placed(format!(
                "can't bring its name to the disk, in {}: {source}; a power failure may undo it",
                folder.display()
            ))
        });
        // What was there is needed no more, whether or not the name is on the disk.
        let removed = replaced.map_or(Ok(()), |old| {
            clear(&old, known)
                .map_err(|(at, source)| {
                    placed(format!(
                        "can't remove what it replaced: {} can't be removed: {source}; what is \
                         left of it lies in {}",
                        at.display(),
                        old.display()
                    ))
                })
                .and_then(|left| match left {
                    0 => Ok(()),
                    _ => Err(placed(self.keep(&old, left))),
                })
        });
        drop(old);
        synced.and(removed)
    }

    /// Gives files that weren't removed a name that no later run takes for a leftover. Returns what
    /// to say about them.
    fn keep(&self, old: &Path, left: usize) -> String {
        let aside = aside(&self.target);
        let renamed = rename(old, &aside, RenameFlags::NOREPLACE);
        let kept = if renamed.is_ok() { &aside } else { old };
        format!(
            "what it replaced held {left} more that no run writes: kept in {}",
            kept.display()
        )
    }

    /// Renames it to the target, and returns the path where the replaced folder now lies, if there
    /// was one.
    fn rename(&self) -> std::io::Result<Option<PathBuf>> {
        let (new, target) = (&self.path, &self.target);
        let there = look(target)?;
        match self.overwrite {
            Overwrite::Replace if there.is_some_and(|kind| kind.is_dir()) => {
                match rename(new, target, RenameFlags::EXCHANGE) {
                    // The temporary name now belongs to the old folder.
                    Ok(()) => Ok(Some(new.clone())),
                    Err(error) if LACKING.contains(&error) => {
                        replace_in_two_steps(new, target).map(Some)
                    }
                    Err(error) => Err(error.into()),
                }
            }
            Overwrite::Replace => Ok(rename(new, target, RenameFlags::empty()).map(|()| None)?),
            Overwrite::Never => match rename(new, target, RenameFlags::NOREPLACE) {
                Ok(()) => Ok(None),
                // The target's absence was checked above; this system can't check it atomically.
                Err(error) if LACKING.contains(&error) && there.is_none() => {
                    Ok(rename(new, target, RenameFlags::empty()).map(|()| None)?)
                }
                Err(error) => Err(error.into()),
            },
        }
    }
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> std::result::Result<(), Errno> {
    retry_on_intr(|| renameat_with(CWD, from, CWD, to, flags))
}

/// `.<name>.replaced-<process>`
fn aside(target: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(target.file_name().unwrap_or_default());
    name.push(format!(".replaced-{}", std::process::id()));
    target.with_file_name(name)
}

/// Renames the old folder aside and the new one to the target, and returns where the old one lies.
/// If the second rename fails, the first is undone.
fn replace_in_two_steps(new: &Path, target: &Path) -> std::io::Result<PathBuf> {
    let aside = aside(target);
    let plainly = |from: &Path, to: &Path| rename(from, to, RenameFlags::empty());
    plainly(target, &aside)?;
    match plainly(new, target) {
        Ok(()) => Ok(aside),
        Err(error) => match plainly(&aside, target) {
            Ok(()) => Err(error.into()),
            Err(undo) => {
                let error = std::io::Error::from(error);
                let text = format!(
                    "{error}; what was there lies in {} ({undo})",
                    aside.display()
                );
                Err(std::io::Error::new(error.kind(), text))
            }
        },
    }
}

/// Removes what was replaced: a folder, or a link to one.
fn clear(
    old: &Path,
    known: &mut dyn FnMut(&Path) -> bool,
) -> std::result::Result<usize, (PathBuf, std::io::Error)> {
    match std::fs::read_link(old) {
        Ok(_) => std::fs::remove_file(old).map_err(|error| (old.to_owned(), error))?,
        Err(_) => return remove_known(old, Path::new(""), known),
    }
    Ok(0)
}

/// Removes the files of a folder that `known` allows, by their paths below it, and the folders that
/// are empty then. Returns the number of files that stay; an error names the path that it is about.
fn remove_known(
    root: &Path,
    below: &Path,
    known: &mut dyn FnMut(&Path) -> bool,
) -> std::result::Result<usize, (PathBuf, std::io::Error)> {
    let folder = root.join(below);
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |error| (path, error)
    };
    let mut left = 0;
    for entry in std::fs::read_dir(&folder).map_err(failed(&folder))? {
        let entry = entry.map_err(failed(&folder))?;
        let (path, below) = (entry.path(), below.join(entry.file_name()));
        if entry.file_type().map_err(failed(&path))?.is_dir() {
            left += remove_known(root, &below, known)?;
        } else if known(&below) {
            gone(std::fs::remove_file(&path)).map_err(failed(&path))?;
        } else {
            left += 1;
        }
    }
    if left == 0 {
        gone(std::fs::remove_dir(&folder)).map_err(failed(&folder))?;
    }
    Ok(left)
}

/// What somebody else removed is removed.
fn gone(removed: std::io::Result<()>) -> std::io::Result<()> {
    match removed {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What lies at a path, with a link followed where it leads somewhere.
pub fn kind(path: &Path) -> Result<Option<FileType>> {
    look(path).map_err(failed("look at", path))
}

fn look(path: &Path) -> std::io::Result<Option<FileType>> {
    let there = match path.metadata() {
        // A link to nothing is something.
        Err(error) if error.kind() == ErrorKind::NotFound => path.symlink_metadata(),
        there => there,
    };
    match there {
        Ok(metadata) => Ok(Some(metadata.file_type())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a path can only mean a folder: it ends in a slash, or in `/.`.
pub fn is_folders_name(path: &Path) -> bool {
    let path = path.as_os_str().as_encoded_bytes();
    path.ends_with(b"/") || path.ends_with(b"/.")
}

/// Whether a file system is mounted at a path. Nothing can be renamed to it then. False where the
/// system doesn't tell.
pub fn is_mount_point(path: &Path) -> bool {
    #[cfg(target_os = "linux")]
    {
        use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
        statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty()).is_ok_and(|there| {
            let known = there.stx_attributes & there.stx_attributes_mask;
            known.contains(StatxAttributes::MOUNT_ROOT)
        })
    }
    #[cfg(not(target_os = "linux"))]
    {
        let _ = path;
        false
    }
}

/// Removes a partial output. Errors are ignored: the leftover's name says what it is.
pub fn remove(path: &Path) {
    // A folder is no file to remove, and the other way round.
    if std::fs::remove_file(path).is_err() {
        let _ = std::fs::remove_dir_all(path);
    }
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
}
