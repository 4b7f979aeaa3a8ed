//! Rows of an embedding that were trained in full (`trainable_token_indices`).

use safetensors::Dtype;
use serde_json::{Value, json};

use super::{EMBED, HEAD, Q, Q_WEIGHT, Tensors, key, scene};
use crate::scene::Numbers;

const DELTA: &str = "token_adapter.trainable_tokens_delta";

/// The embedding with these rows.
fn with_rows(embed: &Numbers, indices: &[usize], rows: &Numbers) -> Numbers {
    let mut result = embed.clone();
    let columns = embed.shape[1];
    for (at, index) in indices.iter().enumerate() {
        let row = &rows.values[at * columns..(at + 1) * columns];
        result.values[index * columns..(index + 1) * columns].copy_from_slice(row);
    }
    Numbers::new(embed.dtype, &embed.shape, result.values)
}

/// The rows are those of the indices in the config's order, in the base's type.
#[test]
fn rows_replace_the_embeddings() {
    for (name, indices) in [
        ("list", json!([7, 0, 3])),
        ("modules", json!({"embed_tokens": [7, 0, 3]})),
    ] {
        let scene = scene(&format!("tokens_{name}"));
        let (embed, q) = (
            scene.random(&[16, 8]).to(Dtype::BF16),
            scene.random(&[8, 8]),
        );
        scene.put("base/model.safetensors", &[(EMBED, &embed), (Q_WEIGHT, &q)]);
        scene.text("base/config.json", r#"{"tie_word_embeddings": true}"#);
        let (rows, lora) = (scene.random(&[3, 8]), scene.pair(8, 8, 2));
        let tensors = Tensors::default()
            .lora(Q, &lora)
            .with(key("model.embed_tokens", DELTA), &rows);
        scene.adapter(
            "a",
            json!({"trainable_token_indices": indices}),
            &tensors.list(),
        );
        let text = scene.printed(&["base", "a"], "out", &[]);
        // The head is tied, and follows.
        assert!(
            text.contains("warning: model.embed_tokens.weight"),
            "{text}"
        );
        let results = (
            with_rows(&embed, &[7, 0, 3], &rows),
            q.plus(2.0, &lora.1.dot(&lora.0)),
        );
        let expected = [(EMBED, &results.0), (Q_WEIGHT, &results.1)];
        scene.assert_has("out/model.safetensors", &expected);
    }
}

/// Of two modules, each has its rows. A stored copy of a tied embedding has them too.
#[test]
fn embedding_and_head_have_their_own_rows() {
    let scene = scene("tokens_both");
    let (embed, head) = (scene.random(&[16, 8]), scene.random(&[16, 8]));
    scene.put("base/model.safetensors", &[(EMBED, &embed), (HEAD, &head)]);
    scene.text("base/config.json", r#"{"tie_word_embeddings": false}"#);
    let (first, second) = (scene.random(&[1, 8]), scene.random(&[2, 8]));
    let tensors = Tensors::default()
        .with(key("model.embed_tokens", DELTA), &first)
        .with(key("lm_head", DELTA), &second);
    let indices = json!({"embed_tokens": [15], "lm_head": [1, 2]});
    scene.adapter(
        "a",
        json!({"trainable_token_indices": indices}),
        &tensors.list(),
    );
    scene.merge(&["base", "a"], "out", &[]);
    let results = (
        with_rows(&embed, &[15], &first),
        with_rows(&head, &[1, 2], &second),
    );
    scene.assert_has(
        "out/model.safetensors",
        &[(EMBED, &results.0), (HEAD, &results.1)],
    );
    // The same matrix twice, tied.
    scene.put("base/model.safetensors", &[(EMBED, &embed), (HEAD, &embed)]);
    scene.text("base/config.json", r#"{"tie_word_embeddings": true}"#);
    let tensors = Tensors::default().with(key("model.embed_tokens", DELTA), &first);
    scene.adapter(
        "a",
        json!({"trainable_token_indices": [15]}),
        &tensors.list(),
    );
    scene.merge(&["base", "a"], "out", &[]);
    let result = with_rows(&embed, &[15], &first);
    scene.assert_has(
        "out/model.safetensors",
        &[(EMBED, &result), (HEAD, &result)],
    );
}

#[test]
fn rows_that_the_base_has_not_are_refused() {
    let scene = scene("tokens_refused");
    let embed = scene.random(&[16, 8]);
    scene.put("base.safetensors", &[(EMBED, &embed)]);
    let adapter = |folder: &str, indices: Value, shape: &[usize]| {
        let tensors =
            Tensors::default().with(key("model.embed_tokens", DELTA), &scene.random(shape));
        scene.adapter(
            folder,
            json!({"trainable_token_indices": indices}),
            &tensors.list(),
        );
    };
    adapter("a", json!([3, 16]), &[2, 8]);
    scene.refused(
        &["base.safetensors", "a"],
        &[],
        &["token 16", EMBED, "16 rows"],
    );
    adapter("a", json!([3, 4]), &[2, 4]);
    scene.refused(
        &["base.safetensors", "a"],
        &[],
        &[EMBED, "rows of 8", "of 4"],
    );
    adapter("a", json!([3, 4]), &[2, 8]);
    adapter("b", json!([4, 5]), &[2, 8]);
    scene.refused(&["base.safetensors", "a", "b"], &[], &["token 4", EMBED]);
    scene.refused(
        &["base.safetensors", "a"],
        &["--weights", "0.5"],
        &["0.5", "embed_tokens"],
    );
    let output = scene.program("unmerge", &["base.safetensors", "a"], "back", &[]);
    crate::common::assert_refused(&output, 2, &["can't be unmerged", "embed_tokens"]);
}

/// A row takes the place of what another adapter learned for it, by LoRA or whole. The order of the
/// adapters doesn't matter.
#[test]
fn rows_beside_another_adapters_embedding_are_refused() {
    let scene = scene("tokens_beside");
    let (embed, q) = (scene.random(&[16, 8]), scene.random(&[8, 8]));
    scene.put("base.safetensors", &[(EMBED, &embed), (Q_WEIGHT, &q)]);
    let rows = Tensors::default().with(key("model.embed_tokens", DELTA), &scene.random(&[1, 8]));
    scene.adapter(
        "rows",
        json!({"trainable_token_indices": [5]}),
        &rows.list(),
    );
    let lora = Tensors::default()
        .with(
            key("model.embed_tokens", "lora_embedding_A"),
            &scene.random(&[2, 16]),
        )
        .with(
            key("model.embed_tokens", "lora_embedding_B"),
            &scene.random(&[8, 2]),
        );
    scene.adapter("lora", json!({}), &lora.list());
    let whole = Tensors::default()
        .lora(Q, &scene.pair(8, 8, 2))
        .with(key("model.embed_tokens", "weight"), &scene.random(&[16, 8]));
    scene.adapter(
        "whole",
        json!({"modules_to_save": ["embed_tokens"]}),
        &whole.list(),
    );
    for other in ["lora", "whole"] {
        for order in [["rows", other], [other, "rows"]] {
            let inputs = [&["base.safetensors"][..], &order].concat();
            scene.refused(&inputs, &[], &["1 token of", EMBED, "(5)", "--skip"]);
        }
    }
    // What the adapter has whole is the base's: nothing is lost.
    let same = Tensors::default()
        .lora(Q, &scene.pair(8, 8, 2))
        .with(key("model.embed_tokens", "weight"), &embed);
    scene.adapter(
        "same",
        json!({"modules_to_save": ["embed_tokens"]}),
        &same.list(),
    );
    scene.merge(&["base.safetensors", "same", "rows"], "out", &[]);
    let got = scene.get("out");
    let expected = with_rows(&embed, &[5], &rows.0[0].1);
    assert_eq!(got[EMBED].values, expected.values);
}
