//! Convolutions: lora_A has the kernel, and lora_B mixes channels.

use serde_json::json;

use super::{Tensors, scene};
use crate::scene::Numbers;

fn shaped(numbers: &Numbers, shape: &[usize]) -> Numbers {
    Numbers {
        shape: shape.to_vec(),
        ..numbers.clone()
    }
}

/// One, two and three dimensions, kernels of one element and more.
#[test]
fn every_kernel_is_merged() {
    let kernels: [&[usize]; 6] = [&[3], &[1], &[3, 3], &[1, 1], &[3, 1], &[2, 3, 2]];
    for (number, kernel) in kernels.into_iter().enumerate() {
        let scene = scene(&format!("convolution_{number}"));
        let size: usize = kernel.iter().product();
        let (w, pair) = (scene.random(&[5, 4 * size]), scene.pair(5, 4 * size, 2));
        let full = |first: usize, second: usize| [&[first, second], kernel].concat();
        let ones = [&[5, 2][..], &vec![1; kernel.len()]].concat();
        let convolved = (shaped(&pair.0, &full(2, 4)), shaped(&pair.1, &ones));
        scene.put(
            "base.safetensors",
            &[("conv.weight", &shaped(&w, &full(5, 4)))],
        );
        let tensors = Tensors::default().lora("conv", &convolved);
        scene.adapter("a", json!({"target_modules": ["conv"]}), &tensors.list());
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        let result = shaped(&w.plus(2.0, &pair.1.dot(&pair.0)), &full(5, 4));
        scene.assert_has("out.safetensors", &[("conv.weight", &result)]);
    }
}

/// A kernel, a number of channels or groups that aren't the base's.
#[test]
fn convolutions_that_do_not_fit_are_refused() {
    let scene = scene("convolution_refused");
    let of = |scene: &crate::scene::Scene, a: &[usize], b: &[usize]| {
        let tensors = Tensors::default().lora("conv", &(scene.random(a), scene.random(b)));
        scene.adapter("a", json!({"target_modules": ["conv"]}), &tensors.list());
    };
    let refused = |weight: &[usize], a: &[usize], fragments: &[&str]| {
        scene.put(
            "base.safetensors",
            &[("conv.weight", &scene.random(weight))],
        );
        of(&scene, a, &[4, 2, 1, 1]);
        scene.refused(&["base.safetensors", "a"], &[], fragments);
    };
    refused(
        &[4, 6, 3, 3],
        &[2, 6, 1, 1],
        &["conv.weight", "[4, 6, 3, 3]", "kernel [1, 1]"],
    );
    refused(
        &[4, 5, 3, 3],
        &[2, 6, 3, 3],
        &["conv.weight", "6 in_features"],
    );
    refused(&[4, 3, 3, 3], &[2, 6, 3, 3], &["conv.weight", "2 groups"]);
    refused(&[4, 6, 9], &[2, 6, 3, 3], &["conv.weight", "[4, 6, 9]"]);
}
