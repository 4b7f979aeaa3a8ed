//! What tells that a file was changed.

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::{Error, Result};

/// A file's identity, size and times. They differ after every change of its content, also after one
/// that keeps its size.
///
/// Two things can hide a change: a program with the right to do so can set the system's clock back,
/// and what is written through a shared memory mapping may get its time only when the system writes
/// it to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    device: u64,
    inode: u64,
    bytes: u64,
    /// Seconds and nanoseconds of the last change of the content.
    modified: (i64, i64),
    /// Seconds and nanoseconds of the last change of the content, the owner, the mode, the times or
    /// the number of names. No program can set it.
    changed: (i64, i64),
}

impl Stamp {
    /// The stamp of an open file.
    ///
    /// # Errors
    /// Those of the system.
    pub fn of(file: &File) -> std::io::Result<Self> {
        Ok(Self::from(&file.metadata()?))
    }

    /// What differs in `now`, as a sentence about the file; `None` if nothing does.
    pub fn difference(&self, now: &Self) -> Option<&'static str> {
        let place = |stamp: &Self| (stamp.device, stamp.inode);
        if place(self) != place(now) {
            return Some("another file has its name");
        }
        if self.bytes != now.bytes {
            return Some("its size is another");
        }
        if self.modified != now.modified {
            return Some("it was written to");
        }
        (self.changed != now.changed)
            .then_some("it was written to, or its mode, owner, times or names were changed")
    }

    /// The time of the last change, in seconds and nanoseconds since 1970.
    pub fn changed(&self) -> (i64, i64) {
        self.changed
    }

    /// Its size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

pub(crate) fn unchanged(path: &Path, then: &Stamp, now: &Stamp) -> Result<()> {
    match then.difference(now) {
        None => Ok(()),
        Some(what) => Err(Error::Changed {
            path: path.into(),
            what,
        }),
    }
}
