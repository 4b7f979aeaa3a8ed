//! Weights of several experts: PEFT's `target_parameters`, and stacked matrices.

use serde_json::{Value, json};

use super::{Tensors, scene};
use crate::scene::{Numbers, Scene};

const EXPERTS: &str = "model.layers.0.mlp.experts";
const GATE_UP: &str = "model.layers.0.mlp.experts.gate_up_proj";
const DOWN: &str = "model.layers.0.mlp.experts.down_proj";

/// lora_A (experts·rank, in_features) and lora_B (out_features, rank·experts) of a parameter.
#[derive(Clone)]
struct Adapted {
    experts: usize,
    rank: usize,
    a: Numbers,
    b: Numbers,
}

impl Adapted {
    fn new(scene: &Scene, experts: usize, out_features: usize, in_features: usize) -> Self {
        let rank = 2;
        Self {
            experts,
            rank,
            a: scene.random(&[experts * rank, in_features]),
            b: scene.random(&[out_features, rank * experts]),
        }
    }

    /// B·A of one expert: (out_features, in_features). PEFT: `einsum("o r e, e r i -> e o i")` of B
    /// as (out, r, E) and A as (E, r, in).
    fn delta(&self, expert: usize) -> Numbers {
        let (out, inputs) = (self.b.shape[0], self.a.shape[1]);
        let mut delta = Numbers::zeros(&[out, inputs]);
        for o in 0..out {
            for i in 0..inputs {
                for r in 0..self.rank {
                    let b = self.b.values[o * self.rank * self.experts + r * self.experts + expert];
                    let a = self.a.values[(expert * self.rank + r) * inputs + i];
                    delta.values[o * inputs + i] += a * b;
                }
            }
        }
        delta
    }

    /// The parameter (experts, rows, columns) with 2·B·A added.
    fn added_to(&self, parameter: &Numbers, transposed: bool) -> Numbers {
        let mut all = parameter.clone();
        let size = all.shape[1] * all.shape[2];
        for (expert, matrix) in all.values.chunks_mut(size).enumerate() {
            let delta = match transposed {
                true => self.delta(expert).transposed(),
                false => self.delta(expert),
            };
            for (value, delta) in matrix.iter_mut().zip(&delta.values) {
                *value += 2.0 * delta;
            }
        }
        all
    }
}

/// gate_up_proj is wrapped first, so its names have one `base_layer` more.
fn nested(gate_up: &Adapted, down: &Adapted) -> Tensors {
    Tensors::default()
        .lora(
            &format!("{EXPERTS}.base_layer"),
            &(gate_up.a.clone(), gate_up.b.clone()),
        )
        .lora(EXPERTS, &(down.a.clone(), down.b.clone()))
}

fn targets() -> Value {
    json!({
        "target_modules": [],
        "target_parameters": ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"],
    })
}

/// Qwen3's and Mixtral's in transformers are (experts, out, in); gpt-oss's and Llama 4's (experts,
/// in, out). Shapes tell.
#[test]
fn fused_experts_are_merged_both_ways_round() {
    for transposed in [false, true] {
        let scene = scene(&format!("experts_{transposed}"));
        let (experts, hidden, inner) = (3, 6, 5);
        let shaped = |out: usize, inputs: usize| match transposed {
            true => [experts, inputs, out],
            false => [experts, out, inputs],
        };
        let gate_up = scene.random(&shaped(2 * inner, hidden));
        let down = scene.random(&shaped(hidden, inner));
        scene.put("base.safetensors", &[(GATE_UP, &gate_up), (DOWN, &down)]);
        let of_gate_up = Adapted::new(&scene, experts, 2 * inner, hidden);
        let of_down = Adapted::new(&scene, experts, hidden, inner);
        scene.adapter("a", targets(), &nested(&of_gate_up, &of_down).list());
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        let results = (
            of_gate_up.added_to(&gate_up, transposed),
            of_down.added_to(&down, transposed),
        );
        let expected = [(GATE_UP, &results.0), (DOWN, &results.1)];
        scene.assert_has("out.safetensors", &expected);
        // And out again.
        let output = scene.program(
            "unmerge",
            &["out.safetensors", "a"],
            "back.safetensors",
            &[],
        );
        crate::common::assert_status(&output, 0);
        scene.assert_has("back.safetensors", &[(GATE_UP, &gate_up), (DOWN, &down)]);
    }
}

