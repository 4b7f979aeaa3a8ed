//! Brings files and folders to the disk.

use std::fs::File;
use std::path::Path;

#[cfg(target_os = "linux")]
use rustix::fs::syncfs;
use rustix::io::Errno;

use super::failed;
use crate::Result;

pub fn sync(path: &Path, file: &File) -> Result<()> {
    file.sync_all().map_err(failed("bring to the disk", path))
}

/// Every file in the folder, and the folder.
pub fn sync_folder(folder: &Path) -> Result<()> {
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
    let open = File::open(folder).map_err(failed("open", folder))?;
    sync_names(&open).map_err(failed("bring to the disk", folder))
}

/// Brings the names in the folder to the disk. `inside` is open, and lies in the folder: it stands
/// in for a folder that may be written to and not be opened.
pub fn sync_parent(folder: &Path, inside: &File) -> std::io::Result<()> {
    match File::open(folder) {
        Ok(open) => sync_names(&open),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => Ok(syncfs(inside)?),
        Err(error) => Err(error),
    }
}

/// Some file systems have no such call for folders, and say so.
fn sync_names(folder: &File) -> std::io::Result<()> {
    let unsupported = [Errno::INVAL, Errno::NOSYS, Errno::OPNOTSUPP];
    match folder.sync_all() {
        Err(error) if Errno::from_io_error(&error).is_some_and(|e| unsupported.contains(&e)) => {
            Ok(())
        }
        synced => synced,
    }
}
