//! Random choices and random damage for fuzz tests, the same for the same seed, the folders that
//! they work in, and a count of steps.

mod folder;
mod mutator;
mod random;
mod steps;

pub use folder::folder;
pub use mutator::Mutator;
pub use random::Random;
pub use steps::{assert_linear, step};
