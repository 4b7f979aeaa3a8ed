//! The kind of layer that a pair of matrices adapts, and its sizes.

use lora_kernels::Problem;

use crate::Kind;
use crate::shown::{shape, shown};
use crate::tensor::Tensor;

/// The sizes of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sizes {
    pub kind: Kind,
    pub experts: usize,
    pub rank: usize,
    pub in_features: usize,
    pub out_features: usize,
}

/// The tensor that is wrong, and what is wrong with it.
pub(super) type Wrong<'a> = (Tensor<'a>, String);

/// Finds the sizes from the shapes of lora_A and lora_B, whose names say `kind` (linear or
/// embedding). `rank` is the config's.
pub(super) fn sizes<'a>(
    kind: Kind,
    a: Tensor<'a>,
    b: Tensor<'a>,
    rank: Option<usize>,
) -> Result<Sizes, Wrong<'a>> {
    let most = if kind == Kind::Linear { 5 } else { 2 };
    for tensor in [a, b] {
        if !(2..=most).contains(&tensor.shape.len()) || tensor.shape.len() != a.shape.len() {
            let reason = format!(
                "has shape {}: lora_A and lora_B are matrices, or have a convolution's three to \
                 five dimensions both",
                shape(tensor.shape)
            );
            return Err((tensor, reason));
        }
        let wrong = |size: &&usize| **size == 0 || **size > Problem::MAX_DIMENSION;
        if let Some(size) = tensor.shape.iter().find(wrong) {
            let most = Problem::MAX_DIMENSION;
            let reason = format!(
                "has shape {}: no size may be {size}, they go from 1 to {most}",
                shape(tensor.shape)
            );
            return Err((tensor, reason));
        }
    }
    let one = |kind| Sizes {
        kind,
        experts: 1,
        rank: a.shape[0],
        in_features: a.shape[1],
        out_features: b.shape[0],
    };
    match (a.shape, b.shape) {
        ([r, _], [_, b_r]) if r == b_r => Ok(one(kind)),
        (&[e, r, k], &[b_e, n, b_r]) => {
            let stacked = (e == b_e && r == b_r).then_some(Sizes {
                kind: Kind::Stacked,
                experts: e,
                rank: r,
                in_features: k,
                out_features: n,
            });
            let convolution = (e == n && b_r == 1).then(|| one(Kind::Convolution));
            match (stacked, convolution) {
                (Some(stacked), None) => Ok(stacked),
                (None, Some(convolution)) => Ok(convolution),
                (None, None) => Err(mismatched(a, b)),
                // (E, 1, K) with (E, E, 1): the rank is 1, or E and the kernel's size K.
                (Some(stacked), Some(convolution)) => match rank {
                    Some(rank) if rank == stacked.rank && rank != convolution.rank => Ok(stacked),
                    Some(rank) if rank == convolution.rank => Ok(convolution),
                    _ => Err((
                        b,
                        format!(
                            "has shape {} and {} has {}: a convolution of rank {} or a stack of {} \
                             matrices of rank {}, and no config says which",
                            shape(b.shape),
                            shown(a.name),
                            shape(a.shape),
                            convolution.rank,
                            stacked.experts,
                            stacked.rank
                        ),
                    )),
                },
            }
        }
        ([r, ..], [_, b_r, rest @ ..])
            if r == b_r && !rest.is_empty() && rest.iter().all(|&size| size == 1) =>
        {
            Ok(one(Kind::Convolution))
        }
        _ => Err(mismatched(a, b)),
    }
}

/// What may have made a tensor empty.
pub(super) const EMPTY_HINT: &str = "; DeepSpeed's ZeRO-3 saves empty tensors where it doesn't \
    gather them: gather the weights and save the adapter again";

