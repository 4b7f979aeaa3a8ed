//! Adapters whose names differ from the base's: replacements that are found and stated, components,
//! and which of several models is meant.

use serde_json::json;

use crate::scene::{Numbers, Scene};

fn scene(test: &str) -> Scene {
    Scene::new("trees", test)
}

fn keys(path: &str) -> [String; 2] {
    ["A", "B"].map(|part| format!("base_model.model.{path}.lora_{part}.weight"))
}

/// Writes an adapter on modules of 8 x 8 and gives 2·B·A for each.
fn adapter(
    scene: &Scene,
    folder: &str,
    modules: &[&str],
    saved: &[(&str, &Numbers)],
) -> Vec<Numbers> {
    let names: Vec<[String; 2]> = modules.iter().map(|path| keys(path)).collect();
    let pairs: Vec<_> = modules.iter().map(|_| scene.pair(8, 8, 2)).collect();
    let mut tensors = Vec::new();
    for (names, (a, b)) in names.iter().zip(&pairs) {
        tensors.extend([(names[0].as_str(), a), (names[1].as_str(), b)]);
    }
    let saved_names: Vec<String> = saved
        .iter()
        .map(|(name, _)| format!("base_model.model.{name}"))
        .collect();
    let saved = saved_names
        .iter()
        .zip(saved)
        .map(|(name, (_, numbers))| (name.as_str(), *numbers));
    tensors.extend(saved);
    scene.adapter(
        folder,
        json!({"modules_to_save": ["embed_tokens", "lm_head", "score", "norm"]}),
        &tensors,
    );
    pairs.iter().map(|(a, b)| b.dot(a)).collect()
}

/// A file as diffusers writes it: each module's name begins with its component's.
fn pipeline(scene: &Scene, file: &str, modules: &[&str]) -> Vec<Numbers> {
    let names: Vec<[String; 2]> = modules
        .iter()
        .map(|path| ["A", "B"].map(|part| format!("{path}.lora_{part}.weight")))
        .collect();
    let pairs: Vec<_> = modules.iter().map(|_| scene.pair(8, 8, 2)).collect();
    let mut tensors = Vec::new();
    for (names, (a, b)) in names.iter().zip(&pairs) {
        tensors.extend([(names[0].as_str(), a), (names[1].as_str(), b)]);
    }
    scene.put(file, &tensors);
    pairs.iter().map(|(a, b)| b.dot(a)).collect()
}

/// A vision-language model as it is on disk, and an adapter by the names of transformers since
/// 4.52: layers of both towers, the projector, and an embedding and a head trained whole.
#[test]
fn several_replacements_are_found_at_once_and_printed() {
    let scene = scene("several");
    let names = [
        "language_model.model.layers.0.self_attn.q_proj.weight",
        "vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.weight",
        "multi_modal_projector.linear_1.weight",
        "language_model.model.embed_tokens.weight",
        "language_model.lm_head.weight",
    ];
    let weights = names.map(|_| scene.random(&[8, 8]));
    let tensors: Vec<(&str, &Numbers)> = names.iter().copied().zip(&weights).collect();
    scene.put("base.safetensors", &tensors);
    let (embed, head) = (scene.random(&[8, 8]), scene.random(&[8, 8]));
    let modules = [
        "model.language_model.layers.0.self_attn.q_proj",
        "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj",
        "model.multi_modal_projector.linear_1",
    ];
    let saved = [
        ("model.language_model.embed_tokens.weight", &embed),
        ("lm_head.weight", &head),
    ];
    let deltas = adapter(&scene, "a", &modules, &saved);
    let report = scene.json(&["base.safetensors", "a"], "out.safetensors", &[]);
    let merged: Vec<Numbers> = (0..3)
        .map(|at| weights[at].plus(2.0, &deltas[at]))
        .collect();
    let all: Vec<&Numbers> = merged.iter().chain([&embed, &head]).collect();
    let expected: Vec<(&str, &Numbers)> = names.iter().copied().zip(all).collect();
    scene.assert_has("out.safetensors", &expected);
    let mapping = [
        "lm_head.=language_model.lm_head.",
        "model.=",
        "model.language_model.=language_model.model.",
    ];
    assert_eq!(report["mapping"], json!(mapping));
    // What is printed can be stated, and gives the same.
    let stated: Vec<&str> = mapping.iter().flat_map(|text| ["--map", text]).collect();
    scene.merge(&["base.safetensors", "a"], "stated.safetensors", &stated);
    scene.assert_has("stated.safetensors", &expected);
}

