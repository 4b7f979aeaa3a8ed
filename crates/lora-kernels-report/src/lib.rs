//! The counts that the counting program gives to `cargo xtask report`, and the rule of the modelled
//! bound.

pub mod bound;
mod derived;
pub mod document;
pub mod rates;
