//! Decode: goals, figures and tables of batches of few tokens.

use std::collections::BTreeMap;

use super::figures::{self, Better, rounded};
use super::goals::{Goal, goal};
use super::markdown::table;
use lora_kernels_report::bound::{Demands, Waves};
use lora_kernels_report::decode::{BEFORE, Decode, WITHOUT};
use lora_kernels_report::document::OURS;
use lora_kernels_report::rates::{DRAM_TRIP, L2_TRIP, Rates};

const KIB: f64 = 1024.0;
const WARP: f64 = 32.0;
/// The device of the tables of counts, which are nearly the same on all.
const COUNTED_ON: &str = "h100";
/// A projection whose efficiency is below this is in the table.
const EVEN: f64 = 95.0;

/// The batches of one who, with their devices.
fn by<'a>(
    demands: &'a [Demands],
    who: &'a str,
) -> impl Iterator<Item = (&'static Rates, &'a Decode)> {
    demands.iter().flat_map(move |on| {
        let batches = on.decode.iter().filter(move |decode| decode.who == who);
        batches.filter_map(|decode| Some((on.rates()?, decode)))
    })
}

fn at((rates, decode): (&Rates, &Decode)) -> String {
    format!("{} {}", rates.key, decode.layer())
}

/// `decode/h100/1x4096x4096 r16 D1/dram_over_compulsory` and others.
pub fn figures(demands: &[Demands]) -> BTreeMap<String, f64> {
    let mut found = BTreeMap::new();
    for on in demands {
        let Some(rates) = on.rates() else { continue };
        for decode in &on.decode {
            let who = match decode.who.as_str() {
                WITHOUT => format!("{WITHOUT}/"),
                who => figures::prefix(who),
            };
            let name = format!("{who}decode/{}/{}", on.device, decode.layer());
            let mut add = |what: &str, value: f64| {
                found.insert(format!("{name}/{what}"), rounded(value));
            };
            add("launches", decode.launches.len() as f64);
            add("dram_over_compulsory", decode.dram_over_compulsory());
            add("sectors_over_minimum", decode.sectors_over_compulsory());
            add("instructions", decode.instructions());
            add("modelled_us", decode.us(rates));
            add("over_plain", decode.over_plain(rates));
        }
        for waves in &on.waves {
            let name = format!(
                "decode/{}/{}/{} tokens/wave_efficiency_percent",
                on.device, waves.model, waves.tokens
            );
            let least = found.entry(name).or_insert(f64::INFINITY);
            *least = least.min(rounded(waves.efficiency_percent));
        }
    }
    found
}

pub fn goals(demands: &[Demands]) -> Vec<Goal> {
    use Better::{Higher, Lower};
    let ours =
        |of: fn(&Decode) -> f64| by(demands, OURS).map(move |found| (of(found.1), at(found)));
    let in_flight = |keys: &'static [&'static str]| {
        let found = by(demands, OURS).filter(|(rates, _)| keys.contains(&rates.key));
        found.filter_map(|found| Some((found.1.stream?.in_flight() / KIB, at(found))))
    };
    let one = by(demands, OURS).filter(|(_, decode)| decode.adapters == 1);
    let time = one.map(|found| (found.1.over_plain(found.0), at(found)));
    let waves = demands.iter().flat_map(|on| {
        let of = |waves: &Waves| {
            let Waves {
                model,
                projection,
                tokens,
                ..
            } = waves;
            let at = format!("{} {model} {projection}, {tokens} tokens", on.device);
            (waves.efficiency_percent, at)
        };
        on.waves.iter().map(of)
    });
    let without = by(demands, WITHOUT).map(|found| {
        let bytes: f64 = found.1.launches.iter().map(|work| work.dram_bytes).sum();
        (bytes / found.1.plain_bytes(), at(found))
    });
    let weight = by(demands, WITHOUT).filter_map(|found| Some((found.1.weight_reads?, at(found))));
    vec![
        goal("Decode: launches", Lower, 1.0, None, "")
            .from("three of cuBLAS; vLLM and Punica: the product, a fill, shrink, expand")
            .worst(ours(|decode| decode.launches.len() as f64)),
        goal(
            "Decode: DRAM bytes over W, the batch's adapters, x and y",
            Lower,
            1.03,
            Some(1.01),
            "",
        )
        .from("each once; 1, 8 and 64 adapters")
        .shortfall(DRAM_SHORTFALL)
        .worst(ours(Decode::dram_over_compulsory)),
        goal(
            "Decode: sectors between L2 and blocks over the same",
            Lower,
            1.05,
            None,
            "",
        )
        .from("each once")
        .shortfall(SECTORS_SHORTFALL)
        .worst(ours(Decode::sectors_over_compulsory)),
        goal(
            "Decode: sectors of the weight that are copied, over its size",
            Lower,
            1.0,
            None,
            "",
        )
        .from("once; a row's copy is a line of 128 bytes, by eight lanes")
        .worst(weight),
        goal(
            "Decode: sectors copied beyond the fewest",
            Lower,
            0.0,
            None,
            "",
        )
        .from("whole sectors")
        .worst(ours(|decode| decode.partial_sectors)),
        goal(
            "Decode: bytes of the weight in flight per multiprocessor, A100 and H100",
            Higher,
            16.0,
            None,
            "KiB",
        )
        .from("Little's law: 3.35 TB/s, 0.7 µs")
        .worst(in_flight(&["a100", "h100"])),
        goal(
            "Decode: bytes of the weight in flight per multiprocessor, H200",
            Higher,
            20.0,
            None,
            "KiB",
        )
        .from("4.8 TB/s")
        .worst(in_flight(&["h200"])),
        goal("Decode: bank conflicts", Lower, 0.0, None, "wavefronts")
            .shortfall(CONFLICTS_SHORTFALL)
            .worst(ours(|decode| decode.conflicts)),
        goal(
            "Decode: modelled time over the plain product's, one adapter",
            Lower,
            1.1,
            Some(1.06),
            "",
        )
        .from("a product at the rate of a long read and one ramp; latencies at our end are against us")
        .shortfall(TIME_SHORTFALL)
        .worst(time),
        goal(
            "Decode: wave efficiency, projections of four models",
            Higher,
            EVEN,
            None,
            "%",
        )
        .from("Llama-3-8B, Qwen2.5-7B, Mistral-7B, Gemma-2-9b at 1, 4, 16, 64 tokens")
        .shortfall(WAVES_SHORTFALL)
        .worst(waves),
        goal(
            "Decode, no row with an adapter: DRAM bytes over W, x and y",
            Lower,
            1.01,
            None,
            "",
        )
        .from("rows without adapters cost nothing")
        .shortfall(DRAM_SHORTFALL)
        .worst(without),
    ]
}

