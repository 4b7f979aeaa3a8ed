//! Tensors that an adapter has whole, and vocabularies that were resized.

use safetensors::Dtype;
use serde_json::{Value, json};

use super::{EMBED, HEAD, Q, Q_WEIGHT, Tensors, key, scene};
use crate::scene::{Numbers, Scene};

fn config(scene: &Scene, path: &str) -> Value {
    serde_json::from_slice(&std::fs::read(scene.path(path)).unwrap()).unwrap()
}

/// A model with a head of its own: embedding, head and a layer.
fn model(scene: &Scene, rows: usize) -> [Numbers; 3] {
    let tensors = [[rows, 8], [rows, 8], [8, 8]].map(|shape| scene.random(&shape));
    let [embed, head, q] = &tensors;
    let base = [(EMBED, embed), (HEAD, head), (Q_WEIGHT, q)];
    scene.put("base/model.safetensors", &base);
    let text = json!({
        "architectures": ["LlamaForCausalLM"], "tie_word_embeddings": false, "vocab_size": rows,
    });
    scene.text("base/config.json", &text.to_string());
    tensors
}

/// PEFT saves the resized embedding and head even if only the layers were trained, so its config
/// names neither.
#[test]
fn resized_rows_count_without_modules_to_save() {
    let scene = scene("resized_unnamed");
    let [_, _, q] = model(&scene, 16);
    let (embed, head) = (scene.random(&[18, 8]), scene.random(&[18, 8]));
    let tensors = Tensors::default()
        .lora(Q, &scene.pair(8, 8, 2))
        .with(key("model.embed_tokens", "weight"), &embed)
        .with(key("lm_head", "weight"), &head);
    scene.adapter("a", json!({}), &tensors.list());
    scene.merge(&["base", "a"], "out", &[]);
    let got = scene.get("out/model.safetensors");
    assert_eq!((&got[EMBED], &got[HEAD]), (&embed, &head));
    assert_ne!(got[Q_WEIGHT], q);
    assert_eq!(config(&scene, "out/config.json")["vocab_size"], 18);
}

/// The type stays the base's, and a smaller vocabulary is one as well.
#[test]
fn resized_rows_have_the_bases_type() {
    let scene = scene("resized_type");
    let rows = |count: usize| scene.random(&[count, 8]);
    let (embed, head) = (rows(16).to(Dtype::BF16), rows(16).to(Dtype::BF16));
    scene.put("base/model.safetensors", &[(EMBED, &embed), (HEAD, &head)]);
    scene.text(
        "base/config.json",
        r#"{"tie_word_embeddings": false, "vocab_size": 16}"#,
    );
    let (new_embed, lora) = (rows(12), scene.pair(12, 8, 2));
    // The head's own rows come as the weight that its LoRA was trained on: the base's first rows.
    let first = Numbers::new(Dtype::F32, &[12, 8], head.values[..96].to_vec());
    let tensors = Tensors::default()
        .with(key("model.embed_tokens", "weight"), &new_embed)
        .with(key("lm_head", "base_layer.weight"), &first)
        .lora("lm_head", &lora);
    let fields = json!({"modules_to_save": ["embed_tokens"], "target_modules": ["lm_head"]});
    scene.adapter("a", fields, &tensors.list());
    scene.merge(&["base", "a"], "out", &[]);
    let result = first.to(Dtype::BF16).plus(2.0, &lora.1.dot(&lora.0));
    let new_embed = new_embed.to(Dtype::BF16);
    scene.assert_has(
        "out/model.safetensors",
        &[(EMBED, &new_embed), (HEAD, &result)],
    );
    assert_eq!(config(&scene, "out/config.json")["vocab_size"], 12);
}

