//! The tables of the kernels for Hopper, with CUTLASS's beside them.

use super::figures::{over, rounded};
use super::kernels::Compiled;
use super::markdown::{short, table};
use super::store::Report;
use lora_kernels_report::document::{CUTLASS, CUTLASS_PLAIN, Document, OURS, Run};

/// The most frequent other instructions that are named.
const OTHERS: usize = 6;

/// Multiplications and additions of a multiprocessor's tensor cores per clock, dense and 16-bit:
/// 512 of each in each of four tensor cores (NVIDIA H100 Tensor Core GPU Architecture).
const FLOPS_PER_CLOCK: f64 = 4096.0;

/// The main loops.
pub fn loops(text: &mut String, report: &Report<'_>, stages: &[(String, u32)]) {
    let ours = report.kernels.iter().filter_map(|kernel| {
        let symbol = &kernel.resources.symbol;
        let found = stages.iter().find(|(known, _)| known == symbol);
        row(kernel, found.map(|(_, stages)| *stages))
    });
    let peers = report
        .cutlass
        .iter()
        .filter_map(|(kernel, peer)| row(kernel, Some(peer.stages)));
    let rows: Vec<Vec<String>> = ours.chain(peers).collect();
    if rows.is_empty() {
        return;
    }
    text.push_str(
        "\n### The loops of wgmma\n\nThe consumers' main loop of the kernels for sm_90a, and of CUTLASS's GEMM in the same tile, compiled by the same nvcc. \
         Barrier operations are tests of a phase and arrivals in the loop's code, per 64 of depth and warpgroup; registers are those of a thread at the \
         start, of a producer and of a consumer. `LDSM`, `STSM`, TMA's loads and stores of tensors, and accesses to local memory are of the whole kernel.\n",
    );
    let head = [
        "kernel",
        "wgmma",
        "depth",
        "instructions",
        "per wgmma",
        "barrier operations",
        "groups in flight at the wait",
        "stages",
        "registers",
        "LDSM",
        "STSM",
        "TMA loads",
        "TMA stores",
        "local",
        "others in the loop",
    ];
    table(text, &head, rows.into_iter());
}

fn row(kernel: &Compiled, stages: Option<u32>) -> Option<Vec<String>> {
    let wgmma = kernel.wgmma.as_ref()?;
    let known = |value: Option<u32>| value.map_or("–".to_owned(), |value| value.to_string());
    let others = wgmma.others.iter().take(OTHERS);
    let others: Vec<String> = others
        .map(|(name, count)| format!("{count} {name}"))
        .collect();
    Some(vec![
        short(&kernel.resources.symbol),
        format!("{} m64n{}k16", wgmma.products, wgmma.columns),
        wgmma.depth.to_string(),
        wgmma.instructions.to_string(),
        format!("{:.1}", wgmma.instructions_per_product()),
        rounded(wgmma.barrier_operations()).to_string(),
        known(wgmma.in_flight),
        known(stages),
        format!(
            "{}, {}, {}",
            kernel.resources.registers,
            known(wgmma.fewer_registers),
            known(wgmma.more_registers)
        ),
        wgmma.ldsm.to_string(),
        wgmma.stsm.to_string(),
        wgmma.tma_loads.to_string(),
        wgmma.tma_stores.to_string(),
        wgmma.local.to_string(),
        others.join(", "),
    ])
}

/// What was executed of ours and of CUTLASS's on the same shape.
pub fn beside_cutlass(text: &mut String, document: &Document) {
    let is_peer = |run: &&Run| [CUTLASS, CUTLASS_PLAIN].contains(&run.who.as_str());
    let peers: Vec<&Run> = document.runs.iter().filter(is_peer).collect();
    let Some(first) = peers.first() else {
        return;
    };
    let ours = document
        .runs
        .iter()
        .filter(|run| run.who == OURS && run.shape == first.shape);
    text.push_str(&format!(
        "\n### Beside CUTLASS\n\n{}, counted on the emulated H100 with grids for {} multiprocessors. CUTLASS computes the product with W in tiles of 128x256x64 \
         by clusters of two, what belongs to the adapter in launches of their own. Sectors come from L2 or go there; a multicast's count once there, and by \
         themselves at each block. Clocks are those of the tensor cores at their peak.\n",
        first.shape.name(),
        first.multiprocessors.unwrap_or_default(),
    ));
    let head = [
        "",
        "launches",
        "MMA GFLOP",
        "sectors",
        "per 1000 FLOP of the product",
        "sectors of multicast at blocks",
        "wavefronts of wgmma per clock",
        "of bulk copies",
        "of others",
    ];
    table(text, &head, ours.chain(peers).map(counted_row));
}

fn counted_row(run: &Run) -> Vec<String> {
    let who = if run.who == OURS {
        format!("**{OURS}**")
    } else {
        run.who.clone()
    };
    let flops = run.sum(|launch| launch.mma_flops);
    let per_clock = |wavefronts: f64| format!("{:.3}", over(wavefronts, flops / FLOPS_PER_CLOCK));
    let wgmma = run.sum(|launch| launch.wgmma_wavefronts);
    let bulk = run.sum(|launch| launch.bulk_wavefronts);
    let all = run.sum(|launch| launch.other_wavefronts + launch.tile_wavefronts);
    vec![
        format!("{who}, {}", run.pass),
        run.sum(|launch| launch.launches as f64).to_string(),
        format!("{:.4}", flops / 1e9),
        run.sum(|launch| launch.sectors).to_string(),
        format!(
            "{:.4}",
            1e3 * run.sum(|launch| launch.sectors) / run.base_flops as f64
        ),
        run.sum(|launch| launch.multicast_sectors).to_string(),
        per_clock(wgmma),
        per_clock(bulk),
        per_clock(all - wgmma - bulk),
    ]
}
