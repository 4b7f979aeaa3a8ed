//! Adapters that change nothing, and adapters that are given twice.

use serde_json::json;

use super::{Q, Q_WEIGHT, Tensors, key, scene};
use crate::scene::{Numbers, Scene};

fn warnings(text: &str) -> Vec<&str> {
    { text.lines() }
        .filter_map(|line| line.strip_prefix("warning: "))
        .collect()
}

fn base(scene: &Scene) -> [Numbers; 2] {
    let tensors = [scene.random(&[8, 8]), scene.random(&[8])];
    let base = [(Q_WEIGHT, &tensors[0]), ("model.norm.weight", &tensors[1])];
    scene.put("base.safetensors", &base);
    tensors
}

#[test]
fn an_adapter_that_changes_nothing_is_told() {
    let scene = scene("dead");
    let [q, norm] = base(&scene);
    let negative = Numbers::new(safetensors::Dtype::F32, &[8, 2], vec![-0.0; 16]);
    for (zeros, what) in [
        ((scene.random(&[2, 8]), Numbers::zeros(&[8, 2])), "lora_B"),
        ((scene.random(&[2, 8]), negative), "lora_B"),
        ((Numbers::zeros(&[2, 8]), scene.random(&[8, 2])), "lora_A"),
    ] {
        let tensors = Tensors::default().lora(Q, &zeros);
        scene.adapter("a", json!({}), &tensors.list());
        let text = scene.printed(&["base.safetensors", "a"], "out.safetensors", &[]);
        let warnings = warnings(&text);
        let [warning] = warnings[..] else {
            panic!("{text}")
        };
        assert!(
            warning.contains("changes nothing") && warning.contains(what),
            "{text}"
        );
        scene.assert_has(
            "out.safetensors",
            &[(Q_WEIGHT, &q), ("model.norm.weight", &norm)],
        );
    }
    // A norm that is the base's changes nothing either, but a trained one does.
    let zeros = (scene.random(&[2, 8]), Numbers::zeros(&[8, 2]));
    for (saved, dead) in [(norm.clone(), true), (scene.random(&[8]), false)] {
        let tensors = Tensors::default()
            .lora(Q, &zeros)
            .with(key("model.norm", "weight"), &saved);
        scene.adapter("a", json!({"modules_to_save": ["norm"]}), &tensors.list());
        let text = scene.printed(&["base.safetensors", "a"], "out.safetensors", &[]);
        assert_eq!(text.contains("a changes nothing"), dead, "{text}");
        assert_eq!(text.contains("1 of 1 module"), !dead, "{text}");
    }
}

#[test]
fn modules_that_change_nothing_are_told() {
    let scene = scene("dead_in_part");
    let [q, _] = base(&scene);
    let k_weight = "model.layers.0.self_attn.k_proj.weight";
    scene.put("base.safetensors", &[(Q_WEIGHT, &q), (k_weight, &q)]);
    let zeros = (scene.random(&[2, 8]), Numbers::zeros(&[8, 2]));
    let tensors = Tensors::default()
        .lora(Q, &scene.pair(8, 8, 2))
        .lora("model.layers.0.self_attn.k_proj", &zeros);
    scene.adapter("a", json!({}), &tensors.list());
    let text = scene.printed(&["base.safetensors", "a"], "out.safetensors", &[]);
    let told = "1 of 2 modules";
    assert!(
        warnings(&text)[0].contains(told) && text.contains("k_proj"),
        "{text}"
    );
}

/// By the same path, by another, and as a copy.
#[test]
fn an_adapter_given_twice_is_told() {
    let scene = scene("twice");
    let [q, norm] = base(&scene);
    let lora = scene.pair(8, 8, 2);
    for folder in ["a", "copy"] {
        scene.adapter(folder, json!({}), &Tensors::default().lora(Q, &lora).list());
    }
    let other = Tensors::default().lora(Q, &scene.pair(8, 8, 2));
    scene.adapter("other", json!({}), &other.list());
    // The same tensors with another scaling are another adapter.
    let scaled = Tensors::default().lora(Q, &lora);
    scene.adapter("scaled", json!({"lora_alpha": 2}), &scaled.list());
    std::os::unix::fs::symlink("a", scene.path("link")).unwrap();
    for (second, told) in [
        ("a", true),
        ("link", true),
        ("copy", true),
        ("other", false),
        ("scaled", false),
    ] {
        let text = scene.printed(&["base.safetensors", "a", second], "out.safetensors", &[]);
        assert_eq!(text.contains("added each time"), told, "{second}: {text}");
    }
    scene.merge(&["base.safetensors", "a", "copy"], "out.safetensors", &[]);
    let result = q.plus(4.0, &lora.1.dot(&lora.0));
    scene.assert_has(
        "out.safetensors",
        &[(Q_WEIGHT, &result), ("model.norm.weight", &norm)],
    );
}
