//! What lies in the folder that `cargo xtask gpu` makes. xtask writes it, the suite reads it.
//!
//! Every test program carries all kernels, some 30 MiB. In the bundle a program is a list of blobs,
//! compressed, and the images are blobs that all of them share; the suite puts the programs
//! together again.

use serde::{Deserialize, Serialize};

/// The manifest's name in the bundle.
pub const MANIFEST: &str = "suite.json";
/// The folder of blobs; each is named by its number.
pub const BLOBS: &str = "blobs";

/// What a bundle holds, as its [`MANIFEST`] has it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// The repository's commit.
    pub commit: String,
    /// nvcc's version.
    pub nvcc: String,
    /// Compute capabilities with machine code.
    pub archs: String,
    /// The C library that the programs need at least
    pub glibc: String,
    /// In the order they run.
    pub programs: Vec<Program>,
}

/// One program of a bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    /// Its name, and that of its file.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where it is unpacked, in the bundle
    pub path: String,
    /// Its size.
    pub bytes: u64,
    /// Blobs, in order
    pub parts: Vec<usize>,
    /// In the quick form: the tests to run, as filters of their names; all where empty. `None`
    /// leaves the program out.
    pub quick: Option<Vec<String>>,
    /// Tests that never run there, as parts of their names.
    pub skip: Vec<String>,
}

/// What a program is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Part of the correctness suite.
    Test,
    /// Times the layers.
    Bench,
    /// What tests start.
    Helper,
}
