//! Whether weights are stored (out_features, in_features) or transposed.

use lora_kernels::WeightLayout;
use lora_kernels_adapters::base::Resolver;
use lora_kernels_adapters::{BaseModel, Kind, Module};

use super::changes::Weighted;
use crate::failure::Failure;

/// The layout of a weight: `square` if it is square, else the layout that fits its shape. PEFT
/// knows the layout from the layer's class.
pub fn of(
    name: &str,
    shape: &[usize],
    module: &Module<'_>,
    square: WeightLayout,
) -> Result<WeightLayout, Failure> {
    let (n, k) = (module.out_features, module.in_features);
    let is = |expected: [usize; 2]| shape == expected;
    let transposed = module.kind == Kind::Embedding || (n == k && square == WeightLayout::InOut);
    match (is([n, k]), is([k, n])) {
        (true, _) if !transposed => Ok(WeightLayout::OutIn),
        (_, true) => Ok(WeightLayout::InOut),
        _ => Err(Failure::Refused(format!(
            "{name} has shape {shape:?}, and the adapter's module {} has {n} out_features and {k} in_features ({}): is this its base model?",
            module.path, module.kind
        ))),
    }
}

/// The layout of an adapter's square weights.
///
/// The config's `fan_in_fan_out` alone doesn't decide: PEFT sets it by each layer's class and saves
/// the value of the last layer. Every other hint must therefore agree with it, or `asked` has to
/// decide.
pub fn of_squares(
    base: &BaseModel,
    resolver: &Resolver<'_>,
    weighted: &Weighted<'_>,
    asked: Option<bool>,
) -> Result<WeightLayout, Failure> {
    let layout = |transposed| match transposed {
        true => WeightLayout::InOut,
        false => WeightLayout::OutIn,
    };
    let adapter = weighted.adapter;
    let is_square = |module: &Module<'_>| {
        module.in_features == module.out_features && module.kind == Kind::Linear
    };
    let flag = adapter
        .config()
        .is_some_and(|config| config.fan_in_fan_out());
    let Some(square) = adapter
        .modules()
        .find(is_square)
        .filter(|_| asked.is_none())
    else {
        return Ok(layout(asked.unwrap_or(flag)));
    };
    let others = adapter
        .modules()
        .filter(|module| module.kind == Kind::Linear && !is_square(module));
    let other = others.filter_map(|module| {
        let name = resolver
            .resolve(module.component, &format!("{}.weight", module.path))
            .ok()?
            .name;
        let transposed = base.tensor(name)?.1.shape == [module.in_features, module.out_features];
        (transposed != flag).then_some(name)
    });
    let contradicting = { other }
        .next()
        .or_else(|| transposed_in(base).filter(|_| !flag));
    match contradicting {
        None => Ok(layout(flag)),
        Some(name) => Err(Failure::Refused(format!(
            "{}: whether the square weight of {} is stored transposed can't be told: fan_in_fan_out is {}, and {name} is {}; --fan-in-fan-out yes \
             (transposed, as GPT-2's Conv1D) or no decides for square weights",
            weighted.path.display(),
            square.path,
            match adapter.config() {
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
        let bias = name.strip_suffix(".weight").and_then(|path| of(&format!("{path}.bias")));
        matches!((of(name), bias), (Some(&[rows, columns]), Some(&[elements])) if rows != columns && elements == columns)
    })
}