/// gpt-oss: the hidden and the intermediate size are equal, so down_proj is square. gate_up_proj
/// tells which way round both are, by the adapter's part in it or by the base's; else it is asked.
#[test]
fn square_parameters_follow_the_others() {
    let scene = scene("experts_square");
    let (experts, size) = (2, 4);
    let gate_up = scene.random(&[experts, size, 2 * size]);
    let down = scene.random(&[experts, size, size]);
    let base = [(GATE_UP, &gate_up), (DOWN, &down)];
    scene.put("base.safetensors", &base);
    let of_gate_up = Adapted::new(&scene, experts, 2 * size, size);
    let of_down = Adapted::new(&scene, experts, size, size);
    scene.adapter("a", targets(), &nested(&of_gate_up, &of_down).list());
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    let (new_gate_up, new_down) = (
        of_gate_up.added_to(&gate_up, true),
        of_down.added_to(&down, true),
    );
    scene.assert_has(
        "out.safetensors",
        &[(GATE_UP, &new_gate_up), (DOWN, &new_down)],
    );
    let alone = Tensors::default().lora(EXPERTS, &(of_down.a.clone(), of_down.b.clone()));
    let fields = json!({"target_modules": [], "target_parameters": ["mlp.experts.down_proj"]});
    scene.adapter("a", fields, &alone.list());
    scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
    scene.assert_has("out.safetensors", &[(GATE_UP, &gate_up), (DOWN, &new_down)]);
    // Stored the other way round, older and newer versions of PEFT differ in what they make of it.
    let gate_up = scene.random(&[experts, 2 * size, size]);
    for base in [&[(GATE_UP, &gate_up), (DOWN, &down)][..], &[(DOWN, &down)]] {
        scene.put("base.safetensors", base);
        scene.refused(
            &["base.safetensors", "a"],
            &[],
            &["down_proj", "--experts-transposed"],
        );
        for (answer, transposed) in [("yes", true), ("no", false)] {
            let more = ["--experts-transposed", answer];
            scene.merge(&["base.safetensors", "a"], "out.safetensors", &more);
            let result = of_down.added_to(&down, transposed);
            assert_eq!(scene.get("out.safetensors")[DOWN], result);
        }
    }
}

/// A router's matrix is (out, in) in every model, and doesn't tell how its experts are stored.
#[test]
fn a_single_matrix_does_not_decide_for_experts() {
    let scene = scene("experts_router");
    let (experts, size) = (2, 4);
    let router = scene.random(&[experts, size]);
    let down = scene.random(&[experts, size, size]);
    let router_name = "model.layers.0.mlp.router.weight";
    scene.put("base.safetensors", &[(router_name, &router), (DOWN, &down)]);
    let of_down = Adapted::new(&scene, experts, size, size);
    let pair = scene.pair(experts, size, 2);
    let tensors = Tensors::default()
        .lora("model.layers.0.mlp.router", &pair)
        .lora(EXPERTS, &(of_down.a.clone(), of_down.b.clone()));
    let fields = json!({
        "target_modules": [],
        "target_parameters": ["mlp.experts.down_proj", "mlp.router.weight"],
    });
    scene.adapter("a", fields, &tensors.list());
    let inputs = ["base.safetensors", "a"];
    scene.refused(&inputs, &[], &["down_proj", "--experts-transposed"]);
    scene.merge(&inputs, "out.safetensors", &["--experts-transposed", "yes"]);
    let results = (
        router.plus(2.0, &pair.1.dot(&pair.0)),
        of_down.added_to(&down, true),
    );
    let expected = [(router_name, &results.0), (DOWN, &results.1)];
    scene.assert_has("out.safetensors", &expected);
}

