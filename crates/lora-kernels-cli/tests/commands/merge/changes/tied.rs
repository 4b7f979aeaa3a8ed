//! Models that store one matrix as embedding and head.

use serde_json::{Value, json};

use super::{EMBED, HEAD, Q, Q_WEIGHT, Tensors, key, scene};
use crate::scene::{Numbers, Scene};

const TIED: &str =
    r#"{"architectures": ["Qwen2ForCausalLM"], "tie_word_embeddings": true, "vocab_size": 16}"#;

fn config(scene: &Scene) -> Value {
    let text = std::fs::read(scene.path("out/config.json")).unwrap();
    serde_json::from_slice(&text).unwrap()
}

fn model(scene: &Scene, text: &str) -> [Numbers; 2] {
    let tensors = [[16, 8], [8, 8]].map(|shape| scene.random(&shape));
    let base = [(EMBED, &tensors[0]), (Q_WEIGHT, &tensors[1])];
    scene.put("base/model.safetensors", &base);
    scene.text("base/config.json", text);
    tensors
}

fn embedding(pair: &(Numbers, Numbers)) -> Tensors {
    Tensors::default()
        .with(key("model.embed_tokens", "lora_embedding_A"), &pair.0)
        .with(key("model.embed_tokens", "lora_embedding_B"), &pair.1)
}

/// The head follows the embedding, and the report says so; --untie writes it apart, as it was.
#[test]
fn a_changed_embedding_changes_the_head_or_is_untied() {
    let scene = scene("tied_embedding");
    let [embed, q] = model(&scene, TIED);
    let lora = scene.pair(8, 16, 2);
    let fields = json!({"target_modules": ["embed_tokens"]});
    scene.adapter("a", fields, &embedding(&lora).list());
    let result = embed.plus(2.0, &lora.1.dot(&lora.0).transposed());
    let text = scene.printed(&["base", "a"], "out", &[]);
    let warning = text
        .lines()
        .find(|line| line.starts_with("warning: model.embed_tokens.weight"));
    assert!(warning.unwrap().contains("--untie"), "{text}");
    scene.assert_has("out/model.safetensors", &[(EMBED, &result), (Q_WEIGHT, &q)]);
    assert_eq!(config(&scene)["tie_word_embeddings"], true);
    scene.merge(&["base", "a"], "out", &["--untie"]);
    let expected = [(EMBED, &result), (HEAD, &embed), (Q_WEIGHT, &q)];
    scene.assert_has("out/model.safetensors", &expected);
    assert_eq!(config(&scene)["tie_word_embeddings"], false);
}

