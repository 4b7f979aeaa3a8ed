//! What can go wrong: the core's errors, and those of the ABI itself.

use std::fmt;

/// The result of what every function of the ABI does inside.
pub type Result<T> = std::result::Result<T, Error>;

/// A struct among the arguments, as messages name it: `args->projections[1]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    pub name: &'static str,
    pub index: Option<usize>,
}

impl From<&'static str> for Place {
    fn from(name: &'static str) -> Self {
        Self { name, index: None }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.index {
            Some(index) => write!(f, "[{index}]"),
            None => Ok(()),
        }
    }
}

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Core(#[from] kernels::Error),
    #[error("{place} is a null pointer")]
    NullArgument { place: Place },
    #[error(
        "{place} has struct_size {given}: set it to sizeof({kind}), which is {expected} in this library"
    )]
    StructSize {
        place: Place,
        kind: &'static str,
        given: u32,
        expected: usize,
    },
    #[error(
        "{place}: element {element} has struct_size {given}, the first one {first}: all elements of an array have the same"
    )]
    ElementSize {
        place: &'static str,
        element: usize,
        given: u32,
        first: u32,
    },
    #[error(
        "{place} is a {kind} of {given} bytes, of which this library knows {known}; what comes after is not zero: it asks for \
         something that takes a newer library"
    )]
    UnknownFields {
        place: Place,
        kind: &'static str,
        given: u32,
        known: usize,
    },
    #[error("{place}.{field} is {given}: it must be one of {allowed}")]
    Enumeration {
        place: Place,
        field: &'static str,
        given: u32,
        allowed: &'static str,
    },
    #[error("{place}.{field} is {given}: it must be 1 for yes or 0 for no")]
    Flag {
        place: Place,
        field: &'static str,
        given: u32,
    },
    #[error("{place}.reserved is {given}: it must be 0")]
    Reserved { place: Place, given: u32 },
    #[error(
        "{given} layouts: there must be at most {limit}, one for each tensor of each projection or adapter"
    )]
    Layouts { given: usize, limit: usize },
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
