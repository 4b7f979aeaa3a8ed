//! What comes with an adapter beside its tensors.

use serde_json::json;

use super::{merged, pair, peft, scene};

/// Report 42: trainers save the tokenizer beside the adapter.
#[test]
fn the_adapters_tokenizer_is_taken_over_and_said() {
    let scene = scene("tokenizer");
    scene.put(
        "base/model.safetensors",
        &[("q.weight", &scene.random(&[8, 8]))],
    );
    scene.adapter("a", json!({}), &pair(&peft("q"), &scene.pair(8, 8, 2)));
    scene.text("base/config.json", "{}");
    scene.text("base/tokenizer.json", r#"{"added_tokens": []}"#);
    scene.text("base/tokenizer_config.json", "{}");
    let own = [
        (
            "tokenizer.json",
            r#"{"added_tokens": [{"content": "<|tool|>"}]}"#,
        ),
        ("chat_template.jinja", "{{ messages }}"),
        ("tokenizer_config.json", r#"{"eos_token": "<|im_end|>"}"#),
    ];
    for (name, text) in own {
        scene.text(&format!("a/{name}"), text);
    }
    let printed = scene.printed(&["base", "a"], "out", &[]);
    for (name, text) in own {
        let written = std::fs::read_to_string(scene.path("out").join(name)).unwrap();
        assert_eq!(written, text);
        assert!(printed.contains(name), "{printed}");
    }
}

/// Report 26: the head of a reward model is added to a causal model, whose config.json names
/// another class.
#[test]
fn a_head_that_config_json_does_not_name_is_warned_of() {
    let scene = scene("head");
    let q_weight = "model.layers.0.self_attn.q_proj.weight";
    let (q, head, score) = (
        scene.random(&[8, 8]),
        scene.random(&[16, 8]),
        scene.random(&[1, 8]),
    );
    scene.put(
        "base/model.safetensors",
        &[(q_weight, &q), ("lm_head.weight", &head)],
    );
    let text = r#"{"architectures": ["LlamaForCausalLM"], "tie_word_embeddings": false}"#;
    scene.text("base/config.json", text);
    let (lora, names) = (scene.pair(8, 8, 2), peft("model.layers.0.self_attn.q_proj"));
    let mut tensors = pair(&names, &lora).to_vec();
    tensors.push(("base_model.model.score.weight", &score));
    let fields = json!({"task_type": "SEQ_CLS", "modules_to_save": ["classifier", "score"]});
    scene.adapter("a", fields, &tensors);
    let printed = scene.printed(&["base", "a"], "out", &[]);
    let result = merged(&q, 2.0, &lora);
    let expected = [
        (q_weight, &result),
        ("lm_head.weight", &head),
        ("score.weight", &score),
    ];
    scene.assert_has("out/model.safetensors", &expected);
    let warning = printed
        .lines()
        .find(|line| line.starts_with("warning: score.weight"));
    for said in [
        "config.json",
        "LlamaForSequenceClassification",
        "num_labels to 1",
    ] {
        assert!(warning.is_some_and(|line| line.contains(said)), "{printed}");
    }
}