/// Where config.json says that they are apart, there is nothing to say and nothing to untie.
#[test]
fn an_untied_model_is_left_alone() {
    let scene = scene("untied");
    model(&scene, r#"{"tie_word_embeddings": false}"#);
    let lora = scene.pair(8, 16, 2);
    scene.adapter(
        "a",
        json!({"target_modules": ["embed_tokens"]}),
        &embedding(&lora).list(),
    );
    let text = scene.printed(&["base", "a"], "out", &[]);
    assert!(!text.contains("warning"), "{text}");
    scene.refused(&["base", "a"], &["--untie"], &["--untie", "apart already"]);
    // A head that such a model lacks can't be computed.
    let head = Tensors::default().lora("lm_head", &scene.pair(16, 8, 2));
    scene.adapter("a", json!({"target_modules": ["lm_head"]}), &head.list());
    scene.refused(
        &["base", "a"],
        &[],
        &["lm_head.weight", "not in the base model"],
    );
}

/// LoRA on both: each is added to the matrix as it was.
#[test]
fn lora_on_embedding_and_head_is_added_to_each() {
    let scene = scene("tied_both");
    let [embed, q] = model(&scene, TIED);
    let (of_embed, of_head) = (scene.pair(8, 16, 2), scene.pair(16, 8, 2));
    let tensors = embedding(&of_embed).lora("lm_head", &of_head);
    scene.adapter(
        "a",
        json!({"target_modules": ["embed_tokens", "lm_head"]}),
        &tensors.list(),
    );
    scene.merge(&["base", "a"], "out", &[]);
    let results = (
        embed.plus(2.0, &of_embed.1.dot(&of_embed.0).transposed()),
        embed.plus(2.0, &of_head.1.dot(&of_head.0)),
    );
    let expected = [(EMBED, &results.0), (HEAD, &results.1), (Q_WEIGHT, &q)];
    scene.assert_has("out/model.safetensors", &expected);
    assert_eq!(config(&scene)["tie_word_embeddings"], false);
}

/// PEFT saves a tied model's head beside its embedding if the vocabulary was resized. It is the
/// same matrix, so nothing is added; another one is.
#[test]
fn a_saved_head_is_added_only_if_it_is_another() {
    let scene = scene("tied_saved");
    let [_, q] = model(&scene, TIED);
    let rows = scene.random(&[18, 8]);
    let lora = scene.pair(8, 8, 2);
    let result = q.plus(2.0, &lora.1.dot(&lora.0));
    let tensors = |head: &Numbers| {
        Tensors::default()
            .lora(Q, &lora)
            .with(key("model.embed_tokens", "weight"), &rows)
            .with(key("lm_head", "weight"), head)
    };
    scene.adapter("a", json!({}), &tensors(&rows).list());
    scene.merge(&["base", "a"], "out", &[]);
    scene.assert_has(
        "out/model.safetensors",
        &[(EMBED, &rows), (Q_WEIGHT, &result)],
    );
    assert_eq!(config(&scene)["tie_word_embeddings"], true);
    assert_eq!(config(&scene)["vocab_size"], 18);
    let head = scene.random(&[18, 8]);
    scene.adapter("a", json!({}), &tensors(&head).list());
    scene.merge(&["base", "a"], "out", &[]);
    let expected = [(EMBED, &rows), (HEAD, &head), (Q_WEIGHT, &result)];
    scene.assert_has("out/model.safetensors", &expected);
    assert_eq!(config(&scene)["tie_word_embeddings"], false);
    // Rows for the head alone leave the embedding without them.
    let alone = Tensors::default()
        .lora(Q, &lora)
        .with(key("lm_head", "weight"), &head);
    scene.adapter("a", json!({}), &alone.list());
    scene.refused(
        &["base", "a"],
        &[],
        &["18 rows", "model.embed_tokens.weight would have 16"],
    );
}

/// The head's name follows that of the embedding in models of several parts.
#[test]
fn a_head_is_named_as_the_model_names_it() {
    let text = r#"{"text_config": {"tie_word_embeddings": true, "vocab_size": 16}}"#;
    for (number, (trunk, head)) in [
        ("language_model.model", "language_model.lm_head.weight"),
        ("model.language_model", "lm_head.weight"),
    ]
    .into_iter()
    .enumerate()
    {
        let scene = scene(&format!("tied_name_{number}"));
        let (embed, q) = (scene.random(&[16, 8]), scene.random(&[8, 8]));
        let name = |of: &str| of.replacen("model", trunk, 1);
        let (embed_name, q_name) = (name(EMBED), name(Q_WEIGHT));
        scene.put(
            "base/model.safetensors",
            &[(&embed_name, &embed), (&q_name, &q)],
        );
        scene.text("base/config.json", text);
        let (lora, of_head) = (scene.pair(8, 8, 2), scene.pair(16, 8, 2));
        let tensors = Tensors::default().lora(Q, &lora).lora("lm_head", &of_head);
        scene.adapter(
            "a",
            json!({"target_modules": ["q_proj", "lm_head"]}),
            &tensors.list(),
        );
        scene.merge(&["base", "a"], "out", &[]);
        let results = (
            q.plus(2.0, &lora.1.dot(&lora.0)),
            embed.plus(2.0, &of_head.1.dot(&of_head.0)),
        );
        let expected = [
            (&*embed_name, &embed),
            (&*q_name, &results.0),
            (head, &results.1),
        ];
        scene.assert_has("out/model.safetensors", &expected);
        assert_eq!(config(&scene)["text_config"]["tie_word_embeddings"], false);
    }
}

/// A file that repeats the embedding as its head: readers that tie take the former, others the
/// latter, so both change alike, unless the head was trained itself or is kept.
#[test]
fn a_stored_copy_of_the_embedding_changes_with_it() {
    let scene = scene("tied_copy");
    let (embed, q) = (scene.random(&[16, 8]), scene.random(&[8, 8]));
    let base = [(EMBED, &embed), (HEAD, &embed), (Q_WEIGHT, &q)];
    scene.put("base/model.safetensors", &base);
    scene.text("base/config.json", TIED);
    let lora = scene.pair(8, 16, 2);
    let result = embed.plus(2.0, &lora.1.dot(&lora.0).transposed());
    scene.adapter(
        "a",
        json!({"target_modules": ["embed_tokens"]}),
        &embedding(&lora).list(),
    );
    let text = scene.printed(&["base", "a"], "out", &[]);
    assert!(text.contains("--untie keeps the head"), "{text}");
    let expected = [(EMBED, &result), (HEAD, &result), (Q_WEIGHT, &q)];
    scene.assert_has("out/model.safetensors", &expected);
    assert_eq!(config(&scene)["tie_word_embeddings"], true);
    scene.merge(&["base", "a"], "out", &["--untie"]);
    let expected = [(EMBED, &result), (HEAD, &embed), (Q_WEIGHT, &q)];
    scene.assert_has("out/model.safetensors", &expected);
    assert_eq!(config(&scene)["tie_word_embeddings"], false);
    // A head that changes alone would be lost to readers that tie.
    let of_head = scene.pair(16, 8, 2);
    let head = Tensors::default().lora("lm_head", &of_head);
    scene.adapter("a", json!({"target_modules": ["lm_head"]}), &head.list());
    scene.merge(&["base", "a"], "out", &[]);
    let result = embed.plus(2.0, &of_head.1.dot(&of_head.0));
    let expected = [(EMBED, &embed), (HEAD, &result), (Q_WEIGHT, &q)];
    scene.assert_has("out/model.safetensors", &expected);
    assert_eq!(config(&scene)["tie_word_embeddings"], false);
}

/// The merged model has its head apart, so the adapter can be taken out of it, but not of the base.
#[test]
fn a_tied_head_is_unmerged_only_where_it_is_apart() {
    let scene = scene("tied_unmerge");
    let [embed, q] = model(&scene, TIED);
    let of_head = scene.pair(16, 8, 2);
    let tensors = Tensors::default()
        .lora("lm_head", &of_head)
        .with(key("lm_head", "base_layer.weight"), &embed);
    scene.adapter("a", json!({"target_modules": ["lm_head"]}), &tensors.list());
    scene.merge(&["base", "a"], "out", &[]);
    let output = scene.program("unmerge", &["out", "a"], "back", &[]);
    crate::common::assert_status(&output, 0);
    let expected = [(EMBED, &embed), (HEAD, &embed), (Q_WEIGHT, &q)];
    scene.assert_has("back/model.safetensors", &expected);
    let output = scene.program("unmerge", &["base", "a"], "back", &[]);
    crate::common::assert_refused(&output, 2, &["lm_head.weight", "tied"]);
}
