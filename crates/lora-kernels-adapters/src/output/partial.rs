//! Outputs under a temporary name, locked while their process lives.

use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::{Errno, retry_on_intr};

use super::{Overwrite, failed, place};
use crate::regular::folder_of;
use crate::{Error, Result};

/// How often a run that begins waits for another one that begins in the same folder.
const TURNS: usize = 100;
const TURN: Duration = Duration::from_millis(10);
/// Of one process's temporary names for one target. One is enough but where a file system has no
/// locks.
const NAMES: usize = 1000;
/// Linux gives no process a higher number.
const LARGEST_PROCESS: u64 = 1 << 22;

/// A file or folder under a temporary name.
#[derive(Debug)]
pub struct Partial {
    pub(super) target: PathBuf,
    pub(super) path: PathBuf,
    /// It is open, and locked where the file system has locks.
    pub(super) lock: File,
    pub(super) overwrite: Overwrite,
    pub(super) finished: bool,
}

impl Partial {
    pub fn new(
        target: &Path,
        overwrite: Overwrite,
        mut create: impl FnMut(&Path) -> std::io::Result<File>,
    ) -> Result<Self> {
        // A rename fails where `/.` follows the name.
        let target: &Path = &target.components().collect::<PathBuf>();
        let prefix = prefix(target)?;
        let turn = wait_for_turn(folder_of(target));
        let dead = leftovers(target, &prefix)?;
        // A run that is at its end isn't seen any more, and its output is.
        if overwrite == Overwrite::Never && place::kind(target)?.is_some() {
            return Err(Error::Exists {
                path: target.into(),
                hint: "it would be replaced; name another, or allow it to be overwritten",
            });
        }
        let mut number = 0;
        let (path, lock) = loop {
            let path = target.with_file_name(temporary(&prefix, number));
            let lock = match create(&path) {
                // A leftover of this process's number, which can't be removed or told from an
                // output that is being written.
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number < NAMES => {
                    number += 1;
                    continue;
                }
                made => made.map_err(failed("write", target))?,
            };
            // Before it is locked, another process may take it for a leftover, and removes it while
            // holding the lock.
            let locked = match retry_on_intr(|| flock(&lock, FlockOperation::LockExclusive)) {
                Ok(()) => lies_at(&path, &lock),
                Err(error) if has_no_locks(error) => Ok(true),
                Err(error) => Err(error.into()),
            };
            match locked {
                Ok(true) => break (path, lock),
                Ok(false) => {}
                Err(error) => {
                    place::remove(&path);
                    return Err(failed("lock", &path)(error));
                }
            }
        };
        drop(turn);
        // Each is locked until it is gone.
        for (path, _lock) in dead {
            place::remove(&path);
        }
        Ok(Self {
            target: target.into(),
            path,
            lock,
            overwrite,
            finished: false,
        })
    }

    pub fn file(&mut self) -> &mut File {
        &mut self.lock
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        if !self.finished {
            place::remove(&self.path);
        }
    }
}

/// Refuses a target that another run is writing.
pub fn check_free(target: &Path) -> Result<()> {
    let prefix = prefix(target)?;
    // Looking at a leftover locks it, and who else looks must not take it for a run.
    let _turn = wait_for_turn(folder_of(target));
    leftovers(target, &prefix).map(drop)
}

/// `.<name>.partial-`
fn prefix(target: &Path) -> Result<OsString> {
    let name = target.file_name().ok_or_else(|| {
        let reason = "it is not the name of a file or folder";
        failed("write", target)(std::io::Error::new(ErrorKind::InvalidInput, reason))
    })?;
    let mut prefix = OsString::from(".");
    prefix.push(name);
    prefix.push(".partial-");
    Ok(prefix)
}

/// `.<name>.partial-<process>`, with a number after it from the second on.
fn temporary(prefix: &OsStr, number: usize) -> OsString {
    let mut name = prefix.to_owned();
    name.push(std::process::id().to_string());
    if number > 0 {
        name.push(format!("-{number}"));
    }
    name
}

