//! The goals, each with the best value known of others, and ours.

use super::figures::{Better, over, rounded};
use super::hopper;
use super::kernels::{Compiled, is_wide, tile};
use super::loops::Math;
use lora_kernels_build::ptxas::Remark;
use lora_kernels_report::document::{Counted, Document, OURS, Plan};

/// A goal, and the worst value that it applies to.
#[derive(Debug, Clone, PartialEq)]
pub struct Goal {
    pub what: &'static str,
    /// `None` if it applies to nothing; it isn't met then.
    pub worst: Option<Worst>,
    pub bar: f64,
    pub aim: Option<f64>,
    pub better: Better,
    pub unit: &'static str,
    pub source: &'static str,
    /// Why it isn't met, if it isn't, and what was tried.
    pub shortfall: &'static str,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Worst {
    pub value: f64,
    /// The kernel or run with this value.
    pub at: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Outcome {
    NotMet,
    Met,
    AimMet,
}

impl Goal {
    pub fn outcome(&self) -> Outcome {
        let Some(worst) = &self.worst else {
            return Outcome::NotMet;
        };
        let reaches = |goal: f64| match self.better {
            Better::Lower => worst.value <= goal,
            Better::Higher => worst.value >= goal,
        };
        match self.aim {
            Some(aim) if reaches(aim) => Outcome::AimMet,
            _ if reaches(self.bar) => Outcome::Met,
            _ => Outcome::NotMet,
        }
    }
}

impl Outcome {
    pub fn text(self) -> &'static str {
        match self {
            Outcome::NotMet => "**not met**",
            Outcome::Met => "met",
            Outcome::AimMet => "met, and the aim",
        }
    }
}

/// A goal without values yet.
pub fn goal(
    what: &'static str,
    better: Better,
    bar: f64,
    aim: Option<f64>,
    unit: &'static str,
) -> Goal {
    Goal {
        what,
        worst: None,
        bar,
        aim,
        better,
        unit,
        source: "",
        shortfall: "",
    }
}

impl Goal {
    pub fn from(mut self, source: &'static str) -> Self {
        self.source = source;
        self
    }

    pub fn shortfall(mut self, shortfall: &'static str) -> Self {
        self.shortfall = shortfall;
        self
    }

    pub fn worst(mut self, values: impl Iterator<Item = (f64, String)>) -> Self {
        let worse = |a: &(f64, String), b: &(f64, String)| match self.better {
            Better::Lower => a.0.total_cmp(&b.0),
            Better::Higher => b.0.total_cmp(&a.0),
        };
        // Among equal values the first one is kept.
        let worst = values.reduce(|worst, next| {
            if worse(&next, &worst).is_gt() {
                next
            } else {
                worst
            }
        });
        self.worst = worst.map(|(value, at)| Worst {
            value: rounded(value),
            at,
        });
        self
    }
}

/// All goals. `units` are the names of all units that were compiled.
pub fn goals(
    kernels: &[Compiled],
    units: &[String],
    remarks: &[Remark],
    document: &Document,
) -> Vec<Goal> {
    let mut goals = of_the_code(kernels);
    goals.extend(hopper::of_the_code(kernels, units, remarks));
    goals.extend(executed(document));
    goals.extend(modelled(document));
    goals
}

type Tile = (u32, u32, u32);

const LARGE: Tile = (128, 256, 64);
const SQUARE: Tile = (128, 128, 32);

