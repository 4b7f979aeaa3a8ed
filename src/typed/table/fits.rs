//! Whether a table is one for a problem.

use std::fmt;

use super::AdapterTable;
use crate::{Error, Problem, Projection, Result, RowAdapters};

impl AdapterTable {
    /// Refuses a problem that the table wasn't made for.
    pub(crate) fn check_fits(&self, problem: &Problem) -> Result<()> {
        check_fits(&self.problem, problem)
    }
}

/// Refuses a problem that a table for problems as `table` doesn't fit.
pub(super) fn check_fits(table: &Problem, problem: &Problem) -> Result<()> {
    let differ = |what, table: &dyn fmt::Display, problem: &dyn fmt::Display| {
        Err(Error::OtherTable {
            what,
            table: table.to_string(),
            problem: problem.to_string(),
        })
    };
    if let (
        RowAdapters::Table { slots, per_row },
        RowAdapters::Table {
            slots: planned,
            per_row: places,
        },
    ) = (table.row_adapters(), problem.row_adapters())
    {
        if slots != planned {
            return differ("slots", &slots, &planned);
        }
        // The lists that the table makes have so many places for each row.
        if per_row != places {
            return differ("adapters per row", &per_row, &places);
        }
    }
    if problem.in_features() != table.in_features() {
        return differ("in_features", &table.in_features(), &problem.in_features());
    }
    if problem.projections() != table.projections() {
        let shown = |projections: &[Projection]| {
            let all: Vec<_> = projections
                .iter()
                .map(|Projection { out_features, rank }| format!("{out_features} (rank {rank})"))
                .collect();
            all.join(", ")
        };
        let (table, given) = (shown(table.projections()), shown(problem.projections()));
        return differ("out_features and ranks", &table, &given);
    }
    if problem.dtype() != table.dtype() {
        return differ("the type", &table.dtype(), &problem.dtype());
    }
    if problem.adapter_dtype() != table.adapter_dtype() {
        let (table, given) = (table.adapter_dtype(), problem.adapter_dtype());
        return differ("the adapters' type", &table, &given);
    }
    Ok(())
}
