//! Models that store one matrix as embedding and head.

use safetensors::Dtype;
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
    assert!(text.contains("--untie gives that model"), "{text}");
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

/// PEFT's tied head has the embedding's trained rows, and its own LoRA is added to them.
#[test]
fn a_head_that_is_written_apart_has_the_embeddings_trained_rows() {
    let scene = scene("tied_rows");
    let [embed, q] = model(&scene, TIED);
    let (rows, of_head, of_q) = (
        scene.random(&[2, 8]),
        scene.pair(16, 8, 2),
        scene.pair(8, 8, 2),
    );
    let mut with_rows = embed.clone();
    with_rows.values[40..48].copy_from_slice(&rows.values[..8]);
    with_rows.values[8..16].copy_from_slice(&rows.values[8..]);
    let delta = "token_adapter.trainable_tokens_delta";
    let tensors = Tensors::default()
        .with(key("model.embed_tokens", delta), &rows)
        .lora("lm_head", &of_head);
    let fields = json!({"target_modules": ["lm_head"], "trainable_token_indices": [5, 1]});
    scene.adapter("a", fields.clone(), &tensors.list());
    let head = with_rows.plus(2.0, &of_head.1.dot(&of_head.0));
    let expected = [(EMBED, &with_rows), (HEAD, &head), (Q_WEIGHT, &q)];
    scene.merge(&["base", "a"], "out", &[]);
    scene.assert_has("out/model.safetensors", &expected);
    // A base that stores its head as a copy, and an adapter that has the weight it was trained on.
    let copy = [(EMBED, &embed), (HEAD, &embed), (Q_WEIGHT, &q)];
    scene.put("copy/model.safetensors", &copy);
    scene.text("copy/config.json", TIED);
    let tensors = tensors.with(key("lm_head", "base_layer.weight"), &embed);
    scene.adapter("a", fields, &tensors.list());
    for base in ["base", "copy"] {
        scene.merge(&[base, "a"], "out", &[]);
        scene.assert_has("out/model.safetensors", &expected);
    }
    // Untied without a LoRA of its own.
    let tensors = Tensors::default()
        .with(key("model.embed_tokens", delta), &rows)
        .lora(Q, &of_q);
    scene.adapter(
        "b",
        json!({"trainable_token_indices": [5, 1]}),
        &tensors.list(),
    );
    let new_q = q.plus(2.0, &of_q.1.dot(&of_q.0));
    let expected = [(EMBED, &with_rows), (HEAD, &with_rows), (Q_WEIGHT, &new_q)];
    for base in ["base", "copy"] {
        scene.merge(&[base, "b"], "out", &["--untie"]);
        scene.assert_has("out/model.safetensors", &expected);
        assert_eq!(config(&scene)["tie_word_embeddings"], false);
        let text = scene.printed(&[base, "b"], "out", &[]);
        assert!(text.contains("trained in both"), "{text}");
        assert!(!text.contains("--untie"), "{text}");
    }
}

/// DoRA's norms are of the head with the rows.
#[test]
fn dora_on_a_tied_head_normalises_the_trained_rows() {
    let scene = scene("tied_rows_dora");
    let [embed, _] = model(&scene, TIED);
    let (rows, of_head) = (scene.random(&[1, 8]), scene.pair(16, 8, 2));
    let magnitude = Numbers::new(Dtype::F32, &[16], (1..=16).map(f64::from).collect());
    let tensors = Tensors::default()
        .with(
            key("model.embed_tokens", "token_adapter.trainable_tokens_delta"),
            &rows,
        )
        .lora("lm_head", &of_head)
        .with(key("lm_head", "lora_magnitude_vector"), &magnitude);
    let fields = json!({
        "target_modules": ["lm_head"], "trainable_token_indices": [15], "use_dora": true,
    });
    scene.adapter("a", fields, &tensors.list());
    scene.merge(&["base", "a"], "out", &[]);
    let mut head = embed.clone();
    head.values[120..].copy_from_slice(&rows.values);
    let mut head = head.plus(2.0, &of_head.1.dot(&of_head.0));
    for (row, magnitude) in head.values.chunks_mut(8).zip(&magnitude.values) {
        let norm = row.iter().map(|value| value * value).sum::<f64>().sqrt();
        row.iter_mut().for_each(|value| *value *= magnitude / norm);
    }
    super::assert_close(&scene.get("out/model.safetensors")[HEAD], &head);
}

/// A model that was trained with both tied follows; for others the way to the trained model is
/// told.
#[test]
fn the_warning_says_whether_the_head_was_trained_with_the_embedding() {
    let scene = scene("tied_ensured");
    let [_, q] = model(&scene, TIED);
    let (new, lora) = (scene.random(&[16, 8]), scene.pair(8, 8, 2));
    let q = q.plus(2.0, &lora.1.dot(&lora.0));
    let tensors = Tensors::default()
        .lora(Q, &lora)
        .with(key("model.embed_tokens", "weight"), &new);
    for (ensured, told, untold) in [
        (true, "ensure_weight_tying", "--untie"),
        (
            false,
            "training left the head as it was: --untie",
            "(ensure_weight_tying)",
        ),
    ] {
        let fields = json!({
            "modules_to_save": ["embed_tokens"],
            "ensure_weight_tying": ensured,
        });
        scene.adapter("a", fields, &tensors.list());
        let text = scene.printed(&["base", "a"], "out", &[]);
        assert!(text.contains(told) && !text.contains(untold), "{text}");
        scene.assert_has("out/model.safetensors", &[(EMBED, &new), (Q_WEIGHT, &q)]);
    }
}