/// The number of the process, if `rest` is what follows the prefix in a temporary name.
fn process(rest: &[u8]) -> Option<u64> {
    let rest = std::str::from_utf8(rest).ok()?;
    let (process, number) = rest.split_once('-').unwrap_or((rest, "0"));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let is_ours = is_digits(process) && is_digits(number) && !number.is_empty();
    process.parse().ok().filter(|_| is_ours)
}

/// Locks the folder while a run that begins there looks for others and makes its output known, so
/// that of two that begin at once, the second sees the first. Without a lock, they may both begin.
fn wait_for_turn(folder: &Path) -> Option<File> {
    let folder = File::open(folder).ok()?;
    for _ in 0..TURNS {
        match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Some(folder),
            Err(Errno::INTR) => {}
            // Somebody else may have a reason of their own to lock the folder for long.
            Err(Errno::WOULDBLOCK) => std::thread::sleep(TURN),
            Err(_) => break,
        }
    }
    None
}

/// What earlier processes left beside this target, each locked.
///
/// # Errors
/// [`Error::Busy`] if a process holds the lock of one: it still runs, or removes it.
fn leftovers(target: &Path, prefix: &OsStr) -> Result<Vec<(PathBuf, File)>> {
    let mut found = Vec::new();
    let Ok(entries) = std::fs::read_dir(folder_of(target)) else {
        return Ok(found);
    };
    for entry in entries.flatten() {
        let (name, path) = (entry.file_name(), entry.path());
        let rest = { name.as_encoded_bytes() }.strip_prefix(prefix.as_encoded_bytes());
        let Some(process) = rest.and_then(process) else {
            continue;
        };
        let is_plain = entry
            .file_type()
            .is_ok_and(|kind| kind.is_file() || kind.is_dir());
        if !is_plain {
            continue;
        }
        // Something else may have taken the name meanwhile: a link, or a pipe that nobody writes.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
        let Ok(lock) = OpenOptions::new()
            .read(true)
            .custom_flags(flags)
            .open(&path)
        else {
            continue;
        };
        match retry_on_intr(|| flock(&lock, FlockOperation::NonBlockingLockExclusive)) {
            Ok(()) if lies_at(&path, &lock).unwrap_or(false) => found.push((path, lock)),
            // Under another number, it is no run's.
            Err(Errno::WOULDBLOCK)
                if process <= LARGEST_PROCESS && lies_at(&path, &lock).unwrap_or(true) =>
            {
                return Err(Error::Busy {
                    path: target.into(),
                    partial: path,
                });
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Whether a file system without locks, or with none for what is only read, gives this error.
fn has_no_locks(error: Errno) -> bool {
    let errors = [
        Errno::NOLCK,
        Errno::OPNOTSUPP,
        Errno::NOSYS,
        Errno::INVAL,
        Errno::BADF,
    ];
    errors.contains(&error)
}

/// Whether this path still leads to the open file or folder.
fn lies_at(path: &Path, open: &File) -> std::io::Result<bool> {
    let place = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    match path.symlink_metadata() {
        Ok(there) => Ok(place(there) == place(open.metadata()?)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(made == 2 && lies_at(&partial.path, &partial.lock).unwrap());
    }

    /// What a stranger holds for long doesn't stop a run.
    #[test]
    fn a_locked_folder_is_not_waited_for_without_end() {
        let folder = tempfile::tempdir().unwrap();
        let held = File::open(folder.path()).unwrap();
        flock(&held, FlockOperation::LockExclusive).unwrap();
        assert!(wait_for_turn(folder.path()).is_none());
        let out = folder.path().join("out");
        drop(Partial::new(&out, Overwrite::Never, |path| File::create_new(path)).unwrap());
        drop(held);
        assert!(wait_for_turn(folder.path()).is_some());
    }
}
