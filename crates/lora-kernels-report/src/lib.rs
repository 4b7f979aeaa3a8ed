//! What the measuring program tells `cargo xtask report`.

mod derived;
pub mod document;
