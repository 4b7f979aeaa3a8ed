//! Adapters under the names that trainers and tools give them: what merges make of them, and what
//! `inspect` shows.

use lora_kernels_adapters::Dtype;
use serde_json::{Value, json};

use crate::scene::{Numbers, Scene};

fn scene(test: &str) -> Scene {
    Scene::new("adapters", test)
}

fn scalar(value: f64) -> Numbers {
    Numbers::new(Dtype::F32, &[], vec![value])
}

/// W + scaling·B·A, rounded once.
fn merged(weight: &Numbers, scaling: f64, (a, b): &(Numbers, Numbers)) -> Numbers {
    weight.plus(scaling, &b.dot(a))
}

/// Runs `inspect`. An error is the exit status and the message.
fn inspect(scene: &Scene, adapter: &str, more: &[&str]) -> Result<String, (u8, String)> {
    let path = scene.path(adapter).to_str().unwrap().to_owned();
    let mut arguments = vec!["lora-kernels", "inspect", &path];
    arguments.extend(more);
    let (result, printed) = lora_kernels_cli::run_keeping(arguments);
    result.map(|()| printed)
}

fn inspected(scene: &Scene, adapter: &str) -> Value {
    serde_json::from_str(&inspect(scene, adapter, &["--json"]).unwrap()).unwrap()
}

/// Several adapters in one file, as `state_dict()` of a PEFT model with two of them has them.
#[test]
fn an_adapter_is_chosen_by_its_name() {
    let scene = scene("chosen");
    let (q, first, second) = (
        scene.random(&[4, 6]),
        scene.pair(4, 6, 2),
        scene.pair(4, 6, 2),
    );
    scene.put("base.safetensors", &[("q.weight", &q)]);
    scene.adapter(
        "a",
        json!({}),
        &[
            ("base_model.model.q.lora_A.first.weight", &first.0),
            ("base_model.model.q.lora_B.first.weight", &first.1),
            ("base_model.model.q.lora_A.second.weight", &second.0),
            ("base_model.model.q.lora_B.second.weight", &second.1),
        ],
    );
    let inputs = ["base.safetensors", "a"];
    scene.refused(&inputs, &[], &["first, second", "--adapter NAME"]);
    scene.refused(
        &inputs,
        &["--adapter", "third"],
        &["third", "first, second"],
    );
    scene.merge(&inputs, "out.safetensors", &["--adapter", "second"]);
    scene.assert_has(
        "out.safetensors",
        &[("q.weight", &merged(&q, 2.0, &second))],
    );
    let text = inspect(&scene, "a", &["--adapter", "first"]).unwrap();
    assert!(text.contains("the adapter's name: first"), "{text}");
    assert!(
        text.contains("left out: base_model.model.q.lora_A.second.weight"),
        "{text}"
    );
    // A name that chooses nothing is a mistake.
    scene.adapter(
        "plain",
        json!({}),
        &[
            ("base_model.model.q.lora_A.weight", &first.0),
            ("base_model.model.q.lora_B.weight", &first.1),
        ],
    );
    scene.refused(
        &["base.safetensors", "plain"],
        &["--adapter", "first"],
        &["no adapter given is called first"],
    );
}

#[test]
fn the_only_checkpoint_is_followed_and_said() {
    let scene = scene("checkpoint");
    let (q, pair) = (scene.random(&[4, 6]), scene.pair(4, 6, 2));
    scene.put("base.safetensors", &[("q.weight", &q)]);
    let tensors = [
        ("base_model.model.q.lora_A.weight", &pair.0),
        ("base_model.model.q.lora_B.weight", &pair.1),
    ];
    scene.text("run/trainer_state.json", "{}");
    scene.adapter("run/checkpoint-8", json!({}), &tensors);
    let inputs = ["base.safetensors", "run"];
    let text = scene.printed(&inputs, "out.safetensors", &[]);
    assert!(text.contains("run leads to checkpoint-8"), "{text}");
    scene.assert_has("out.safetensors", &[("q.weight", &merged(&q, 2.0, &pair))]);
    let text = inspect(&scene, "run", &[]).unwrap();
    assert!(text.contains("leads to checkpoint-8"), "{text}");
    scene.adapter("run/checkpoint-16", json!({}), &tensors);
    scene.refused(
        &inputs,
        &[],
        &[
            "checkpoint-8, checkpoint-16",
            "the newest is",
            "checkpoint-16)",
        ],
    );
    scene.merge(&inputs, "out.safetensors", &["--adapter", "checkpoint-8"]);
}