const DRAM_SHORTFALL: &str = "the bytes beyond are the parts of shared tiles, which blocks leave for the last of them: tokens x 64 x 4 bytes, at most two for \
    each block. L2 holds them, and the model writes them back once the launch ends; launches that follow on the same workspace overwrite them in L2, which \
    the model of one launch doesn't see. A batch-invariant plan has no such parts, but leaves places without work";
const SECTORS_SHORTFALL: &str = "a tile is 64 rows of the weight, and its block reads the batch's columns of x beside them: from L2, where x is, \
    tokens / 64 of the weight's bytes. Tiles of 128 rows would halve that, and leave half of the places without work where the weight has few rows. \
    DRAM doesn't see it, and L2 gives it in less time than DRAM takes for the weight: \"L2\" in the table below";
const CONFLICTS_SHORTFALL: &str = "the copies of tiles and their reads by ldmatrix have none. At a tile's end, y is turned in shared memory, and a lane reads \
    eight neighbours as two times four, so that eight lanes take two turns for each: under 1 % of all wavefronts";
const TIME_SHORTFALL: &str = "what a tile's blocks leave for the last of them, and B, are read after the last byte of the weight, and nothing hides these \
    round trips: a few µs at the end of a launch that takes ten. The plain product has no end in this model but its ramp. \
    Asking for B before the sums, or fewer shared tiles, would shorten it";
const WAVES_SHORTFALL: &str = "only k and v alone, which have few steps for each place: 3584x512 has 448 for 264 places of an H100, or 216 of an A100. Blocks \
    with one and with two or three steps can't be even. In one call with q (q + k + v, as the kernels take it) they are";

const INTRODUCTION: &str = "
## Decode

Batches of 1 to 64 tokens for inference, bf16. Nothing here was measured: every block ran on the emulated device, the L2 model replayed what they access,
and times are modelled as above. D is the number of distinct adapters in the batch; the tokens take turns at them.
";

fn assumptions() -> String {
    format!(
        "
Modelled time over the plain product's: its bytes at the rate of a long read (or its operations at cuBLAS's), and one ramp. \"With its end\" is what the goal
is about: S takes its pieces' round trips (DRAM's {DRAM_TRIP} µs, L2's {L2_TRIP} µs, assumed), and if that is longer than the weight takes, the launch waits for it;
then, hidden by nothing, a shared tile's part is written, counted and read (four round trips to L2), S's flag is read (one), and B (one to DRAM). Neither
the other ways nor the plain product are charged with such latencies. Two launches are the forward that decode took before.
"
    )
}

