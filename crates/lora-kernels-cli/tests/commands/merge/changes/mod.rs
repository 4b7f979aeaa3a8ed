//! What adapters of every kind do to a model's tensors.

mod convolutions;
mod dora;
mod experts;
mod remarks;
mod skip;
mod tied;
mod tokens;
mod whole;

use safetensors::Dtype;

use crate::scene::{Numbers, Scene};

const Q: &str = "model.layers.0.self_attn.q_proj";
const Q_WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";
const EMBED: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

fn scene(test: &str) -> Scene {
    Scene::new("changes", test)
}

/// The name in PEFT's file of a module's part.
fn key(path: &str, part: &str) -> String {
    format!("base_model.model.{path}.{part}")
}

/// Tensors by their names, which are put together as tests go.
#[derive(Default, Clone)]
struct Tensors(Vec<(String, Numbers)>);

impl Tensors {
    fn with(mut self, name: impl Into<String>, numbers: &Numbers) -> Self {
        self.0.push((name.into(), numbers.clone()));
        self
    }

    /// lora_A and lora_B of a module.
    fn lora(self, path: &str, (a, b): &(Numbers, Numbers)) -> Self {
        let named = |part: &str| key(path, part);
        self.with(named("lora_A.weight"), a)
            .with(named("lora_B.weight"), b)
    }

    fn list(&self) -> Vec<(&str, &Numbers)> {
        { self.0.iter() }
            .map(|(name, numbers)| (name.as_str(), numbers))
            .collect()
    }
}

/// Asserts that two tensors are equal but for a few roundings in f32.
#[track_caller]
fn assert_close(ours: &Numbers, expected: &Numbers) {
    assert_eq!(ours.shape, expected.shape);
    // A value rounded once from one that is off by a few f32 roundings.
    let unit = match ours.dtype {
        Dtype::BF16 => 2f64.powi(-8),
        Dtype::F16 => 2f64.powi(-11),
        _ => 0.0,
    };
    for (ours, expected) in ours.values.iter().zip(&expected.values) {
        let bound = (unit + 1e-6) * expected.abs() + 1e-6;
        assert!((ours - expected).abs() <= bound, "{ours}, not {expected}");
    }
}
