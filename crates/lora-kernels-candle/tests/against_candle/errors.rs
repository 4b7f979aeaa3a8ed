//! Calls that are refused before anything is computed, and the messages.

use candle_core::{DType, Result, Tensor};
use lora_kernels::{Dropout, WeightLayout};
use lora_kernels_candle::{Lora, Options, Projection, lora_linears};

use crate::compare::ComparisonCase;
use crate::data::{backends, numbers};

fn tensor(dims: &[usize]) -> Tensor {
    numbers(dims, 1.0, 1, DType::F32).expect("numbers")
}

fn layer(out_features: usize, in_features: usize, rank: usize) -> Projection {
    Projection {
        weight: tensor(&[out_features, in_features]),
        bias: None,
        lora: Some(Lora {
            a: tensor(&[rank, in_features]),
            b: tensor(&[out_features, rank]),
            scaling: 2.0,
        }),
    }
}

fn with_lora(layer: &Projection, change: impl Fn(&mut Lora)) -> Projection {
    let mut layer = layer.clone();
    change(layer.lora.as_mut().expect("an adapter"));
    layer
}

/// The message, which is the same on every backend.
fn refused_merge(layer: &Projection, layout: WeightLayout) -> String {
    let messages = backends().map(|(_, backend)| {
        let options = Options {
            backend,
            weight_layout: layout,
            ..Options::default()
        };
        layer
            .merged_weight(&options)
            .expect_err("a refusal")
            .to_string()
    });
    assert_eq!(messages[0], messages[1]);
    let [message, _] = messages;
    message
}

/// The message, which is the same on every backend.
fn refused(x: &Tensor, layers: &[Projection], change: impl Fn(&mut Options)) -> String {
    let mut messages = backends().map(|(_, backend)| {
        let mut options = Options {
            backend,
            ..Options::default()
        };
        change(&mut options);
        lora_linears(x, layers, &options)
            .expect_err("a refusal")
            .to_string()
    });
    messages.sort();
    assert_eq!(messages[0], messages[1]);
    let [message, _] = messages;
    message
}

#[test]
fn refusals_name_the_tensor_what_is_given_and_what_is_right() -> Result<()> {
    let (x, projection) = (tensor(&[5, 8]), layer(6, 8, 3));
    let alone = std::slice::from_ref(&projection);
    let same = |_: &mut Options| {};
    let base_only = Projection {
        lora: None,
        ..projection.clone()
    };
    let biased = Projection {
        bias: Some(tensor(&[6])),
        ..projection.clone()
    };
    let wide = Projection {
        weight: tensor(&[6, 8]).to_dtype(DType::F64)?,
        ..projection.clone()
    };
    for (message, words) in [
        (
            refused(&tensor(&[5, 9]), alone, same),
            vec!["weight is [6, 8]", "in_features 9"],
        ),
        (
            refused(
                &x,
                &[with_lora(&projection, |lora| lora.a = tensor(&[3, 7]))],
                same,
            ),
            vec!["lora_A is [3, 7]", "[rank, 8]"],
        ),
        (
            refused(
                &x,
                &[with_lora(&projection, |lora| lora.b = tensor(&[6, 4]))],
                same,
            ),
            vec!["lora_B is [6, 4]", "[6, 3]"],
        ),
        (
            refused(
                &x,
                &[
                    projection.clone(),
                    with_lora(&projection, |lora| lora.b = tensor(&[6, 4])),
                ],
                same,
            ),
            vec!["lora_B of projection 1 is [6, 4]"],
        ),
        (
            refused(
                &x,
                &[with_lora(&projection, |lora| lora.scaling = f32::NAN)],
                same,
            ),
            vec!["scaling NaN", "finite"],
        ),
        (
            refused(&x, &[projection.clone(), biased], same),
            vec!["projection 0 has no bias", "zeros"],
        ),
        (
            refused(
                &x,
                &[Projection {
                    bias: Some(tensor(&[7])),
                    ..projection.clone()
                }],
                same,
            ),
            vec!["bias is [7]", "[6]"],
        ),
        (
            refused(&x, &[wide], same),
            vec!["weight is F64", "F32, as x is"],
        ),
        (
            refused(&x.to_dtype(DType::U32)?, alone, same),
            vec!["x is U32", "F32, F16 or BF16"],
        ),
        (
            refused(
                &x.to_dtype(DType::BF16)?,
                &[with_lora(&projection, |lora| {
                    lora.b = tensor(&[6, 3]).to_dtype(DType::F16).unwrap()
                })],
                same,
            ),
            vec!["is F32", "BF16, as x is"],
        ),
        (
            refused(&x, &[base_only], same),
            vec!["no projection has a rank"],
        ),
        (refused(&x, &[], same), vec!["0 projections"]),
        (
            refused(&tensor(&[8, 5]).t()?, alone, same),
            vec![
                "x with dimensions [5, 8]",
                "strides [1, 5]",
                "x.contiguous()",
            ],
        ),
        (
            refused(&tensor(&[1, 8]).broadcast_as((5, 8))?, alone, same),
            vec!["x.contiguous()"],
        ),
        (
            refused(
                &x,
                &[Projection {
                    weight: tensor(&[8, 6]).t()?,
                    ..projection.clone()
                }],
                same,
            ),
            vec!["weight with dimensions [6, 8]", "weight.contiguous()"],
        ),
        (refused(&tensor(&[8]).get(0)?, alone, same), vec!["x is []"]),
        (
            refused(&x, alone, |options| {
                options.dropout = Some(Dropout {
                    p: 1.0,
                    seed: 0,
                    offset: 0,
                })
            }),
            vec!["dropout probability 1", "below 1"],
        ),
        (
            refused(&x, alone, |options| {
                options.weight_layout = WeightLayout::InOut
            }),
            vec!["weight is [6, 8]", "(in_features, out_features)"],
        ),
        (
            refused(&x, &vec![projection.clone(); 9], same),
            vec!["9 projections", "between 1 and 8"],
        ),
    ] {
        for word in words {
            assert!(
                message.contains(word),
                "{word:?} is missing from: {message}"
            );
        }
    }
    Ok(())
}