/// LoRA on an embedding whose vocabulary was resized before: the adapter brings the weight that it
/// was trained on, whose first rows are the base's.
#[test]
fn lora_is_added_to_the_resized_weight_that_the_adapter_brings() {
    let scene = scene("resized_base_layer");
    let [embed, head, _] = model(&scene, 16);
    let more = |of: &Numbers| {
        let values = [&of.values[..], &scene.random(&[2, 8]).values].concat();
        Numbers::new(Dtype::F32, &[18, 8], values)
    };
    let (new_embed, new_head) = (more(&embed), more(&head));
    let (of_embed, of_head) = (scene.pair(8, 18, 2), scene.pair(18, 8, 2));
    let tensors = Tensors::default()
        .with(key("model.embed_tokens", "base_layer.weight"), &new_embed)
        .with(key("model.embed_tokens", "lora_embedding_A"), &of_embed.0)
        .with(key("model.embed_tokens", "lora_embedding_B"), &of_embed.1)
        .with(key("lm_head", "base_layer.weight"), &new_head)
        .lora("lm_head", &of_head);
    let fields = json!({"target_modules": ["embed_tokens", "lm_head"]});
    scene.adapter("a", fields.clone(), &tensors.list());
    scene.merge(&["base", "a"], "out", &[]);
    let got = scene.get("out/model.safetensors");
    let delta = of_embed.1.dot(&of_embed.0).transposed();
    assert_eq!(got[EMBED], new_embed.plus(2.0, &delta));
    assert_eq!(got[HEAD], new_head.plus(2.0, &of_head.1.dot(&of_head.0)));
    assert_eq!(config(&scene, "out/config.json")["vocab_size"], 18);
    // A whole vocabulary needs no row of the base's.
    let mut other = tensors.clone();
    let trained_on = scene.random(&[18, 8]);
    other.0[3].1 = trained_on.clone();
    scene.adapter("a", fields.clone(), &other.list());
    let text = scene.printed(&["base", "a"], "out", &[]);
    assert!(text.contains("lm_head.weight, and 16 of 16 rows"), "{text}");
    let got = scene.get("out/model.safetensors");
    assert_eq!(got[HEAD], trained_on.plus(2.0, &of_head.1.dot(&of_head.0)));
    assert_eq!(config(&scene, "out/config.json")["vocab_size"], 18);
    // Other rows of the base's own number, or for the head alone, are another model's.
    other.0.drain(..3);
    scene.adapter("a", fields.clone(), &other.list());
    let fragments = [HEAD, "16 of 16 rows differ", "another base"];
    scene.refused(&["base", "a"], &[], &fragments);
    let same_size = Tensors::default()
        .with(key("model.embed_tokens", "base_layer.weight"), &embed)
        .with(key("lm_head", "base_layer.weight"), &scene.random(&[16, 8]))
        .lora("lm_head", &scene.pair(16, 8, 2));
    scene.adapter("a", fields, &same_size.list());
    scene.refused(&["base", "a"], &[], &fragments);
}

/// One row of the embedding was set before training. What the adapter was trained on counts.
#[test]
fn a_few_changed_rows_of_the_base_weight_are_taken_and_told() {
    let scene = scene("base_layer_rows");
    let [_, head, _] = model(&scene, 16);
    let mut trained_on = head.clone();
    trained_on.values[24..32].copy_from_slice(&[0.5; 8]);
    let lora = scene.pair(16, 8, 2);
    let tensors = Tensors::default()
        .with(key("lm_head", "base_layer.weight"), &trained_on)
        .lora("lm_head", &lora);
    scene.adapter("a", json!({"target_modules": ["lm_head"]}), &tensors.list());
    let text = scene.printed(&["base", "a"], "out", &[]);
    assert!(text.contains("1 of 16 rows"), "{text}");
    let got = scene.get("out/model.safetensors");
    assert_eq!(got[HEAD], trained_on.plus(2.0, &lora.1.dot(&lora.0)));
}

