//! Rows of embeddings that were trained in full (PEFT's `trainable_token_indices`).

use std::collections::BTreeSet;

use crate::PeftConfig;
use crate::config::TrainableTokens;
use crate::shown::shape;
use crate::tensor::Tensor;

/// The indices of the rows for the embedding at `path`. An error is a reason that follows a
/// tensor's name.
pub(super) fn indices<'c>(
    config: Option<&'c PeftConfig>,
    path: &str,
) -> Result<&'c [usize], String> {
    let none = || {
        "has rows of an embedding, and no config's trainable_token_indices says which they are"
            .to_owned()
    };
    match config.map(PeftConfig::trainable_tokens) {
        None | Some(TrainableTokens::None) => Err(none()),
        Some(TrainableTokens::Input(indices)) => Ok(indices),
        Some(TrainableTokens::Modules(_)) => {
            let named = config.and_then(|config| config.tokens_of(path));
            named.ok_or_else(none)
        }
    }
}

/// Checks indices against the rows.
pub(super) fn check(indices: &[usize], rows: Tensor<'_>) -> Result<(), String> {
    let (&[count, columns], wanted) = (rows.shape, indices.len()) else {
        return Err(format!(
            "has shape {}: rows of an embedding are a matrix",
            shape(rows.shape)
        ));
    };
    if count != wanted || columns == 0 {
        return Err(format!(
            "has shape {}, and the config's trainable_token_indices names {wanted} rows",
            shape(rows.shape)
        ));
    }
    let mut seen = BTreeSet::new();
    match indices.iter().find(|index| !seen.insert(**index)) {
        Some(twice) => Err(format!(
            "has rows of token {twice} twice, by the config's trainable_token_indices"
        )),
        None => Ok(()),
    }
}
