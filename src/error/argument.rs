//! The names of arguments in messages.

use std::fmt;

use crate::Role;

/// An argument of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Argument {
    /// A tensor, with its projection if there are several.
    Tensor(Role, Option<usize>),
    /// The adapter of a projection.
    Lora(Option<usize>),
    /// The gradients of an adapter.
    Gradients(Option<usize>),
    /// A matrix of an adapter that is merged, with the adapter's index.
    Adapter(Role, usize),
    /// The report of a merge.
    Report,
    /// The dropout.
    Dropout,
    /// The buffer from forward to backward.
    Saved,
    /// The buffer of S, if it is separate from that of the mask.
    SavedS,
    /// The buffer of the mask, if it is separate from that of S.
    SavedMask,
    /// The scratch memory.
    Workspace,
    /// The flags between the blocks of a launch.
    Flags,
    /// Which adapters the rows go through.
    Rows,
    /// The slots that the rows name.
    RowSlots,
    /// The weights of the rows' adapters.
    RowWeights,
    /// The table of adapters.
    Table,
    /// The stream.
    Stream,
}

impl fmt::Display for Argument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (name, projection) = match *self {
            Argument::Adapter(tensor, adapter) => {
                return write!(f, "{tensor} of adapter {adapter}");
            }
            Argument::Report => ("report", None),
            Argument::Tensor(tensor, projection) => (tensor.name(), projection),
            Argument::Lora(projection) => ("lora", projection),
            Argument::Gradients(projection) => ("gradients", projection),
            Argument::Dropout => ("dropout", None),
            Argument::Saved => ("saved", None),
            Argument::SavedS => ("saved S", None),
            Argument::SavedMask => ("saved mask", None),
            Argument::Workspace => ("workspace", None),
            Argument::Flags => ("flags", None),
            Argument::Rows => ("rows", None),
            Argument::RowSlots => ("the rows' slots", None),
            Argument::RowWeights => ("the rows' weights", None),
            Argument::Table => ("the table of adapters", None),
            Argument::Stream => ("the stream", None),
        };
        f.write_str(name)?;
        match projection {
            Some(projection) => write!(f, " of projection {projection}"),
            None => Ok(()),
        }
    }
}
