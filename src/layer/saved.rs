//! The data that a forward saves for its backward.

use cudarc::driver::CudaSlice;

use super::inputs::LoraInputs;
use super::signature::Signature;
use crate::{Dropout, Error, Formats, Mask, Projection, Result, WeightLayout};

/// The data that [`LoraLinear::forward`](crate::LoraLinear::forward) saves for backward: S =
/// drop(x)·Aᵀ, the dropout mask if it is stored, and a description of the forward. x, the
/// weights and the adapters are not saved: pass the same ones to backward.
pub struct Saved {
    /// The layout is that of [`SavedLayout`](crate::plan::SavedLayout). `None` for a forward
    /// without tokens.
    pub(super) memory: Option<CudaSlice<u8>>,
    forward: Forward,
}

/// The description of a forward that its backward must match.
#[derive(Debug, Clone, PartialEq)]
struct Forward {
    tokens: usize,
    in_features: usize,
    formats: Formats,
    weight_layout: WeightLayout,
    dropout: Option<Dropout>,
    mask: Mask,
    /// (projection, scaling) of each projection.
    projections: Vec<(Projection, f32)>,
}

impl Forward {
    fn new<T, A>(inputs: &LoraInputs<'_, T, A>, signature: &Signature) -> Self {
        let projections = inputs.projections.iter().zip(&signature.projections);
        let projections = projections.map(|(projection, signature)| {
            let scaling = projection.lora.as_ref().map_or(0.0, |lora| lora.scaling);
            (signature.sizes, scaling)
        });
        Self {
            tokens: signature.tokens,
            in_features: signature.in_features,
            formats: signature.formats,
            weight_layout: signature.weight_layout,
            dropout: inputs.dropout,
            mask: signature.mask,
            projections: projections.collect(),
        }
    }
}

impl Saved {
    pub(super) fn new<T, A>(
        memory: Option<CudaSlice<u8>>,
        inputs: &LoraInputs<'_, T, A>,
        signature: &Signature,
    ) -> Self {
        Self {
            memory,
            forward: Forward::new(inputs, signature),
        }
    }

    /// The size of its device memory in bytes.
    pub fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, CudaSlice::num_bytes)
    }

    /// Checks that a backward with these inputs fits this forward, as far as that is known without
    /// reading device memory.
    pub(super) fn check<T, A>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
        signature: &Signature,
    ) -> Result<()> {
        let backward = Forward::new(inputs, signature);
        if self.forward == backward {
            return Ok(());
        }
        // With the same number of projections, both list the same facts.
        let differs = self.forward.facts().into_iter().zip(backward.facts());
        let (forward, given) = differs
            .into_iter()
            .find(|(forward, backward)| forward != backward)
            .unwrap_or_default();
        Err(Error::OtherForward {
            what: given.0,
            given: given.1,
            forward: forward.1,
        })
    }
}

impl Forward {
    /// The description as (name, value) pairs.
    fn facts(&self) -> Vec<(String, String)> {
        let formats = self.formats;
        let dropout = match self.dropout {
            Some(Dropout { p, seed, offset }) => format!("p {p}, seed {seed}, offset {offset}"),
            None => "none".to_owned(),
        };
        let mut facts = vec![
            ("projections".to_owned(), self.projections.len().to_string()),
            ("tokens".to_owned(), self.tokens.to_string()),
            ("in_features".to_owned(), self.in_features.to_string()),
            ("tensors in".to_owned(), formats.activations.to_string()),
            ("adapters in".to_owned(), formats.adapters.to_string()),
            (
                "weight layout".to_owned(),
                format!("{:?}", self.weight_layout),
            ),
            ("dropout".to_owned(), dropout),
            ("mask".to_owned(), format!("{:?}", self.mask)),
        ];
        for (index, (sizes, scaling)) in self.projections.iter().enumerate() {
            let of = |what: &str| format!("{what} of projection {index}");
            facts.extend([
                (of("out_features"), sizes.out_features.to_string()),
                (of("rank"), sizes.rank.to_string()),
                (of("scaling"), scaling.to_string()),
            ]);
        }
        facts
    }
}
