//! Writing the files beside the weights.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::source::{Source, Unreadable, reason};
use crate::failure::Failure;
use crate::merge::Work;
use crate::merge::access::Access;

/// Bytes that are copied between two checks for an interruption.
const STEP: usize = 1 << 20;

/// Copies a file's content, and none of its permissions. Returns why it can't be read, if that is
/// so; nothing is left of it then.
pub fn file(
    work: &Work<'_>,
    source: &Source,
    to: &Path,
    access: Access,
) -> Result<Option<Unreadable>, Failure> {
    let unreadable = |reason: String| {
        Ok(Some(Unreadable {
            path: source.path.clone(),
            reason,
        }))
    };
    let from = match source.open() {
        Ok(file) => file,
        Err(error) => return unreadable(reason(error)),
    };
    let bytes = match from.metadata() {
        Ok(metadata) => metadata.len(),
        Err(error) => return unreadable(error.to_string()),
    };
    let mut target = created(to, access)?;
    // One that grows is copied to where it ended.
    let mut from = from.take(bytes);
    let mut buffer = vec![0; STEP.min(usize::try_from(bytes).unwrap_or(STEP).max(1))];
    loop {
        work.go_on()?;
        let read = match from.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(read) => read,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => {
                std::fs::remove_file(to).map_err(|error| Failure::unwritten(to, error))?;
                return unreadable(error.to_string());
            }
        };
        { target.write_all(&buffer[..read]) }.map_err(|error| Failure::unwritten(to, error))?;
    }
}

pub fn text(to: &Path, text: &str, access: Access) -> Result<(), Failure> {
    let mut file = created(to, access)?;
    file.write_all(text.as_bytes())
        .map_err(|error| Failure::unwritten(to, error))
}

/// Creates a folder where there is none.
pub fn folder(path: &Path, access: Access) -> Result<(), Failure> {
    match DirBuilder::new().mode(access.folder_mode()).create(path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        made => made.map_err(|error| Failure::unwritten(path, error)),
    }
}

fn created(path: &Path, access: Access) -> Result<File, Failure> {
    { access.create(path) }.map_err(|error| Failure::unwritten(path, error))
}
