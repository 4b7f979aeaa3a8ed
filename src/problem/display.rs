//! The text of a problem.

use std::fmt;

use super::{Problem, Projection};
use crate::{Mask, Role, RowAdapters, WeightLayout};

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tokens {}, in_features {}, ",
            self.tokens, self.in_features
        )?;
        match self.projections.as_slice() {
            [one] => write!(f, "out_features {}, rank {}", one.out_features, one.rank)?,
            several => {
                f.write_str("projections")?;
                for Projection { out_features, rank } in several {
                    write!(f, " {out_features} (rank {rank})")?;
                }
            }
        }
        write!(f, ", {}", self.dtype())?;
        if self.adapter_dtype() != self.dtype() {
            write!(f, ", {} adapters", self.adapter_dtype())?;
        }
        if self.weight_layout == WeightLayout::InOut {
            f.write_str(", weight (in, out)")?;
        }
        if self.bias {
            f.write_str(", bias")?;
        }
        if self.dropout {
            f.write_str(", dropout")?;
            if self.mask == Mask::Redrawn {
                f.write_str(" redrawn")?;
            }
            if self.dropout_words {
                f.write_str(" from memory")?;
            }
            if self.mask_origin != (0, 0) {
                let (row, column) = self.mask_origin;
                write!(f, " of rows from {row} and columns from {column} on")?;
            }
        }
        if !self.input_gradient {
            f.write_str(", no dx")?;
        }
        if let RowAdapters::Table { slots, per_row } = self.row_adapters {
            write!(f, ", {per_row} of {slots} adapters per row")?;
        }
        for (set, text) in [
            (self.inference, ", inference"),
            (self.batch_invariant, ", batch-invariant"),
            (self.delta_only, ", delta only"),
        ] {
            f.write_str(if set { text } else { "" })?;
        }
        for tensor in Role::ALL
            .into_iter()
            .filter(|&tensor| self.accumulate[tensor as usize])
        {
            write!(f, ", {tensor} +=")?;
        }
        Ok(())
    }
}
