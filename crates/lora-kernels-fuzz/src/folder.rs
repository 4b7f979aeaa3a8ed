//! Folders for files that live as long as a case.

use std::path::Path;

/// A new folder, removed when it is dropped. It lies in memory where the system has such a place,
/// because small files are fast there.
///
/// # Panics
/// If no folder can be made.
pub fn folder() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.expect("a folder for temporary files")
}
