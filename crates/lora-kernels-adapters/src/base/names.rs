//! What the names of files say about the models that they hold.

use std::collections::BTreeSet;

use crate::shown::shown;

/// Stems of files that hold a whole model, or of its index (Hugging Face's, diffusers' and
/// Mistral's), in search order.
pub(super) const STEMS: [&str; 3] = ["model", "diffusion_pytorch_model", "consolidated"];
/// Ranks of whole models and indexes of those stems are below this one.
const OTHER_INDEX: usize = 2 * STEMS.len();
/// Of `model.fp16.safetensors` and its like.
const VARIANT: usize = OTHER_INDEX + 1;
/// Of safetensors files of any other name.
pub(super) const OTHER: usize = VARIANT + 1;

/// Stems of adapters' files.
const ADAPTERS: [&str; 3] = ["adapter_model", "lora", "pytorch_lora_weights"];
/// Files with something else than a model.
const NO_MODELS: [&str; 3] = [
    "optimizer.safetensors",
    "training_state.safetensors",
    "scheduler.safetensors",
];

/// Whether a name is that of an index of safetensors shards: `model.safetensors.index.json`,
/// `model.safetensors.index.fp16.json`.
pub(super) fn is_index(name: &str) -> bool {
    name.ends_with(".json") && name.contains(".safetensors.index.")
}

/// The stem of the shards that an index of this name lists: `model`.
pub(super) fn indexed(name: &str) -> Option<&str> {
    name.split('.').next().filter(|_| is_index(name))
}

/// Whether a name is that of one slice of a model, `consolidated.00.safetensors`: each of several
/// holds a part of every tensor.
pub(super) fn is_slice(name: &str) -> bool {
    let number = name.strip_prefix("consolidated.");
    let number = number.and_then(|rest| rest.strip_suffix(".safetensors"));
    number.is_some_and(|number| number.parse::<usize>().is_ok())
}

/// The rank of a model's file by its name, lower ranks first; `None` if it isn't known to be one.
pub(super) fn rank(name: &str) -> Option<usize> {
    for (at, stem) in STEMS.iter().enumerate() {
        let Some(rest) = name.strip_prefix(stem) else {
            continue;
        };
        match rest {
            ".safetensors" => return Some(2 * at),
            ".safetensors.index.json" => return Some(2 * at + 1),
            _ if series(name).is_some() => return None,
            // Another name that begins alike, such as `model_ema.safetensors`, isn't known.
            _ if !rest.starts_with('.') => {}
            _ if rest.ends_with(".safetensors") || is_index(name) => return Some(VARIANT),
            _ => {}
        }
    }
    (is_index(name) && !is_adapter(name)).then_some(OTHER_INDEX)
}

/// Whether a file of this name holds a whole model, is one of its shards or their index: `model`,
/// `diffusion_pytorch_model` and `consolidated`, with `.safetensors` or `.safetensors.index.json`,
/// a variant (`model.fp16.safetensors`) or a shard's numbers (`model-00001-of-00002.safetensors`).
pub fn is_models_file(name: &str) -> bool {
    match series(name) {
        Some((stem, _)) => STEMS.contains(&stem.split('.').next().unwrap_or(stem)),
        None => rank(name).is_some_and(|rank| rank != OTHER_INDEX),
    }
}

/// What is missing among shards of one series, which no index lists: `None` if all are there.
pub(super) fn incomplete(names: &[String]) -> Option<String> {
    let numbers: Option<BTreeSet<usize>> = names.iter().map(|name| number(name)).collect();
    let count = names.first().and_then(|name| series(name)?.1.parse().ok());
    let is_whole = |numbers: &BTreeSet<usize>| {
        let ends = numbers.first().zip(numbers.last());
        numbers.len() == names.len()
            && Some(names.len()) == count
            && ends.is_some_and(|(first, last)| *first < 2 && last + 1 - first == names.len())
    };
    if numbers.as_ref().is_some_and(is_whole) {
        return None;
    }
    Some(format!(
        "{} is one of several shards by its name, and there are {} such files and no index: \
         download the model again, with its index",
        names.first().map(|name| shown(name)).unwrap_or_default(),
        names.len()
    ))
}

/// The number of a shard: 1 of `model-00001-of-00002.safetensors`.
fn number(name: &str) -> Option<usize> {
    let (stem, _) = series(name)?;
    let rest = name.strip_prefix(stem)?.strip_prefix('-')?;
    rest.split_once('-')?.0.parse().ok()
}

/// The stem and the number of shards in the name of one of several:
/// `model-00001-of-00002.safetensors`.
pub(super) fn series(name: &str) -> Option<(&str, &str)> {
    let (rest, count) = name.strip_suffix(".safetensors")?.rsplit_once("-of-")?;
    let (stem, number) = rest.rsplit_once('-')?;
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_number(number) && is_number(count)).then_some((stem, count))
}

/// Whether a safetensors file of no known name may hold a model.
pub(super) fn is_other(name: &str) -> bool {
    name.ends_with(".safetensors")
        && !NO_MODELS.contains(&name)
        && !is_adapter(name)
        && !is_slice(name)
}

/// Whether a file of this name is an adapter, or an index of one.
pub(super) fn is_adapter(name: &str) -> bool {
    ADAPTERS.iter().any(|stem| {
        let rest = name.strip_prefix(stem);
        rest.is_some_and(|rest| rest.starts_with(".safetensors"))
    })
}
