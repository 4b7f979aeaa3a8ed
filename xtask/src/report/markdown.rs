//! docs/report.md.

use std::fmt::Write as _;

use super::figures::{Better, over, rounded};
use super::goals::{Goal, Outcome};
use super::hopper_tables;
use super::kernels::Compiled;
use super::loops::Math;
use super::peers;
use super::store::Report;
use super::{bound, chart, decode};
use lora_kernels_report::bound::Demands;
use lora_kernels_report::document::{Document, OURS, Plan};

const TITLE: &str = "# What the kernels cost, without a clock
";

const INTRODUCTION: &str = "
No GPU was used, and no time here was measured: times are modelled. Registers, shared memory and instructions are of the machine code that nvcc made;
launches, sectors, wavefronts and matrix work were counted on the emulated device; DRAM bytes come from its L2 model
(`crates/ptx-emulator/README.md`, \"DRAM traffic\").

`cargo xtask report` writes this page and `report.json`; `cargo xtask report --check` compares a quick form of it with the committed one and fails
where a figure got worse.
";

const METHOD: &str = "## How it is measured

- **Kernels**: `cuobjdump -res-usage` and `-sass` of the images that the crate embeds. The main loop is, of the innermost loops with `HGMMA` (with
  `HMMA`, if there is none; with `FFMA` in kernels for f32), the one with most, and of equals the shortest: the others fill or drain the pipeline.
  A loop is what can run between a branch back and its target, without what ptxas moved behind it, such as a wait's further tries. Blocks per multiprocessor follow from registers, shared memory and threads with the architecture's limits.
  Local memory is the stack, which spills are part of.
- **Executed**: every block of a forward and a backward with dropout runs on the emulated device; the plan is made for a device of a few
  multiprocessors, so that large tiles are taken and there are several waves. Nothing is sampled.
- **Modelled**: plans for whole virtual devices. The product with the weight goes through the model: blocks in lockstep over depth, L2 as one memory of
  half its size that replaces the least recently used. Everything else that a launch reads or writes counts once, from DRAM, also what an
  earlier launch may have left in L2. Compulsory are the caller's tensors, each once per pass.
- **Waves**: a multiprocessor does its tiles one after the other, however many of its blocks share it. Efficiency is the tiles over those that all
  multiprocessors could have done while the one with most was busy.
- Of the goals, one is not here: a call's cost on the host is a time, which only a clock tells.
";

/// The page. `stages` are those of our kernels, by symbol.
pub fn markdown(
    report: &Report<'_>,
    document: &Document,
    demands: &[Demands],
    stages: &[(String, u32)],
) -> String {
    let mut text = TITLE.to_owned();
    let _ = writeln!(text, "\n![{}](report.svg)", chart::description(demands));
    text.push_str(INTRODUCTION);
    goal_table(&mut text, report.goals);
    bound::markdown(&mut text, demands);
    decode::markdown(&mut text, demands);
    kernel_tables(&mut text, &report.nvcc, report.kernels);
    hopper_tables::loops(&mut text, report, stages);
    hopper_tables::beside_cutlass(&mut text, document);
    executed(&mut text, document);
    modelled(&mut text, document);
    peers::table(&mut text, document);
    text.push('\n');
    text.push_str(METHOD);
    text
}

/// A table with the first column to the left and the others to the right.
pub fn table(text: &mut String, head: &[&str], rows: impl Iterator<Item = Vec<String>>) {
    let _ = writeln!(text, "\n| {} |", head.join(" | "));
    let _ = writeln!(
        text,
        "|---|{}",
        "---:|".repeat(head.len().saturating_sub(1))
    );
    for row in rows {
        let _ = writeln!(text, "| {} |", row.join(" | "));
    }
}

fn goal_table(text: &mut String, goals: &[Goal]) {
    text.push_str("\n## Goals\n\nThe worst value of what each speaks of.\n\n");
    text.push_str(
        "| | bar | aim | worst | | where | compared with |\n|---|---:|---:|---:|---|---|---|\n",
    );
    for goal in goals {
        let sign = match goal.better {
            Better::Lower => "≤",
            Better::Higher => "≥",
        };
        let unit = |value: f64| {
            format!("{} {}", rounded(value), goal.unit)
                .trim_end()
                .to_owned()
        };
        let (worst, at) = goal.worst.as_ref().map_or(
            ("–".to_owned(), "nothing built or run".to_owned()),
            |worst| (unit((worst.value * 1e3).round() / 1e3), worst.at.clone()),
        );
        let aim = goal
            .aim
            .map_or(String::new(), |aim| format!("{sign} {}", unit(aim)));
        let _ = writeln!(
            text,
            "| {} | {sign} {} | {aim} | {worst} | {} | {at} | {} |",
            goal.what,
            unit(goal.bar),
            goal.outcome().text(),
            goal.source
        );
    }
    let mut missed = goals
        .iter()
        .filter(|goal| goal.outcome() == Outcome::NotMet)
        .peekable();
    if missed.peek().is_some() {
        text.push_str("\nNot met, and why:\n\n");
    }
    for goal in missed {
        let _ = writeln!(text, "- **{}**: {}", goal.what, goal.shortfall);
    }
}

fn kernel_tables(text: &mut String, nvcc: &str, kernels: &[Compiled]) {
    let _ = write!(
        text,
        "\n## Kernels\n\nCompiled by nvcc {nvcc}. Shared memory: static + dynamic bytes. The columns from \"loop\" on count instructions of the main loop; \
         \"math\" is `HMMA`, `HGMMA` (wgmma), or `FFMA` for f32; steps are steps of depth in one turn of it.\n"
    );
    let mut archs: Vec<&str> = kernels
        .iter()
        .map(|kernel| kernel.resources.arch.as_str())
        .collect();
    archs.dedup();
    for arch in archs {
        let of_arch = || {
            kernels
                .iter()
                .filter(|kernel| kernel.resources.arch == arch)
        };
        let _ = write!(
            text,
            "\n<details{}>\n<summary>sm_{arch}</summary>\n",
            if arch == "80" { " open" } else { "" }
        );
        let head = [
            "kernel",
            "regs",
            "local",
            "shared",
            "blocks/SM",
            "loop",
            "math",
            "share",
            "LDSM/math",
            "LDS, STS",
            "LDGSTS",
            "BAR",
            "waits",
            "steps",
            "other",
            "float atomics",
        ];
        table(text, &head, of_arch().map(kernel_row));
        text.push_str("\n</details>\n");
    }
}

fn kernel_row(kernel: &Compiled) -> Vec<String> {
    let resources = &kernel.resources;
    let dynamic = kernel
        .host
        .as_ref()
        .map_or("?".to_owned(), |host| host.dynamic_shared.to_string());
    let mut row = vec![
        short(&resources.symbol),
        resources.registers.to_string(),
        resources.local_bytes.to_string(),
        format!("{} + {dynamic}", resources.static_shared),
        kernel
            .blocks
            .map_or(String::new(), |blocks| blocks.to_string()),
    ];
    match &kernel.main_loop {
        None => row.extend((0..10).map(|_| String::new())),
        Some((math, mix)) => row.extend([
            mix.instructions.to_string(),
            format!(
                "{}{}",
                mix.math,
                match math {
                    Math::Wgmma => " HGMMA",
                    Math::Mma => "",
                    Math::Fma => " FFMA",
                }
            ),
            percent(over(f64::from(mix.math), f64::from(mix.instructions))),
            format!("{:.3}", over(f64::from(mix.ldsm), f64::from(mix.math))),
            mix.lds.to_string(),
            mix.ldgsts.to_string(),
            mix.barriers.to_string(),
            mix.waits.to_string(),
            kernel
                .steps
                .map_or(String::new(), |steps| rounded(steps).to_string()),
            (mix.other + mix.local).to_string(),
        ]),
    }
    row.push(kernel.float_atomics.to_string());
    row
}

/// A symbol without the parts that all symbols share.
pub fn short(symbol: &str) -> String {
    let parts = symbol
        .split('_')
        .filter(|part| !["", "lora", "sm80"].contains(part));
    parts.collect::<Vec<_>>().join(" ")
}

fn percent(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn executed(text: &mut String, document: &Document) {
    text.push_str(
        "\n## Executed\n\nSizes are tokens x in_features x out_features. Sectors are 32 bytes of global memory, over the fewest in which the same request \
         would fit, and for a whole pass over those of all its tensors once; wavefronts are over those without bank conflicts.\n",
    );
    let head = [
        "",
        "launches",
        "MMA GFLOP",
        "beyond the formulas",
        "sectors",
        "over the tensors'",
        "efficiency",
        "conflicts, ldmatrix and cp.async",
        "wavefronts, others",
    ];
    let mut rows = Vec::new();
    for run in document.runs.iter().filter(|run| run.who == OURS) {
        let giga = |flops: f64| format!("{:.4}", flops / 1e9);
        rows.push(vec![
            format!(
                "**{} {}**, {} multiprocessors",
                run.shape.name(),
                run.pass,
                run.multiprocessors.unwrap_or_default()
            ),
            run.sum(|launch| launch.launches as f64).to_string(),
            giga(run.sum(|launch| launch.mma_flops)),
            run.extra_mma_percent()
                .map_or("–".to_owned(), |extra| format!("{} %", rounded(extra))),
            run.sum(|launch| launch.sectors).to_string(),
            format!("{:.2}", run.sectors_over_minimum()),
            percent(over(
                run.sum(|launch| launch.ideal_sectors),
                run.sum(|launch| launch.sectors),
            )),
            run.sum(|launch| launch.tile_wavefronts - launch.tile_ideal_wavefronts)
                .to_string(),
            format!(
                "{:.3}",
                over(
                    run.sum(|l| l.other_wavefronts),
                    run.sum(|l| l.other_ideal_wavefronts)
                )
            ),
        ]);
        for launch in &run.launches {
            rows.push(vec![
                short(&launch.symbol),
                launch.launches.to_string(),
                giga(launch.mma_flops),
                String::new(),
                launch.sectors.to_string(),
                String::new(),
                percent(over(launch.ideal_sectors, launch.sectors)),
                (launch.tile_wavefronts - launch.tile_ideal_wavefronts).to_string(),
                format!(
                    "{:.3}",
                    over(launch.other_wavefronts, launch.other_ideal_wavefronts)
                ),
            ]);
        }
    }
    table(text, &head, rows.into_iter());
}

pub const MIB: f64 = (1 << 20) as f64;

fn modelled(text: &mut String, document: &Document) {
    text.push_str(
        "\n## Modelled\n\nThe product with the weight: its tiles on the multiprocessors of each virtual device, and its DRAM reads over the bytes of its \
         two operands.\n",
    );
    let head = [
        "",
        "tile",
        "tiles",
        "blocks",
        "multiprocessors",
        "order",
        "wave efficiency",
        "reads over compulsory",
    ];
    let plans: Vec<&Plan> = document
        .plans
        .iter()
        .filter(|plan| plan.who == OURS)
        .collect();
    let products = plans.iter().filter_map(|plan| {
        let (launch, product) = plan.product()?;
        let (m, n, k) = product.tile;
        Some(vec![
            format!(
                "{} {} {}",
                plan.device,
                plan.shape.name(),
                short(&launch.symbol)
            ),
            format!("{m}x{n}x{k}"),
            product.tiles.to_string(),
            product.blocks.to_string(),
            product.multiprocessors.to_string(),
            product.raster.clone(),
            format!("{:.1} %", product.wave_efficiency()),
            format!("{:.2}", product.reads_over_compulsory()),
        ])
    });
    table(text, &head, products);

    text.push_str(
        "\nDRAM traffic of whole passes, in MiB, and of forward and backward together.\n",
    );
    let mut rows = Vec::new();
    for pair in plans.chunks(2) {
        for plan in pair {
            rows.push(vec![
                plan.name().replace('/', " "),
                plan.launches.len().to_string(),
                format!("{:.1}", plan.bytes() as f64 / MIB),
                format!("{:.2}", plan.bytes() as f64 / plan.compulsory_bytes as f64),
                by_launch(plan),
            ]);
        }
        if let [forward, backward] = pair {
            let bytes = forward.bytes() + backward.bytes();
            let compulsory = forward.compulsory_bytes + backward.compulsory_bytes;
            rows.push(vec![
                format!("**{} {}**", forward.device, forward.shape.name()),
                (forward.launches.len() + backward.launches.len()).to_string(),
                format!(
                    "**{:.1}** ({:.3} GiB)",
                    bytes as f64 / MIB,
                    bytes as f64 / MIB / 1024.0
                ),
                format!("{:.2}", bytes as f64 / compulsory as f64),
                String::new(),
            ]);
        }
    }
    table(
        text,
        &[
            "",
            "launches",
            "MiB",
            "over compulsory",
            "read + written by launch",
        ],
        rows.into_iter(),
    );
}

fn by_launch(plan: &Plan) -> String {
    let launches = plan.launches.iter().map(|launch| {
        let name = short(&launch.symbol);
        let operation = name
            .split(' ')
            .take_while(|word| !["bf16", "f16", "f32"].contains(word));
        format!(
            "{} {:.1} + {:.1}",
            operation.collect::<Vec<_>>().join(" "),
            launch.read as f64 / MIB,
            launch.written as f64 / MIB
        )
    });
    launches.collect::<Vec<_>>().join("; ")
}
