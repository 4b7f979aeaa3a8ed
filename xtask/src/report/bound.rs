//! The modelled bound: what each launch asks of a device, counted by the counting program, at the
//! device's stated rates.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::thread;

use super::figures::{self, Better, rounded};
use super::goals::{Goal, goal};
use super::markdown::{short, table};
use crate::steps::{Failure, Session};
use lora_kernels_report::bound::{
    Demand, Demands, LIMIT, PEFT, PLAIN, Resource, THREE_LAUNCHES, Work,
};
use lora_kernels_report::document::OURS;
use lora_kernels_report::rates::{self, Rates, Sourced};

/// The layer of the goals, whose launches are listed one by one.
pub const LAYER: &str = "8192x4096x4096 r16";
/// The same for one token.
pub const DECODE: &str = "1x4096x4096 r16";

/// Runs the counting program on every virtual device, as many at a time as there are cores.
pub fn measure(
    session: &mut Session,
    program: &Path,
    quick: bool,
) -> Result<Vec<Demands>, Failure> {
    let command = |rates: &Rates| {
        let mut command = super::counting(program, rates.key);
        command.arg("--bound");
        if quick {
            command.arg("--quick");
        }
        command
    };
    let commands: Vec<Command> = Rates::ALL.iter().map(command).collect();
    let at_once = thread::available_parallelism().map_or(1, usize::from);
    let read = |text: String| {
        let demands = serde_json::from_str(&text);
        demands.map_err(|error| Failure::from(format!("can't read the demands: {error}")))
    };
    let texts = session.capture_all(commands, at_once)?;
    texts.into_iter().map(read).collect()
}

/// The passes of one who, by device and in order.
fn by<'a>(demands: &'a [Demands], who: &str) -> impl Iterator<Item = (&'a Demands, &'a Demand)> {
    demands.iter().flat_map(move |demands| {
        let passes = demands.passes.iter();
        let found = passes.filter(move |demand| demand.who == who);
        found.map(move |demand| (demands, demand))
    })
}

/// `a100/8192x4096x4096 r16/forward/over_plain`, and the modelled µs.
pub fn figures(demands: &[Demands]) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for who in [OURS, PLAIN, THREE_LAUNCHES, PEFT, LIMIT] {
        for (on, demand) in by(demands, who) {
            let name = format!(
                "{}bound/{}/{}/{}",
                figures::prefix(who),
                on.device,
                demand.layer,
                demand.pass
            );
            if let (Some(rates), Some(ratio)) = (on.rates(), on.over_plain(demand)) {
                found.insert(format!("{name}/modelled_us"), rounded(demand.us(rates)));
                found.insert(format!("{name}/over_plain"), rounded(ratio));
            }
        }
    }
    found
}

/// The goals for Hopper.
pub fn goals(demands: &[Demands]) -> Vec<Goal> {
    let hopper = |demands: &&Demands| ["h100", "h200"].contains(&demands.device.as_str());
    let ratios = |pass: &'static str| {
        let on = demands.iter().filter(hopper);
        on.filter_map(move |demands| {
            let ratio = demands.over_plain(demands.find(OURS, LAYER, pass)?)?;
            Some((ratio, format!("{} {LAYER} {pass}", demands.device)))
        })
    };
    let products = |of: fn(&Work, &Rates) -> Option<f64>| {
        let on = demands.iter().filter(hopper);
        let of_device = move |demands: &Demands| {
            let rates = demands.rates();
            let passes = ["forward", "backward"].map(|pass| demands.find(OURS, LAYER, pass));
            let products = passes.into_iter().flatten().filter_map(product);
            let values = products.filter_map(|work| {
                let at = format!("{} {LAYER}: {}", demands.device, work.what);
                Some((of(work, rates?)?, at))
            });
            values.collect::<Vec<_>>()
        };
        on.flat_map(of_device)
    };
    let sm80 = demands.iter().find(|demands| demands.device == "a100");
    let sm80 = sm80.and_then(|demands| {
        let product = product(demands.find(OURS, LAYER, "forward")?)?;
        Some(sectors_per_flop(product))
    });
    let sectors = demands.iter().filter(hopper).filter_map(|demands| {
        let product = product(demands.find(OURS, LAYER, "forward")?)?;
        let at = format!("{} {LAYER}: {}", demands.device, product.what);
        Some((sectors_per_flop(product) / sm80?, at))
    });
    vec![
        goal(
            "Modelled time over the plain product's, forward, H100 and H200",
            Better::Lower,
            1.15,
            Some(1.08),
            "",
        )
        .from("three launches of cuBLAS, by the same rule below")
        .worst(ratios("forward")),
        goal(
            "Modelled time over the plain product's, backward, H100 and H200",
            Better::Lower,
            1.25,
            Some(1.12),
            "",
        )
        .from("three launches of cuBLAS forward, seven backward, by the same rule below")
        .worst(ratios("backward")),
        goal(
            "Sectors from L2 per FLOP of the product over the sm_80 tile's, Hopper",
            Better::Lower,
            0.75,
            Some(0.6),
            "",
        )
        .from("the same tile on an A100; a weight for two blocks makes 0.67")
        .worst(sectors),
        goal(
            "Wavefronts of shared memory per tensor clock of the product, Hopper",
            Better::Lower,
            0.75,
            Some(0.7),
            "",
        )
        .from("operands of 128x256 by wgmma 64x256x16; CUTLASS, same tile: below, beside it")
        .shortfall(
            "any kernel with this tile has about 1: what wgmma m64n256k16 reads in its 128 clocks, 2 KiB of A and 8 KiB of B, is 0.625, which alone \
             would meet the bar; what TMA writes, 48 KiB for the eight of a stage, is 0.375; the rest is the epilogue's. CUTLASS's counts are the same. \
             A larger tile would take more registers than consumers have for their sums, a cluster doesn't change it, and A in registers would have \
             to be read from shared memory all the same. Whether TMA's writes take turns from wgmma's reads on a GPU was not measured",
        )
        .worst(products(|work, rates| {
            per_tensor_clock(work, rates, work.busiest.wavefronts)
        })),
        goal(
            "Of these, those in which wgmma reads its operands",
            Better::Lower,
            0.75,
            Some(0.7),
            "",
        )
        .from("64x256x16: 0.625")
        .worst(products(|work, rates| {
            per_tensor_clock(work, rates, work.busiest.operand_wavefronts)
        })),
    ]
}

