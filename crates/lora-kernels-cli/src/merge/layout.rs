//! Whether weights are stored (out_features, in_features) or transposed.

use lora_kernels::WeightLayout;
use lora_kernels_adapters::base::Resolver;
use lora_kernels_adapters::{BaseModel, Kind, Module};

use super::changes::Selected;
use crate::failure::Failure;

/// The layout of a weight: `square` if it is square, else the one that fits its shape. PEFT knows
/// the layout from the layer's class.
pub fn of(
    name: &str,
    shape: &[usize],
    module: &Module<'_>,
    square: WeightLayout,
) -> Result<WeightLayout, Failure> {
    if module.kind == Kind::Convolution {
        return of_convolution(name, shape, module, square);
    }
    of_matrix(shape, module, square).ok_or_else(|| unfit(name, shape, module))
}

/// The layout of one matrix; `None` if it doesn't fit the module.
pub fn of_matrix(
    shape: &[usize],
    module: &Module<'_>,
    square: WeightLayout,
) -> Option<WeightLayout> {
    let (n, k) = (module.out_features, module.in_features);
    let is = |expected: [usize; 2]| shape == expected;
    let transposed = module.kind == Kind::Embedding || (n == k && square == WeightLayout::InOut);
    match (is([n, k]), is([k, n])) {
        (true, _) if !transposed => Some(WeightLayout::OutIn),
        (_, true) => Some(WeightLayout::InOut),
        _ => None,
    }
}

/// A convolution's weight is (out_features, in_features, kernel ...), and lora_A (rank,
/// in_features, kernel ...) has the same kernel, so their product is that of two matrices.
fn of_convolution(
    name: &str,
    shape: &[usize],
    module: &Module<'_>,
    square: WeightLayout,
) -> Result<WeightLayout, Failure> {
    let (n, k) = (module.out_features, module.in_features);
    let kernel = module.a.shape.get(2..).unwrap_or_default();
    // A linear layer that was trained as a convolution of one element.
    if shape.len() == 2 && kernel.iter().all(|&size| size == 1) {
        return of_matrix(shape, module, square).ok_or_else(|| unfit(name, shape, module));
    }
    match shape {
        [out, inputs, own @ ..] if (*out, *inputs, own) == (n, k, kernel) => {
            Ok(WeightLayout::OutIn)
        }
        [out, inputs, own @ ..]
            if (*out, own) == (n, kernel) && *inputs > 0 && k.is_multiple_of(*inputs) =>
        {
            Err(Failure::Refused(format!(
                "{name} has shape {shape:?}, and the adapter's module {} has {k} in_features: it is \
                 a convolution of {} groups, whose adapters no matrix of its weight expresses",
                module.path,
                k / inputs
            )))
        }
        _ => Err(unfit(name, shape, module)),
    }
}

/// A weight that is not the module's.
pub fn unfit(name: &str, shape: &[usize], module: &Module<'_>) -> Failure {
    let (n, k) = (module.out_features, module.in_features);
    let further = match module.kind {
        Kind::Convolution => format!(", kernel {:?}", module.a.shape.get(2..).unwrap_or_default()),
        Kind::Parameter | Kind::Stacked => format!(", {} experts", module.experts),
        _ => String::new(),
    };
    Failure::Refused(format!(
        "{name} has shape {shape:?}, and the adapter's module {} has {n} out_features and {k} \
         in_features ({}{further}): is this its base model?",
        module.path, module.kind
    ))
}

/// The layout of an adapter's square weights.
///
/// The config's `fan_in_fan_out` alone doesn't decide: PEFT sets it by each layer's class and saves
/// the value of the last layer. Every other hint must therefore agree with it, or `asked` has to
/// decide.
pub fn of_squares(
    base: &BaseModel,
    resolver: &Resolver<'_>,
    selected: &Selected<'_>,
    asked: Option<bool>,
) -> Result<WeightLayout, Failure> {
    let layout = |transposed| match transposed {
        true => WeightLayout::InOut,
        false => WeightLayout::OutIn,
    };
    let is_square = |module: &Module<'_>| {
        module.in_features == module.out_features && module.kind == Kind::Linear
    };
    let flag = selected
        .adapter
        .config()
        .is_some_and(|config| config.fan_in_fan_out());
    let Some(square) = { selected.modules.iter() }
        .find(|module| is_square(module))
        .filter(|_| asked.is_none())
    else {
        return Ok(layout(asked.unwrap_or(flag)));
    };
    let others = { selected.modules.iter() }
        .filter(|module| module.kind == Kind::Linear && !is_square(module));
    let other = others.filter_map(|module| {
        let weight = format!("{}.weight", module.path);
        let name = resolver.find(module.component, &weight).ok()??.name;
        let transposed = base.tensor(name)?.1.shape == [module.in_features, module.out_features];
        (transposed != flag).then_some(name)
    });
    let contradicting = { other }
        .next()
        .or_else(|| transposed_in(base).filter(|_| !flag));
    match contradicting {
        None => Ok(layout(flag)),
        Some(name) => Err(Failure::Refused(format!(
            "{}: whether the square weight of {} is stored transposed can't be told: \
             fan_in_fan_out is {}, and {name} is {}; --fan-in-fan-out yes \
             (transposed, as GPT-2's Conv1D) or no decides for square weights",
            selected.path.display(),
            square.path,
            match selected.adapter.config() {
                Some(_) => flag.to_string(),
                None => "not in this format".into(),
            },
            if flag { "not transposed" } else { "transposed" },
        ))),
    }
}

/// A weight of the base model whose bias shows that it is stored transposed.
fn transposed_in(base: &BaseModel) -> Option<&str> {
    base.names().find(|name| {
        let of = |name: &str| base.tensor(name).map(|(_, tensor)| tensor.shape);
        let bias = name
            .strip_suffix(".weight")
            .and_then(|path| of(&format!("{path}.bias")));
        match (of(name), bias) {
            (Some(&[rows, columns]), Some(&[elements])) => rows != columns && elements == columns,
            _ => false,
        }
    })
}
