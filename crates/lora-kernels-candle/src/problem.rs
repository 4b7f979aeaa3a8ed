//! Converts candle's tensors to the core crate's problem. Shapes, types and layouts are checked
//! here, before anything is computed and on every backend alike.

use candle_core::Tensor;
use lora_kernels::{DType, MergeProblem, Problem, Role, WeightLayout};

use crate::error::{Error, Result};
use crate::matrix::Matrix;
use crate::{Lora, Options, Projection};

/// The problem of a call with these tensors: sizes, types and choices. How tensors lie in memory is
/// for the backend to say, so its layouts are dense. Without tokens it is that of one token.
pub(crate) fn problem(
    x: &Tensor,
    projections: &[Projection],
    options: &Options,
) -> Result<Problem> {
    if let Some(dropout) = options.dropout
        && !(dropout.p >= 0.0 && dropout.p < 1.0)
    {
        return Err(Error::DropoutProbability { given: dropout.p });
    }
    let dtype = element_type(&|| "x".to_owned(), x.dtype())?;
    let like_x = Like {
        dtype: x.dtype(),
        whose: "x",
    };
    let x_matrix = Matrix::of(&|| "x".to_owned(), x)?;
    let names = Names {
        count: projections.len(),
    };
    let mut sizes = Vec::new();
    for (index, projection) in projections.iter().enumerate() {
        let like = (&like_x, x_matrix.columns, options.weight_layout);
        sizes.push(check(&names, index, projection, like)?);
    }
    let with_bias = projections
        .iter()
        .filter(|projection| projection.bias.is_some())
        .count();
    if with_bias != 0
        && let Some(without) = projections
            .iter()
            .position(|projection| projection.bias.is_none())
    {
        return Err(Error::Bias { without });
    }
    for (index, projection) in projections.iter().enumerate() {
        for (role, tensor) in operands(projection) {
            Matrix::of(&|| names.of(role, index), tensor)?;
        }
    }
    Ok(
        Problem::sharing_x(x_matrix.rows.max(1), x_matrix.columns, &sizes, dtype)?
            .with_adapter_dtype(adapter_type(&names, projections, &like_x)?)?
            .with_bias(with_bias != 0)
            .with_dropout(options.dropout.is_some())
            .with_mask(options.mask)
            .with_weight_layout(options.weight_layout)
            .with_input_gradient(x.track_op()),
    )
}

/// The problem of merging a projection's adapter into a new weight, as far as [`problem`] says.
pub(crate) fn merge_problem(
    projection: &Projection,
    lora: &Lora,
    options: &Options,
) -> Result<MergeProblem> {
    let weight = &projection.weight;
    let dtype = element_type(&|| Role::Weight.to_string(), weight.dtype())?;
    let like_weight = Like {
        dtype: weight.dtype(),
        whose: "the weight",
    };
    let names = Names { count: 1 };
    let in_features = match (options.weight_layout, weight.dims()) {
        (WeightLayout::OutIn, &[_, within]) | (WeightLayout::InOut, &[within, _]) => within,
        (layout, given) => {
            return Err(Error::Shape {
                tensor: Role::Weight.to_string(),
                given: given.to_vec(),
                expected: format!("{}, as Options::weight_layout says", order(layout)),
            });
        }
    };
    let sizes = check(
        &names,
        0,
        projection,
        (&like_weight, in_features, options.weight_layout),
    )?;
    let adapter_dtype = adapter_type(&names, std::slice::from_ref(projection), &like_weight)?;
    for (role, tensor) in [
        (Role::Weight, weight),
        (Role::LoraA, &lora.a),
        (Role::LoraB, &lora.b),
    ] {
        Matrix::of(&|| role.to_string(), tensor)?;
    }
    Ok(
        MergeProblem::new(sizes.out_features, in_features, &[sizes.rank], dtype)?
            .with_adapter_dtype(adapter_dtype)?
            .with_weight_layout(options.weight_layout),
    )
}

/// The tensor whose type the others must have.
struct Like {
    dtype: candle_core::DType,
    whose: &'static str,
}

/// A projection's tensors.
pub(crate) fn operands(projection: &Projection) -> impl Iterator<Item = (Role, &Tensor)> {
    let lora = projection.lora.as_ref();
    [
        Some((Role::Weight, &projection.weight)),
        projection.bias.as_ref().map(|bias| (Role::Bias, bias)),
        lora.map(|lora| (Role::LoraA, &lora.a)),
        lora.map(|lora| (Role::LoraB, &lora.b)),
    ]
    .into_iter()
    .flatten()
}

