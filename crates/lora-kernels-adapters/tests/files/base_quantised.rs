//! Quantised bases are recognised by their tensors and by their config.

use std::path::Path;

use lora_kernels_adapters::BaseModel;
use serde_json::{Value, json};

use crate::made::Tensors;

const PATH: &str = "model.layers.0.q_proj";

/// A model with a norm, and these tensors of one layer: ending, type and shape.
fn base(folder: &Path, layer: &[(&str, &'static str, &[usize])], config: &Value) -> BaseModel {
    let norm = Tensors::default().typed("model.norm.weight", "BF16", &[8]);
    let all = layer.iter().fold(norm, |all, (ending, dtype, shape)| {
        all.typed(&format!("{PATH}{ending}"), dtype, shape)
    });
    all.write(&folder.join("model.safetensors"));
    std::fs::write(folder.join("config.json"), config.to_string()).unwrap();
    BaseModel::open(folder).unwrap()
}

#[test]
fn methods_are_recognised_by_their_tensors() {
    type Layer = &'static [(&'static str, &'static str, &'static [usize])];
    let cases: [(&str, Layer); 17] = [
        (
            "GPTQ",
            &[
                (".qweight", "I32", &[1, 8]),
                (".qzeros", "I32", &[1, 1]),
                (".scales", "F16", &[1, 8]),
            ],
        ),
        (
            "GPTQ",
            &[(".qweight", "I32", &[1, 8]), (".g_idx", "I32", &[8])],
        ),
        (
            "AWQ",
            &[
                (".qweight", "I32", &[8, 1]),
                (".qzeros", "I32", &[1, 1]),
                (".scales", "F16", &[1, 8]),
            ],
        ),
        (
            "bitsandbytes (4 bit)",
            &[(".weight", "U8", &[32, 1]), (".weight.absmax", "F32", &[1])],
        ),
        (
            "bitsandbytes (4 bit)",
            &[
                (".weight", "U8", &[32, 1]),
                (".weight.quant_state.bitsandbytes__nf4", "U8", &[9]),
            ],
        ),
        (
            "bitsandbytes (8 bit)",
            &[(".weight", "I8", &[8, 8]), (".SCB", "F32", &[8])],
        ),
        (
            "compressed-tensors",
            &[
                (".weight_packed", "I32", &[8, 1]),
                (".weight_scale", "BF16", &[8, 1]),
            ],
        ),
        (
            "compressed-tensors (8 bit)",
            &[
                (".weight", "I8", &[8, 8]),
                (".weight_scale", "BF16", &[8, 1]),
            ],
        ),
        (
            "FP8 (blocks with weight_scale_inv)",
            &[
                (".weight", "F8_E4M3", &[8, 8]),
                (".weight_scale_inv", "F32", &[1, 1]),
            ],
        ),
        ("FP8", &[(".weight", "F8_E4M3", &[8, 8])]),
        ("FP8", &[(".weight", "F8_E5M2", &[8, 8])]),
        (
            "NVFP4",
            &[
                (".weight", "U8", &[8, 4]),
                (".weight_scale", "F8_E4M3", &[8, 1]),
                (".weight_scale_2", "F32", &[]),
            ],
        ),
        ("HQQ", &[(".W_q", "U8", &[4, 8]), (".meta", "F32", &[1])]),
        (
            "AQLM",
            &[(".codes", "I8", &[8, 1, 1]), (".codebooks", "F16", &[1, 2])],
        ),
        (
            "EETQ (8 bit)",
            &[(".weight", "I8", &[8, 8]), (".weight_scales", "F16", &[8])],
        ),
        (
            "MLX",
            &[
                (".weight", "U32", &[8, 1]),
                (".scales", "BF16", &[8, 1]),
                (".biases", "BF16", &[8, 1]),
            ],
        ),
        (
            "a method that isn't known (I8)",
            &[(".weight", "I8", &[8, 8])],
        ),
    ];
    let folder = tempfile::tempdir().unwrap();
    for (method, layer) in cases {
        let base = base(folder.path(), layer, &json!({}));
        let weight = format!("{PATH}.weight");
        let found = base.quantised(&weight).expect(method);
        assert_eq!(found.method(), method);
        assert_eq!(base.quantisation().unwrap().method(), method);
        assert!(
            found.way_out().contains("unquantised"),
            "{}",
            found.way_out()
        );
        // The norm is in bf16, and can be merged.
        assert_eq!(base.quantised("model.norm.weight"), None);
        assert_eq!(base.quantised("model.layers.1.q_proj.weight"), None);
        // A weight under another name is found by its own.
        let stored: Vec<_> = base.quantised_weights().map(|(name, _)| name).collect();
        let has_weight = layer.iter().any(|(ending, ..)| *ending == ".weight");
        let expected = if has_weight {
            vec![]
        } else {
            vec![weight.as_str()]
        };
        assert_eq!(stored, expected, "{method}");
    }
}