/// Where the config's tie holds other tensors too, writing the head apart would lose them.
#[test]
fn a_tie_of_more_than_the_head_is_not_undone() {
    let scene = scene("tied_shared");
    let (shared, q) = (scene.random(&[16, 8]), scene.random(&[8, 8]));
    let (name, path) = (
        "model.decoder.layers.0.self_attn.q_proj.weight",
        "model.shared.weight",
    );
    let copies = ["encoder", "decoder"].map(|part| format!("model.{part}.embed_tokens.weight"));
    let bare = [(path, &shared), (name, &q)];
    let whole = [
        bare[0],
        bare[1],
        (&copies[0], &shared),
        (&copies[1], &shared),
    ];
    let of_head = scene.pair(16, 8, 2);
    let head = Tensors::default().lora("lm_head", &of_head);
    scene.adapter("a", json!({"target_modules": ["lm_head"]}), &head.list());
    scene.put("base/model.safetensors", &bare);
    scene.text(
        "base/config.json",
        r#"{"model_type": "bart", "vocab_size": 16}"#,
    );
    let fragments = [
        "lm_head.weight can't be written apart",
        "model.encoder.embed_tokens.weight, model.decoder.embed_tokens.weight",
        "--skip lm_head",
    ];
    scene.refused(&["base", "a"], &[], &fragments);
    // With every copy stored, nothing is lost.
    scene.put("base/model.safetensors", &whole);
    scene.merge(&["base", "a"], "out", &[]);
    let got = scene.get("out/model.safetensors");
    assert_eq!(got[HEAD], shared.plus(2.0, &of_head.1.dot(&of_head.0)));
    assert_eq!(got[&copies[1]], shared);
    // T5 scales by it.
    scene.text(
        "base/config.json",
        r#"{"model_type": "t5", "vocab_size": 16}"#,
    );
    scene.refused(&["base", "a"], &[], &["t5 computes otherwise"]);
}

/// BERT's head reads its own bias once it is apart, which was tied to another.
#[test]
fn the_bias_of_a_head_is_kept_when_it_is_written_apart() {
    for (outer, embedding) in [
        ("cls.predictions", "bert.embeddings.word_embeddings.weight"),
        ("predictions", "albert.embeddings.word_embeddings.weight"),
        ("lm_head", "roberta.embeddings.word_embeddings.weight"),
    ] {
        let scene = scene(&format!("tied_bias_{outer}"));
        let (embed, bias) = (scene.random(&[16, 8]), scene.random(&[16]));
        let [own, weight, own_bias] =
            ["bias", "decoder.weight", "decoder.bias"].map(|part| format!("{outer}.{part}"));
        scene.put(
            "base/model.safetensors",
            &[(embedding, &embed), (&own, &bias)],
        );
        scene.text(
            "base/config.json",
            r#"{"architectures": ["BertForMaskedLM"]}"#,
        );
        let (of_head, path) = (scene.pair(16, 8, 2), format!("{outer}.decoder"));
        let head = Tensors::default().lora(&path, &of_head);
        scene.adapter("a", json!({"target_modules": ["decoder"]}), &head.list());
        scene.merge(&["base", "a"], "out", &[]);
        let result = embed.plus(2.0, &of_head.1.dot(&of_head.0));
        let expected = [
            (embedding, &embed),
            (&own, &bias),
            (&weight, &result),
            (&own_bias, &bias),
        ];
        scene.assert_has("out/model.safetensors", &expected);
    }
}
/// A head of another size is a head too: a second one of its name would make a file that no reader
/// takes.
#[test]
fn a_stored_head_of_another_size_is_not_written_again() {
    let scene = scene("tied_size");
    let (head, embed) = (scene.random(&[12, 8]), scene.random(&[16, 8]));
    scene.put("base/model-00001-of-00002.safetensors", &[(HEAD, &head)]);
    scene.put("base/model-00002-of-00002.safetensors", &[(EMBED, &embed)]);
    let lora = scene.pair(8, 16, 2);
    let fields = json!({"target_modules": ["embed_tokens"]});
    scene.adapter("a", fields, &embedding(&lora).list());
    let fragments = ["--untie", "lm_head.weight [12, 8]", "one vocabulary"];
    scene.refused(&["base", "a"], &["--untie"], &fragments);
    scene.merge(&["base", "a"], "out", &[]);
    let result = embed.plus(2.0, &lora.1.dot(&lora.0).transposed());
    scene.assert_has("out/model-00001-of-00002.safetensors", &[(HEAD, &head)]);
    scene.assert_has("out/model-00002-of-00002.safetensors", &[(EMBED, &result)]);
}