/// A merge has no x: its messages compare with the weight.
#[test]
fn refusals_of_a_merge_name_the_tensor_that_is_wrong() -> Result<()> {
    let projection = layer(6, 8, 3);
    let with_weight = |weight: Tensor| Projection {
        weight,
        ..projection.clone()
    };
    let (usual, transposed) = (WeightLayout::OutIn, WeightLayout::InOut);
    for (layer, layout, words) in [
        (
            with_lora(&projection, |lora| lora.a = tensor(&[3, 7])),
            usual,
            ["lora_A is [3, 7]", "[rank, 8]"],
        ),
        (
            with_lora(&projection, |lora| lora.a = tensor(&[24])),
            usual,
            ["lora_A is [24]", "[rank, 8]"],
        ),
        (
            with_lora(&projection, |lora| lora.b = tensor(&[6, 4])),
            usual,
            ["lora_B is [6, 4]", "[6, 3]"],
        ),
        (
            projection.clone(),
            transposed,
            ["lora_A is [3, 8]", "[rank, 6]"],
        ),
        (
            with_weight(tensor(&[48])),
            usual,
            ["weight is [48]", "(out_features, in_features)"],
        ),
        (
            with_weight(tensor(&[48])),
            transposed,
            ["weight is [48]", "(in_features, out_features)"],
        ),
        (
            with_weight(tensor(&[6, 8]).to_dtype(DType::F64)?),
            usual,
            ["weight is F64", "F32, F16 or BF16"],
        ),
        (
            with_lora(&projection, |lora| {
                lora.b = lora.b.to_dtype(DType::F16).expect("a cast")
            }),
            usual,
            ["lora_B is F16", "F32 as the weight is"],
        ),
        (
            with_weight(tensor(&[8, 6]).t()?),
            usual,
            ["weight with dimensions [6, 8]", "weight.contiguous()"],
        ),
        (
            with_lora(&projection, |lora| lora.scaling = f32::INFINITY),
            usual,
            ["scaling inf", "finite"],
        ),
    ] {
        let message = refused_merge(&layer, layout);
        for word in words {
            assert!(
                message.contains(word),
                "{word:?} is missing from: {message}"
            );
        }
    }
    Ok(())
}

/// In f16 and bf16, the adapters of a call all have that type or are all f32.
#[test]
fn adapters_of_two_types_are_refused() -> Result<()> {
    let case = ComparisonCase::new(&[5, 8], &[(6, 3), (4, 2)]).dtypes(DType::BF16, DType::F32);
    let mut layers = case.layers()?;
    let lora = layers[1].lora.as_mut().expect("an adapter");
    (lora.a, lora.b) = (lora.a.to_dtype(DType::BF16)?, lora.b.to_dtype(DType::BF16)?);
    let x = numbers(&case.x, 1.0, 1, DType::BF16)?;
    let message = refused(&x, &layers, |_| {});
    assert!(
        message.contains("lora_A of projection 1 is BF16") && message.contains("same for all"),
        "{message}"
    );
    Ok(())
}