const COUNTS: &str = "
Counted on the H100. The peers' adapters were written anew from their published structure (`crates/lora-kernels-baselines/README.md`); the product beside
them is one launch that moves every byte once. Instructions are of threads (32 per instruction of a warp): of all launches per element of the weight, but for
the peers, whose product is cuBLAS's, only those of the adapters, per element of the batch's A and B; for us those beyond a batch without adapters.
";

pub fn markdown(text: &mut String, demands: &[Demands]) {
    if demands.iter().all(|on| on.decode.is_empty()) {
        return;
    }
    text.push_str(INTRODUCTION);
    text.push_str(&assumptions());
    time_table(text, demands);
    text.push_str(COUNTS);
    count_table(text, demands);
    wave_table(text, demands);
}

fn time_table(text: &mut String, demands: &[Demands]) {
    let names = demands.iter().filter_map(|on| Some(on.rates()?.name));
    let head: Vec<&str> = ["tokens x in x out, rank, adapters", ""]
        .into_iter()
        .chain(names)
        .collect();
    let Some(first) = demands.first() else { return };
    let layers = first.decode.iter().filter(|decode| decode.is_ours());
    let mut rows = Vec::new();
    for layer in layers {
        let mut row = |what: &str, who: &str, of: fn(&Decode, &Rates) -> f64| {
            let cell = |on: &Demands| {
                let same = |decode: &&Decode| decode.who == who && decode.layer() == layer.layer();
                let decode = on.decode.iter().find(same)?;
                Some(format!("{:.2}", of(decode, on.rates()?)))
            };
            let cells: Vec<String> = demands
                .iter()
                .map(|on| cell(on).unwrap_or_default())
                .collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                let name = match who {
                    OURS if what == WITH_END => format!("**{}**", layer.layer()),
                    _ => String::new(),
                };
                rows.push([vec![name, what.to_owned()], cells].concat());
            }
        };
        row(WITH_END, OURS, Decode::over_plain);
        row("lora-kernels without it", OURS, |decode, rates| {
            decode.work_us(rates) / decode.plain_us(rates)
        });
        row("no row has an adapter", WITHOUT, Decode::over_plain);
        row("two launches, before", BEFORE, Decode::over_plain);
        for peer in ["vLLM", "Punica"] {
            row(peer, peer, Decode::over_plain);
        }
    }
    table(text, &head, rows.into_iter());
}

const WITH_END: &str = "lora-kernels with its end";

fn count_table(text: &mut String, demands: &[Demands]) {
    let head = [
        "",
        "",
        "launches",
        "DRAM over compulsory",
        "sectors over compulsory",
        "bank conflicts",
        "instructions per weight",
        "per element of A and B",
        "L2 µs",
        "DRAM µs",
        "S ready, µs",
        "in flight, KiB",
    ];
    let Some(on) = demands.iter().find(|on| on.device == COUNTED_ON) else {
        return;
    };
    let Some(rates) = on.rates() else { return };
    let rows = on.decode.iter().map(|decode| {
        use lora_kernels_report::bound::Resource;
        let threads = WARP * decode.instructions();
        let weights = decode.weight_bytes() / 2.0;
        let without = on
            .decode
            .iter()
            .find(|other| other.who == WITHOUT && other.layer() == decode.layer());
        let dash = || "–".to_owned();
        let (per_weight, per_adapter) = match decode.who.as_str() {
            OURS => (
                format!("{:.2}", threads / weights),
                without.map_or_else(dash, |without| {
                    let more = threads - WARP * without.instructions();
                    format!("{:.2}", more / decode.adapter_elements())
                }),
            ),
            BEFORE | WITHOUT => (format!("{:.2}", threads / weights), dash()),
            _ => (
                dash(),
                format!("{:.2}", threads / decode.adapter_elements()),
            ),
        };
        let us = |resource: Resource| -> f64 {
            let launches = decode.launches.iter();
            launches.map(|work| work.us_of(resource, rates)).sum()
        };
        vec![
            decode.layer(),
            decode.who.clone(),
            decode.launches.len().to_string(),
            format!("{:.3}", decode.dram_over_compulsory()),
            format!("{:.3}", decode.sectors_over_compulsory()),
            format!("{}", decode.conflicts),
            per_weight,
            per_adapter,
            format!("{:.1}", us(Resource::L2)),
            format!("{:.1}", us(Resource::Dram)),
            decode
                .stream
                .map_or_else(dash, |stream| format!("{:.1}", stream.s_us())),
            decode
                .stream
                .map_or_else(dash, |stream| format!("{:.0}", stream.in_flight() / KIB)),
        ]
    });
    table(text, &head, rows);
}

