//! Heads, embeddings and norms beside LoRA, and DoRA.

use safetensors::Dtype;
use serde_json::{Value, json};

use super::{merged, pair, peft, scene};
use crate::scene::{Numbers, Scene};

const Q: &str = "model.layers.0.self_attn.q_proj";
const Q_WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";
const EMBED: &str = "model.embed_tokens.weight";

fn config(scene: &Scene, path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(scene.path(path)).unwrap()).unwrap()
}

/// Report 7: LoRA on the head of a model that stores its embeddings alone. PEFT puts the head's
/// base weight into the adapter.
#[test]
fn a_lora_on_a_tied_head_writes_the_head_apart() {
    let scene = scene("tied_head");
    let (embed, q) = (scene.random(&[16, 8]), scene.random(&[8, 8]));
    scene.put("base/model.safetensors", &[(EMBED, &embed), (Q_WEIGHT, &q)]);
    let text =
        r#"{"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": true, "vocab_size": 16}"#;
    scene.text("base/config.json", text);
    let (head, lora) = (scene.pair(16, 8, 2), scene.pair(8, 8, 2));
    let (head_names, names) = (peft("lm_head"), peft(Q));
    let mut tensors = [pair(&head_names, &head), pair(&names, &lora)].concat();
    let fields = json!({"target_modules": ["q_proj", "lm_head"]});
    let results = (merged(&embed, 2.0, &head), merged(&q, 2.0, &lora));
    for with_base in [false, true] {
        if with_base {
            tensors.push(("base_model.model.lm_head.base_layer.weight", &embed));
        }
        scene.adapter("a", fields.clone(), &tensors);
        scene.merge(&["base", "a"], "out", &[]);
        let expected = [
            (EMBED, &embed),
            (Q_WEIGHT, &results.1),
            ("lm_head.weight", &results.0),
        ];
        scene.assert_has("out/model.safetensors", &expected);
        assert_eq!(
            config(&scene, "out/config.json")["tie_word_embeddings"],
            json!(false)
        );
    }
}

/// Report 9: tokens were added before training. The adapter has all rows, the base fewer.
#[test]
fn a_resized_vocabulary_is_written_with_the_adapters_rows() {
    let scene = scene("resized");
    let [embed, head, q] = [[32, 8], [32, 8], [8, 8]].map(|shape| scene.random(&shape));
    let base = [(EMBED, &embed), ("lm_head.weight", &head), (Q_WEIGHT, &q)];
    scene.put("base/model.safetensors", &base);
    let text = "{\n  \"tie_word_embeddings\": false,\n  \"vocab_size\": 32,\n  \"z\": 1.0\n}\n";
    scene.text("base/config.json", text);
    let (new_embed, new_head) = (scene.random(&[34, 8]), scene.random(&[34, 8]));
    let (lora, names) = (scene.pair(8, 8, 2), peft(Q));
    let mut tensors = pair(&names, &lora).to_vec();
    tensors.push(("base_model.model.model.embed_tokens.weight", &new_embed));
    tensors.push(("base_model.model.lm_head.weight", &new_head));
    let fields = json!({"modules_to_save": ["embed_tokens", "lm_head"]});
    scene.adapter("a", fields, &tensors);
    scene.merge(&["base", "a"], "out", &[]);
    let result = merged(&q, 2.0, &lora);
    let expected = [
        (EMBED, &new_embed),
        ("lm_head.weight", &new_head),
        (Q_WEIGHT, &result),
    ];
    scene.assert_has("out/model.safetensors", &expected);
    let written = std::fs::read_to_string(scene.path("out/config.json")).unwrap();
    assert_eq!(written, text.replace("32", "34"));
}

