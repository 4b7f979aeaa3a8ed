//! The adapter's tree has other names than the base's.

use serde_json::json;

use super::{merged, pair, peft, scene};

/// Report 3: Gemma 3, LLaVA and others say `language_model.model.` on disk, and
/// `model.language_model.` since transformers 4.52. The vision tower has layers of the same names.
#[test]
fn the_prefix_of_vision_language_models_is_put_in_place_of_the_older_one() {
    let scene = scene("gemma3");
    let [q, vision, embed] = [[8, 8], [8, 8], [16, 8]].map(|shape| scene.random(&shape));
    let target = "language_model.model.layers.0.self_attn.q_proj.weight";
    let other = "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight";
    let table = "language_model.model.embed_tokens.weight";
    scene.put(
        "base/model.safetensors",
        &[(target, &q), (other, &vision), (table, &embed)],
    );
    scene.text("base/config.json", r#"{"model_type": "gemma3"}"#);
    let (lora, names) = (
        scene.pair(8, 8, 2),
        peft("model.language_model.layers.0.self_attn.q_proj"),
    );
    scene.adapter("a", json!({}), &pair(&names, &lora));
    let printed = scene.printed(&["base", "a"], "out", &[]);
    let expected = [
        (target, &merged(&q, 2.0, &lora)),
        (other, &vision),
        (table, &embed),
    ];
    scene.assert_has("out/model.safetensors", &expected);
    assert!(
        printed.contains("model.language_model"),
        "the mapping is said: {printed}"
    );
}

/// Report 4: Nemotron-H has `backbone.layers` on disk and `model.layers` in memory.
#[test]
fn one_prefix_is_put_in_place_of_another() {
    let scene = scene("nemotron");
    let weights = [scene.random(&[8, 8]), scene.random(&[8, 8])];
    let targets = [0, 12].map(|layer| format!("backbone.layers.{layer}.mixer.q_proj.weight"));
    let norm = scene.random(&[8]);
    let base = [(&*targets[0], &weights[0]), (&targets[1], &weights[1])];
    scene.put(
        "base/model.safetensors",
        &[&base[..], &[("backbone.norm_f.weight", &norm)]].concat(),
    );
    let loras = [scene.pair(8, 8, 2), scene.pair(8, 8, 2)];
    let names = [0, 12].map(|layer| peft(&format!("model.layers.{layer}.mixer.q_proj")));
    let tensors = [pair(&names[0], &loras[0]), pair(&names[1], &loras[1])];
    scene.adapter("a", json!({}), &tensors.concat());
    scene.merge(&["base", "a"], "out", &[]);
    let results = [0, 1].map(|i| merged(&weights[i], 2.0, &loras[i]));
    scene.assert_has(
        "out/model.safetensors",
        &[
            (&targets[0], &results[0]),
            (&targets[1], &results[1]),
            ("backbone.norm_f.weight", &norm),
        ],
    );
}

/// Report 33: an adapter of the model without its head, with tensors trained whole.
#[test]
fn a_prefix_that_the_adapter_lacks_counts_for_whole_tensors_too() {
    let scene = scene("headless");
    let [q, e, n] = [&[8, 8][..], &[16, 8], &[8]].map(|shape| scene.random(shape));
    let names = [
        "layers.0.self_attn.q_proj.weight",
        "embed_tokens.weight",
        "norm.weight",
    ];
    let [q_name, e_name, n_name] = names.map(|name| format!("model.{name}"));
    scene.put(
        "base.safetensors",
        &[(&q_name, &q), (&e_name, &e), (&n_name, &n)],
    );
    let (lora, lora_names) = (scene.pair(8, 8, 2), peft("layers.0.self_attn.q_proj"));
    let (new_e, new_n) = (scene.random(&[16, 8]), scene.random(&[8]));
    let saved = [
        ("base_model.model.embed_tokens.weight", &new_e),
        ("base_model.model.norm.weight", &new_n),
    ];
    let fields = json!({"modules_to_save": ["embed_tokens", "norm"]});
    scene.adapter(
        "a",
        fields,
        &[&pair(&lora_names, &lora)[..], &saved].concat(),
    );
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let expected = [
        (&*q_name, &merged(&q, 2.0, &lora)),
        (&e_name, &new_e),
        (&n_name, &new_n),
    ];
    scene.assert_has("out.safetensors", &expected);
}

/// Report 21: GPT-2 on disk has no `transformer.`, and stores its weights transposed, a square one
/// too.
#[test]
fn gpt_2_is_transposed_and_lacks_a_prefix() {
    let scene = scene("gpt2");
    let [attn, square, bias] = [&[8, 24][..], &[8, 8], &[24]].map(|shape| scene.random(shape));
    let names = [
        "h.0.attn.c_attn.weight",
        "h.0.attn.c_proj.weight",
        "h.0.attn.c_attn.bias",
    ];
    scene.put(
        "gpt2/model.safetensors",
        &[(names[0], &attn), (names[1], &square), (names[2], &bias)],
    );
    scene.text("gpt2/config.json", r#"{"model_type": "gpt2"}"#);
    let loras = [scene.pair(24, 8, 2), scene.pair(8, 8, 2)];
    let keys = ["c_attn", "c_proj"].map(|name| peft(&format!("transformer.h.0.attn.{name}")));
    let tensors = [pair(&keys[0], &loras[0]), pair(&keys[1], &loras[1])];
    scene.adapter("a", json!({"fan_in_fan_out": true}), &tensors.concat());
    scene.merge(&["gpt2", "a"], "out", &[]);
    let transposed = |i: usize| loras[i].1.dot(&loras[i].0).transposed();
    scene.assert_has(
        "out/model.safetensors",
        &[
            (names[0], &attn.plus(2.0, &transposed(0))),
            (names[1], &square.plus(2.0, &transposed(1))),
            (names[2], &bias),
        ],
    );
}