/// Names of tensors for messages, with the projection's index if there are several.
pub(crate) struct Names {
    pub count: usize,
}

impl Names {
    pub fn of(&self, role: Role, index: usize) -> String {
        if self.count > 1 {
            format!("{role} of projection {index}")
        } else {
            role.to_string()
        }
    }
}

fn order(layout: WeightLayout) -> &'static str {
    match layout {
        WeightLayout::OutIn => "(out_features, in_features)",
        WeightLayout::InOut => "(in_features, out_features)",
    }
}

/// Checks a projection's shapes and types, and returns out_features and rank.
fn check(
    names: &Names,
    index: usize,
    projection: &Projection,
    (like, in_features, weight_layout): (&Like, usize, WeightLayout),
) -> Result<lora_kernels::Projection> {
    let shape = |role: Role, tensor: &Tensor, expected: String| Error::Shape {
        tensor: names.of(role, index),
        given: tensor.dims().to_vec(),
        expected,
    };
    let Projection { weight, bias, lora } = projection;
    let out_features = match (weight_layout, weight.dims()) {
        (WeightLayout::OutIn, &[out, within]) | (WeightLayout::InOut, &[within, out])
            if within == in_features =>
        {
            out
        }
        (layout, _) => {
            let order = order(layout);
            let expected =
                format!("{order} with in_features {in_features}, as Options::weight_layout says");
            return Err(shape(Role::Weight, weight, expected));
        }
    };
    if let Some(bias) = bias
        && bias.dims() != [out_features]
    {
        return Err(shape(Role::Bias, bias, format!("[{out_features}]")));
    }
    for (role, tensor) in [(Role::Weight, Some(weight)), (Role::Bias, bias.as_ref())] {
        if let Some(tensor) = tensor
            && tensor.dtype() != like.dtype
        {
            return Err(Error::DType {
                tensor: names.of(role, index),
                given: tensor.dtype(),
                expected: format!("{:?}, as {} is", like.dtype, like.whose),
            });
        }
    }
    let rank = match lora {
        Some(Lora { a, b, scaling }) => {
            let &[rank, _] = a.dims() else {
                return Err(shape(Role::LoraA, a, format!("[rank, {in_features}]")));
            };
            if a.dims() != [rank, in_features] || rank == 0 {
                return Err(shape(
                    Role::LoraA,
                    a,
                    format!("[rank, {in_features}] with a rank of at least 1"),
                ));
            }
            if b.dims() != [out_features, rank] {
                return Err(shape(Role::LoraB, b, format!("[{out_features}, {rank}]")));
            }
            if !scaling.is_finite() {
                return Err(Error::Scaling { given: *scaling });
            }
            rank
        }
        None => 0,
    };
    Ok(lora_kernels::Projection { out_features, rank })
}

fn element_type(name: &dyn Fn() -> String, given: candle_core::DType) -> Result<DType> {
    match given {
        candle_core::DType::F32 => Ok(DType::F32),
        candle_core::DType::F16 => Ok(DType::F16),
        candle_core::DType::BF16 => Ok(DType::BF16),
        given => Err(Error::DType {
            tensor: name(),
            given,
            expected: "F32, F16 or BF16".to_owned(),
        }),
    }
}

/// The common type of all adapters. Without adapters it is the other tensors' type, and the core
/// crate refuses the call.
fn adapter_type(names: &Names, projections: &[Projection], like: &Like) -> Result<DType> {
    let mut first = None;
    for (index, projection) in projections.iter().enumerate() {
        let Some(lora) = &projection.lora else {
            continue;
        };
        for (role, tensor) in [(Role::LoraA, &lora.a), (Role::LoraB, &lora.b)] {
            let first = *first.get_or_insert(tensor.dtype());
            let allowed = tensor.dtype() == like.dtype || tensor.dtype() == candle_core::DType::F32;
            if tensor.dtype() != first || !allowed {
                return Err(Error::DType {
                    tensor: names.of(role, index),
                    given: tensor.dtype(),
                    expected: format!(
                        "{:?} as {} is, or F32, and the same for all adapters of a call",
                        like.dtype, like.whose
                    ),
                });
            }
        }
    }
    element_type(&|| Role::LoraA.to_string(), first.unwrap_or(like.dtype))
}