/// Goals for the machine code.
fn of_the_code(kernels: &[Compiled]) -> Vec<Goal> {
    use Better::{Higher, Lower};
    let at =
        |kernel: &Compiled| format!("{} sm_{}", kernel.resources.symbol, kernel.resources.arch);
    let all = |of: fn(&Compiled) -> f64| kernels.iter().map(move |kernel| (of(kernel), at(kernel)));
    // Kernels for any alignment serve odd shapes; the goals are for the others. The comparisons
    // were measured for sm_80.
    let of_tile = |wanted: Tile, of: fn(&Compiled) -> Option<f64>| {
        let fast = kernels.iter().filter(move |kernel| {
            let symbol = &kernel.resources.symbol;
            kernel.resources.arch == "80" && is_wide(symbol) && tile(symbol) == Some(wanted)
        });
        fast.filter_map(move |kernel| Some((of(kernel)?, at(kernel))))
    };
    // The main loops of tensor-core products, for every tile and architecture.
    let products = |of: fn(&Compiled) -> Option<f64>| {
        let products = kernels.iter().filter(|kernel| {
            let mma = kernel
                .main_loop
                .as_ref()
                .is_some_and(|(math, _)| *math == Math::Mma);
            mma && is_wide(&kernel.resources.symbol) && tile(&kernel.resources.symbol).is_some()
        });
        products.filter_map(move |kernel| Some((of(kernel)?, at(kernel))))
    };
    let share = |kernel: &Compiled| {
        let (_, mix) = kernel.main_loop.as_ref()?;
        Some(100.0 * over(f64::from(mix.math), f64::from(mix.instructions)))
    };
    vec![
        goal(
            "Local memory, spills included, any kernel",
            Lower,
            0.0,
            None,
            "B",
        )
        .from("every kernel of CUTLASS, Marlin and DeepGEMM that was looked at")
        .worst(all(|kernel| f64::from(kernel.resources.local_bytes))),
        goal("Float atomics in any kernel", Lower, 0.0, None, "")
            .from("bitwise equal results in every run")
            .worst(all(|kernel| kernel.float_atomics as f64)),
        goal("Registers, 128x256x64", Lower, 255.0, Some(242.0), "")
            .from("CUTLASS 128x256x64, warps of 64x64: 242")
            .worst(of_tile(LARGE, |kernel| {
                Some(f64::from(kernel.resources.registers))
            })),
        goal(
            "MMA share of the main loop, 128x256x64",
            Higher,
            42.0,
            Some(47.0),
            "%",
        )
        .from("CUTLASS, same tile: 46.9 %")
        .worst(of_tile(LARGE, share)),
        goal(
            "MMA share of the main loop, 128x128x32",
            Higher,
            36.0,
            Some(40.0),
            "%",
        )
        .from("CUTLASS, same tile: 39.0 %")
        .worst(of_tile(SQUARE, share)),
        goal("LDSM per HMMA, 128x256x64", Lower, 0.25, None, "")
            .from("CUTLASS, warps of 64x64: 0.25")
            .worst(of_tile(LARGE, ldsm_per_mma)),
        goal("LDSM per HMMA, 128x128x32", Lower, 0.25, None, "")
            .from("CUTLASS, warps of 64x64: 0.25")
            .worst(of_tile(SQUARE, ldsm_per_mma)),
        goal("Barriers per step of depth", Lower, 1.0, None, "")
            .from("CUTLASS: 1")
            .worst(products(|kernel| per_step(kernel, |mix| mix.barriers))),
        goal("Waits for cp.async per step of depth", Lower, 1.0, None, "")
            .from("CUTLASS: 1")
            .worst(products(|kernel| per_step(kernel, |mix| mix.waits))),
        goal(
            "HMMA in the main loop that are not the base product's",
            Lower,
            0.0,
            None,
            "",
        )
        .from("the low-rank step stands outside of it")
        .worst(products(|kernel| {
            let (_, mix) = kernel.main_loop.as_ref()?;
            let steps = kernel.steps?;
            let whole = steps.floor().max(1.0);
            Some(f64::from(mix.math) * (1.0 - whole / steps).abs())
        })),
    ]
}

fn ldsm_per_mma(kernel: &Compiled) -> Option<f64> {
    let (_, mix) = kernel.main_loop.as_ref()?;
    Some(f64::from(mix.ldsm) / f64::from(mix.math.max(1)))
}

fn per_step(kernel: &Compiled, of: fn(&super::loops::Mix) -> u32) -> Option<f64> {
    let (_, mix) = kernel.main_loop.as_ref()?;
    Some(f64::from(of(mix)) / kernel.steps?)
}

/// Goals for the counts of the emulated device.
fn executed(document: &Document) -> Vec<Goal> {
    use Better::{Higher, Lower};
    let runs = || document.runs.iter().filter(|run| run.who == OURS);
    let launches = |pass: &'static str| {
        let runs = runs().filter(move |run| run.pass == pass);
        runs.map(|run| (run.sum(|launch| launch.launches as f64), run.name()))
    };
    let of_launches = |of: fn(&Counted) -> f64| {
        runs().flat_map(move |run| {
            run.launches
                .iter()
                .map(move |launch| (of(launch), format!("{}: {}", run.name(), launch.symbol)))
        })
    };
    vec![
        goal("Launches of a forward", Lower, 2.0, None, "")
            .from("Unsloth: 3; PEFT: 5")
            .worst(launches("forward")),
        goal("Launches of a backward", Lower, 3.0, None, "")
            .from("unfused: 5 and more")
            .worst(launches("backward")),
        goal(
            "MMA work beyond the formulas', of the base product",
            Lower,
            0.1,
            None,
            "%",
        )
        .from("r/N + r/K is the least")
        .worst(runs().filter_map(|run| Some((run.extra_mma_percent()?, run.name())))),
        goal(
            "Sector efficiency of each kernel, aligned shapes",
            Higher,
            100.0,
            None,
            "%",
        )
        .from("whole sectors of 32 bytes")
        .worst(of_launches(|launch| {
            100.0 * over(launch.ideal_sectors, launch.sectors)
        })),
        goal(
            "Bank conflicts of ldmatrix and cp.async",
            Lower,
            0.0,
            None,
            "wavefronts",
        )
        .from("a swizzle of 128 bytes has none")
        .worst(of_launches(|launch| {
            launch.tile_wavefronts - launch.tile_ideal_wavefronts
        })),
        goal(
            "Wavefronts over ideal, other accesses to shared memory",
            Lower,
            1.05,
            None,
            "",
        )
        .from("staged epilogues")
        .worst(of_launches(|launch| {
            over(launch.other_wavefronts, launch.other_ideal_wavefronts)
        })),
    ]
}