/// PEFT saves `default` into the folder itself, and other adapters below it.
#[test]
fn a_named_adapter_below_another_is_the_one_merged() {
    let scene = scene("below");
    let (q, first, second) = (
        scene.random(&[4, 6]),
        scene.pair(4, 6, 2),
        scene.pair(4, 6, 2),
    );
    scene.put("base.safetensors", &[("q.weight", &q)]);
    for (folder, pair) in [("a", &first), ("a/other", &second)] {
        let tensors = [
            ("base_model.model.q.lora_A.weight", &pair.0),
            ("base_model.model.q.lora_B.weight", &pair.1),
        ];
        scene.adapter(folder, json!({}), &tensors);
    }
    let inputs = ["base.safetensors", "a"];
    scene.merge(&inputs, "out.safetensors", &["--adapter", "other"]);
    let expected = merged(&q, 2.0, &second);
    scene.assert_has("out.safetensors", &[("q.weight", &expected)]);
    scene.refused(&inputs, &["--adapter", "nope"], &["nope"]);
}

/// diffusers' `save_lora_weights` writes the scaling into the header.
#[test]
fn the_header_of_diffusers_files_has_the_scaling() {
    let scene = scene("header");
    let (q, k) = (scene.random(&[4, 6]), scene.random(&[4, 6]));
    let (of_q, of_k) = (scene.pair(4, 6, 2), scene.pair(4, 6, 4));
    scene.put(
        "base.safetensors",
        &[("b.q.weight", &q), ("b.k.weight", &k)],
    );
    let metadata = json!({
        "transformer.r": 2, "transformer.lora_alpha": 4, "transformer.rank_pattern": {"b.k": 4},
        "transformer.alpha_pattern": {"b.k": 2}, "transformer.peft_type": "LORA",
    })
    .to_string();
    scene.put_with(
        "lora.safetensors",
        &[
            ("transformer.b.q.lora_A.weight", &of_q.0),
            ("transformer.b.q.lora_B.weight", &of_q.1),
            ("transformer.b.k.lora_A.weight", &of_k.0),
            ("transformer.b.k.lora_B.weight", &of_k.1),
        ],
        &[("format", "pt"), ("lora_adapter_metadata", &metadata)],
    );
    let inputs = ["base.safetensors", "lora.safetensors"];
    scene.merge(&inputs, "out.safetensors", &[]);
    scene.assert_has(
        "out.safetensors",
        &[
            ("b.q.weight", &merged(&q, 2.0, &of_q)),
            ("b.k.weight", &merged(&k, 0.5, &of_k)),
        ],
    );
    scene.refused(&inputs, &["--scaling", "1"], &["hold no scaling"]);
    let document = inspected(&scene, "lora.safetensors");
    assert_eq!(document["modules"][0]["scaled_by"], "header");
    assert_eq!(document["modules"][0]["component"], "transformer");
    let text = inspect(&scene, "lora.safetensors", &[]).unwrap();
    assert!(text.contains("config of transformer: r 2"), "{text}");
}

