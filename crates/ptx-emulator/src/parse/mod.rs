//! PTX text to [`ast::Module`]: a hand-written recursive-descent parser of PTX ISA 9.0 as nvcc and
//! Triton write it.
//!
//! It gives opcodes no meaning. It resolves scopes: registers, labels and variables of a nested
//! `{ }` get unique names (`p#3`, where 3 is the scope's number in its function; `#` can't occur in
//! PTX).

mod cursor;
mod function;
mod lexer;
mod module;
mod operand;
mod scope;
mod variable;

use crate::ast;

/// Why a text is not PTX that this parser takes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: found {found}, expected {expected}")]
pub struct ParseError {
    /// Line in the PTX text, from 1.
    pub line: u32,
    /// The token that was there.
    pub found: String,
    /// What could have been there.
    pub expected: String,
}

/// Parses a whole PTX module.
///
/// # Errors
/// [`ParseError`] names the first place that is malformed, or that uses a directive the emulator
/// does not have.
pub fn parse_module(text: &str) -> Result<ast::Module, ParseError> {
    module::parse(text)
}