fn wave_table(text: &mut String, demands: &[Demands]) {
    let all = demands.iter().map(|on| on.waves.len()).sum::<usize>();
    let uneven = demands.iter().flat_map(|on| {
        let of_device = on.waves.iter();
        let uneven = of_device.filter(|waves| waves.efficiency_percent < EVEN);
        uneven.map(|waves| (on.device.as_str(), waves))
    });
    let mut found: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    let mut count = 0;
    for (device, waves) in uneven {
        count += 1;
        let key = (waves.projection.clone(), waves.model.clone());
        let cell = format!(
            "{device} at {}: {:.1} %",
            waves.tokens, waves.efficiency_percent
        );
        found.entry(key).or_default().push(cell);
    }
    text.push_str(&format!(
        "\nOf {all} projections of Llama-3-8B, Qwen2.5-7B, Mistral-7B and Gemma-2-9b, devices and numbers of tokens (1, 4, 16, 64), these {count} are even \
         to less than {EVEN} %: their steps (64 columns of a tile's 64 rows) don't share out evenly among the places.\n"
    ));
    let rows = found.into_iter().map(|((projection, model), cells)| {
        vec![format!("{model} {projection}"), cells.join("; ")]
    });
    table(text, &["", "device at tokens: efficiency"], rows);
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels_report::bound::{Counts, Work};
    use lora_kernels_report::decode::Stream;

    /// A batch whose launches move so many times what is compulsory.
    fn batch(who: &str, factor: f64) -> Decode {
        let mut decode = Decode {
            who: who.to_owned(),
            tokens: 1,
            in_features: 4096,
            out_features: 14336,
            rank: 16,
            adapters: 1,
            launches: Vec::new(),
            conflicts: 0.0,
            partial_sectors: 0.0,
            weight_reads: (who == WITHOUT).then_some(factor),
            stream: Some(Stream {
                steps: 14336,
                blocks: 264,
                places: 264,
                resident: 2,
                ahead: 10 << 10,
                items: 8,
                dram_trips: 4.0,
                l2_trips: 3.0,
                shared: true,
            }),
        };
        let bytes = match who {
            WITHOUT => decode.plain_bytes(),
            _ => decode.compulsory_bytes(),
        };
        decode.launches.push(Work {
            dram_bytes: bytes * factor,
            all: Counts {
                sectors: decode.compulsory_bytes() * factor / 32.0,
                ..Counts::default()
            },
            ..Work::default()
        });
        decode
    }

    fn on(factor: f64, efficiency_percent: f64) -> Vec<Demands> {
        let of = |device: &str| Demands {
            device: device.to_owned(),
            passes: Vec::new(),
            decode: vec![batch(OURS, factor), batch(WITHOUT, factor)],
            waves: vec![Waves {
                model: "a model".to_owned(),
                projection: "q 1x2".to_owned(),
                tokens: 4,
                blocks: 264,
                efficiency_percent,
            }],
        };
        ["a100", "h100", "h200"].map(of).to_vec()
    }

    fn unmet(demands: &[Demands]) -> Vec<&'static str> {
        use crate::report::goals::Outcome;
        let goals = goals(demands).into_iter();
        goals
            .filter(|goal| goal.outcome() == Outcome::NotMet)
            .map(|goal| goal.what)
            .collect()
    }

    #[test]
    fn goals_fail_when_figures_get_worse() {
        assert_eq!(unmet(&on(1.0, 96.0)), Vec::<&str>::new());
        // Bytes, sectors, the weight's, time, and bytes without adapters.
        assert_eq!(unmet(&on(1.2, 96.0)).len(), 5);
        assert_eq!(
            unmet(&on(1.0, 94.0)),
            ["Decode: wave efficiency, projections of four models"]
        );
        let mut demands = on(1.0, 96.0);
        for demands in &mut demands {
            let decode = &mut demands.decode[0];
            decode.launches.push(Work::default());
            decode.conflicts = 1.0;
            decode.partial_sectors = 1.0;
            if let Some(stream) = &mut decode.stream {
                stream.ahead = 7 << 10;
            }
        }
        // Launches and so time, sectors copied, both amounts in flight, conflicts.
        assert_eq!(unmet(&demands).len(), 6);
    }

    #[test]
    fn every_batch_and_uneven_projection_is_told() {
        let mut text = String::new();
        let demands = on(1.0, 94.0);
        markdown(&mut text, &demands);
        for part in [
            "| **1x4096x14336 r16 D1** | lora-kernels with its end |",
            "no row has an adapter",
            "a model q 1x2 | a100 at 4: 94.0 %; h100",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
        let figures = figures(&demands);
        let ratio = figures.get("decode/h100/1x4096x14336 r16 D1/dram_over_compulsory");
        assert_eq!(ratio, Some(&1.0));
        assert!(figures.contains_key("decode/h200/a model/4 tokens/wave_efficiency_percent"));
    }
}