/// kohya's names are flattened, and say nothing of the base's dots.
#[test]
fn kohya_s_file_is_merged_part_by_part() {
    let scene = scene("kohya");
    let (proj, conv) = (scene.random(&[4, 6]), scene.random(&[4, 3, 3, 3]));
    let of_proj = scene.pair(4, 6, 2);
    let (down, up) = (scene.random(&[2, 3, 3, 3]), scene.random(&[4, 2, 1, 1]));
    let text = scene.pair(5, 5, 2);
    scene.put(
        "unet.safetensors",
        &[
            ("down_blocks.0.proj_in.weight", &proj),
            ("conv_in.weight", &conv),
        ],
    );
    scene.put(
        "lora.safetensors",
        &[
            (
                "lora_unet_down_blocks_0_proj_in.lora_down.weight",
                &of_proj.0,
            ),
            ("lora_unet_down_blocks_0_proj_in.lora_up.weight", &of_proj.1),
            ("lora_unet_down_blocks_0_proj_in.alpha", &scalar(1.0)),
            ("lora_unet_conv_in.lora_down.weight", &down),
            ("lora_unet_conv_in.lora_up.weight", &up),
            ("lora_te_text_model_q_proj.lora_down.weight", &text.0),
            ("lora_te_text_model_q_proj.lora_up.weight", &text.1),
        ],
    );
    let inputs = ["unet.safetensors", "lora.safetensors"];
    let printed = scene.printed(&inputs, "out.safetensors", &[]);
    assert!(printed.contains("text_encoder"), "{printed}");
    // The kernel's places are columns: (out, in·3·3) += up (out, r) · down (r, in·3·3).
    let flat = |numbers: &Numbers, shape: &[usize]| Numbers {
        shape: shape.to_vec(),
        ..numbers.clone()
    };
    let delta = flat(&up, &[4, 2]).dot(&flat(&down, &[2, 27]));
    let sum = flat(&conv, &[4, 27]).plus(1.0, &delta);
    scene.assert_has(
        "out.safetensors",
        &[
            (
                "down_blocks.0.proj_in.weight",
                &merged(&proj, 0.5, &of_proj),
            ),
            ("conv_in.weight", &flat(&sum, &[4, 3, 3, 3])),
        ],
    );
    let printed = inspect(&scene, "lora.safetensors", &[]).unwrap();
    for fragment in [
        "kohya format",
        "[unet] conv_in",
        "kernel 3x3",
        "alpha tensors",
        "kohya's rule",
    ] {
        assert!(
            printed.contains(fragment),
            "`{fragment}` is not in:\n{printed}"
        );
    }
}

#[test]
fn modules_without_an_alpha_tensor_take_the_given_one() {
    let scene = scene("alphas");
    let (q, k) = (scene.random(&[4, 6]), scene.random(&[4, 6]));
    let (of_q, of_k) = (scene.pair(4, 6, 2), scene.pair(4, 6, 2));
    scene.put("base.safetensors", &[("q.weight", &q), ("k.weight", &k)]);
    scene.put(
        "lora.safetensors",
        &[
            ("diffusion_model.q.lora_A.weight", &of_q.0),
            ("diffusion_model.q.lora_B.weight", &of_q.1),
            ("diffusion_model.q.alpha", &scalar(1.0)),
            ("diffusion_model.k.lora_A.weight", &of_k.0),
            ("diffusion_model.k.lora_B.weight", &of_k.1),
        ],
    );
    let inputs = ["base.safetensors", "lora.safetensors"];
    scene.refused(&inputs, &[], &["no scaling for k", "--alpha"]);
    scene.merge(&inputs, "out.safetensors", &["--alpha", "8"]);
    scene.assert_has(
        "out.safetensors",
        &[
            ("q.weight", &merged(&q, 0.5, &of_q)),
            ("k.weight", &merged(&k, 4.0, &of_k)),
        ],
    );
}

/// What isn't understood is never added to the model, whatever it is called.
#[test]
fn what_is_not_understood_is_refused_by_name() {
    let scene = scene("unknown");
    let (q, pair, other) = (
        scene.random(&[4, 6]),
        scene.pair(4, 6, 2),
        scene.random(&[2, 2]),
    );
    let empty = Numbers::zeros(&[0]);
    scene.put("base.safetensors", &[("q.weight", &q)]);
    for (name, tensor, fragment) in [
        ("q.hada_w1_a", &other, "LoHa"),
        ("k.lora_mid.weight", &other, "Tucker"),
        ("q.lora_router.weight", &other, "another method"),
        ("score.weight", &empty, "ZeRO-3"),
        ("score.original_module.weight", &other, "modules_to_save"),
        (
            "score.modules_to_save.mine.weight",
            &other,
            "--adapter mine",
        ),
        (
            "e.token_adapter.trainable_tokens_delta",
            &other,
            "trainable_token_indices",
        ),
        ("k.alpha", &scalar(2.0), "alpha"),
    ] {
        let name = format!("base_model.model.{name}");
        scene.adapter(
            "a",
            json!({"modules_to_save": ["score"]}),
            &[
                ("base_model.model.q.lora_A.weight", &pair.0),
                ("base_model.model.q.lora_B.weight", &pair.1),
                (&name, tensor),
            ],
        );
        scene.refused(&["base.safetensors", "a"], &[], &[&name, fragment]);
        let text = inspect(&scene, "a", &[]).unwrap();
        assert!(text.contains(&format!("not understood: {name}")), "{text}");
    }
}