/// A stated replacement decides where two trees fit, and counts for tensors trained whole too.
#[test]
fn stated_replacements_decide() {
    let scene = scene("stated");
    let names = [
        "actor.layers.0.q_proj.weight",
        "actor.norm.weight",
        "copy.layers.0.q_proj.weight",
        "copy.norm.weight",
    ];
    let weights = [
        scene.random(&[8, 8]),
        scene.random(&[8]),
        scene.random(&[8, 8]),
        scene.random(&[8]),
    ];
    let tensors: Vec<(&str, &Numbers)> = names.iter().copied().zip(&weights).collect();
    scene.put("base.safetensors", &tensors);
    let norm = scene.random(&[8]);
    let deltas = adapter(
        &scene,
        "a",
        &["model.layers.0.q_proj"],
        &[("model.norm.weight", &norm)],
    );
    scene.refused(
        &["base.safetensors", "a"],
        &[],
        &[
            "actor.layers.0.q_proj.weight",
            "--map model.=actor. or --map model.=copy.",
        ],
    );
    scene.merge(
        &["base.safetensors", "a"],
        "out.safetensors",
        &["--map", "model=copy"],
    );
    let merged = weights[2].plus(2.0, &deltas[0]);
    let expected = [
        (names[0], &weights[0]),
        (names[1], &weights[1]),
        (names[2], &merged),
        (names[3], &norm),
    ];
    scene.assert_has("out.safetensors", &expected);
}

#[test]
fn stated_replacements_that_help_nothing_are_refused() {
    let scene = scene("useless");
    let q = scene.random(&[8, 8]);
    scene.put("base.safetensors", &[("model.layers.0.q_proj.weight", &q)]);
    adapter(&scene, "a", &["model.layers.0.q_proj"], &[]);
    for (map, fragments) in [
        (
            &["other=model"][..],
            &["--map other.=model.", "model.layers.0.q_proj.weight"][..],
        ),
        (&["model=other"], &["as other.layers.0.q_proj.weight"]),
        (
            &["model=a", "model.=b"],
            &["--map", "model.=a.", "model.=b."],
        ),
    ] {
        let arguments: Vec<&str> = map.iter().flat_map(|map| ["--map", map]).collect();
        scene.refused(&["base.safetensors", "a"], &arguments, fragments);
    }
    let status = scene.run(&["base.safetensors", "a"], "out", &["--map", "nothing"]);
    assert_eq!(status.unwrap_err().0, 2);
}

/// Another tower's layers have the same names and shapes. Nothing lands there because the adapter's
/// own tower is missing.
#[test]
fn no_tower_takes_another_towers_adapter() {
    let scene = scene("towers");
    let q = scene.random(&[8, 8]);
    for (test, (theirs, ours)) in [
        (
            "vision_tower.layers.0.q_proj",
            "model.language_model.layers.0.q_proj",
        ),
        ("model.layers.0.q_proj", "model.visual.layers.0.q_proj"),
        ("model.layers.0.q_proj", "model.layers.1.q_proj"),
        ("decoder.block.0.q_proj", "encoder.block.0.q_proj"),
        ("mtp.layers.0.q_proj", "model.layers.0.q_proj"),
    ]
    .into_iter()
    .enumerate()
    {
        let (base, folder) = (format!("{test}.safetensors"), format!("{test}"));
        let theirs = format!("{theirs}.weight");
        scene.put(&base, &[(&theirs, &q), ("trunk.layers.0.other.weight", &q)]);
        adapter(&scene, &folder, &[ours], &[]);
        scene.refused(
            &[&base, &folder],
            &[],
            &[&format!("{ours}.weight is not in the base model")],
        );
    }
}

