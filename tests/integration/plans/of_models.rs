//! The plans for layers of real models on every named device, one line each. A change of heuristics
//! shows as a change of these snapshots.

use std::fmt::Write;

use lora_kernels::plan::{Arch, Launch};
use lora_kernels::{BackwardPlan, DType, DeviceProps, ForwardPlan, Problem, Projection};

use super::models::{self, ModelLayer};

fn problem(layer: &ModelLayer, tokens: usize, dtype: DType) -> Problem {
    let projections: Vec<_> = layer
        .outputs
        .iter()
        .map(|&out_features| Projection {
            out_features,
            rank: 16,
        })
        .collect();
    let problem = Problem::sharing_x(tokens, layer.input, &projections, dtype).unwrap();
    problem.with_dropout(true)
}

fn tile(launch: &Launch) -> String {
    let symbol = launch.variant.symbol();
    let (_, tile) = symbol.rsplit_once("__").unwrap();
    tile.trim_end_matches("_vec").to_owned()
}

fn gemm(launch: &Launch) -> String {
    let schedule = launch.schedule.unwrap();
    let splits = match schedule.splits {
        1 => String::new(),
        splits => format!("/{splits}"),
    };
    // Only where there are two architectures to choose from.
    let arch = match launch.variant.arch {
        Arch::Sm90a => "sm90a ",
        _ => "",
    };
    let cluster = match schedule.cluster {
        1 => String::new(),
        blocks => format!(" c{blocks}"),
    };
    format!(
        "{arch}{} {}x{}{splits} by {}{cluster} g{} {:.0}%",
        tile(launch),
        schedule.tiles_m,
        schedule.tiles_n,
        schedule.blocks,
        schedule.group_n,
        100.0 * schedule.wave_efficiency(),
    )
}

fn line(problem: &Problem, device: &DeviceProps) -> String {
    let forward = ForwardPlan::new(problem, device).unwrap();
    let backward = BackwardPlan::new(problem, device).unwrap();
    let [shrink, product] = forward.launches() else {
        panic!("two launches")
    };
    let [grad_b, grad_a, grad_x] = backward.launches() else {
        panic!("three launches")
    };
    let mib = |bytes| bytes as f64 / f64::from(1 << 20);
    format!(
        "{} {} | {} | {} {} | {} {} | {} | {:.1} + {:.1} MiB",
        tile(shrink),
        shrink.blocks,
        gemm(product),
        tile(grad_b),
        grad_b.blocks,
        tile(grad_a),
        grad_a.blocks,
        gemm(grad_x),
        mib(forward.workspace_bytes()),
        mib(backward.workspace_bytes()),
    )
}

const HEAD: &str = "layer, tokens | shrink blocks | forward tiles/splits by blocks, group, places busy | grad_b blocks | grad_a blocks | \
    grad_x, as forward | workspaces\n";

#[test]
fn layers_of_real_models() {
    for (name, device) in DeviceProps::named() {
        let mut text = HEAD.to_owned();
        for layer in models::layers() {
            for tokens in [512, 8192] {
                let problem = problem(&layer, tokens, DType::BF16);
                writeln!(text, "{layer}, {tokens} | {}", line(&problem, &device)).unwrap();
            }
        }
        insta::assert_snapshot!(format!("models_{name}"), text);
    }
}

/// Token counts between decoding and training, and outputs so narrow that few tiles cover them.
#[test]
fn few_tokens_and_narrow_outputs() {
    for (name, device) in [("a100", DeviceProps::a100()), ("h100", DeviceProps::h100())] {
        let mut text = HEAD.to_owned();
        for outputs in [
            &[128][..],
            &[256],
            &[512],
            &[1024],
            &[4096],
            &[4096, 1024, 1024],
            &[14336, 14336],
        ] {
            let layer = ModelLayer::new("", 4096, outputs);
            for tokens in [
                1, 16, 64, 65, 100, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096, 32768,
            ] {
                let problem = problem(&layer, tokens, DType::BF16);
                writeln!(text, "{layer}, {tokens} | {}", line(&problem, &device)).unwrap();
            }
        }
        for dtype in [DType::F32] {
            let layer = ModelLayer::new("", 768, &[2304]);
            for tokens in [64, 512, 16384] {
                let problem = problem(&layer, tokens, dtype);
                writeln!(
                    text,
                    "{layer} {dtype}, {tokens} | {}",
                    line(&problem, &device)
                )
                .unwrap();
            }
        }
        insta::assert_snapshot!(format!("small_{name}"), text);
    }
}