#[test]
fn inspect_shows_experts_tokens_and_dead_modules() {
    let scene = scene("shown");
    // Two experts: lora_A (2·2, 3), lora_B (5, 2·2).
    let (a, b) = (scene.random(&[4, 3]), scene.random(&[5, 4]));
    let (rows, pair) = (scene.random(&[2, 4]), scene.pair(4, 6, 2));
    scene.adapter(
        "a",
        json!({
            "target_parameters": ["experts.down_proj"], "trainable_token_indices": [7, 3],
        }),
        &[
            ("base_model.model.experts.lora_A.weight", &a),
            ("base_model.model.experts.lora_B.weight", &b),
            ("base_model.model.q_proj.lora_A.weight", &pair.0),
            (
                "base_model.model.q_proj.lora_B.weight",
                &Numbers::zeros(&[4, 2]),
            ),
            (
                "base_model.model.e.token_adapter.trainable_tokens_delta",
                &rows,
            ),
        ],
    );
    let document = inspected(&scene, "a");
    let experts = &document["modules"][0];
    assert_eq!(
        (
            &experts["kind"],
            &experts["experts"],
            &experts["rank"],
            &experts["dead"]
        ),
        (&json!("parameter"), &json!(2), &json!(2), &json!(false))
    );
    // Column ρ·2 + e of lora_B belongs to row ρ of expert e.
    let mut squares = 0.0;
    for expert in 0..2 {
        for (n, k) in (0..15).map(|at| (at / 3, at % 3)) {
            let terms = (0..2).map(|rho| {
                b.values[n * 4 + rho * 2 + expert] * a.values[(expert * 2 + rho) * 3 + k]
            });
            squares += (2.0 * terms.sum::<f64>()).powi(2);
        }
    }
    let norm = experts["norm_delta"].as_f64().unwrap();
    assert!((norm - squares.sqrt()).abs() < 1e-9, "{norm} {squares}");
    assert_eq!(document["modules"][1]["dead"], true);
    assert_eq!(document["tokens"][0]["indices"], json!([7, 3]));
    let text = inspect(&scene, "a", &[]).unwrap();
    for fragment in [
        "2 experts",
        "dead, these add nothing",
        "q_proj",
        "rows trained whole: 2 of e",
    ] {
        assert!(text.contains(fragment), "`{fragment}` is not in:\n{text}");
    }
}

/// mistral-finetune writes the scaling beside its file.
#[test]
fn mistral_s_params_have_the_scaling() {
    let scene = scene("params");
    let (wq, pair) = (scene.random(&[4, 6]), scene.pair(4, 6, 2));
    scene.put("base.safetensors", &[("layers.0.attention.wq.weight", &wq)]);
    scene.put(
        "a/lora.safetensors",
        &[
            ("layers.0.attention.wq.lora_A.weight", &pair.0),
            ("layers.0.attention.wq.lora_B.weight", &pair.1),
        ],
    );
    scene.text(
        "a/params.json",
        r#"{"dim": 6, "lora": {"rank": 2, "scaling": 3.0}}"#,
    );
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    scene.assert_has(
        "out.safetensors",
        &[("layers.0.attention.wq.weight", &merged(&wq, 3.0, &pair))],
    );
}

/// What can be merged is merged if the user leaves the rest out.
#[test]
fn modules_that_cannot_be_read_can_be_skipped() {
    let scene = scene("skipped");
    let (q, pair, other) = (
        scene.random(&[4, 6]),
        scene.pair(4, 6, 2),
        scene.random(&[2, 2]),
    );
    let (down, up) = (scene.random(&[2, 6, 3, 3]), scene.random(&[4, 1, 1, 1]));
    let empty = Numbers::zeros(&[0]);
    scene.put("base.safetensors", &[("q.weight", &q)]);
    scene.adapter(
        "a",
        json!({}),
        &[
            ("base_model.model.q.lora_A.weight", &pair.0),
            ("base_model.model.q.lora_B.weight", &pair.1),
            ("base_model.model.grouped.lora_A.weight", &down),
            ("base_model.model.grouped.lora_B.weight", &up),
            ("base_model.model.lost.lora_A.weight", &empty),
            ("base_model.model.lost.lora_B.weight", &empty),
            ("base_model.model.l._orig_mod.k.lora_A.weight", &other),
        ],
    );
    let inputs = ["base.safetensors", "a"];
    scene.refused(&inputs, &[], &["_orig_mod"]);
    scene.refused(
        &inputs,
        &["--skip", "_orig_mod,lost"],
        &["grouped", "2 groups"],
    );
    scene.merge(
        &inputs,
        "out.safetensors",
        &["--skip", "_orig_mod,lost,grouped"],
    );
    scene.assert_has("out.safetensors", &[("q.weight", &merged(&q, 2.0, &pair))]);
}

