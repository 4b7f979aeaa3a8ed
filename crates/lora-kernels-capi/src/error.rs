//! What can go wrong: the core's errors, and those of the ABI itself.

use std::fmt;

use crate::handles::{Kind, Stranger};
use crate::status::lora_status;

/// The result of what every function of the ABI does inside.
pub type Result<T> = std::result::Result<T, Error>;

/// A struct or array element among the arguments, written as in C: `args->projections[1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ArgumentPath {
    pub name: &'static str,
    pub index: Option<usize>,
}

impl ArgumentPath {
    /// An element of an array.
    pub const fn element(name: &'static str, index: usize) -> Self {
        Self {
            name,
            index: Some(index),
        }
    }
}

impl From<&'static str> for ArgumentPath {
    fn from(name: &'static str) -> Self {
        Self { name, index: None }
    }
}

impl fmt::Display for ArgumentPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None => Ok(()),
        }
    }
}

/// A `uint32_t` as the C program meant it: -1 turns into 4294967295 on its way here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Given(pub u32);

impl fmt::Display for Given {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.cast_signed().fmt(f)
    }
}

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Core(#[from] kernels::Error),
    #[error("{argument} is a null pointer")]
    NullArgument { argument: ArgumentPath },
    #[error(
        "{argument} is {given}: give a {wanted} that {maker} of this library (version {version}) \
         has made and that was not freed",
        maker = wanted.maker(),
        version = env!("CARGO_PKG_VERSION")
    )]
    Handle {
        argument: &'static str,
        given: Stranger,
        wanted: Kind,
    },
    #[error(
        "{argument} has struct_size {given}: set it to sizeof({struct_name}), which is {expected} \
         in this library"
    )]
    StructSize {
        argument: ArgumentPath,
        struct_name: &'static str,
        given: Given,
        expected: usize,
    },
    #[error(
        "{array}[{index}] has struct_size {given}, {array}[0] has {first}: all elements of an \
         array must have the same"
    )]
    ElementSize {
        array: &'static str,
        index: usize,
        given: Given,
        first: u32,
    },
    #[error(
        "{argument} is a {struct_name} of {given} bytes. This library knows the first {known}, and \
         what comes after is not zero: use a newer library, or set those fields to zero"
    )]
    UnknownFields {
        argument: ArgumentPath,
        struct_name: &'static str,
        given: usize,
        known: usize,
    },
    #[error("{argument}.{field} is {given}: it must be one of {allowed}")]
    Enumeration {
        argument: ArgumentPath,
        field: &'static str,
        given: Given,
        allowed: &'static str,
    },
    #[error("{argument}.{field} is {given}: it must be 1 for yes or 0 for no")]
    Flag {
        argument: ArgumentPath,
        field: &'static str,
        given: Given,
    },
    #[error("{argument}.reserved is {given}: it must be 0")]
    Reserved {
        argument: ArgumentPath,
        given: Given,
    },
    #[error("{name} is {given}: it must not be negative")]
    Negative {
        /// As in C: `problem.tokens`.
        name: String,
        given: i64,
        /// That of another number it can't be.
        status: lora_status,
    },
    #[error(
        "{given} layouts: there must be at most {limit}, one for each tensor of each projection or \
         adapter"
    )]
    Layouts { given: usize, limit: usize },
    #[error(
        "args.saved and args.saved_s or args.saved_mask are given: saved is one buffer, or two"
    )]
    SavedTwice,
    #[error("device {given}: ordinals count from 0")]
    Ordinal { given: i32 },
    #[error(
        "no device is known as {given:?}: known are {known}; fill in a lora_device for another"
    )]
    DeviceName { given: String, known: String },
    #[error(
        "lora-kernels failed inside: {message}. This is a bug in the library, please report it"
    )]
    Internal { message: String },
}
