//! The contents of the folder that `cargo xtask gpu` makes. xtask writes the manifest, and the
//! suite reads it.
//!
//! Every program contains all kernels. In the bundle, a program is a list of compressed blobs, and
//! the programs share the blobs of the kernels' images. The suite reassembles the programs.

use serde::{Deserialize, Serialize};

/// The manifest's name in the bundle.
pub const MANIFEST: &str = "suite.json";
/// The folder of blobs. A blob's name is its number.
pub const BLOBS: &str = "blobs";

/// The contents of a bundle, stored in its [`MANIFEST`].
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Manifest {
    /// The repository's commit.
    pub commit: String,
    /// nvcc's version.
    pub nvcc: String,
    /// The compute capabilities with machine code.
    pub archs: String,
    /// The oldest C library that the programs run with
    pub glibc: String,
    /// The programs, in the order in which they run.
    pub programs: Vec<Program>,
    /// One test for each family of kernels, to run under compute-sanitizer.
    pub families: Vec<Family>,
}

/// One program of a bundle.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Program {
    /// The name of the program and of its file.
    pub name: String,
    /// The kind of program.
    pub kind: Kind,
    /// The path in the bundle to which it is unpacked
    pub path: String,
    /// Its size in bytes.
    pub bytes: u64,
    /// Its blobs, in order
    pub parts: Vec<usize>,
    /// Parts of the names of tests that the first look runs. If empty, it runs none.
    pub first_look: Vec<String>,
    /// The same of tests that check the kernels for compute capability 9.0 alone.
    pub hopper: Vec<String>,
    /// Parts of the names of tests that never run in the bundle.
    pub skip: Vec<String>,
    /// Parts of the names of further tests that don't run on an emulated device, where they take
    /// long.
    pub skip_emulated: Vec<String>,
}

/// The kind of a program.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A part of the correctness suite.
    #[default]
    Test,
    /// The bench of layers.
    Bench,
    /// A program that tests start.
    Helper,
}

/// A family of kernels.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Family {
    /// What its kernels compute.
    pub name: String,
    /// The program that contains the test.
    pub program: String,
    /// The full name of the test.
    pub test: String,
}
