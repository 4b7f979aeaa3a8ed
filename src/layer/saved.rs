//! What a forward keeps for its backward.

use cudarc::driver::CudaSlice;

use super::inputs::LoraInputs;
use super::signature::Signature;
use crate::{Dropout, Error, Formats, Mask, Projection, Result, WeightLayout};

/// What [`LoraLinear::forward`](crate::LoraLinear::forward) keeps for backward: S =
/// scaling·drop(x)·Aᵀ, the dropout's mask where it is stored, and of which forward they are. x, the
/// weights and the adapters are not kept: backward is given them again, as they were.
pub struct Saved {
    /// As [`SavedLayout`](crate::plan::SavedLayout) says; none of a forward without tokens.
    pub(super) memory: Option<CudaSlice<u8>>,
    forward: Forward,
}

/// What a forward computed, as far as backward has to agree with it.
#[derive(Debug, Clone, PartialEq)]
struct Forward {
    tokens: usize,
    in_features: usize,
    formats: Formats,
    weight_layout: WeightLayout,
    dropout: Option<Dropout>,
    mask: Mask,
    /// And the scaling of each.
    projections: Vec<(Projection, f32)>,
}

impl Forward {
    fn new<T, A>(inputs: &LoraInputs<'_, T, A>, signature: &Signature) -> Self {
        let projections = inputs.projections.iter().zip(&signature.projections);
        let projections = projections.map(|(one, signature)| {
            let scaling = one.lora.as_ref().map_or(0.0, |lora| lora.scaling);
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

    /// Bytes of device memory that it holds.
    pub fn bytes(&self) -> usize {
        self.memory.as_ref().map_or(0, CudaSlice::num_bytes)
    }

    /// Whether a backward with these inputs is the backward of this forward, as far as that can be
    /// known without a look at the numbers.
    pub(super) fn check<T, A>(
        &self,
        inputs: &LoraInputs<'_, T, A>,
        signature: &Signature,
    ) -> Result<()> {
        let backward = Forward::new(inputs, signature);
        if self.forward == backward {
            return Ok(());
        }
        // Both list the same facts as far as they have the same number of projections.
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
    /// What it is, fact by fact: name and value.
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
