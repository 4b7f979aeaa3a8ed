//! Random choices and random damage for fuzz tests, the same for the same seed.

mod mutator;
mod random;

pub use mutator::Mutator;
pub use random::Random;
