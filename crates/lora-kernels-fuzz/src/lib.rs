//! Random choices and random damage for fuzz tests, the same for the same seed, and the folders
//! that they work in.

mod folder;
mod mutator;
mod random;

pub use folder::folder;
pub use mutator::Mutator;
pub use random::Random;
