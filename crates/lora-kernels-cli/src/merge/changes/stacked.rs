//! Adapters whose matrices are stacked: lora_A (experts, rank, in_features) and lora_B (experts,
//! out_features, rank).

use std::collections::BTreeSet;

use lora_kernels::WeightLayout;
use lora_kernels_adapters::Module;

use super::experts::{Place, layout_of, untold};
use super::module::inside;
use super::{Finder, Source, Target};
use crate::failure::Failure;
use crate::merge::change::Stack;
use crate::merge::layout;

impl<'a> Finder<'a, '_> {
    /// Adds a module whose matrices are stacked: (experts, rank, in_features) and (experts,
    /// out_features, rank).
    pub(super) fn stacked(
        &mut self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
        adapted: &mut BTreeSet<String>,
    ) -> Result<(), Failure> {
        let name = inside(module.path, "weight");
        let target = match self.find(source, module.component, &name) {
            Ok(target) => Ok(target),
            // A bare parameter has no `weight` of its own.
            Err(error) => self
                .find(source, module.component, module.path)
                .map_err(|_| error),
        };
        let stack = Stack::Leading {
            experts: module.experts,
        };
        let target = match target {
            Ok(target) => target,
            Err(error) => {
                let Some(experts) = self.stacked_apart(source, module) else {
                    return Err(error);
                };
                let place = Place::Apart(experts.into_iter().map(|target| vec![target]).collect());
                return self.stack(
                    source,
                    module,
                    (&place, WeightLayout::OutIn),
                    stack,
                    adapted,
                );
            }
        };
        self.float(&target)?;
        let shape = self.current(&target).shape;
        let layout = match *shape {
            [experts, rows, columns] if experts == module.experts && rows == columns => {
                let told = self.choices.experts_transposed;
                let parent = module
                    .path
                    .rsplit_once('.')
                    .map_or("", |(parent, _)| parent);
                let told = told.or_else(|| self.stored_in_out(source, module.component, parent));
                let square = layout_of(told.ok_or_else(|| untold(target.name()))?);
                layout::of_matrix(&[rows, columns], module, square)
            }
            [experts, ref matrix @ ..] if experts == module.experts => {
                layout::of_matrix(matrix, module, source.square)
            }
            _ => None,
        };
        let layout = layout.ok_or_else(|| layout::unfit(target.name(), shape, module))?;
        self.stack(
            source,
            module,
            (&Place::Fused(target), layout),
            stack,
            adapted,
        )
    }

    /// The base's tensors of a stacked module, one for each expert: `experts.3.up_proj.weight` for
    /// `experts.up_proj`. All must fit.
    fn stacked_apart(
        &mut self,
        source: &Source<'a, '_>,
        module: &Module<'a>,
    ) -> Option<Vec<Target<'a>>> {
        let (path, name) = module.path.rsplit_once('.')?;
        let at = |expert: usize| format!("{path}.{expert}.{name}.weight");
        if self.has(source, module.component, &at(module.experts)) {
            return None;
        }
        (0..module.experts)
            .map(|expert| {
                let target = self.find(source, module.component, &at(expert)).ok()?;
                self.float(&target).ok()?;
                let fits = self.current(&target).shape == [module.out_features, module.in_features];
                fits.then_some(target)
            })
            .collect()
    }
}
