//! `--skip`: what can be merged is merged though another part can't, if the user says so.

use serde_json::json;

use super::{HEAD, Q, Q_WEIGHT, Tensors, key, scene};

#[test]
fn skipped_parts_change_nothing_and_are_listed() {
    let scene = scene("skip");
    let (q, head) = (scene.random(&[8, 8]), scene.random(&[16, 8]));
    let other = "model.vision_tower.layers.0.q_proj";
    let base = [(Q_WEIGHT, &q), (HEAD, &head)];
    scene.put("base.safetensors", &base);
    let (lora, of_head) = (scene.pair(8, 8, 2), scene.pair(16, 8, 2));
    let tensors = Tensors::default()
        .lora(Q, &lora)
        .lora("lm_head", &of_head)
        .lora(other, &scene.pair(4, 4, 2))
        .with(key("lm_head", "base_layer.weight"), &scene.random(&[9, 8]));
    let fields = json!({"target_modules": ["q_proj", "lm_head"]});
    scene.adapter("a", fields, &tensors.list());
    let inputs = ["base.safetensors", "a"];
    scene.refused(&inputs, &[], &["lm_head.weight", "another base"]);
    scene.refused(&inputs, &["--skip", "lm_head"], &["vision_tower"]);
    let report = scene.json(
        &inputs,
        "out.safetensors",
        &["--skip", "model.vision*,lm_head"],
    );
    assert_eq!(report["skipped"], json!(["lm_head", other, HEAD]));
    let result = q.plus(2.0, &lora.1.dot(&lora.0));
    scene.assert_has("out.safetensors", &[(Q_WEIGHT, &result), (HEAD, &head)]);
    // Given twice instead of in one list.
    let more = ["--skip", "vision_tower", "--skip", "lm_head"];
    scene.merge(&inputs, "out.safetensors", &more);
    scene.assert_has("out.safetensors", &[(Q_WEIGHT, &result), (HEAD, &head)]);
}

#[test]
fn patterns_that_match_nothing_or_all_are_refused() {
    let scene = scene("skip_refused");
    scene.put("base.safetensors", &[(Q_WEIGHT, &scene.random(&[8, 8]))]);
    scene.adapter(
        "a",
        json!({}),
        &Tensors::default().lora(Q, &scene.pair(8, 8, 2)).list(),
    );
    let inputs = ["base.safetensors", "a"];
    scene.refused(
        &inputs,
        &["--skip", "k_proj"],
        &["--skip k_proj", "matches nothing", Q],
    );
    scene.refused(&inputs, &["--skip", "layers"], &["--skip leaves nothing"]);
    // Without modules, other names are proposed.
    let delta = key("model.embed_tokens", "token_adapter.trainable_tokens_delta");
    let tokens = Tensors::default().with(delta, &scene.random(&[1, 8]));
    scene.adapter("a", json!({"trainable_token_indices": [3]}), &tokens.list());
    scene.refused(
        &inputs,
        &["--skip", "k_proj"],
        &["such as model.embed_tokens"],
    );
}

/// Tensors of another method are skipped by their names in the file.
#[test]
fn tensors_that_are_not_understood_can_be_skipped() {
    let scene = scene("skip_unknown");
    let q = scene.random(&[8, 8]);
    scene.put("base.safetensors", &[(Q_WEIGHT, &q)]);
    let lora = scene.pair(8, 8, 2);
    let odd = key("model.layers.0.mlp", "lora_router.weight");
    let tensors = Tensors::default()
        .lora(Q, &lora)
        .with(&odd, &scene.random(&[4]));
    scene.adapter("a", json!({}), &tensors.list());
    let inputs = ["base.safetensors", "a"];
    scene.refused(&inputs, &[], &["lora_router", "--skip"]);
    scene.merge(&inputs, "out.safetensors", &["--skip", "lora_router"]);
    let result = q.plus(2.0, &lora.1.dot(&lora.0));
    scene.assert_has("out.safetensors", &[(Q_WEIGHT, &result)]);
}
