//! What users of LoRA tools reported in public, each with the right result. The numbers are those
//! of the reports that the tests come from.

mod bases;
mod names;
mod numbers;
mod travel;
mod trees;
mod whole;

use crate::scene::{Numbers, Scene};

fn scene(test: &str) -> Scene {
    Scene::new("reports", test)
}

/// lora_A and lora_B of a module under PEFT's names, for a weight (out_features, in_features).
fn pair<'a>(
    names: &'a [String; 2],
    numbers: &'a (Numbers, Numbers),
) -> [(&'a str, &'a Numbers); 2] {
    [(&names[0], &numbers.0), (&names[1], &numbers.1)]
}

fn peft(path: &str) -> [String; 2] {
    ["A", "B"].map(|part| format!("base_model.model.{path}.lora_{part}.weight"))
}

/// W + scaling·B·A, rounded once.
fn merged(weight: &Numbers, scaling: f64, (a, b): &(Numbers, Numbers)) -> Numbers {
    weight.plus(scaling, &b.dot(a))
}
