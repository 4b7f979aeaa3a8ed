//! Opening and reading files that someone else may have made.
//!
//! A path in a downloaded folder may lead to a pipe, which blocks whoever opens it, or to a device,
//! which never ends. Only regular files are opened here, and texts are read up to a limit.

use std::fs::{File, Metadata, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

use crate::opened::note;
use crate::{Error, Result};

/// What [`Error::NotAFile`] calls a folder.
pub const FOLDER: &str = "a folder";

/// Whether the last part of a path may be a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LastLink {
    Followed,
    Refused,
}

/// Opens a regular file for reading. It never blocks.
///
/// # Errors
/// [`Error::NotAFile`] for a folder, pipe, socket or device; [`Error::Io`].
pub fn open(path: &Path) -> Result<File> {
    opened(path, LastLink::Followed, path)
}

/// Opens the file at `path`. Errors name `named`.
pub(crate) fn opened(path: &Path, link: LastLink, named: &Path) -> Result<File> {
    let failed = failed(named);
    // Opening a device can have effects, so that it is looked at first. What takes its place
    // meanwhile can't block.
    let metadata = match link {
        LastLink::Followed => followed(path),
        LastLink::Refused => path.symlink_metadata().map_err(failed),
    };
    check_kind(named, &metadata?)?;
    let mut flags = OFlags::NONBLOCK | OFlags::NOCTTY;
    if link == LastLink::Refused {
        flags |= OFlags::NOFOLLOW;
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits() as i32)
        .open(path)
        .map_err(failed)?;
    check_kind(named, &file.metadata().map_err(failed)?)?;
    note(named, &file)?;
    Ok(file)
}

/// Reads a file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open`]; [`Error::TooLarge`].
pub fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    read_open(open(path)?, path, limit)
}

/// Reads a UTF-8 text of at most `limit` bytes.
///
/// # Errors
/// Those of [`read`]; [`Error::Json`] if it isn't UTF-8.
pub fn read_text(path: &Path, limit: u64) -> Result<String> {
    text(read(path, limit)?, path)
}

/// Reads an open file of at most `limit` bytes. Errors name `path`.
pub(crate) fn read_open(file: File, path: &Path, limit: u64) -> Result<Vec<u8>> {
    let failed = failed(path);
    let too_large = |bytes| Error::TooLarge {
        path: path.into(),
        bytes,
        limit,
    };
    let bytes = file.metadata().map_err(failed)?.len();
    if bytes > limit {
        return Err(too_large(bytes));
    }
    let mut content = Vec::new();
    // Some systems' files have no size, and others grow.
    let read = file.take(limit.saturating_add(1)).read_to_end(&mut content);
    match read.map_err(failed)? as u64 {
        bytes if bytes > limit => Err(too_large(bytes)),
        _ => Ok(content),
    }
}

/// Checks that a path leads to a regular file, and opens nothing.
///
/// # Errors
/// Those of [`open`].
pub fn check(path: &Path) -> Result<()> {
    check_kind(path, &followed(path)?)
}

pub(crate) fn text(content: Vec<u8>, path: &Path) -> Result<String> {
    String::from_utf8(content).map_err(|error| Error::Json {
        path: path.into(),
        reason: format!("it is no UTF-8 text ({})", error.utf8_error()),
    })
}

/// Whether a file is there. A link that leads nowhere, and what is no file, are errors, because a
/// reader that took them for absent would read something else.
pub(crate) fn is_there(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Err(error) if is_absence(&error) => Ok(false),
        Err(error) => Err(failed(path)(error)),
        Ok(_) => check(path).map(|()| true),
    }
}

/// What lies at a path, with links followed.
fn followed(path: &Path) -> Result<Metadata> {
    path.metadata()
        .map_err(|error| match is_absence(&error) && path.is_symlink() {
            true => Error::NotAFile {
                path: path.into(),
                what: "a link to a file that isn't there",
            },
            false => failed(path)(error),
        })
}

/// Whether nothing has this name.
fn is_absence(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory)
}

fn check_kind(path: &Path, metadata: &Metadata) -> Result<()> {
    let kind = metadata.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(()),
        () if kind.is_dir() => FOLDER,
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () if kind.is_symlink() => "a link",
        () => "a device",
    };
    Err(Error::NotAFile {
        path: path.into(),
        what,
    })
}

/// The folder that a path's last part lies in.
pub fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// The error of reading a file or a folder.
pub(crate) fn failed(path: &Path) -> impl Fn(std::io::Error) -> Error + Copy {
    move |source| Error::Io {
        doing: "read",
        path: path.into(),
        source,
    }
}