/// Report 17: mergekit extracts norms and biases whole, ranks by module, and embeddings.
#[test]
fn what_mergekit_extracts_is_merged() {
    let scene = scene("mergekit");
    let of = |shape: &[usize]| scene.random(shape).to(Dtype::BF16);
    let k_weight = "model.layers.0.self_attn.k_proj.weight";
    let k_bias = "model.layers.0.self_attn.k_proj.bias";
    let [embed, norm, q, k, bias] = [&[16, 8][..], &[8], &[8, 8], &[4, 8], &[4]].map(of);
    let base = [
        (EMBED, &embed),
        ("model.norm.weight", &norm),
        (Q_WEIGHT, &q),
        (k_weight, &k),
        (k_bias, &bias),
    ];
    scene.put("base/model.safetensors", &base);
    scene.text("base/config.json", r#"{"tie_word_embeddings": false}"#);
    let bf16 = |(a, b): (Numbers, Numbers)| (a.to(Dtype::BF16), b.to(Dtype::BF16));
    let [lora_q, lora_k, lora_e] =
        [(8, 8, 6), (4, 8, 4), (8, 16, 6)].map(|(n, k, r)| bf16(scene.pair(n, k, r)));
    let (new_norm, new_bias) = (of(&[8]), of(&[4]));
    let (q_names, k_names) = (peft(Q), peft("model.layers.0.self_attn.k_proj"));
    let mut tensors = [pair(&q_names, &lora_q), pair(&k_names, &lora_k)].concat();
    let of_embed =
        ["A", "B"].map(|part| format!("base_model.model.model.embed_tokens.lora_embedding_{part}"));
    let bias_key = format!("base_model.model.{k_bias}");
    tensors.extend(pair(&of_embed, &lora_e));
    tensors.extend([
        ("base_model.model.model.norm.weight", &new_norm),
        (&bias_key, &new_bias),
    ]);
    let key = "model.layers.0.self_attn.k_proj";
    let fields = json!({
        "r": 6, "lora_alpha": 6, "rank_pattern": {key: 4}, "alpha_pattern": {key: 4},
        "target_modules": ["q_proj", "k_proj", "embed_tokens"], "modules_to_save": ["norm"],
    });
    scene.adapter("a", fields, &tensors);
    scene.merge(&["base", "a"], "out", &[]);
    let of_tokens = lora_e.1.dot(&lora_e.0).transposed();
    let expected = [
        (EMBED, &embed.plus(1.0, &of_tokens)),
        ("model.norm.weight", &new_norm),
        (Q_WEIGHT, &merged(&q, 1.0, &lora_q)),
        (k_weight, &merged(&k, 1.0, &lora_k)),
        (k_bias, &new_bias),
    ];
    scene.assert_has("out/model.safetensors", &expected);
}

/// Report 25: W' = m·(W + s·B·A)/‖W + s·B·A‖, by output row.
#[test]
fn dora_is_merged() {
    let scene = scene("dora");
    let (weight, lora, magnitude) = (
        scene.random(&[8, 8]),
        scene.pair(8, 8, 2),
        scene.random(&[8]),
    );
    let magnitude = Numbers::new(
        Dtype::F32,
        &[8],
        magnitude.values.iter().map(|m| m.abs() + 0.5).collect(),
    );
    scene.put("base.safetensors", &[("q_proj.weight", &weight)]);
    let names = peft("q_proj");
    let mut tensors = pair(&names, &lora).to_vec();
    tensors.push(("base_model.model.q_proj.lora_magnitude_vector", &magnitude));
    scene.adapter("a", json!({"use_dora": true}), &tensors);
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let sum = weight.to(Dtype::F64).plus(2.0, &lora.1.dot(&lora.0));
    let got = &scene.get("out.safetensors")["q_proj.weight"];
    for (row, (sums, got)) in sum.values.chunks(8).zip(got.values.chunks(8)).enumerate() {
        let norm = sums.iter().map(|v| v * v).sum::<f64>().sqrt();
        for (sum, got) in sums.iter().zip(got) {
            let exact = magnitude.values[row] * sum / norm;
            assert!((got - exact).abs() <= 1e-6, "row {row}: {got}, not {exact}");
        }
    }
}

/// Report 28: lora_B was never trained, or got lost: the result is the base.
#[test]
fn an_adapter_that_changes_nothing_says_so() {
    let scene = scene("dead");
    let weight = scene.random(&[8, 8]);
    scene.put("base.safetensors", &[("q_proj.weight", &weight)]);
    let lora = (scene.random(&[2, 8]), Numbers::zeros(&[8, 2]));
    scene.adapter("a", json!({}), &pair(&peft("q_proj"), &lora));
    let document = scene.json(&["base.safetensors", "a"], "out.safetensors", &[]);
    scene.assert_has("out.safetensors", &[("q_proj.weight", &weight)]);
    let warnings = document["warnings"].as_array().unwrap();
    assert!(!warnings.is_empty(), "{document}");
}
