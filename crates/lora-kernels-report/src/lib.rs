//! The counts that the counting program gives to `cargo xtask report`, and the rule of the modelled
//! bound.

pub mod bound;
pub mod decode;
mod derived;
pub mod document;
pub mod rates;