/// BART's bias of logits and DistilBERT's head have names of their own. With as many elements as
/// the old vocabulary they would not load.
#[test]
fn tensors_that_keep_the_old_vocabulary_are_refused() {
    for (name, shape, is_refused) in [
        ("final_logits_bias", &[1, 17][..], true),
        ("vocab_projector.weight", &[17, 8], true),
        ("vocab_projector.bias", &[17], true),
        ("generator_lm_head.weight", &[17, 8], true),
        ("model.embed_positions.weight", &[17, 8], false),
        ("model.norm.weight", &[8], false),
        // Layers have that size, too, so it may be chance.
        ("model.layers.0.mlp.up_proj.weight", &[17, 8], false),
    ] {
        let scene = scene("resized_left");
        let (embed, head, q) = (
            scene.random(&[17, 8]),
            scene.random(&[17, 8]),
            scene.random(&[8, 8]),
        );
        let other = scene.random(shape);
        let base = [
            (EMBED, &embed),
            (HEAD, &head),
            (Q_WEIGHT, &q),
            (name, &other),
        ];
        scene.put("base.safetensors", &base);
        let tensors = Tensors::default()
            .lora(Q, &scene.pair(8, 8, 2))
            .with(key("model.embed_tokens", "weight"), &scene.random(&[18, 8]))
            .with(key("lm_head", "weight"), &scene.random(&[18, 8]));
        scene.adapter("a", json!({}), &tensors.list());
        let inputs = ["base.safetensors", "a"];
        if is_refused {
            scene.refused(&inputs, &[], &[name, "17", "18 rows", "--skip"]);
        } else {
            scene.merge(&inputs, "out", &[]);
            assert_eq!(scene.get("out")[name], other);
        }
    }
}

/// An embedding without its head, or with one of another size, is no vocabulary.
#[test]
fn a_vocabulary_has_one_size() {
    let scene = scene("resized_odd");
    model(&scene, 16);
    let refused = |tensors: Tensors, fragments: &[&str]| {
        let fields = json!({"modules_to_save": ["embed_tokens", "lm_head"]});
        scene.adapter("a", fields, &tensors.list());
        scene.refused(&["base", "a"], &[], fragments);
    };
    let with = |path: &str, shape: &[usize]| {
        Tensors::default()
            .lora(Q, &scene.pair(8, 8, 2))
            .with(key(path, "weight"), &scene.random(shape))
    };
    let embed = with("model.embed_tokens", &[18, 8]);
    refused(
        embed.clone(),
        &[EMBED, "18 rows", "lm_head.weight would have 16", "--skip"],
    );
    let both = embed.with(key("lm_head", "weight"), &scene.random(&[17, 8]));
    refused(both, &["18", "17", "one vocabulary"]);
    // Another width is another model, and a layer has no rows to add.
    refused(
        with("model.embed_tokens", &[16, 4]),
        &[EMBED, "[16, 4]", "base model?"],
    );
    refused(with("lm_head", &[16, 8, 1]), &[HEAD, "[16, 8, 1]"]);
    // LoRA of the old size beside rows of the new.
    let lora = Tensors::default()
        .lora("lm_head", &scene.pair(16, 8, 2))
        .with(key("lm_head", "weight"), &scene.random(&[18, 8]));
    refused(lora, &[HEAD, "16 out_features", "[18, 8]"]);
}

/// What neither the base nor a config knows is not added to a model.
#[test]
fn unknown_whole_tensors_are_refused_unless_skipped() {
    let scene = scene("unknown_whole");
    let [_, _, q] = model(&scene, 16);
    let lora = scene.pair(8, 8, 2);
    let odd = scene.random(&[8]);
    for name in [
        "model.layers.0.self_attn.q_norm.weight",
        "extra.weight",
        "model.prompt",
    ] {
        let tensors = Tensors::default()
            .lora(Q, &lora)
            .with(format!("base_model.model.{name}"), &odd);
        scene.adapter("a", json!({"modules_to_save": ["score"]}), &tensors.list());
        scene.refused(&["base", "a"], &[], &[name, "--skip", "--map"]);
        let text = scene.printed(&["base", "a"], "out", &["--skip", name]);
        assert!(text.contains("skipped") && text.contains(name), "{text}");
        let got = scene.get("out/model.safetensors");
        assert_eq!(got.len(), 3);
        assert_eq!(got[Q_WEIGHT], q.plus(2.0, &lora.1.dot(&lora.0)));
    }
}