/// transformers fuses the experts of a checkpoint that has a tensor for each; the adapter's parts
/// are merged into those.
#[test]
fn fused_adapters_are_merged_into_separate_experts() {
    for (name, [gate, up, down]) in [
        ("qwen", ["gate_proj", "up_proj", "down_proj"]),
        ("mixtral", ["w1", "w3", "w2"]),
    ] {
        let scene = scene(&format!("experts_apart_{name}"));
        let (experts, hidden, inner) = (3, 6, 5);
        let of_gate_up = Adapted::new(&scene, experts, 2 * inner, hidden);
        let of_down = Adapted::new(&scene, experts, hidden, inner);
        scene.adapter("a", targets(), &nested(&of_gate_up, &of_down).list());
        let mut base = Tensors::default();
        let mut expected = Tensors::default();
        for expert in 0..experts {
            let delta = of_gate_up.delta(expert);
            let half = |from: usize| {
                let values = delta.values[from * hidden..(from + inner) * hidden].to_vec();
                Numbers {
                    values,
                    shape: vec![inner, hidden],
                    ..delta.clone()
                }
            };
            for (part, delta) in [
                (gate, half(0)),
                (up, half(inner)),
                (down, of_down.delta(expert)),
            ] {
                let weight = scene.random(&delta.shape);
                let name = format!("{EXPERTS}.{expert}.{part}.weight");
                base = base.with(&name, &weight);
                expected = expected.with(&name, &weight.plus(2.0, &delta));
            }
        }
        scene.put("base.safetensors", &base.list());
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        scene.assert_has("out.safetensors", &expected.list());
        // A base of more experts is another.
        let more = base
            .clone()
            .with(
                format!("{EXPERTS}.3.{gate}.weight"),
                &scene.random(&[inner, hidden]),
            )
            .with(
                format!("{EXPERTS}.3.{up}.weight"),
                &scene.random(&[inner, hidden]),
            )
            .with(
                format!("{EXPERTS}.3.{down}.weight"),
                &scene.random(&[hidden, inner]),
            );
        scene.put("base.safetensors", &more.list());
        scene.refused(
            &["base.safetensors", "a"],
            &[],
            &["more experts", "base model?"],
        );
    }
}

/// transformers calls a part of Mixtral's layers otherwise than its checkpoints do, and Granite's
/// experts otherwise.
#[test]
fn checkpoints_may_call_experts_otherwise() {
    let scene = scene("experts_renamed");
    let (experts, hidden, inner) = (2, 6, 5);
    let of_gate_up = Adapted::new(&scene, experts, 2 * inner, hidden);
    let of_down = Adapted::new(&scene, experts, hidden, inner);
    scene.adapter("a", targets(), &nested(&of_gate_up, &of_down).list());
    let gate_up = scene.random(&[experts, 2 * inner, hidden]);
    let down = scene.random(&[experts, hidden, inner]);
    let results = (
        of_gate_up.added_to(&gate_up, false),
        of_down.added_to(&down, false),
    );
    for (first, second) in [
        (
            "block_sparse_moe.experts.gate_up_proj",
            "block_sparse_moe.experts.down_proj",
        ),
        ("mlp.input_linear.weight", "mlp.output_linear.weight"),
    ] {
        let [first, second] = [first, second].map(|name| format!("model.layers.0.{name}"));
        scene.put("base.safetensors", &[(&first, &gate_up), (&second, &down)]);
        let text = scene.printed(&["base.safetensors", "a"], "out.safetensors", &[]);
        scene.assert_has(
            "out.safetensors",
            &[(&first, &results.0), (&second, &results.1)],
        );
        let renamed = [
            "mlp=block_sparse_moe",
            "experts.down_proj=output_linear.weight",
        ];
        assert!(
            renamed.iter().any(|renamed| text.contains(renamed)),
            "{text}"
        );
    }
}

