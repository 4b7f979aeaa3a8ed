//! DoRA: each output's weights are normalised after B·A is added, and scaled by a magnitude.

use safetensors::Dtype;
use serde_json::json;

use super::{Tensors, assert_close, key, scene};
use crate::scene::Numbers;

/// magnitude · V / ‖V‖ for each row of V = W + scaling·B·A, in f64.
fn dora(weight: &Numbers, scaling: f64, (a, b): &(Numbers, Numbers), m: &Numbers) -> Numbers {
    let mut sum = weight.to(Dtype::F64).plus(scaling, &b.dot(a));
    let columns = sum.shape[1];
    for (row, magnitude) in sum.values.chunks_mut(columns).zip(&m.values) {
        let norm = row.iter().map(|v| v * v).sum::<f64>().sqrt();
        row.iter_mut().for_each(|v| *v *= magnitude / norm);
    }
    sum
}

fn with_magnitude(path: &str, pair: &(Numbers, Numbers), m: &Numbers) -> Tensors {
    Tensors::default()
        .lora(path, pair)
        .with(key(path, "lora_magnitude_vector"), m)
}

/// Each type of weight, also with another type of adapter.
#[test]
fn rows_are_normalised_and_scaled() {
    for (name, dtype) in [
        ("f32", Dtype::F32),
        ("bf16", Dtype::BF16),
        ("f16", Dtype::F16),
    ] {
        let scene = scene(&format!("dora_{name}"));
        let (w, pair, m) = (
            scene.random(&[6, 10]).to(dtype),
            scene.pair(6, 10, 2),
            scene.random(&[6]),
        );
        scene.put("base.safetensors", &[("q_proj.weight", &w)]);
        let tensors = with_magnitude("q_proj", &pair, &m);
        scene.adapter("a", json!({"use_dora": true}), &tensors.list());
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        let got = &scene.get("out.safetensors")["q_proj.weight"];
        assert_eq!(got.dtype, dtype);
        assert_close(got, &dora(&w, 2.0, &pair, &m));
    }
}

/// GPT-2's weights are (in_features, out_features): the norms are those of columns.
#[test]
fn transposed_weights_are_normalised_by_columns() {
    let scene = scene("dora_transposed");
    let (w, pair, m) = (
        scene.random(&[6, 9]),
        scene.pair(9, 6, 2),
        scene.random(&[9]),
    );
    scene.put("base.safetensors", &[("c_attn.weight", &w)]);
    let tensors = with_magnitude("c_attn", &pair, &m);
    let fields = json!({"use_dora": true, "fan_in_fan_out": true, "target_modules": ["c_attn"]});
    scene.adapter("a", fields, &tensors.list());
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let expected = dora(&w.transposed(), 2.0, &pair, &m).transposed();
    assert_close(&scene.get("out.safetensors")["c_attn.weight"], &expected);
}

/// PEFT normalises an embedding by its columns: lora_embedding_A is (rank, tokens) and
/// lora_embedding_B (columns, rank), and the magnitude has an element for each column.
#[test]
fn embeddings_are_normalised_by_columns() {
    let scene = scene("dora_embedding");
    let (w, pair, m) = (
        scene.random(&[11, 4]),
        scene.pair(4, 11, 2),
        scene.random(&[4]),
    );
    scene.put("base.safetensors", &[("embed.weight", &w)]);
    let tensors = Tensors::default()
        .with(key("embed", "lora_embedding_A"), &pair.0)
        .with(key("embed", "lora_embedding_B"), &pair.1)
        .with(key("embed", "lora_magnitude_vector.weight"), &m);
    let fields = json!({"use_dora": true, "target_modules": ["embed"]});
    scene.adapter("a", fields, &tensors.list());
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let expected = dora(&w.transposed(), 2.0, &pair, &m).transposed();
    assert_close(&scene.get("out.safetensors")["embed.weight"], &expected);
}

/// A convolution's kernel counts to its row; its magnitude is (1, out_features, 1, 1).
#[test]
fn convolutions_are_normalised_by_output() {
    let scene = scene("dora_convolution");
    let shaped = |numbers: &Numbers, shape: &[usize]| Numbers {
        shape: shape.to_vec(),
        ..numbers.clone()
    };
    let (w, pair, m) = (
        scene.random(&[5, 27]),
        scene.pair(5, 27, 2),
        scene.random(&[5]),
    );
    scene.put(
        "base.safetensors",
        &[("conv.weight", &shaped(&w, &[5, 3, 3, 3]))],
    );
    let convolved = (
        shaped(&pair.0, &[2, 3, 3, 3]),
        shaped(&pair.1, &[5, 2, 1, 1]),
    );
    let tensors = with_magnitude("conv", &convolved, &shaped(&m, &[1, 5, 1, 1]));
    let fields = json!({"use_dora": true, "target_modules": ["conv"]});
    scene.adapter("a", fields, &tensors.list());
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let expected = shaped(&dora(&w, 2.0, &pair, &m), &[5, 3, 3, 3]);
    assert_close(&scene.get("out.safetensors")["conv.weight"], &expected);
}

/// What isn't a matter of adding a matrix can't be scaled, mixed or taken out.
#[test]
fn what_dora_does_not_allow_is_refused() {
    let scene = scene("dora_refused");
    let (w, pair, m) = (
        scene.random(&[6, 10]),
        scene.pair(6, 10, 2),
        scene.random(&[6]),
    );
    scene.put("base.safetensors", &[("q_proj.weight", &w)]);
    let tensors = with_magnitude("q_proj", &pair, &m);
    scene.adapter("a", json!({"use_dora": true}), &tensors.list());
    let plain = Tensors::default().lora("q_proj", &pair);
    scene.adapter("plain", json!({}), &plain.list());
    scene.refused(
        &["base.safetensors", "a"],
        &["--weights", "0.5"],
        &["DoRA", "0.5", "q_proj"],
    );
    for inputs in [
        ["base.safetensors", "a", "plain"],
        ["base.safetensors", "plain", "a"],
    ] {
        scene.refused(&inputs, &[], &["q_proj.weight", "DoRA", "beside another"]);
    }
    let output = scene.program("unmerge", &["base.safetensors", "a"], "back", &[]);
    crate::common::assert_refused(&output, 2, &["can't be unmerged", "DoRA"]);
    // A magnitude that went missing, and one that the config doesn't know of.
    scene.adapter("a", json!({"use_dora": true}), &plain.list());
    scene.refused(
        &["base.safetensors", "a"],
        &[],
        &["use_dora", "lora_magnitude_vector", "q_proj"],
    );
    scene.adapter("a", json!({}), &tensors.list());
    scene.refused(
        &["base.safetensors", "a"],
        &[],
        &["use_dora", "magnitude", "q_proj"],
    );
}