/// Whatever was trained whole and has a namesake under another prefix is not added to the model.
#[test]
fn tensors_trained_whole_are_not_added_beside_their_namesakes() {
    let scene = scene("namesakes");
    let (q, e) = (scene.random(&[8, 8]), scene.random(&[8, 8]));
    let base = [
        ("model.layers.0.q_proj.weight", &q),
        ("model.embed_tokens.weight", &e),
    ];
    scene.put("base.safetensors", &base);
    for (folder, name) in [
        ("a", "embed_tokens.weight"),
        ("b", "model.model.embed_tokens.weight"),
    ] {
        adapter(&scene, folder, &["model.layers.0.q_proj"], &[(name, &e)]);
        scene.refused(
            &["base.safetensors", folder],
            &[],
            &[name, "model.embed_tokens.weight", "--map"],
        );
    }
    let deltas = adapter(
        &scene,
        "c",
        &["model.layers.0.q_proj"],
        &[("embed_tokens.weight", &q)],
    );
    scene.merge(
        &["base.safetensors", "c"],
        "out.safetensors",
        &["--map", "embed_tokens=model.embed_tokens"],
    );
    let merged = q.plus(2.0, &deltas[0]);
    scene.assert_has("out.safetensors", &[(base[0].0, &merged), (base[1].0, &q)]);
}

/// Two adapters may have trees of their own.
#[test]
fn each_adapter_has_its_own_replacements() {
    let scene = scene("two");
    let q = scene.random(&[8, 8]);
    scene.put(
        "base.safetensors",
        &[("backbone.layers.0.q_proj.weight", &q)],
    );
    let one = adapter(&scene, "one", &["model.layers.0.q_proj"], &[]);
    let two = adapter(&scene, "two", &["layers.0.q_proj"], &[]);
    scene.merge(&["base.safetensors", "one", "two"], "out.safetensors", &[]);
    let sum = q.plus(2.0, &one[0]).plus(2.0, &two[0]);
    scene.assert_has(
        "out.safetensors",
        &[("backbone.layers.0.q_proj.weight", &sum)],
    );
}

/// The parts for other models of a pipeline are left out and said; a part that doesn't fit whole
/// stops the merge.
#[test]
fn the_component_that_the_base_is_gets_merged() {
    let scene = scene("components");
    let q = scene.random(&[8, 8]);
    scene.put(
        "transformer/diffusion_pytorch_model.safetensors",
        &[("blocks.0.to_q.weight", &q)],
    );
    let modules = [
        "transformer.blocks.0.to_q",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    ];
    let deltas = pipeline(&scene, "lora.safetensors", &modules);
    let inputs = ["transformer", "lora.safetensors"];
    let report = scene.json(&inputs, "out", &["--scaling", "1"]);
    assert_eq!(report["other_components"], json!(["text_encoder"]));
    let expected = [("blocks.0.to_q.weight", &q.plus(1.0, &deltas[0]))];
    scene.assert_has("out/diffusion_pytorch_model.safetensors", &expected);
    let options = ["--scaling", "1", "--component"];
    scene.merge(&inputs, "same", &[&options[..], &["transformer"]].concat());
    scene.assert_has("same/diffusion_pytorch_model.safetensors", &expected);
    for (component, fragments) in [
        (
            "text_encoder",
            &["text_model.encoder.layers.0.self_attn.q_proj.weight"][..],
        ),
        ("unet", &["--component unet", "text_encoder", "transformer"]),
    ] {
        scene.refused(&inputs, &[&options[..], &[component]].concat(), fragments);
    }
    pipeline(
        &scene,
        "torn.safetensors",
        &[modules[0], "transformer.blocks.1.to_q", modules[1]],
    );
    scene.refused(
        &["transformer", "torn.safetensors"],
        &["--scaling", "1"],
        &["part", "transformer", "blocks.1.to_q.weight", "--component"],
    );
}

