//! Every number of the report with a name, and which direction is worse.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::kernels::Compiled;
use lora_kernels_report::document::{Document, OURS};

/// The prefix of the names of peers' figures.
const PEERS: &str = "peers/";

/// The direction in which a number improves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Lower,
    Higher,
}

/// The columns of the table of kernels, and which of them are compared. The others are only for the
/// reader.
pub const KERNEL_COLUMNS: [(&str, Option<Better>); 17] = [
    ("registers", None),
    ("local_bytes", Some(Better::Lower)),
    ("static_shared", None),
    ("dynamic_shared", None),
    ("blocks_per_sm", Some(Better::Higher)),
    ("loop_instructions", None),
    ("loop_math", None),
    ("loop_math_percent", Some(Better::Higher)),
    ("loop_ldsm", None),
    ("loop_ldsm_per_math", Some(Better::Lower)),
    ("loop_lds_sts", None),
    ("loop_ldgsts", None),
    ("loop_barriers", None),
    ("loop_waits", None),
    ("loop_steps", None),
    ("loop_other", None),
    ("float_atomics", Some(Better::Lower)),
];

/// The same of the table of kernels with wgmma.
pub const WGMMA_COLUMNS: [(&str, Option<Better>); 14] = [
    ("columns", None),
    ("wgmma", None),
    ("depth", None),
    ("instructions", None),
    ("instructions_per_wgmma", Some(Better::Lower)),
    ("barrier_operations", Some(Better::Lower)),
    ("groups_in_flight", None),
    ("fewer_registers", None),
    ("more_registers", None),
    ("ldsm", None),
    ("stsm", None),
    ("tma_loads", None),
    ("tma_stores", None),
    ("local_accesses", Some(Better::Lower)),
];

/// Decided by the last part of a figure's name. Peers' figures are not compared.
pub fn better(name: &str) -> Option<Better> {
    if name.starts_with(PEERS) {
        return None;
    }
    let metric = name.rsplit('/').next().unwrap_or(name);
    let kernels = KERNEL_COLUMNS.iter().copied();
    let executed = [
        ("launches", Some(Better::Lower)),
        ("extra_mma_percent", Some(Better::Lower)),
        ("sectors", Some(Better::Lower)),
        ("sectors_over_minimum", Some(Better::Lower)),
        ("sector_efficiency_percent", Some(Better::Higher)),
        ("tile_conflicts", Some(Better::Lower)),
        ("other_wavefronts_over_ideal", Some(Better::Lower)),
        ("dram_bytes", Some(Better::Lower)),
        ("dram_over_compulsory", Some(Better::Lower)),
        ("product_reads_over_compulsory", Some(Better::Lower)),
        ("wave_efficiency_percent", Some(Better::Higher)),
        ("over_plain", Some(Better::Lower)),
    ];
    kernels
        .chain(executed)
        .find(|(known, _)| *known == metric)
        .and_then(|(_, better)| better)
}

/// Rounds to four decimals, because the report is compared as text.
pub fn rounded(value: f64) -> f64 {
    (value * 1e4).round() / 1e4
}

/// `80/lora_forward__...`, and its numbers in the order of [`KERNEL_COLUMNS`].
pub fn kernel_row(kernel: &Compiled) -> (String, Vec<Value>) {
    let key = format!("{}/{}", kernel.resources.arch, kernel.resources.symbol);
    let mix = kernel.main_loop.as_ref().map(|(_, mix)| mix);
    let in_loop = |of: fn(&super::loops::Mix) -> u32| json!(mix.map(of));
    let ratio = |part: u32, whole: u32| rounded(f64::from(part) / f64::from(whole.max(1)));
    let row =
        vec![
            json!(kernel.resources.registers),
            json!(kernel.resources.local_bytes),
            json!(kernel.resources.static_shared),
            json!(kernel.host.as_ref().map(|host| host.dynamic_shared)),
            json!(kernel.blocks),
            in_loop(|mix| mix.instructions),
            in_loop(|mix| mix.math),
            json!(mix.map(|mix| rounded(
                100.0 * f64::from(mix.math) / f64::from(mix.instructions.max(1))
            ))),
            in_loop(|mix| mix.ldsm),
            json!(mix.map(|mix| ratio(mix.ldsm, mix.math))),
            in_loop(|mix| mix.lds),
            in_loop(|mix| mix.ldgsts),
            in_loop(|mix| mix.barriers),
            in_loop(|mix| mix.waits),
            json!(kernel.steps.map(rounded)),
            in_loop(|mix| mix.other + mix.local),
            json!(kernel.float_atomics),
        ];
    (key, row)
}