/// Goals for plans and modelled DRAM traffic.
fn modelled(document: &Document) -> Vec<Goal> {
    use Better::{Higher, Lower};
    const GIB: f64 = (1_u64 << 30) as f64;
    let plans = || document.plans.iter().filter(|plan| plan.who == OURS);
    let layer = |plan: &&Plan| {
        let shape = &plan.shape;
        plan.device == "h100"
            && shape.dropout
            && (
                shape.tokens,
                shape.in_features,
                shape.out_features,
                shape.rank,
            ) == (8192, 4096, 4096, 16)
    };
    let reads = plans().filter(layer).filter_map(|plan| {
        let (_, product) = plan.product()?;
        Some((product.reads_over_compulsory(), plan.name()))
    });
    let both: Vec<&Plan> = plans().filter(layer).collect();
    let bytes: u64 = both.iter().map(|plan| plan.bytes()).sum();
    let total = both
        .first()
        .map(|plan| (bytes as f64 / GIB, format!("{}, and backward", plan.name())));
    let waves = plans().filter_map(|plan| {
        let (_, product) = plan.product()?;
        Some((product.wave_efficiency(), plan.name()))
    });
    vec![
        goal(
            "DRAM reads over compulsory, product of 8192x4096x4096, H100",
            Lower,
            2.4,
            Some(2.2),
            "",
        )
        .from("LoRAFusion's raster: 3.8, same model; bands of 8 tiles without clusters: 2.307")
        .worst(reads),
        goal(
            "DRAM bytes, layer of 8192x4096x4096 r16 with dropout, H100",
            Lower,
            0.90,
            Some(0.79),
            "GiB",
        )
        .from("LoRAFusion: 1.258 measured, 1.215 in this model")
        .worst(total.into_iter()),
        goal("Wave efficiency", Higher, 95.0, None, "%")
            .from("128x256 on 132 multiprocessors: 97 %")
            .shortfall(
                "some shapes leave places idle at the end: 4096x4096x4096 on an L40S is 1024 tiles of 128x128 for 142 multiprocessors, two at a time \
                 on each, of which some compute 8 and others 6 or 7. Tiles of 64x64 would keep 99 % busy but read twice the operands per product, and \
                 the plans' cost model (`src/plan/cost.rs`) scores them lower. Two splits of the depth would keep 96 % busy, but their partial sums take \
                 128 MiB, more than plans allow. A tail of its own (stream-K) is not written",
            )
            .worst(waves),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(better: Better, values: &[f64]) -> Goal {
        let values = values.iter().map(|&value| (value, format!("{value}")));
        goal("share", better, 42.0, Some(47.0), "%").worst(values)
    }

    #[test]
    fn the_worst_value_decides() {
        assert_eq!(of(Better::Higher, &[48.0, 47.0]).outcome(), Outcome::AimMet);
        assert_eq!(of(Better::Higher, &[48.0, 43.0]).outcome(), Outcome::Met);
        let goal = of(Better::Higher, &[41.9, 48.0]);
        assert_eq!(goal.outcome(), Outcome::NotMet);
        assert_eq!(goal.worst.map(|worst| worst.at).as_deref(), Some("41.9"));
    }

    #[test]
    fn lower_is_better_the_other_way_round() {
        let goal = goal("launches", Better::Lower, 3.0, Some(2.0), "");
        let with = |value| {
            goal.clone()
                .worst([(value, String::new()), (0.0, String::new())].into_iter())
                .outcome()
        };
        assert_eq!(
            [with(2.0), with(3.0), with(3.5)],
            [Outcome::AimMet, Outcome::Met, Outcome::NotMet]
        );
    }

    #[test]
    fn a_goal_without_anything_to_look_at_is_not_met() {
        assert_eq!(of(Better::Higher, &[]).outcome(), Outcome::NotMet);
    }
}
