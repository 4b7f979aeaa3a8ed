//! Inputs that could be merged wrongly without an error.

use lora_kernels_adapters::output::Overwrite;
use lora_kernels_adapters::{Adapter, DType, PeftConfig, PeftWriter, ReadOptions, TensorFile};

use super::model::{adapter, write};
use super::{command, folder, merge};
use crate::common::{assert_refused, assert_status};

/// GPT-2's `Conv1D` beside a linear head: PEFT saves the `fan_in_fan_out` of the last layer.
#[test]
fn square_weights_are_transposed_only_where_all_agree() {
    let folder = folder("square");
    let (base, out) = (
        folder.join("base.safetensors"),
        folder.join("out.safetensors"),
    );
    let square: (&str, &[usize]) = ("h.attn.c_proj.weight", &[7, 7]);
    let other: (&str, &[usize]) = ("h.mlp.c_proj.weight", &[9, 7]);
    let config = |flag: &str| {
        let config = PeftConfig::new(3, 4.0, &["c_proj"]).unwrap();
        config.with_field("fan_in_fan_out", flag).unwrap()
    };
    let modules = [("h.attn.c_proj", 3, 7, 7), ("h.mlp.c_proj", 3, 9, 7)];
    write(&base, DType::F32, &[square, other]);
    let both = adapter(
        &folder.join("both"),
        DType::F32,
        1,
        config("false"),
        &modules,
    );
    let refused = |adapter, fragments: &[&str]| {
        assert_refused(&merge(&base, &[adapter], &out, &[]), 2, fragments);
    };
    refused(
        &both,
        &[
            "h.attn.c_proj",
            "h.mlp.c_proj.weight is transposed",
            "--fan-in-fan-out",
        ],
    );
    let bytes = |arguments: &[&str]| {
        assert_status(
            &merge(&base, &[&both], &out, &[&["--force"], arguments].concat()),
            0,
        );
        std::fs::read(&out).unwrap()
    };
    let (yes, no) = (
        bytes(&["--fan-in-fan-out", "yes"]),
        bytes(&["--fan-in-fan-out", "no"]),
    );
    assert!(yes != no);
    adapter(
        &folder.join("both"),
        DType::F32,
        1,
        config("true"),
        &modules,
    );
    assert!(bytes(&[]) == yes);
    // A bias in the base model shows the layout too.
    std::fs::remove_file(&out).unwrap();
    let alone = adapter(
        &folder.join("alone"),
        DType::F32,
        1,
        config("false"),
        &modules[..1],
    );
    write(
        &base,
        DType::F32,
        &[
            square,
            ("h.c_attn.weight", &[7, 21]),
            ("h.c_attn.bias", &[21]),
        ],
    );
    refused(&alone, &["h.c_attn.weight is transposed"]);
    // A linear weight that is not square and contradicts the flag, which says transposed.
    let linear = adapter(
        &folder.join("alone"),
        DType::F32,
        1,
        config("true"),
        &[modules[0], ("head", 3, 7, 11)],
    );
    write(&base, DType::F32, &[square, ("head.weight", &[11, 7])]);
    refused(&linear, &["head.weight is not transposed"]);
}

/// With `save_embedding_layers`, PEFT saves an adapted head together with its base weight.
#[test]
fn a_base_weight_beside_its_adapter_must_be_the_bases() {
    let folder = folder("base_weight");
    let [base, out, back] =
        ["base", "out", "back"].map(|name| folder.join(name).with_extension("safetensors"));
    write(&base, DType::BF16, &[("lm_head.weight", &[11, 7])]);
    let config = PeftConfig::new(3, 4.0, &["lm_head"]).unwrap();
    let plain = adapter(
        &folder.join("plain"),
        DType::F32,
        1,
        config,
        &[("lm_head", 3, 7, 11)],
    );
    let plain_read = Adapter::read(&plain, &ReadOptions::default()).unwrap();
    let with = |name: &str, weights: &std::path::Path| {
        let file = TensorFile::open(weights).unwrap();
        let mut writer = PeftWriter::from_adapter(&plain_read).unwrap();
        let weight = file.tensor("lm_head.weight").unwrap();
        writer
            .tensor("base_model.model.lm_head.base_layer.weight", weight)
            .unwrap();
        writer
            .write(&folder.join(name), Overwrite::Replace)
            .unwrap();
        folder.join(name)
    };
    let same = with("same", &base);
    assert_status(&merge(&base, &[&plain], &out, &[]), 0);
    let expected = std::fs::read(&out).unwrap();
    assert_status(&merge(&base, &[&same], &out, &["--force"]), 0);
    assert!(std::fs::read(&out).unwrap() == expected);
    assert_status(
        &command("unmerge", &out, &[&same], &back).output().unwrap(),
        0,
    );
    assert_status(
        &merge(
            &base,
            &[&same, &same],
            &out,
            &["--force", "--weights", "0.5,0.25"],
        ),
        0,
    );
    // The saved weight is in f32; rounded to bf16 it equals the base's, or doesn't.
    let wide = folder.join("wide.safetensors");
    write(&wide, DType::F32, &[("lm_head.weight", &[11, 7])]);
    assert_status(
        &merge(&base, &[&with("wide", &wide)], &out, &["--force"]),
        0,
    );
    write(
        &wide,
        DType::F32,
        &[("x", &[1]), ("lm_head.weight", &[11, 7])],
    );
    let refused = merge(&base, &[&with("other", &wide)], &out, &["--force"]);
    assert_refused(&refused, 2, &["lm_head.weight", "resized", "another base"]);
}

/// A model that ties its head to its embeddings stores no head.
#[test]
fn a_head_added_to_a_model_that_may_tie_it_is_warned_of() {
    let folder = folder("tied");
    let (base, out) = (folder.join("base"), folder.join("out"));
    super::model::sharded(&base, DType::F32, &[&[("a.q.weight", &[5, 7])]]);
    let config = PeftConfig::new(3, 4.0, &["q"]).unwrap();
    let plain = adapter(
        &folder.join("plain"),
        DType::F32,
        1,
        config,
        &[("a.q", 3, 7, 5)],
    );
    let plain = Adapter::read(&plain, &ReadOptions::default()).unwrap();
    let mut writer = PeftWriter::from_adapter(&plain).unwrap();
    let head = lora_kernels_adapters::Tensor::new(DType::F32, &[2, 3], &[0; 24]);
    writer
        .tensor("base_model.model.lm_head.weight", head)
        .unwrap();
    let with_head = folder.join("head");
    writer.write(&with_head, Overwrite::Never).unwrap();
    for (config, warned) in [
        ("{}", true),
        (r#"{"tie_word_embeddings": true}"#, true),
        (r#"{"tie_word_embeddings": false}"#, false),
    ] {
        std::fs::write(base.join("config.json"), config).unwrap();
        let output = merge(&base, &[&with_head], &out, &["--force"]);
        assert_status(&output, 0);
        let text = crate::common::stdout(&output);
        assert_eq!(
            text.contains("warning: lm_head.weight"),
            warned,
            "{config}: {text}"
        );
    }
}
