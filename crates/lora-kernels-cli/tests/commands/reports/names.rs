//! What trainers put into the names of an adapter's tensors.

use serde_json::json;

use super::{merged, pair, peft, scene};
use crate::scene::{Numbers, Scene};

const Q: &str = "model.layers.0.self_attn.q_proj";
const Q_WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";

/// Report 5: state dicts that were not saved by `save_pretrained` keep PEFT's wrappers.
#[test]
fn modules_to_save_segments_are_taken_off() {
    let scene = scene("modules_to_save");
    let (q, head, trained) = (
        scene.random(&[8, 8]),
        scene.random(&[3, 8]),
        scene.random(&[3, 8]),
    );
    scene.put(
        "base.safetensors",
        &[(Q_WEIGHT, &q), ("score.weight", &head)],
    );
    let (lora, names) = (scene.pair(8, 8, 2), peft(Q));
    let original = ("base_model.model.score.original_module.weight", &head);
    for wrapper in ["modules_to_save.default", "modules_to_save"] {
        for with_original in [false, true] {
            let key = format!("base_model.model.score.{wrapper}.weight");
            let mut tensors = pair(&names, &lora).to_vec();
            tensors.push((&key, &trained));
            tensors.extend(with_original.then_some(original));
            scene.adapter("a", json!({"modules_to_save": ["score"]}), &tensors);
            scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
            let expected = [
                (Q_WEIGHT, &merged(&q, 2.0, &lora)),
                ("score.weight", &trained),
            ];
            scene.assert_has("out.safetensors", &expected);
        }
    }
}

/// Report 6: ComfyUI's files hold a scalar alpha for each module: the scaling is alpha / r.
#[test]
fn alpha_tensors_are_the_scaling_and_nothing_is_added() {
    let scene = scene("alpha");
    let weights = [scene.random(&[24, 8]), scene.random(&[8, 8])];
    let paths = [
        "double_blocks.0.img_attn.qkv",
        "double_blocks.0.img_attn.proj",
    ];
    let targets = paths.map(|path| format!("{path}.weight"));
    let base = [(&*targets[0], &weights[0]), (&*targets[1], &weights[1])];
    scene.put("flux.safetensors", &base);
    let loras = [scene.pair(24, 8, 4), scene.pair(8, 8, 4)];
    let alphas = [1.0, 2.0].map(|alpha| Numbers::new(safetensors::Dtype::F32, &[], vec![alpha]));
    let keys = paths.map(|path| {
        ["lora_A.weight", "lora_B.weight", "alpha"]
            .map(|part| format!("diffusion_model.{path}.{part}"))
    });
    let mut tensors = Vec::new();
    for i in 0..2 {
        let [a, b, alpha] = &keys[i];
        tensors.extend([(&**a, &loras[i].0), (b, &loras[i].1), (alpha, &alphas[i])]);
    }
    scene.put("lora.safetensors", &tensors);
    scene.merge(
        &["flux.safetensors", "lora.safetensors"],
        "out.safetensors",
        &[],
    );
    let results = [
        merged(&weights[0], 0.25, &loras[0]),
        merged(&weights[1], 0.5, &loras[1]),
    ];
    let expected = [(&*targets[0], &results[0]), (&*targets[1], &results[1])];
    scene.assert_has("out.safetensors", &expected);
    let given = &["--scaling", "1"];
    scene.refused(
        &["flux.safetensors", "lora.safetensors"],
        given,
        &["--scaling"],
    );
}

/// Reports 12 and 13: a name between lora_A and weight, with or without PEFT's prefix, and what
/// torch.compile puts in front of every name.
#[test]
fn an_adapters_name_and_leading_wrappers_are_taken_off() {
    let scene = scene("adapter_name");
    let q = scene.random(&[8, 8]);
    scene.put("base.safetensors", &[(Q_WEIGHT, &q)]);
    for (front, name) in [
        ("base_model.model.", ".default"),
        ("base_model.model.", ".default_0"),
        ("", ".default"),
        ("", ".style-v2"),
        ("_orig_mod.base_model.model.", ""),
        ("base_model.model._orig_mod.", ""),
    ] {
        let lora = scene.pair(8, 8, 2);
        let names = ["A", "B"].map(|part| format!("{front}{Q}.lora_{part}{name}.weight"));
        scene.adapter("a", json!({}), &pair(&names, &lora));
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        scene.assert_has("out.safetensors", &[(Q_WEIGHT, &merged(&q, 2.0, &lora))]);
    }
}

/// Report 14: wrappers inside of the path, which PEFT and vLLM don't take either.
#[test]
fn wrappers_inside_of_a_path_are_refused_by_name() {
    let scene = scene("wrappers");
    scene.put("base.safetensors", &[(Q_WEIGHT, &scene.random(&[8, 8]))]);
    for wrapper in [
        "_orig_mod",
        "_checkpoint_wrapped_module",
        "_fsdp_wrapped_module",
    ] {
        let names = peft(&format!("model.layers.0.{wrapper}.self_attn.q_proj"));
        scene.adapter("a", json!({}), &pair(&names, &scene.pair(8, 8, 2)));
        scene.refused(&["base.safetensors", "a"], &[], &[wrapper]);
    }
}

