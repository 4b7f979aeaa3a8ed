//! Defects of an adapter's tensors that leave its file readable.

use lora_kernels_fuzz::Random;

use super::tensors::Tensor;

/// Words that mean something in adapters' names, and words that mean nothing.
const WORDS: [&str; 22] = [
    "",
    "0",
    "..",
    "a/b",
    "é",
    "\n",
    "_orig_mod",
    "alpha",
    "base_layer",
    "base_model",
    "bias",
    "default",
    "lora_A",
    "lora_B",
    "lora_magnitude_vector",
    "lora_up",
    "model",
    "modules_to_save",
    "original_module",
    "text_encoder",
    "token_adapter",
    "weight",
];

/// Renames a tensor, drops one, or gives one another shape or type.
pub fn disturb(random: &mut Random, tensors: &mut Vec<Tensor>) {
    if tensors.is_empty() {
        return;
    }
    let index = random.below(tensors.len());
    let word = random.of(&WORDS).to_owned();
    let mut other = tensors[index].clone();
    let mut segments: Vec<String> = other.name.split('.').map(str::to_owned).collect();
    let at = random.below(segments.len());
    match random.below(8) {
        0 => segments[at] = word,
        1 => segments.insert(at, word),
        2 => drop(segments.remove(at)),
        3 => segments.push(word),
        4 => {
            tensors.remove(index);
            return;
        }
        5 => {
            segments[at] = word;
            other.name = segments.join(".");
            tensors.push(other);
            return;
        }
        6 => {
            let count: usize = other.shape.iter().product();
            other.shape = match random.below(4) {
                0 => vec![count],
                1 => vec![1, count],
                2 => other.shape.into_iter().rev().collect(),
                _ => {
                    other.data.clear();
                    vec![0]
                }
            };
        }
        _ => {
            let same: &[&str] = match other.dtype {
                "F64" => &["I64", "U64"],
                "F32" => &["I32", "U32"],
                _ => &["F16", "BF16", "I16"],
            };
            other.dtype = random.of(same);
        }
    }
    other.name = segments.join(".");
    if let Some(tensor) = tensors.get_mut(index) {
        *tensor = other;
    }
}
