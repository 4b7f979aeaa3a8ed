//! What lies in the folder that `cargo xtask gpu` makes. xtask writes it, the suite reads it.
//!
//! Every program carries all kernels. In the bundle a program is a list of blobs, compressed, and
//! the images are blobs that all of them share; the suite puts the programs together again.

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
    /// A test for each family of kernels, to run under compute-sanitizer.
    pub families: Vec<Family>,
}

/// One program of a bundle.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
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
    /// The tests of the first look, by parts of their names; none where empty.
    pub first_look: Vec<String>,
    /// Tests that never run there, by parts of their names.
    pub skip: Vec<String>,
    /// More that don't run where the device is emulated, since they take long there.
    pub skip_emulated: Vec<String>,
}

/// What a program is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Part of the correctness suite.
    #[default]
    Test,
    /// Times the layers.
    Bench,
    /// What tests start.
    Helper,
}

/// A family of kernels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Family {
    /// What its kernels do.
    pub name: String,
    /// The program with the test.
    pub program: String,
    /// The test, by its whole name.
    pub test: String,
}
