//! Where tests write files. By itself: test programs that need no device use it, too.

use std::path::{Path, PathBuf};

/// Cargo's folder for them, or, where this runs far from where it was built, the machine's folder
/// for temporary files.
pub fn scratch() -> PathBuf {
    let cargo = Path::new(env!("CARGO_TARGET_TMPDIR"));
    if cargo.is_dir() {
        cargo.to_owned()
    } else {
        std::env::temp_dir().join("lora-kernels-tests")
    }
}