/// gpt-oss: the experts of a layer are one parameter without `.weight`.
#[test]
fn experts_in_mxfp4_are_found_by_their_parameter() {
    let folder = tempfile::tempdir().unwrap();
    let blocks = [
        (".experts.down_proj_blocks", "U8", &[2, 8, 1, 16][..]),
        (".experts.down_proj_scales", "U8", &[2, 8, 1]),
        (".attn_blocks", "F32", &[2]),
    ];
    let base = base(folder.path(), &blocks, &json!({}));
    let name = format!("{PATH}.experts.down_proj");
    assert_eq!(base.quantised(&name).unwrap().method(), "MXFP4");
    // Blocks without scales are no quantised weight.
    let stored: Vec<_> = base.quantised_weights().collect();
    let tensor = format!("{name}_blocks");
    assert_eq!(stored, [(name.as_str(), tensor.as_str())]);
}

#[test]
fn a_config_names_the_method_its_bits_and_the_original() {
    let layer = [
        (".qweight", "I32", &[1, 8][..]),
        (".scales", "F16", &[1, 8]),
    ];
    let folder = tempfile::tempdir().unwrap();
    let of = |config: Value| {
        let base = base(folder.path(), &layer, &config);
        base.quantisation().unwrap()
    };
    let nested = |config: Value| json!({"quantization_config": config});
    for (config, method) in [
        (
            nested(json!({"quant_method": "gptq", "bits": 4})),
            "GPTQ (4 bit)",
        ),
        (
            nested(json!({"quant_method": "awq", "w_bit": 4})),
            "AWQ (4 bit)",
        ),
        (
            nested(json!({"quant_method": "bitsandbytes", "load_in_4bit": true})),
            "bitsandbytes (4 bit)",
        ),
        (
            nested(json!({"load_in_8bit": true, "llm_int8_threshold": 6.0})),
            "bitsandbytes (8 bit)",
        ),
        (
            nested(json!({"quant_method": "fp8", "weight_block_size": [128, 128]})),
            "FP8",
        ),
        (
            nested(json!({"quant_method": "compressed-tensors", "format": "pack-quantized"})),
            "compressed-tensors (pack-quantized)",
        ),
        (nested(json!({"quant_method": "mxfp4"})), "MXFP4"),
        (nested(json!({"quant_method": "newest"})), "newest"),
        (nested(json!({})), "a method that its config doesn't name"),
        (
            json!({"quantization": {"group_size": 64, "bits": 4}}),
            "MLX (4 bit)",
        ),
        (
            json!({"text_config": nested(json!({"quant_method": "torchao"}))}),
            "torchao",
        ),
        (json!({"quantization_config": null}), "GPTQ"),
    ] {
        assert_eq!(of(config.clone()).method(), method, "{config}");
    }
    let named = |name: &str| {
        let config =
            json!({"_name_or_path": name, "quantization_config": {"quant_method": "gptq"}});
        of(config).original().map(str::to_owned)
    };
    assert_eq!(
        named("meta-llama/Llama-2-7b-hf").as_deref(),
        Some("meta-llama/Llama-2-7b-hf")
    );
    // A folder of whoever made it, and the quantised model itself.
    for name in [
        "/data/llama",
        "./a/b",
        "me/Llama-2-7B-GPTQ",
        "",
        "a/b/c",
        "../x",
        "a b/c",
    ] {
        assert_eq!(named(name), None, "{name}");
    }
    let quantisation = of(json!({"_name_or_path": "me/model"}));
    assert!(quantisation.way_out().contains("me/model"));
}

/// Methods come up all the time, and each has names of its own.
#[test]
fn a_weight_in_tensors_of_unknown_names_is_quantised_if_the_config_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let layer = [(".indices", "I32", &[1, 8][..]), (".bias", "F16", &[8])];
    let config = json!({"quantization_config": {"quant_method": "vptq"}});
    let weight = format!("{PATH}.weight");
    let told = base(folder.path(), &layer, &config);
    assert_eq!(told.quantised(&weight).unwrap().method(), "VPTQ");
    for absent in [
        "model.layers.1.q_proj.weight",
        "lm_head.weight",
        "weight",
        "model.norm",
    ] {
        assert_eq!(told.quantised(absent), None, "{absent}");
    }
    // A bias alone is no weight, and without a config there is nothing that tells.
    let bias = [(".bias", "F16", &[8][..])];
    assert_eq!(base(folder.path(), &bias, &config).quantised(&weight), None);
    assert_eq!(
        base(folder.path(), &layer, &json!({})).quantised(&weight),
        None
    );
}

/// A config that tells of quantisation while training in 4 bit says nothing about these weights.
#[test]
fn weights_of_floats_are_not_quantised_whatever_the_config_says() {
    let folder = tempfile::tempdir().unwrap();
    let config =
        json!({"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": true}});
    for dtype in ["F16", "BF16", "F32", "F64"] {
        let base = base(folder.path(), &[(".weight", dtype, &[8, 8])], &config);
        assert_eq!(base.quantised(&format!("{PATH}.weight")), None, "{dtype}");
        assert!(base.quantisation().is_some());
    }
    let plain = base(folder.path(), &[(".weight", "BF16", &[8, 8])], &json!({}));
    assert_eq!(plain.quantisation(), None);
}