/// A pipeline's folder holds several models; each component belongs to one of them.
#[test]
fn a_pipelines_folder_means_the_model_that_the_adapter_is_for() {
    let scene = scene("pipeline");
    let (q, t) = (scene.random(&[8, 8]), scene.random(&[8, 8]));
    let (block, layer) = (
        "blocks.0.to_q",
        "text_model.encoder.layers.0.self_attn.q_proj",
    );
    let (block_weight, layer_weight) = (format!("{block}.weight"), format!("{layer}.weight"));
    scene.text(
        "pipe/model_index.json",
        r#"{"_class_name": "FluxPipeline"}"#,
    );
    scene.put(
        "pipe/transformer/diffusion_pytorch_model.safetensors",
        &[(&block_weight, &q)],
    );
    scene.put(
        "pipe/text_encoder/model.safetensors",
        &[(&layer_weight, &t)],
    );
    let [transformer, encoder] = [
        format!("transformer.{block}"),
        format!("text_encoder.{layer}"),
    ];
    let deltas = pipeline(&scene, "one.safetensors", &[&transformer]);
    scene.merge(&["pipe", "one.safetensors"], "out", &["--scaling", "1"]);
    scene.assert_has(
        "out/diffusion_pytorch_model.safetensors",
        &[(&block_weight, &q.plus(1.0, &deltas[0]))],
    );
    let deltas = pipeline(&scene, "both.safetensors", &[&transformer, &encoder]);
    let inputs = ["pipe", "both.safetensors"];
    scene.refused(
        &inputs,
        &["--scaling", "1"],
        &["pipe/transformer", "pipe/text_encoder"],
    );
    scene.merge(
        &inputs,
        "chosen",
        &["--scaling", "1", "--component", "text_encoder"],
    );
    scene.assert_has(
        "chosen/model.safetensors",
        &[(&layer_weight, &t.plus(1.0, &deltas[1]))],
    );
    // The folder of one of them is that one.
    scene.merge(
        &["pipe/text_encoder", "both.safetensors"],
        "named",
        &["--scaling", "1"],
    );
    scene.assert_has(
        "named/model.safetensors",
        &[(&layer_weight, &t.plus(1.0, &deltas[1]))],
    );
}

/// A repository with Mistral's file beside Hugging Face's: the names decide, also where one of the
/// two has to be mapped.
#[test]
fn of_two_formats_the_one_with_the_adapters_names_is_merged() {
    let scene = scene("formats");
    let (h, m) = (scene.random(&[8, 8]), scene.random(&[8, 8]));
    scene.put(
        "base/model.safetensors",
        &[("model.layers.0.self_attn.q_proj.weight", &h)],
    );
    scene.put(
        "base/consolidated.safetensors",
        &[("layers.0.attention.wq.weight", &m)],
    );
    let deltas = adapter(&scene, "hf", &["layers.0.self_attn.q_proj"], &[]);
    scene.merge(&["base", "hf"], "out", &[]);
    let expected = [(
        "model.layers.0.self_attn.q_proj.weight",
        &h.plus(2.0, &deltas[0]),
    )];
    scene.assert_has("out/model.safetensors", &expected);
    let deltas = pipeline(&scene, "lora.safetensors", &["layers.0.attention.wq"]);
    scene.merge(
        &["base", "lora.safetensors"],
        "mistral",
        &["--scaling", "2"],
    );
    let expected = [("layers.0.attention.wq.weight", &m.plus(2.0, &deltas[0]))];
    scene.assert_has("mistral/consolidated.safetensors", &expected);
    adapter(&scene, "other", &["layers.0.mlp.up"], &[]);
    scene.refused(
        &["base", "other"],
        &[],
        &["none of the models", "layers.0.mlp.up.weight"],
    );
}

/// kohya's names have underscores for dots, and prefixes for components.
#[test]
fn names_with_underscores_are_merged() {
    let scene = scene("kohya");
    let q = scene.random(&[8, 8]);
    let name = "down_blocks.0.attentions.1.to_q.weight";
    scene.put("unet.safetensors", &[(name, &q)]);
    let (a, b) = scene.pair(8, 8, 2);
    let alpha = Numbers::new(lora_kernels_adapters::Dtype::F32, &[], vec![1.0]);
    let key = |end: &str| format!("lora_unet_down_blocks_0_attentions_1_to_q.{end}");
    let (down, up, scale) = (key("lora_down.weight"), key("lora_up.weight"), key("alpha"));
    scene.put(
        "lora.safetensors",
        &[(&down, &a), (&up, &b), (&scale, &alpha)],
    );
    scene.merge(
        &["unet.safetensors", "lora.safetensors"],
        "out.safetensors",
        &[],
    );
    scene.assert_has("out.safetensors", &[(name, &q.plus(0.5, &b.dot(&a)))]);
}
