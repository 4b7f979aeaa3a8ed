//! The counts that the counting program gives to `cargo xtask report`.

mod derived;
pub mod document;
