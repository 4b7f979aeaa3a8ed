//! Bases as they lie on disks.

use std::os::unix::fs::symlink;

use safetensors::Dtype;
use serde_json::json;

use super::{merged, pair, peft, scene};
use crate::scene::Numbers;

const Q: &str = "model.layers.0.self_attn.q_proj";
const Q_WEIGHT: &str = "model.layers.0.self_attn.q_proj.weight";

/// Report 1: mistralai's repositories hold two formats. A PEFT adapter is for the indexed shards,
/// and one with Mistral's names is for the other.
#[test]
fn the_adapters_names_decide_between_two_formats() {
    let scene = scene("two_formats");
    let [wq, hq, ho] = [(); 3].map(|()| scene.random(&[8, 8]));
    let consolidated = "layers.0.attention.wq.weight";
    let o_weight = "model.layers.0.self_attn.o_proj.weight";
    scene.put("base/consolidated.safetensors", &[(consolidated, &wq)]);
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    scene.shards(
        "base/model.safetensors.index.json",
        &[
            (shards[0], &[(Q_WEIGHT, &hq)]),
            (shards[1], &[(o_weight, &ho)]),
        ],
    );
    scene.text("base/config.json", r#"{"model_type": "mistral"}"#);
    let lora = scene.pair(8, 8, 2);
    scene.adapter("a", json!({}), &pair(&peft(Q), &lora));
    scene.merge(&["base", "a"], "out", &[]);
    scene.assert_has(
        &format!("out/{}", shards[0]),
        &[(Q_WEIGHT, &merged(&hq, 2.0, &lora))],
    );
    scene.assert_has(&format!("out/{}", shards[1]), &[(o_weight, &ho)]);
    assert!(!scene.path("out/consolidated.safetensors").exists());
    let names = ["A", "B"].map(|part| format!("layers.0.attention.wq.lora_{part}.weight"));
    scene.put("lora.safetensors", &pair(&names, &lora));
    scene.merge(&["base", "lora.safetensors"], "out", &["--scaling", "2"]);
    let expected = [(consolidated, &merged(&wq, 2.0, &lora))];
    scene.assert_has("out/consolidated.safetensors", &expected);
    assert!(!scene.path("out").join(shards[0]).exists());
}

/// Report 16: a quantised base is named as what it is.
#[test]
fn quantised_bases_are_named() {
    let scene = scene("quantised");
    scene.adapter("a", json!({}), &pair(&peft(Q), &scene.pair(8, 8, 2)));
    let of = |dtype, shape: &[usize]| Numbers::zeros(shape).to(dtype);
    let ints = of(Dtype::I32, &[1, 8]);
    let (bytes, scales) = (of(Dtype::U8, &[32, 1]), of(Dtype::F16, &[1, 8]));
    let norm = scene.random(&[8]);
    for (method, tensors) in [
        (
            "bitsandbytes",
            &[
                ("weight", &bytes),
                ("weight.absmax", &norm),
                ("weight.quant_map", &norm),
            ][..],
        ),
        (
            "GPTQ",
            &[
                ("qweight", &ints),
                ("qzeros", &ints),
                ("scales", &scales),
                ("g_idx", &ints),
            ],
        ),
        (
            "AWQ",
            &[("qweight", &ints), ("qzeros", &ints), ("scales", &scales)],
        ),
        (
            "compressed-tensors",
            &[
                ("weight_packed", &ints),
                ("weight_scale", &scales),
                ("weight_shape", &ints),
            ],
        ),
        (
            "FP8",
            &[
                ("weight", &of(Dtype::F8_E4M3, &[8, 8])),
                ("weight_scale_inv", &norm),
            ],
        ),
    ] {
        let names: Vec<String> = tensors
            .iter()
            .map(|(end, _)| format!("{Q}.{end}"))
            .collect();
        let mut all = vec![("model.norm.weight", &norm)];
        all.extend(
            names
                .iter()
                .map(String::as_str)
                .zip(tensors.iter().map(|(_, t)| *t)),
        );
        scene.put("base.safetensors", &all);
        println!("{method}");
        scene.refused(&["base.safetensors", "a"], &[], &["quanti"]);
    }
}

/// Report 22: diffusers' folders name their weights otherwise.
#[test]
fn diffusers_folders_are_models() {
    let scene = scene("diffusers");
    let (weight, other) = (scene.random(&[8, 8]), scene.random(&[8, 4]));
    let target = "single_transformer_blocks.0.attn.to_q.weight";
    let shards = [1, 2].map(|n| format!("diffusion_pytorch_model-0000{n}-of-00002.safetensors"));
    let index = "diffusion_pytorch_model.safetensors.index.json";
    scene.shards(
        &format!("flux/transformer/{index}"),
        &[
            (&shards[0], &[(target, &weight)]),
            (&shards[1], &[("x_embedder.weight", &other)]),
        ],
    );
    scene.text(
        "flux/transformer/config.json",
        r#"{"_class_name": "FluxTransformer2DModel"}"#,
    );
    let lora = scene.pair(8, 8, 2);
    let names = ["A", "B"].map(|part| {
        format!("transformer.single_transformer_blocks.0.attn.to_q.lora_{part}.weight")
    });
    scene.put("pytorch_lora_weights.safetensors", &pair(&names, &lora));
    let inputs = ["flux/transformer", "pytorch_lora_weights.safetensors"];
    scene.merge(&inputs, "out", &["--scaling", "1"]);
    let expected = [(target, &merged(&weight, 1.0, &lora))];
    scene.assert_has(&format!("out/{}", shards[0]), &expected);
    scene.assert_has(
        &format!("out/{}", shards[1]),
        &[("x_embedder.weight", &other)],
    );
    let read = |folder: &str| std::fs::read(scene.path(folder).join(index)).unwrap();
    assert_eq!(read("flux/transformer"), read("out"));
}

/// Report 30: Hugging Face's cache, whose snapshots are links, and its root.
#[test]
fn the_cache_of_hugging_face_is_followed() {
    let scene = scene("cache");
    let weight = scene.random(&[8, 8]);
    scene.put("models--a--b/blobs/1111", &[(Q_WEIGHT, &weight)]);
    scene.text("models--a--b/blobs/2222", "{}");
    let snapshot = scene.path("models--a--b/snapshots/abc");
    std::fs::create_dir_all(&snapshot).unwrap();
    symlink("../../blobs/1111", snapshot.join("model.safetensors")).unwrap();
    symlink("../../blobs/2222", snapshot.join("config.json")).unwrap();
    let lora = scene.pair(8, 8, 2);
    scene.adapter("lora/blobs", json!({}), &pair(&peft(Q), &lora));
    let adapter = scene.path("lora/snapshots/def");
    std::fs::create_dir_all(&adapter).unwrap();
    for name in ["adapter_config.json", "adapter_model.safetensors"] {
        symlink(format!("../../blobs/{name}"), adapter.join(name)).unwrap();
    }
    for base in ["models--a--b/snapshots/abc", "models--a--b"] {
        scene.merge(&[base, "lora/snapshots/def"], "out", &[]);
        let expected = [(Q_WEIGHT, &merged(&weight, 2.0, &lora))];
        scene.assert_has("out/model.safetensors", &expected);
        assert!(scene.path("out/config.json").is_file());
        assert!(!scene.path("out/config.json").is_symlink());
    }
}

/// Report 31: pickles can run code, and are not read.
#[test]
fn pickles_are_refused_by_name() {
    let scene = scene("pickle");
    scene.put("base.safetensors", &[("q.weight", &scene.random(&[4, 4]))]);
    scene.adapter("a", json!({}), &[]);
    std::fs::remove_file(scene.path("a/adapter_model.safetensors")).unwrap();
    scene.text("a/adapter_model.bin", "PK\u{3}\u{4}");
    scene.refused(&["base.safetensors", "a"], &[], &["pickle"]);
}

/// Report 40: a tensor in two shards. The one that the index names counts.
#[test]
fn the_index_decides_between_two_copies_of_a_tensor() {
    let scene = scene("copies");
    let (q, embed) = (scene.random(&[8, 8]), scene.random(&[16, 8]));
    let shards = [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
    ];
    let (table, head) = ("model.embed_tokens.weight", "lm_head.weight");
    let first = [(table, &embed), (Q_WEIGHT, &q)];
    let index = "base/model.safetensors.index.json";
    scene.shards(
        index,
        &[(shards[0], &first), (shards[1], &[(head, &embed)])],
    );
    let second = [(head, &embed), (table, &embed)];
    scene.put(&format!("base/{}", shards[1]), &second);
    let lora = scene.pair(8, 8, 2);
    scene.adapter("a", json!({}), &pair(&peft(Q), &lora));
    scene.merge(&["base", "a"], "out", &[]);
    let expected = [(table, &embed), (Q_WEIGHT, &merged(&q, 2.0, &lora))];
    scene.assert_has(&format!("out/{}", shards[0]), &expected);
    scene.assert_has(&format!("out/{}", shards[1]), &second);
}
