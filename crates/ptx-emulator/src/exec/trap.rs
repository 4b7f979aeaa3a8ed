//! A fault inside the interpreter, before its place is known.

use super::fault::FaultKind;

/// What went wrong in which lane; the caller knows the instruction.
#[derive(Debug)]
pub(crate) struct Trap {
    pub kind: FaultKind,
    pub lane: usize,
    pub message: String,
}

impl Trap {
    pub fn new(kind: FaultKind, lane: usize, message: impl Into<String>) -> Box<Trap> {
        Box::new(Trap {
            kind,
            lane,
            message: message.into(),
        })
    }
}

pub(crate) type Outcome = Result<(), Box<Trap>>;