/// PEFT adds the adapter of a MultiheadAttention's output projection twice, in training too, so
/// that W + scaling·B·A isn't what was trained.
#[test]
fn a_multihead_attention_is_refused_by_name() {
    let scene = scene("attention");
    let (joint, out) = (scene.random(&[12, 4]), scene.random(&[4, 4]));
    let (of_joint, of_out) = (scene.pair(12, 4, 2), scene.pair(4, 4, 2));
    scene.put(
        "base.safetensors",
        &[
            ("attn.in_proj_weight", &joint),
            ("attn.out_proj.weight", &out),
        ],
    );
    let projection = "base_model.model.attn.base_layer.out_proj";
    scene.adapter(
        "a",
        json!({}),
        &[
            ("base_model.model.attn.lora_A.weight", &of_joint.0),
            ("base_model.model.attn.lora_B.weight", &of_joint.1),
            (&format!("{projection}.lora_A.weight"), &of_out.0),
            (&format!("{projection}.lora_B.weight"), &of_out.1),
        ],
    );
    scene.refused(
        &["base.safetensors", "a"],
        &[],
        &[projection, "MultiheadAttention", "merge it with PEFT"],
    );
}

/// transformers fuses experts when it loads a checkpoint, and Mixtral's have another path and other
/// names in it.
#[test]
fn mixtral_s_experts_are_found_in_its_checkpoints() {
    let scene = scene("mixtral");
    let stored = "model.layers.0.block_sparse_moe.experts";
    let names: Vec<String> = (0..2)
        .flat_map(|expert| {
            ["w1", "w2", "w3"].map(|part| format!("{stored}.{expert}.{part}.weight"))
        })
        .collect();
    // w1 and w3 are (3, 4), w2 is (4, 3).
    let shapes = [[3, 4], [4, 3], [3, 4]];
    let weights: Vec<Numbers> = (0..6).map(|at| scene.random(&shapes[at % 3])).collect();
    let tensors: Vec<(&str, &Numbers)> = names.iter().map(String::as_str).zip(&weights).collect();
    scene.put("base.safetensors", &tensors);
    // Two experts of rank 2: lora_A (4, in), lora_B (out, 4).
    let (gate_up, down) = (
        (scene.random(&[4, 4]), scene.random(&[6, 4])),
        (scene.random(&[4, 3]), scene.random(&[4, 4])),
    );
    let path = "base_model.model.model.layers.0.mlp.experts";
    scene.adapter(
        "a",
        json!({"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}),
        &[
            (&format!("{path}.base_layer.lora_A.weight"), &gate_up.0),
            (&format!("{path}.base_layer.lora_B.weight"), &gate_up.1),
            (&format!("{path}.lora_A.weight"), &down.0),
            (&format!("{path}.lora_B.weight"), &down.1),
        ],
    );
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    // Column ρ·2 + e of lora_B belongs to row ρ of expert e.
    let delta = |(a, b): &(Numbers, Numbers), expert: usize, rows: std::ops::Range<usize>| {
        let columns = a.shape[1];
        let value = |n: usize, k: usize| -> f64 {
            let of = |rho: usize| {
                b.values[n * 4 + rho * 2 + expert] * a.values[(expert * 2 + rho) * columns + k]
            };
            of(0) + of(1)
        };
        let values = rows
            .clone()
            .flat_map(|n| (0..columns).map(move |k| (n, k)))
            .map(|(n, k)| value(n, k))
            .collect();
        Numbers {
            dtype: Dtype::F64,
            shape: vec![rows.len(), columns],
            values,
        }
    };
    let expected: Vec<Numbers> = (0..6)
        .map(|at| {
            let delta = match at % 3 {
                0 => delta(&gate_up, at / 3, 0..3),
                1 => delta(&down, at / 3, 0..4),
                _ => delta(&gate_up, at / 3, 3..6),
            };
            weights[at].plus(2.0, &delta)
        })
        .collect();
    let expected: Vec<(&str, &Numbers)> = names.iter().map(String::as_str).zip(&expected).collect();
    scene.assert_has("out.safetensors", &expected);
}
