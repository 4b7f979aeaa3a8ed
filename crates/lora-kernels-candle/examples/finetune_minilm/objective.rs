//! The training objective: the first half of each sentence should find its second half among those
//! of the batch.

use candle_core::{D, DType, Result, Tensor};
use candle_nn::loss::cross_entropy;

/// The factor of the cosines.
const SCALE: f64 = 20.0;

/// The loss of hidden states (sequences, tokens, hidden). The first half of the sequences holds the
/// first halves of the sentences, the second half their second halves. `mask` (sequences, tokens)
/// is 1 where there is a token.
pub fn loss(hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let sentences = hidden.dim(0)? / 2;
    let vectors = normalised(&mean_of_tokens(hidden, mask)?)?;
    let (first, second) = (
        vectors.narrow(0, 0, sentences)?,
        vectors.narrow(0, sentences, sentences)?,
    );
    let similarity = (first.matmul(&second.t()?.contiguous()?)? * SCALE)?;
    let right = Tensor::arange(0, sentences as u32, hidden.device())?;
    cross_entropy(&similarity, &right)
}

/// (sequences, hidden)
fn mean_of_tokens(hidden: &Tensor, mask: &Tensor) -> Result<Tensor> {
    let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
    let sum = hidden.broadcast_mul(&mask)?.sum(1)?;
    sum.broadcast_div(&mask.sum(1)?)
}

fn normalised(vectors: &Tensor) -> Result<Tensor> {
    vectors.broadcast_div(&vectors.sqr()?.sum_keepdim(D::Minus1)?.sqrt()?)
}
