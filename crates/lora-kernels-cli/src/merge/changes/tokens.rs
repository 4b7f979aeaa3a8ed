//! Rows of embeddings that were trained in full.

use std::collections::BTreeSet;

use super::module::inside;
use super::{Finder, Source, refuse};
use crate::failure::Failure;
use crate::merge::change::Rows;
use crate::merge::numbers::{part, same_within_types};
use crate::show::{self, few};

impl<'a> Finder<'a, '_> {
    /// Collects the rows of an adapter.
    pub(super) fn tokens(&mut self, source: &Source<'a, '_>) -> Result<(), Failure> {
        for tokens in &source.selected.tokens {
            let target = self.find(source, tokens.component, &inside(tokens.path, "weight"))?;
            let name = target.name();
            self.float(&target)?;
            let (now, values) = (self.current(&target), tokens.rows);
            let (&[rows, columns], &[given, width]) = (now.shape, values.shape) else {
                return refuse(format!(
                    "{name} has shape {:?}, and the adapter's rows for it have {:?}: both must be \
                     matrices",
                    now.shape, values.shape
                ));
            };
            if width != columns || given != tokens.indices.len() {
                return refuse(format!(
                    "{name} has rows of {columns}, and the adapter has {given} rows of {width} for \
                     {} tokens: is this its base model?",
                    tokens.indices.len()
                ));
            }
            if let Some(index) = { tokens.indices.iter() }.find(|&&index| index >= rows) {
                return refuse(format!(
                    "the adapter has a row for token {index}, and {name} has {rows} rows: is this \
                     its base model? If its vocabulary was resized, resize this one first"
                ));
            }
            let taken: BTreeSet<usize> = { self.change(&target).rows.iter() }
                .flat_map(|earlier| earlier.indices.iter().copied())
                .collect();
            if let Some(index) = { tokens.indices.iter() }.find(|index| taken.contains(index)) {
                return refuse(format!(
                    "more than one of the adapters has token {index} of {name}: only one of them \
                     can be put in its place"
                ));
            }
            let row = |at: usize| at * columns..(at + 1) * columns;
            for (at, &index) in tokens.indices.iter().enumerate() {
                if !same_within_types(&part(&values, row(at))?, &part(&now, row(index))?)? {
                    self.effects.insert(source.number);
                    break;
                }
            }
            self.change(&target).rows.push(Rows {
                indices: tokens.indices,
                values,
            });
        }
        Ok(())
    }

    /// Checks that no other adapter changes all rows of what this one has rows for. They would take
    /// the place of the other's.
    pub(super) fn rows_alone(&mut self, source: &Source<'a, '_>) -> Result<(), Failure> {
        for tokens in &source.selected.tokens {
            let target = self.find(source, tokens.component, &inside(tokens.path, "weight"))?;
            let name = target.name();
            let indices: Vec<String> = { tokens.indices.iter() }.map(usize::to_string).collect();
            let others = self.trained.get(name).into_iter().flatten();
            if let Some(other) = { others }.find(|&&other| other != source.number) {
                return refuse(format!(
                    "adapter {} has rows of its own for {} of {name} ({}), and adapter {} changes \
                     all rows: the rows would take the place of what it learned; merge one of them \
                     into the result of the other, or --skip {}",
                    source.number + 1,
                    show::count(tokens.indices.len(), "token"),
                    few(indices.iter().map(String::as_str)),
                    other + 1,
                    tokens.path,
                ));
            }
        }
        Ok(())
    }
}