/// The launch that computes the product with the weight.
fn product(demand: &Demand) -> Option<&Work> {
    let flops = |work: &&Work| work.all.mma_flops + work.all.wgmma_flops;
    let longer = |a: &&Work, b: &&Work| flops(a).total_cmp(&flops(b));
    demand.launches.iter().max_by(longer)
}

fn sectors_per_flop(work: &Work) -> f64 {
    work.all.sectors / (work.all.mma_flops + work.all.wgmma_flops)
}

/// Per clock of the tensor cores in a product by wgmma. A clock does as many operations as the data
/// sheet's peak has for a multiprocessor.
fn per_tensor_clock(work: &Work, rates: &Rates, wavefronts: f64) -> Option<f64> {
    let multiprocessors = f64::from(rates.multiprocessors);
    let per_clock = rates.tensor_peak * 1e3 / (rates.clock.value * multiprocessors);
    let flops = work.busiest.wgmma_flops;
    (flops > 0.0).then(|| wavefronts * per_clock / flops)
}

const INTRODUCTION: &str = "
## Modelled bound

Nothing here was measured. The time of a launch is modelled as the longest of six: its DRAM bytes, what L2 gives its blocks, its tensor-core work, its
shared-memory wavefronts, its instructions and its integer operations, each at the rate of the device (below); and a ramp. Launches follow each other.
";