/// A trained norm whose name in the base has another prefix than the layers' is replaced or
/// refused, never added beside it.
#[test]
fn a_whole_tensor_that_lies_elsewhere_is_not_added() {
    let scene = scene("elsewhere");
    let (q, norm) = (scene.random(&[8, 8]), scene.random(&[8]));
    let base = [(Q_WEIGHT, &q), ("backbone.norm.weight", &norm)];
    scene.put("base.safetensors", &base);
    let lora = scene.pair(8, 8, 2);
    let trained = scene.random(&[8]);
    let tensors = Tensors::default()
        .lora(Q, &lora)
        .with(key("model.norm", "weight"), &trained);
    scene.adapter("a", json!({"modules_to_save": ["norm"]}), &tensors.list());
    match scene.run(&["base.safetensors", "a"], "out.safetensors", &[]) {
        Ok(_) => {
            let result = q.plus(2.0, &lora.1.dot(&lora.0));
            let expected = [(Q_WEIGHT, &result), ("backbone.norm.weight", &trained)];
            scene.assert_has("out.safetensors", &expected);
        }
        Err((status, message)) => {
            assert_eq!(status, 2);
            assert!(message.contains("model.norm.weight"), "{message}");
            assert!(message.contains("backbone.norm.weight"), "{message}");
        }
    }
}

/// The layers lie under another prefix, and so does the embedding that was trained whole.
#[test]
fn whole_tensors_follow_the_layers_prefix() {
    let scene = scene("whole_prefix");
    let (embed, head, q) = (
        scene.random(&[16, 8]),
        scene.random(&[16, 8]),
        scene.random(&[8, 8]),
    );
    let name = |path: &str| format!("language_model.{path}");
    let names = [EMBED, HEAD, Q_WEIGHT].map(name);
    let base = [(&*names[0], &embed), (&*names[1], &head), (&*names[2], &q)];
    scene.put("base.safetensors", &base);
    let (new, lora) = (scene.random(&[16, 8]), scene.pair(8, 8, 2));
    let tensors = Tensors::default()
        .lora(Q, &lora)
        .with(key("model.embed_tokens", "weight"), &new)
        .with(key("lm_head", "weight"), &head);
    scene.adapter(
        "a",
        json!({"modules_to_save": ["embed_tokens", "lm_head"]}),
        &tensors.list(),
    );
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let result = q.plus(2.0, &lora.1.dot(&lora.0));
    let expected = [
        (&*names[0], &new),
        (&*names[1], &head),
        (&*names[2], &result),
    ];
    scene.assert_has("out.safetensors", &expected);
}

/// A state dict holds the head's original beside the trained one, under PEFT's wrapper's names.
#[test]
fn the_original_beside_a_trained_head_is_checked_and_not_added() {
    let scene = scene("original_module");
    let (q, score) = (scene.random(&[8, 8]), scene.random(&[3, 8]));
    let base = [(Q_WEIGHT, &q), ("score.weight", &score)];
    scene.put("base.safetensors", &base);
    let (lora, trained) = (scene.pair(8, 8, 2), scene.random(&[3, 8]));
    let result = q.plus(2.0, &lora.1.dot(&lora.0));
    let tensors = |original: &Numbers| {
        Tensors::default()
            .lora(Q, &lora)
            .with(key("score", "modules_to_save.default.weight"), &trained)
            .with(key("score", "original_module.weight"), original)
    };
    let fields = json!({"modules_to_save": ["score"]});
    for (original, warned) in [(&score, false), (&scene.random(&[3, 8]), true)] {
        scene.adapter("a", fields.clone(), &tensors(original).list());
        let text = scene.printed(&["base.safetensors", "a"], "out.safetensors", &[]);
        assert_eq!(text.contains("warning"), warned, "{text}");
        let expected = [(Q_WEIGHT, &result), ("score.weight", &trained)];
        scene.assert_has("out.safetensors", &expected);
    }
    // The base has no such head: the trained one is added, its original isn't.
    scene.put("base.safetensors", &[(Q_WEIGHT, &q)]);
    scene.adapter("a", fields, &tensors(&score).list());
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let expected = [(Q_WEIGHT, &result), ("score.weight", &trained)];
    scene.assert_has("out.safetensors", &expected);
}