/// A head under a name that the class doesn't read would be lost, and the model's made at random.
#[test]
fn a_head_whose_name_is_not_known_is_not_untied() {
    for (number, (class, name)) in [
        ("RobertaForMaskedLM", "roberta.embeddings.word_embeddings"),
        (
            "WhisperForConditionalGeneration",
            "model.decoder.embed_tokens",
        ),
        ("T5ForConditionalGeneration", "shared"),
    ]
    .into_iter()
    .enumerate()
    {
        let scene = scene(&format!("tied_unknown_{number}"));
        let embed = scene.random(&[16, 8]);
        let weight = format!("{name}.weight");
        scene.put("base/model.safetensors", &[(&weight, &embed)]);
        scene.text(
            "base/config.json",
            &json!({"architectures": [class]}).to_string(),
        );
        let lora = scene.pair(8, 16, 2);
        let tensors = Tensors::default()
            .with(key(name, "lora_embedding_A"), &lora.0)
            .with(key(name, "lora_embedding_B"), &lora.1);
        let fields = json!({"target_modules": [name.rsplit('.').next()]});
        scene.adapter("a", fields, &tensors.list());
        scene.refused(
            &["base", "a"],
            &["--untie"],
            &["--untie", class, "isn't known"],
        );
    }
}

/// Mistral's own files say in params.json whether the head is the embedding.
#[test]
fn mistrals_field_follows_a_head_that_is_written_apart() {
    let scene = scene("tied_mistral");
    let embed = scene.random(&[16, 8]);
    let base = [("tok_embeddings.weight", &embed)];
    scene.put("base/consolidated.safetensors", &base);
    scene.text(
        "base/params.json",
        r#"{"tied_embeddings": true, "vocab_size": 16}"#,
    );
    let lora = scene.pair(16, 8, 2);
    let tensors = Tensors::default().lora("output", &lora);
    scene.adapter("a", json!({"target_modules": ["output"]}), &tensors.list());
    let text = scene.printed(&["base", "a"], "out", &[]);
    assert!(text.contains("so tied_embeddings becomes false"), "{text}");
    assert_eq!(text.matches("warning:").count(), 1, "{text}");
    let result = embed.plus(2.0, &lora.1.dot(&lora.0));
    let expected = [("output.weight", &result), base[0]];
    scene.assert_has("out/consolidated.safetensors", &expected);
    let params = std::fs::read_to_string(scene.path("out/params.json")).unwrap();
    assert_eq!(params, r#"{"tied_embeddings": false, "vocab_size": 16}"#);
}

/// Readers that tie train on the embedding, others on the stored head: only the adapter's own copy
/// tells.
#[test]
fn a_stale_head_is_changed_only_if_it_was_trained_on() {
    let scene = scene("tied_stale");
    let (embed, head) = (scene.random(&[16, 8]), scene.random(&[16, 8]));
    scene.put("base/model.safetensors", &[(EMBED, &embed), (HEAD, &head)]);
    scene.text("base/config.json", TIED);
    let lora = scene.pair(16, 8, 2);
    let tensors = || Tensors::default().lora("lm_head", &lora);
    let fields = json!({"target_modules": ["lm_head"]});
    scene.adapter("a", fields.clone(), &tensors().list());
    let fragments = [
        "lm_head.weight",
        "tie_word_embeddings to false",
        "config.json",
    ];
    scene.refused(&["base", "a"], &[], &fragments);
    let with_base = tensors().with(key("lm_head", "base_layer.weight"), &head);
    scene.adapter("a", fields, &with_base.list());
    scene.merge(&["base", "a"], "out", &[]);
    let result = head.plus(2.0, &lora.1.dot(&lora.0));
    scene.assert_has("out/model.safetensors", &[(EMBED, &embed), (HEAD, &result)]);
    assert_eq!(config(&scene)["tie_word_embeddings"], false);
}

/// Gemma 3n has embeddings for images and sounds beside its tokens'.
#[test]
fn the_head_is_tied_to_the_embedding_of_tokens() {
    let scene = scene("tied_towers");
    let [embed, vision, audio] = [16, 4, 4].map(|rows| scene.random(&[rows, 8]));
    let name = "model.language_model.embed_tokens.weight";
    let others = [
        ("model.embed_audio.embedding.weight", &audio),
        ("model.embed_vision.embedding.weight", &vision),
    ];
    scene.put(
        "base/model.safetensors",
        &[others[0], others[1], (name, &embed)],
    );
    scene.text("base/config.json", r#"{"text_config": {"vocab_size": 16}}"#);
    let lora = scene.pair(16, 8, 2);
    let tensors = Tensors::default().lora("lm_head", &lora);
    scene.adapter("a", json!({"target_modules": ["lm_head"]}), &tensors.list());
    scene.merge(&["base", "a"], "out", &[]);
    let result = embed.plus(2.0, &lora.1.dot(&lora.0));
    let expected = [(HEAD, &result), others[0], others[1], (name, &embed)];
    scene.assert_has("out/model.safetensors", &expected);
}
