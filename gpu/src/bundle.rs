//! What lies in the folder that `cargo xtask gpu` makes. xtask writes it, the suite reads it.
//!
//! Every test program carries all kernels, some 30 MiB. In the bundle a program is a list of blobs, compressed, and the images are blobs that
//! all of them share; the suite puts the programs together again.

use serde::{Deserialize, Serialize};

/// The manifest's name in the bundle.
pub const MANIFEST: &str = "suite.json";
/// The folder of blobs; each is named by its number.
pub const BLOBS: &str = "blobs";

#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    pub commit: String,
    pub nvcc: String,
    pub archs: String,
    /// The C library that the programs need at least
    pub glibc: String,
    pub programs: Vec<Program>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Program {
    pub name: String,
    pub kind: Kind,
    /// Where it is unpacked, in the bundle
    pub path: String,
    pub bytes: u64,
    /// Blobs, in order
    pub parts: Vec<usize>,
    /// In the quick form: the tests to run, as filters of their names; all where empty. `None` leaves the program out.
    pub quick: Option<Vec<String>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Test,
    Bench,
    /// What tests start.
    Helper,
}
