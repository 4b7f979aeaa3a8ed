//! Types, roundings, and numbers that are none.

use safetensors::Dtype;
use serde_json::json;

use super::{merged, pair, peft, scene};
use crate::common::{assert_refused, assert_status};
use crate::scene::Numbers;

/// Report 19: adapters of several ranks and types, with negative weights and rsLoRA.
#[test]
fn adapters_are_weighed_without_cross_terms() {
    let scene = scene("weights");
    let weight = scene.random(&[12, 12]);
    scene.put("base.safetensors", &[("q.weight", &weight)]);
    let loras = [(2, Dtype::F32), (4, Dtype::F16), (16, Dtype::BF16)].map(|(rank, dtype)| {
        let (a, b) = scene.pair(12, 12, rank);
        (a.to(dtype), b.to(dtype))
    });
    let fields = [
        json!({"r": 2, "lora_alpha": 4}),
        json!({"r": 4, "lora_alpha": 8, "use_rslora": true}),
        json!({"r": 16, "lora_alpha": 16}),
    ];
    for (name, (lora, fields)) in ["one", "two", "three"].iter().zip(loras.iter().zip(fields)) {
        scene.adapter(name, fields, &pair(&peft("q"), lora));
    }
    let inputs = ["base.safetensors", "one", "two", "three"];
    scene.merge(
        &inputs,
        "out.safetensors",
        &["--weights", "0.75,-1.5,-0.25"],
    );
    let mut expected = weight.to(Dtype::F64);
    for (factor, (a, b)) in [1.5, -6.0, -0.25].into_iter().zip(&loras) {
        expected = expected.plus(factor, &b.dot(a));
    }
    scene.assert_has("out.safetensors", &[("q.weight", &expected.to(Dtype::F32))]);
    scene.merge(
        &["base.safetensors", "one"],
        "out.safetensors",
        &["--weights", "-1"],
    );
    let expected = merged(&weight, -2.0, &loras[0]);
    scene.assert_has("out.safetensors", &[("q.weight", &expected)]);
    // A list that begins with a negative weight is no option.
    scene.merge(
        &["base.safetensors", "one", "one"],
        "twice.safetensors",
        &["--weights", "-0.5,-0.5"],
    );
    scene.assert_has("twice.safetensors", &[("q.weight", &expected)]);
}

/// Report 20: the sum is rounded to bf16 once, and taken out again within two roundings.
#[test]
fn bf16_is_rounded_once() {
    let scene = scene("bf16");
    let weight = scene.random(&[24, 40]).to(Dtype::BF16);
    scene.put("base.safetensors", &[("q.weight", &weight)]);
    for dtype in [Dtype::F32, Dtype::BF16] {
        let (a, b) = scene.pair(24, 40, 16);
        let lora = (a.to(dtype), b.to(dtype));
        scene.adapter(
            "a",
            json!({"r": 16, "lora_alpha": 1}),
            &pair(&peft("q"), &lora),
        );
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        let expected = merged(&weight, 1.0 / 16.0, &lora);
        scene.assert_has("out.safetensors", &[("q.weight", &expected)]);
        let back = scene.program(
            "unmerge",
            &["out.safetensors", "a"],
            "back.safetensors",
            &[],
        );
        assert_status(&back, 0);
        let back = &scene.get("back.safetensors")["q.weight"];
        let sums = expected.values.iter().zip(&weight.values).zip(&back.values);
        for ((merged, before), after) in sums {
            // A number's rounding to bf16's 8 bits is at most 2⁻⁸ of it.
            let bound = (merged.abs() + before.abs() + after.abs()) / 256.0;
            assert!((before - after).abs() <= bound, "{after}, not {before}");
        }
    }
}