/// Report 18: everything in PEFT's config that is off or doesn't matter to a merge is accepted, and
/// patterns are regular expressions.
#[test]
fn pefts_whole_config_is_accepted() {
    let scene = scene("config");
    let paths = [
        "3.self_attn.q_proj",
        "3.self_attn.v_proj",
        "13.self_attn.q_proj",
    ]
    .map(|end| format!("model.layers.{end}"));
    let cases: Vec<_> = { paths.iter().zip([(4, 16.0), (4, 4.0), (2, 8.0)]) }
        .map(|(path, (rank, scaling))| {
            let (weight, lora) = (scene.random(&[8, 8]), scene.pair(8, 8, rank));
            let result = merged(&weight, scaling, &lora);
            (format!("{path}.weight"), peft(path), weight, lora, result)
        })
        .collect();
    let base: Vec<_> = cases
        .iter()
        .map(|(name, _, weight, ..)| (&**name, weight))
        .collect();
    scene.put("base.safetensors", &base);
    let tensors: Vec<_> = cases
        .iter()
        .flat_map(|(_, keys, _, lora, _)| pair(keys, lora))
        .collect();
    let fields = json!({
        "lora_alpha": 16.0, "peft_version": "0.21.2", "revision": null, "exclude_modules": ["x"],
        "auto_mapping": {"base_model_class": "X", "parent_library": "Y", "unsloth_fixed": true},
        "target_modules": r"(?:.*?(?:language|text).*?(?:self_attn|mlp).*?(?:q_proj|v_proj)).*?",
        "rank_pattern": {r".*\.layers\.3\..*(q_proj|v_proj)$": 4},
        "alpha_pattern": {r"^model.layers.3.self_attn.q_proj": 64},
        "layers_to_transform": [3, 13], "layers_pattern": "layers", "loftq_config": {},
        "eva_config": null, "corda_config": null, "megatron_config": null,
        "megatron_core": "megatron.core", "trainable_token_indices": null, "use_qalora": false,
        "qalora_group_size": 16, "alora_invocation_tokens": null, "arrow_config": null,
        "ensure_weight_tying": false, "layer_replication": null, "lora_bias": false,
        "target_parameters": null, "use_dora": false, "use_rslora": false,
        "init_lora_weights": "gaussian", "runtime_config": {"ephemeral_gpu_offload": false},
    });
    scene.adapter("a", fields, &tensors);
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let expected: Vec<_> = cases
        .iter()
        .map(|(name, .., result)| (&**name, result))
        .collect();
    scene.assert_has("out.safetensors", &expected);
}

/// Report 23: PEFT fails on null and gives nothing for 0; neither is another number.
#[test]
fn a_scaling_that_is_no_number_is_refused() {
    let scene = scene("null");
    scene.put("base.safetensors", &[("q.weight", &scene.random(&[8, 8]))]);
    let lora = scene.pair(8, 8, 8);
    let refused = |fields, field: &str| {
        scene.adapter("a", fields, &pair(&peft("q"), &lora));
        scene.refused(&["base.safetensors", "a"], &[], &[field]);
    };
    refused(json!({"r": 8, "lora_alpha": null}), "lora_alpha");
    refused(json!({"r": 8, "lora_alpha": 0}), "lora_alpha");
    refused(json!({"r": 8, "lora_alpha": "16"}), "lora_alpha");
    refused(json!({"r": null}), "r");
}

/// Report 44: files of diffusers and kohya hold the text encoder's part beside the transformer's.
#[test]
fn the_part_of_another_component_is_left_out_and_said() {
    let scene: Scene = scene("components");
    let weight = scene.random(&[8, 8]);
    scene.put(
        "transformer.safetensors",
        &[("blocks.0.to_q.weight", &weight)],
    );
    let paths = [
        "transformer.blocks.0.to_q",
        "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
    ];
    let keys = paths.map(|path| ["A", "B"].map(|part| format!("{path}.lora_{part}.weight")));
    let loras = [scene.pair(8, 8, 2), scene.pair(8, 8, 2)];
    let tensors = [pair(&keys[0], &loras[0]), pair(&keys[1], &loras[1])];
    scene.put("lora.safetensors", &tensors.concat());
    let inputs = ["transformer.safetensors", "lora.safetensors"];
    let printed = scene.printed(&inputs, "out.safetensors", &["--scaling", "1"]);
    let expected = [("blocks.0.to_q.weight", &merged(&weight, 1.0, &loras[0]))];
    scene.assert_has("out.safetensors", &expected);
    assert!(printed.contains("text_encoder"), "{printed}");
}
