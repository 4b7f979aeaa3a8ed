//! The record of a forward, which its backward must match.

use super::Lora;
use crate::{Dropout, Error, Formats, Mask, Problem, Projection, Result, RowAdapters};

/// The sizes, formats, dropout and scalings of a forward. A backward that differs in any of them
/// would misread `saved`, so it is refused.
///
/// Keep it with `saved`. It can't tell whether x, lora_A or the contents of `saved` have changed
/// since, because the calls never read device memory on the host.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct ForwardRecord {
    tokens: usize,
    in_features: usize,
    projections: [Projection; Problem::MAX_PROJECTIONS],
    count: usize,
    formats: Formats,
    /// The places in a row's list; `None` if all rows go through the projection's one adapter
    places: Option<usize>,
    mask: Option<Mask>,
    dropout: Option<Dropout>,
    /// Whether the dropout's seed is the address of its words, and where its mask begins
    drawn: (bool, (u64, u64)),
    /// 0 if the projection has no adapter
    scaling: [f32; Problem::MAX_PROJECTIONS],
}

/// The scalings of a call as a record lists them: 0 if the projection has no adapter.
pub(crate) fn scalings<M>(
    adapters: impl Iterator<Item = Option<Lora<M>>>,
) -> impl Iterator<Item = f32> {
    adapters.map(|lora| lora.map_or(0.0, |lora| lora.scaling))
}

impl ForwardRecord {
    /// The record of a forward of this problem. [`crate::Kernels::forward`] returns it. Make one
    /// yourself if forward and backward run in different processes.
    pub fn new(
        problem: &Problem,
        dropout: Option<Dropout>,
        scalings: impl IntoIterator<Item = f32>,
    ) -> Self {
        let mut record = Self {
            tokens: problem.tokens(),
            in_features: problem.in_features(),
            projections: [Projection::default(); Problem::MAX_PROJECTIONS],
            count: problem.projections().len(),
            formats: *problem.formats(),
            places: match problem.row_adapters() {
                RowAdapters::One => None,
                RowAdapters::Table { per_row, .. } => Some(per_row),
            },
            mask: problem.has_dropout().then_some(problem.mask()),
            dropout,
            drawn: (problem.has_dropout_from_memory(), problem.mask_origin()),
            scaling: [0.0; Problem::MAX_PROJECTIONS],
        };
        record.projections[..record.count].copy_from_slice(problem.projections());
        for ((slot, scaling), projection) in record
            .scaling
            .iter_mut()
            .zip(scalings)
            .zip(problem.projections())
        {
            if projection.is_adapted() {
                *slot = scaling;
            }
        }
        record
    }

    /// Refuses a backward that doesn't fit this forward.
    #[cfg(feature = "cuda")]
    pub(crate) fn check(
        &self,
        problem: &Problem,
        dropout: Option<Dropout>,
        scalings: impl IntoIterator<Item = f32>,
    ) -> Result<()> {
        Self::new(problem, dropout, scalings).fits(self)
    }

    /// Refuses a backward with this record if `forward` is the record of another forward.
    pub(super) fn fits(&self, forward: &Self) -> Result<()> {
        if self == forward {
            return Ok(());
        }
        let differs = |what: &str, forward: String, given: String| {
            Err(Error::OtherForward {
                what: what.to_owned(),
                given,
                forward,
            })
        };
        for (what, forward, backward) in [
            ("tokens", forward.tokens, self.tokens),
            ("in_features", forward.in_features, self.in_features),
            ("the number of projections", forward.count, self.count),
        ] {
            if forward != backward {
                return differs(what, forward.to_string(), backward.to_string());
            }
        }
        for (index, (ours, theirs)) in self
            .projections
            .iter()
            .zip(&forward.projections)
            .enumerate()
        {
            if ours != theirs {
                let shown = |Projection { out_features, rank }: &Projection| {
                    format!("{out_features} out_features with rank {rank} in projection {index}")
                };
                return differs("a projection", shown(theirs), shown(ours));
            }
        }
        if self.formats != forward.formats {
            return differs(
                "the formats",
                forward.formats.to_string(),
                self.formats.to_string(),
            );
        }
        if self.places != forward.places {
            let shown = |places: Option<usize>| match places {
                None => "one adapter for all rows".to_owned(),
                Some(places) => format!("a table with {places} adapters per row"),
            };
            return differs("the adapters:", shown(forward.places), shown(self.places));
        }
        if self.drawn != forward.drawn {
            let shown = |(from_memory, (row, column)): (bool, (u64, u64))| {
                let words = if from_memory {
                    "from memory"
                } else {
                    "by value"
                };
                format!("{words}, from row {row} and column {column} on")
            };
            return differs("the dropout", shown(forward.drawn), shown(self.drawn));
        }
        if self.dropout != forward.dropout {
            let shown = |dropout: Option<Dropout>| match dropout {
                None => "none".to_owned(),
                Some(Dropout { p, seed, offset }) => {
                    format!("p {p}, seed {seed}, offset {offset}")
                }
            };
            return differs("the dropout", shown(forward.dropout), shown(self.dropout));
        }
        if self.mask != forward.mask {
            let shown = |mask: Option<Mask>| match mask {
                None => "none",
                Some(Mask::Stored) => "stored",
                Some(Mask::Redrawn) => "redrawn",
            };
            return differs(
                "the mask",
                shown(forward.mask).into(),
                shown(self.mask).into(),
            );
        }
        let scalings = |record: &Self| {
            let all: Vec<_> = record.scaling[..record.count]
                .iter()
                .map(f32::to_string)
                .collect();
            all.join(", ")
        };
        differs("the scaling", scalings(forward), scalings(self))
    }
}