/// A module of modules_to_save is new to the base, or has the base's tensors: anything else that
/// bears its name isn't understood, and must not be added.
#[test]
fn what_only_bears_the_name_of_a_saved_module_is_refused() {
    let scene = scene("odd_saved");
    let (q, head) = (scene.random(&[8, 8]), scene.random(&[16, 8]));
    scene.put("base.safetensors", &[(Q_WEIGHT, &q), (HEAD, &head)]);
    let (lora, odd) = (scene.pair(8, 8, 2), scene.random(&[16, 8]));
    for (path, tensor, reason) in [
        (
            "lm_head",
            "extra.weight",
            "the base has lm_head, but with lm_head.weight only",
        ),
        (
            "lm_head",
            "scale",
            "the base has lm_head, but with lm_head.weight only",
        ),
        (
            "lm_head",
            "weight.default",
            "goes on behind a weight or a bias",
        ),
        ("score", "weight.old", "goes on behind a weight or a bias"),
        (
            "score",
            "bias.0.weight",
            "goes on behind a weight or a bias",
        ),
        ("score", "alpha.weight", "a part that is an adapter's"),
        (
            "a.lora_A.score",
            "modules_to_save.weight",
            "a part that is an adapter's",
        ),
        (
            "model.embed_tokens",
            "old.weight",
            "no config names it as trained",
        ),
    ] {
        let tensors = Tensors::default()
            .lora(Q, &lora)
            .with(key(path, tensor), &odd);
        let fields = json!({"modules_to_save": ["lm_head", "score"]});
        scene.adapter("a", fields, &tensors.list());
        scene.refused(&["base.safetensors", "a"], &[], &[reason, "--skip"]);
    }
    // A module that is new may have modules of its own.
    let tensors = Tensors::default()
        .lora(Q, &lora)
        .with(key("score", "dense.weight"), &odd)
        .with(key("score", "dense.bias"), &scene.random(&[16]));
    scene.adapter("a", json!({"modules_to_save": ["score"]}), &tensors.list());
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let got = scene.get("out.safetensors");
    assert_eq!(got["score.dense.weight"], odd);
    assert_eq!(got.len(), 4);
}

/// PEFT saves a resized embedding that was trained whole three times: with its wrapper's segments,
/// without them, and as it was before training.
#[test]
fn a_tensor_that_is_saved_twice_counts_once() {
    let scene = scene("saved_twice");
    let [_, _, q] = model(&scene, 16);
    let (embed, head, lora) = (
        scene.random(&[18, 8]),
        scene.random(&[18, 8]),
        scene.pair(8, 8, 2),
    );
    let original = scene.random(&[18, 8]);
    let mut tensors = Tensors::default().lora(Q, &lora);
    for (path, trained) in [("model.embed_tokens", &embed), ("lm_head", &head)] {
        tensors = tensors
            .with(key(path, "weight"), trained)
            .with(key(path, "modules_to_save.weight"), trained)
            .with(key(path, "original_module.weight"), &original);
    }
    let fields = json!({"modules_to_save": ["embed_tokens", "lm_head"]});
    scene.adapter("a", fields.clone(), &tensors.list());
    let text = scene.printed(&["base", "a"], "out", &[]);
    assert!(!text.contains("warning"), "{text}");
    let result = q.plus(2.0, &lora.1.dot(&lora.0));
    let expected = [(EMBED, &embed), (HEAD, &head), (Q_WEIGHT, &result)];
    scene.assert_has("out/model.safetensors", &expected);
    // Two different ones are none.
    tensors.0[3].1 = scene.random(&[18, 8]);
    scene.adapter("a", fields, &tensors.list());
    scene.refused(&["base", "a"], &[], &["model.embed_tokens", "same tensor"]);
}

/// A base in Mistral's own format calls its embedding and head otherwise. Another pair beside them
/// would be read by nobody.
#[test]
fn a_second_embedding_or_head_is_not_added() {
    let scene = scene("second_head");
    let (q, embed, head) = (
        scene.random(&[8, 8]),
        scene.random(&[16, 8]),
        scene.random(&[16, 8]),
    );
    let base = [
        ("layers.0.attention.wq.weight", &q),
        ("tok_embeddings.weight", &embed),
        ("output.weight", &head),
    ];
    scene.put("base.safetensors", &base);
    for (path, named) in [("embed_tokens", "tok_embeddings"), ("lm_head", "output")] {
        let tensors = Tensors::default()
            .lora("layers.0.attention.wq", &scene.pair(8, 8, 2))
            .with(key(path, "weight"), &scene.random(&[16, 8]));
        for modules in [json!(null), json!([path])] {
            scene.adapter("a", json!({"modules_to_save": modules}), &tensors.list());
            let fragments = [path, named, "--skip"];
            scene.refused(&["base.safetensors", "a"], &[], &fragments);
        }
    }
}