const RATIOS: &str = "
Modelled time over that of the plain product alone, which cuBLAS computes at its published rate: forward over x·Wᵀ, backward (dx, dA, dB) over dy·W,
decode (one token) over x·Wᵀ. bf16; training with dropout, but for three launches (Unsloth's way), which has none. The limit does every product and
moves every tensor once.
";

const LAUNCHES: &str = "
What limits each of our launches of a layer with 4096 inputs and outputs, rank 16, with 8192 tokens, and with one; modelled µs:
";

const DEVICES: &str = "
What the devices can do. cuBLAS's rate has the clock under load in it, the other rates have not: a GPU at its power limit is slower in them, too.
";

pub fn markdown(text: &mut String, demands: &[Demands]) {
    text.push_str(INTRODUCTION);
    text.push_str(RATIOS);
    ratio_table(text, demands);
    text.push_str(LAUNCHES);
    launch_table(text, demands);
    text.push_str(DEVICES);
    device_table(text);
    text.push_str(METHOD);
}

/// The ways of computing a layer, in the order of their columns.
pub const WAYS: [&str; 4] = [OURS, THREE_LAUNCHES, PEFT, LIMIT];

fn ratio_table(text: &mut String, demands: &[Demands]) {
    let names: Vec<&str> = demands
        .iter()
        .filter_map(|demands| Some(demands.rates()?.name))
        .collect();
    let head: Vec<&str> = ["tokens x in x out, rank", ""]
        .into_iter()
        .chain(names)
        .collect();
    let Some(first) = demands.first() else { return };
    let rows = first.passes.iter().filter(|demand| demand.who == OURS);
    let rows = rows.flat_map(|ours| {
        WAYS.map(|who| {
            let ratio = |demands: &Demands| {
                let demand = demands.find(who, &ours.layer, &ours.pass)?;
                Some(format!("{:.2}", demands.over_plain(demand)?))
            };
            let layer = match who {
                OURS => format!("**{} {}**", ours.layer, ours.pass),
                _ => String::new(),
            };
            let ratios = demands
                .iter()
                .map(|demands| ratio(demands).unwrap_or_default());
            let ratios = ratios.map(|ratio| match who {
                OURS => format!("**{ratio}**"),
                _ => ratio,
            });
            [layer, who.to_owned()].into_iter().chain(ratios).collect()
        })
    });
    table(text, &head, rows);
}

fn launch_table(text: &mut String, demands: &[Demands]) {
    let resources = Resource::ALL.map(Resource::name);
    let head: Vec<&str> = ["", "blocks"]
        .into_iter()
        .chain(resources)
        .chain(["ramp", "modelled µs", "limit"])
        .collect();
    let mut rows = Vec::new();
    for (on, demand) in by(demands, OURS) {
        let (true, Some(rates)) = ([LAYER, DECODE].contains(&demand.layer.as_str()), on.rates())
        else {
            continue;
        };
        for work in &demand.launches {
            let limit = work.limit(rates);
            let mut row = vec![
                format!("{} {}: {}", rates.name, demand.pass, short(&work.what)),
                work.blocks.to_string(),
            ];
            row.extend(Resource::ALL.map(|resource| {
                let us = format!("{:.1}", work.us_of(resource, rates));
                if resource == limit {
                    format!("**{us}**")
                } else {
                    us
                }
            }));
            row.extend([
                format!("{:.1}", rates.ramp.value),
                format!("{:.1}", work.us(rates)),
                limit.name().to_owned(),
            ]);
            rows.push(row);
        }
    }
    table(text, &head, rows.into_iter());
}

fn device_table(text: &mut String) {
    let names = Rates::ALL.iter().map(|rates| rates.name);
    let head: Vec<&str> = [""].into_iter().chain(names).collect();
    let row = |what: &str, of: fn(&Rates) -> String| {
        let cells = Rates::ALL.iter().map(of);
        [what.to_owned()]
            .into_iter()
            .chain(cells)
            .collect::<Vec<_>>()
    };
    let rows = [
        row("multiprocessors", |r| r.multiprocessors.to_string()),
        row("clock, GHz", |r| r.clock.value.to_string()),
        row("DRAM, GB/s (data sheet)", |r| {
            format!("{:.0} ({:.0})", r.dram.value, r.dram_peak)
        }),
        row("L2, GB/s", |r| format!("{:.0}", r.l2.value)),
        row("cuBLAS and wgmma, TFLOP/s (data sheet)", |r| {
            format!("{} ({})", r.plain.value, r.tensor_peak)
        }),
        row("mma.sync, TFLOP/s", |r| format!("{:.0}", r.mma())),
        row("ramp, µs", |r| r.ramp.value.to_string()),
    ];
    table(text, &head, rows.into_iter());
    text.push_str(&format!(
        "\nOf every multiprocessor and clock: {} instructions of warps, {} bytes of shared memory, {} integer lanes, {} bytes from L2 ({}).\n\nSources; gpu-benches is github.com/te42kyfo/gpu-benches:\n\n",
        rates::ISSUE_SLOTS,
        rates::SHARED_BYTES,
        rates::INTEGER_LANES,
        rates::INGRESS_BYTES,
        rates::PER_CLOCK_SOURCE,
    ));
    type Column = (&'static str, fn(&Rates) -> Sourced);
    let columns: [Column; 6] = [
        ("clock", |r| r.clock),
        ("DRAM", |r| r.dram),
        ("L2", |r| r.l2),
        ("cuBLAS", |r| r.plain),
        ("mma.sync", |r| r.mma_share),
        ("ramp", |r| r.ramp),
    ];
    for (what, of) in columns {
        let mut sources: Vec<(&str, Vec<&str>)> = Vec::new();
        for rates in &Rates::ALL {
            let source = of(rates).source;
            match sources.iter_mut().find(|(known, _)| *known == source) {
                Some((_, names)) => names.push(rates.name),
                None => sources.push((source, vec![rates.name])),
            }
        }
        let sources = sources.iter().map(|(source, names)| match names.len() {
            4 => (*source).to_owned(),
            _ => format!("{}: {source}", names.join(", ")),
        });
        let sources: Vec<String> = sources.collect();
        text.push_str(&format!("- **{what}**: {}\n", sources.join("; ")));
    }
}

const METHOD: &str = "
How it is counted:

- **Counts are of PTX**, from blocks that ran on the emulated device of that name, in the place of machine code's. `mov` and loads of parameters don't
  count, since ptxas makes operands of them. Integer multiplications are instructions, but not of the integer ALU. Address arithmetic that ptxas folds into
  offsets and logic that it merges into one instruction count in full, so issue and integer times are rather too long. Loops of mma, ldmatrix, copies and
  wgmma are what they are in machine code.
- **Blocks**: of a product whose tiles are not split, the first block or cluster runs; it has as many tiles as any, and the multiprocessor with most blocks
  has that many. Of everything else, every block runs, and the busiest multiprocessor has as many average blocks as there are turns.
- **L2**: sectors of all blocks at L2's rate, or those of the busiest multiprocessor at what one takes per clock. A multicast is given once by L2 and taken
  by each block.
- **DRAM**: in training as under \"Modelled\"; in decode the emulator replays what all blocks access under the same model,
  so partial sums stay in L2.
- **Peers** launch what `crates/lora-kernels-baselines` says, every product at cuBLAS's rate or DRAM's, elementwise kernels at DRAM's. What else could limit
  them is not held against them.
- **Not in it**: latencies (a single block that streams alone takes longer than its bytes), waits at the end of a pipeline, occupancy, and what launches of
  a graph overlap. Our decode alone has the latencies at its end, as \"Decode\" says.
";

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_report::bound::Counts;

    fn demand(who: &str, pass: &str, work: Work) -> Demand {
        Demand {
            who: who.to_owned(),
            layer: LAYER.to_owned(),
            pass: pass.to_owned(),
            launches: vec![work],
            waits_us: 0.0,
        }
    }

    fn plain() -> Work {
        Work {
            library_flops: 745e9,
            ..Work::default()
        }
    }

    fn on(device: &str, sectors: f64) -> Demands {
        let rates = Rates::by_key(device).expect("a device of the table");
        let each = 1e12 / f64::from(rates.multiprocessors);
        let counts = |flops: f64| Counts {
            sectors,
            wgmma_flops: flops,
            wavefronts: flops / 4096.0,
            operand_wavefronts: flops / 8192.0,
            ..Counts::default()
        };
        let ours = Work {
            what: "lora_forward__sm90a__bf16__m128n256k64_vec".to_owned(),
            all: counts(1e12),
            busiest: counts(each),
            ..Work::default()
        };
        Demands {
            device: device.to_owned(),
            decode: Vec::new(),
            waves: Vec::new(),
            passes: vec![
                demand(OURS, "forward", ours.clone()),
                demand(PLAIN, "forward", plain()),
                demand(OURS, "backward", ours),
                demand(PLAIN, "backward", plain()),
            ],
        }
    }

    #[test]
    fn goals_of_hopper_are_worst_values_of_its_devices() {
        let demands = [on("a100", 2e8), on("h100", 1e8), on("h200", 1e8)];
        let goals = goals(&demands);
        let value = |index: usize| goals[index].worst.as_ref().map(|worst| worst.value);
        let ratio = (1e6 / 745.0 + 2.3) / (1e3 + 2.3);
        assert_eq!(value(0), Some(rounded(ratio)));
        assert_eq!(value(1), value(0));
        assert_eq!(value(2), Some(0.5));
        // 989.4 TFLOP/s are 4096 FLOP per clock and multiprocessor.
        let per_clock = [3, 4].map(|index| value(index).map(|value| (value * 1e3).round()));
        assert_eq!(per_clock, [Some(1e3), Some(5e2)]);
    }

    #[test]
    fn figures_of_peers_are_told_from_ours() {
        let mut demands = on("h100", 1e8);
        demands.passes.push(demand(PEFT, "forward", plain()));
        let figures = figures(&[demands]);
        assert_eq!(
            figures.get(&format!("peers/PEFT/bound/h100/{LAYER}/forward/over_plain")),
            Some(&1.0)
        );
        let ours = format!("bound/h100/{LAYER}/forward/over_plain");
        assert!(figures.contains_key(&ours));
        assert_eq!(figures::better(&ours), Some(Better::Lower));
    }

    /// A table has every layer, every way and every device.
    #[test]
    fn the_page_names_limits_and_sources() {
        let mut text = String::new();
        markdown(&mut text, &[on("h100", 1e8)]);
        for part in [
            "| **8192x4096x4096 r16 forward** | lora-kernels |",
            "H100 forward: forward sm90a bf16 m128n256k64 vec",
            "| tensor |",
            "arXiv 2501.12084",
        ] {
            assert!(text.contains(part), "{part}");
        }
    }
}