/// Matrices of one kind in one tensor: lora_A (experts, rank, in), lora_B (experts, out, rank). The
/// base has them in a parameter, in a layer's weight, or one by one.
#[test]
fn stacked_matrices_are_merged_expert_by_expert() {
    let (experts, out, inputs) = (3, 5, 6);
    for place in ["parameter", "weight", "transposed", "apart"] {
        let scene = scene(&format!("stacked_{place}"));
        let (a, b) = (
            scene.random(&[experts, 2, inputs]),
            scene.random(&[experts, out, 2]),
        );
        let part = |of: &Numbers, expert: usize| {
            let size = of.values.len() / experts;
            let values = of.values[expert * size..(expert + 1) * size].to_vec();
            Numbers {
                values,
                shape: of.shape[1..].to_vec(),
                ..of.clone()
            }
        };
        let tensors =
            Tensors::default().lora(&format!("{EXPERTS}.up_proj"), &(a.clone(), b.clone()));
        scene.adapter("a", json!({"target_modules": ["up_proj"]}), &tensors.list());
        let deltas: Vec<Numbers> = (0..experts)
            .map(|expert| part(&b, expert).dot(&part(&a, expert)))
            .collect();
        let (mut base, mut expected) = (Tensors::default(), Tensors::default());
        if place == "apart" {
            for (expert, delta) in deltas.iter().enumerate() {
                let weight = scene.random(&[out, inputs]);
                let name = format!("{EXPERTS}.{expert}.up_proj.weight");
                base = base.with(&name, &weight);
                expected = expected.with(&name, &weight.plus(2.0, delta));
            }
        } else {
            let (name, transposed) = match place {
                "weight" => (format!("{EXPERTS}.up_proj.weight"), false),
                other => (format!("{EXPERTS}.up_proj"), other == "transposed"),
            };
            let shape = match transposed {
                true => [experts, inputs, out],
                false => [experts, out, inputs],
            };
            let weight = scene.random(&shape);
            let mut result = weight.clone();
            for (matrix, delta) in result.values.chunks_mut(out * inputs).zip(&deltas) {
                let delta = if transposed {
                    delta.transposed()
                } else {
                    delta.clone()
                };
                for (value, delta) in matrix.iter_mut().zip(&delta.values) {
                    *value += 2.0 * delta;
                }
            }
            base = base.with(&name, &weight);
            expected = expected.with(&name, &result);
        }
        scene.put("base.safetensors", &base.list());
        scene.merge(&["base.safetensors", "a"], "out.safetensors", &[]);
        scene.assert_has("out.safetensors", &expected.list());
    }
}

/// A stack of square matrices is asked about.
#[test]
fn square_stacks_are_asked_about() {
    let scene = scene("stacked_square");
    let pair = (scene.random(&[2, 2, 4]), scene.random(&[2, 4, 2]));
    let name = format!("{EXPERTS}.up_proj");
    let tensors = Tensors::default().lora(&name, &pair);
    scene.adapter("a", json!({"target_modules": ["up_proj"]}), &tensors.list());
    let weight = scene.random(&[2, 4, 4]);
    scene.put("base.safetensors", &[(&name, &weight)]);
    let inputs = ["base.safetensors", "a"];
    scene.refused(&inputs, &[], &[&name, "--experts-transposed"]);
    let results = ["yes", "no"].map(|answer| {
        scene.merge(
            &inputs,
            "out.safetensors",
            &["--experts-transposed", answer],
        );
        scene.get("out.safetensors")[&name].clone()
    });
    for (expert, range) in [(0, 0..16), (1, 16..32)] {
        let part = |of: &Numbers| Numbers {
            values: of.values[8 * expert..8 * expert + 8].to_vec(),
            shape: of.shape[1..].to_vec(),
            ..of.clone()
        };
        let delta = part(&pair.1).dot(&part(&pair.0));
        for (result, delta) in results.iter().zip([delta.transposed(), delta]) {
            let before = weight.values[range.clone()].iter();
            let expected = before.zip(&delta.values).map(|(w, d)| w + 2.0 * d);
            assert_eq!(result.values[range.clone()], expected.collect::<Vec<_>>());
        }
    }
}

/// What isn't the base's, or can't be told apart.
#[test]
fn parameters_that_do_not_fit_are_refused() {
    let scene = scene("experts_refused");
    let of_gate_up = Adapted::new(&scene, 3, 10, 6);
    let of_down = Adapted::new(&scene, 3, 6, 5);
    scene.adapter("a", targets(), &nested(&of_gate_up, &of_down).list());
    let refused = |gate_up: &[usize], down: &[usize], fragments: &[&str]| {
        let (gate_up, down) = (scene.random(gate_up), scene.random(down));
        scene.put("base.safetensors", &[(GATE_UP, &gate_up), (DOWN, &down)]);
        scene.refused(&["base.safetensors", "a"], &[], fragments);
    };
    refused(
        &[4, 10, 6],
        &[4, 6, 5],
        &["3 experts", "gate_up_proj", "base model?"],
    );
    refused(
        &[3, 10, 7],
        &[3, 7, 5],
        &["6 in_features", "10 out_features"],
    );
    // gate_up_proj and down_proj of one shape.
    refused(
        &[3, 10, 6],
        &[3, 10, 6],
        &["more than one parameter", "gate_up_proj", "down_proj"],
    );
    scene.put(
        "base.safetensors",
        &[(
            "model.layers.0.mlp.experts.other",
            &scene.random(&[3, 10, 6]),
        )],
    );
    scene.refused(
        &["base.safetensors", "a"],
        &[],
        &["gate_up_proj", "not in the base model"],
    );
}
