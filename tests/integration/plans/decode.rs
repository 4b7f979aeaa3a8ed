//! Plans of forwards for inference that take one launch.

use std::fmt::Write;

use lora_kernels::{
    DType, DeviceProps, ForwardPlan, Layout, Problem, Projection, Role, RowAdapters,
};

use super::models::{self, ModelLayer};

const TOKENS: [usize; 4] = [1, 4, 16, 64];
/// Mistral-7B has the layers of Llama-3-8B.
const MODELS: [&str; 4] = ["Llama-2-7B", "Llama-3-8B", "Qwen2.5-7B", "Gemma-2-9b"];

/// The least part of the device's places that is to be busy.
const EVEN: f64 = 0.95;
/// With so few steps for each place, one step more of some is a larger part than that.
const FEW_STEPS: f64 = 20.0;

fn problem(layer: &ModelLayer, tokens: usize) -> Problem {
    let projections: Vec<_> = { layer.outputs.iter() }
        .map(|&out_features| Projection {
            out_features,
            rank: 16,
        })
        .collect();
    let problem = Problem::sharing_x(tokens, layer.input, &projections, DType::BF16);
    problem.expect("a layer of a model").with_inference(true)
}

fn devices() -> [(&'static str, DeviceProps); 4] {
    [
        ("a100", DeviceProps::a100()),
        ("rtx4090", DeviceProps::rtx4090()),
        ("h100", DeviceProps::h100()),
        ("h200", DeviceProps::h200()),
    ]
}

/// The layers of these models, and each projection of them alone.
fn layers() -> Vec<ModelLayer> {
    let mut layers: Vec<ModelLayer> = Vec::new();
    let of_models = { models::all().into_iter() }.filter(|layer| MODELS.contains(&layer.model()));
    for layer in of_models {
        let alone = { layer.outputs.iter() }
            .map(|&output| ModelLayer::new(layer.model(), layer.input, &[output]));
        for layer in alone.chain([layer.clone()]) {
            if !layers.contains(&layer) {
                layers.push(layer);
            }
        }
    }
    layers
}

/// Every place of the device has as many steps of the weight as the others, to 95 %, or so few that
/// a single step is more than the other 5 %.
#[test]
fn the_weight_is_shared_out_evenly() {
    let layers = layers();
    assert!(layers.len() > 20, "{}", layers.len());
    for (name, device) in devices() {
        for layer in &layers {
            for tokens in TOKENS {
                let problem = problem(layer, tokens);
                let plan = ForwardPlan::new(&problem, &device).expect("a plan");
                let [launch] = plan.launches() else {
                    panic!("{plan}")
                };
                let efficiency = plan.wave_efficiency().expect("one launch");
                let (_, rows) = launch.variant.block();
                let tiles: usize = { layer.outputs.iter() }
                    .map(|output| output.div_ceil(rows))
                    .sum();
                let steps = tiles * layer.input.div_ceil(launch.variant.tile.depth);
                let each = steps as f64 / f64::from(launch.blocks);
                assert!(
                    efficiency >= EVEN || each < FEW_STEPS,
                    "{efficiency} with {each} steps on {name}: {plan}"
                );
                let least = each / each.ceil();
                assert!(efficiency >= least - 1e-9, "{efficiency} on {name}: {plan}");
            }
        }
    }
}

/// One line for each layer: a change of heuristics shows.
#[test]
fn layers_of_real_models_for_inference() {
    for (name, device) in devices() {
        let mut text = "layer, tokens | tile, blocks, places busy | workspace, flags\n".to_owned();
        for layer in layers() {
            for tokens in TOKENS {
                let plan = ForwardPlan::new(&problem(&layer, tokens), &device).expect("a plan");
                let [launch] = plan.launches() else {
                    panic!("{plan}")
                };
                writeln!(
                    text,
                    "{layer}, {tokens} | {} {} {:.1} % | {} + {} B",
                    launch.variant.symbol(),
                    launch.blocks,
                    100.0 * plan.wave_efficiency().expect("one launch"),
                    plan.workspace_bytes(),
                    plan.flags_bytes(),
                )
                .expect("text");
            }
        }
        insta::assert_snapshot!(format!("decode_{name}"), text);
    }
}

#[test]
fn kinds_of_inference_in_full() {
    let problem = |tokens| {
        Problem::new(tokens, 4096, 4096, 16, DType::BF16)
            .expect("a problem")
            .with_inference(true)
    };
    let table = RowAdapters::Table {
        slots: 1000,
        per_row: 2,
    };
    let odd = Layout {
        row_stride: 4097,
        alignment: 2,
    };
    let problems = [
        problem(1),
        problem(64).with_bias(true),
        problem(16).with_batch_invariance(true),
        problem(16).with_row_adapters(table).expect("a table"),
        problem(16).with_delta_only(true),
        problem(4).with_layout(Role::X, odd).expect("a layout"),
        problem(65),
        problem(4).with_dropout(true),
        problem(0),
        Problem::new(3, 33, 51, 5, DType::F32)
            .expect("a problem")
            .with_inference(true),
    ];
    let mut text = String::new();
    for problem in &problems {
        let plan = ForwardPlan::new(problem, &DeviceProps::a100()).expect("a plan");
        writeln!(text, "{plan}\n").expect("text");
    }
    insta::assert_snapshot!("decode_in_full", text);
}

/// Batch-invariant plans share no tile, so whether two blocks sum one doesn't depend on the batch.
#[test]
fn batch_invariant_plans_need_no_memory_for_parts() {
    let bytes = |invariant: bool| {
        let problem = Problem::new(16, 4096, 4096, 16, DType::BF16)
            .expect("a problem")
            .with_inference(true)
            .with_batch_invariance(invariant);
        let plan = ForwardPlan::new(&problem, &DeviceProps::h100()).expect("a plan");
        plan.workspace_bytes()
    };
    // S in bf16, and its 8 slices in f32.
    assert_eq!(bytes(true), 16 * 16 * 2 + 8 * 16 * 16 * 4);
    assert!(bytes(false) > 1 << 20);
}