/// Report 39: adapters in f64, and pairs of two types.
#[test]
fn f64_and_pairs_of_two_types_are_merged() {
    let scene = scene("types");
    let weight = scene.random(&[8, 8]);
    scene.put("base.safetensors", &[("q.weight", &weight)]);
    for (first, second) in [
        (Dtype::F64, Dtype::F64),
        (Dtype::F32, Dtype::BF16),
        (Dtype::F16, Dtype::F32),
        (Dtype::BF16, Dtype::F64),
    ] {
        let (a, b) = scene.pair(8, 8, 2);
        let lora = (a.to(first), b.to(second));
        scene.adapter("a", json!({}), &pair(&peft("q"), &lora));
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        let expected = merged(&weight, 2.0, &lora);
        scene.assert_has("out.safetensors", &[("q.weight", &expected)]);
    }
}

/// Report 29: NaN from training, infinities, and sums that f16 can't hold.
#[test]
fn what_is_not_finite_is_written_only_if_asked_for() {
    let scene = scene("finite");
    let of = |dtype, shape: &[usize], value| {
        Numbers::new(dtype, shape, vec![value; shape.iter().product()])
    };
    for (what, weight, a, b) in [
        ("NaN in lora_A", of(Dtype::F32, &[8, 8], 1.0), f64::NAN, 1.0),
        (
            "infinite lora_B",
            of(Dtype::F32, &[8, 8], 1.0),
            1.0,
            f64::INFINITY,
        ),
        (
            "f16 overflows",
            of(Dtype::F16, &[8, 8], 65000.0),
            40.0,
            40.0,
        ),
        (
            "NaN in the base",
            of(Dtype::F32, &[8, 8], f64::NAN),
            1.0,
            1.0,
        ),
    ] {
        scene.put("base.safetensors", &[("q_proj.weight", &weight)]);
        let lora = (of(Dtype::F32, &[2, 8], a), of(Dtype::F32, &[8, 2], b));
        scene.adapter("a", json!({}), &pair(&peft("q_proj"), &lora));
        let merge = |more: &[&str]| {
            scene.program("merge", &["base.safetensors", "a"], "out.safetensors", more)
        };
        assert_refused(&merge(&[]), 1, &["q_proj", "--allow-non-finite"]);
        assert!(!scene.path("out.safetensors").exists(), "{what}");
        assert_status(&merge(&["--allow-non-finite"]), 0);
        std::fs::remove_file(scene.path("out.safetensors")).unwrap();
    }
}

/// Report 45: a model's other tensors, of any type, shape and name.
#[test]
fn other_tensors_pass_through() {
    let scene = scene("others");
    let weight = scene.random(&[8, 8]);
    let others = [
        ("empty", Numbers::zeros(&[0, 4])),
        ("scalar", Numbers::new(Dtype::I64, &[], vec![3.0])),
        (
            "position_ids",
            Numbers::new(Dtype::I64, &[3], vec![0.0, 1.0, 2.0]),
        ),
        ("ü \"x\"", scene.random(&[2])),
        (
            "scale",
            Numbers::new(Dtype::F8_E4M3, &[3], vec![1.0, 200.0, 255.0]),
        ),
        ("half", scene.random(&[3]).to(Dtype::F16)),
    ];
    let mut tensors: Vec<_> = others
        .iter()
        .map(|(name, numbers)| (*name, numbers))
        .collect();
    tensors.push(("q.weight", &weight));
    let metadata = [("format", "pt"), ("note", "a\nb")];
    scene.put_with("base.safetensors", &tensors, &metadata);
    let lora = scene.pair(8, 8, 2);
    scene.adapter("a", json!({}), &pair(&peft("q"), &lora));
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let result = merged(&weight, 2.0, &lora);
    tensors.pop();
    tensors.push(("q.weight", &result));
    scene.assert_has("out.safetensors", &tensors);
    let header = |name| {
        let bytes = std::fs::read(scene.path(name)).unwrap();
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        bytes[..8 + length].to_vec()
    };
    assert_eq!(header("base.safetensors"), header("out.safetensors"));
}
