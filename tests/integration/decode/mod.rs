//! Forwards of few tokens in one launch.

mod one;