fn mismatched<'a>(a: Tensor<'a>, b: Tensor<'a>) -> Wrong<'a> {
    if let ([r, _, _, ..], [_, of_group, kernel @ ..]) = (a.shape, b.shape)
        && kernel.iter().all(|&size| size == 1)
        && *of_group > 0
        && r > of_group
        && r.is_multiple_of(*of_group)
    {
        let reason = format!(
            "has shape {} and {} has {}: a convolution of {} groups, whose change isn't B·A",
            shape(b.shape),
            shown(a.name),
            shape(a.shape),
            r / of_group
        );
        return (b, reason);
    }
    let reason = format!(
        "has shape {} and {} has {}: lora_A is (rank, in_features) and lora_B (out_features, \
         rank), with one rank",
        shape(b.shape),
        shown(a.name),
        shape(a.shape)
    );
    (b, reason)
}

/// Why a magnitude vector's shape doesn't fit, if so. PEFT's has out_features elements; kohya's and
/// LyCORIS' `dora_scale` is (out_features, 1 ...), and (1, in_features) normalises columns instead.
pub(super) fn magnitude(tensor: Tensor<'_>, out_features: usize) -> Option<String> {
    let elements: usize = tensor.shape.iter().product();
    let by_row = |shape: &[usize]| {
        shape.first() == Some(&out_features) && shape[1..].iter().all(|&size| size == 1)
    };
    if tensor.name.ends_with("dora_scale") && elements > 0 && !by_row(tensor.shape) {
        return Some(format!(
            "has shape {}: a magnitude for each row, ({out_features}, 1), can be merged; one for \
             each column can't",
            shape(tensor.shape)
        ));
    }
    (elements != out_features).then(|| {
        format!(
            "has shape {}; a magnitude vector has an element for each of {out_features} \
             out_features",
            shape(tensor.shape)
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use safetensors::Dtype;

    fn tensor<'a>(shape: &'a [usize]) -> Tensor<'a> {
        Tensor::named("x", Dtype::F32, shape, &[])
    }

    fn kind(a: &[usize], b: &[usize], rank: Option<usize>) -> Option<(Kind, usize, usize)> {
        let sizes = sizes(Kind::Linear, tensor(a), tensor(b), rank).ok()?;
        Some((sizes.kind, sizes.experts, sizes.rank))
    }

    #[test]
    fn stacks_and_convolutions_are_told_apart() {
        assert_eq!(kind(&[2, 7], &[5, 2], None), Some((Kind::Linear, 1, 2)));
        assert_eq!(
            kind(&[3, 2, 7], &[3, 5, 2], None),
            Some((Kind::Stacked, 3, 2))
        );
        assert_eq!(
            kind(&[3, 2, 7], &[5, 3, 1], None),
            Some((Kind::Convolution, 1, 3))
        );
        assert_eq!(
            kind(&[3, 2, 7, 7], &[5, 3, 1, 1], None),
            Some((Kind::Convolution, 1, 3))
        );
        assert_eq!(kind(&[3, 2, 7, 7], &[3, 5, 2, 2], None), None);
        assert_eq!(kind(&[3, 2, 7], &[4, 5, 2], None), None);
        let (a, b) = ([4, 6, 3, 3], [8, 2, 1, 1]);
        let (_, reason) = sizes(Kind::Linear, tensor(&a), tensor(&b), None).unwrap_err();
        assert!(reason.contains("2 groups"), "{reason}");
        let (a, b) = ([4, 1, 7], [4, 4, 1]);
        assert_eq!(kind(&a, &b, Some(1)), Some((Kind::Stacked, 4, 1)));
        assert_eq!(kind(&a, &b, Some(4)), Some((Kind::Convolution, 1, 4)));
        assert_eq!(kind(&a, &b, None), None);
    }

    #[test]
    fn magnitudes_are_of_rows() {
        let scale =
            |shape| magnitude(Tensor::named("q.dora_scale", Dtype::F32, shape, &[]), 4).is_none();
        assert!(scale(&[4, 1]) && scale(&[4]) && scale(&[4, 1, 1, 1]));
        assert!(!scale(&[1, 4]) && !scale(&[1, 5]) && !scale(&[4, 2]));
        assert!(magnitude(tensor(&[1, 4, 1, 1]), 4).is_none());
        assert!(magnitude(tensor(&[5]), 4).is_some());
    }
}