/// The same name, and the kernel's numbers in the order of [`WGMMA_COLUMNS`]; `None` for a kernel
/// without wgmma.
pub fn wgmma_row(kernel: &Compiled) -> Option<(String, Vec<Value>)> {
    let wgmma = kernel.wgmma.as_ref()?;
    let row = vec![
        json!(wgmma.columns),
        json!(wgmma.products),
        json!(wgmma.depth),
        json!(wgmma.instructions),
        json!(rounded(wgmma.instructions_per_product())),
        json!(rounded(wgmma.barrier_operations())),
        json!(wgmma.in_flight),
        json!(wgmma.fewer_registers),
        json!(wgmma.more_registers),
        json!(wgmma.ldsm),
        json!(wgmma.stsm),
        json!(wgmma.tma_loads),
        json!(wgmma.tma_stores),
        json!(wgmma.local),
    ];
    Some((kernel_row(kernel).0, row))
}

/// The name of a peer's row.
pub fn peers_key(key: &str) -> String {
    format!("{PEERS}{key}")
}

pub fn prefix(who: &str) -> String {
    if who == OURS {
        String::new()
    } else {
        format!("{PEERS}{who}/")
    }
}

/// The figures of everything that was executed or modelled.
pub fn figures(document: &Document) -> BTreeMap<String, f64> {
    let mut figures = BTreeMap::new();
    let mut add = |name: String, value: f64| figures.insert(name, rounded(value));
    for run in &document.runs {
        let name = format!("{}executed/{}", prefix(&run.who), run.name());
        add(
            format!("{name}/launches"),
            run.sum(|launch| launch.launches as f64),
        );
        if let Some(extra) = run.extra_mma_percent() {
            add(format!("{name}/extra_mma_percent"), extra);
        }
        add(
            format!("{name}/sectors_over_minimum"),
            run.sectors_over_minimum(),
        );
        for launch in &run.launches {
            let name = format!("{name}/{}", launch.symbol);
            add(format!("{name}/mma_flops"), launch.mma_flops);
            add(format!("{name}/sectors"), launch.sectors);
            add(
                format!("{name}/sector_efficiency_percent"),
                100.0 * over(launch.ideal_sectors, launch.sectors),
            );
            add(
                format!("{name}/tile_conflicts"),
                launch.tile_wavefronts - launch.tile_ideal_wavefronts,
            );
            add(
                format!("{name}/other_wavefronts_over_ideal"),
                over(launch.other_wavefronts, launch.other_ideal_wavefronts),
            );
        }
    }
    for plan in &document.plans {
        let name = format!("{}modelled/{}", prefix(&plan.who), plan.name());
        add(format!("{name}/launches"), plan.launches.len() as f64);
        add(format!("{name}/dram_bytes"), plan.bytes() as f64);
        add(
            format!("{name}/dram_over_compulsory"),
            plan.bytes() as f64 / plan.compulsory_bytes as f64,
        );
        if let Some((_, product)) = plan.product() {
            add(
                format!("{name}/product_reads_over_compulsory"),
                product.reads_over_compulsory(),
            );
            add(
                format!("{name}/wave_efficiency_percent"),
                product.wave_efficiency(),
            );
        }
    }
    figures
}

/// The ratio of part to whole; 1 if the whole is 0.
pub fn over(part: f64, whole: f64) -> f64 {
    if whole == 0.0 { 1.0 } else { part / whole }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_direction_of_a_figure_is_that_of_its_last_part() {
        assert_eq!(better("80/lora_forward/local_bytes"), Some(Better::Lower));
        assert_eq!(
            better("a/b/sector_efficiency_percent"),
            Some(Better::Higher)
        );
        assert_eq!(better("80/lora_forward/registers"), None);
        assert_eq!(better("peers/PEFT/executed/launches"), None);
    }
}
