//! The modelled bound: how long a launch takes at least, if the device does all that is asked of it
//! at its stated rates ([`crate::rates`]) and at the same time. Nothing here was measured.

use serde::{Deserialize, Serialize};

use crate::rates::{INGRESS_BYTES, INTEGER_LANES, ISSUE_SLOTS, Rates, SHARED_BYTES};

/// Products of the base layer alone, by cuBLAS.
pub const PLAIN: &str = "plain product";
/// Three launches of cuBLAS per forward: Unsloth's way.
pub const THREE_LAUNCHES: &str = "three launches";
/// PyTorch modules in eager mode.
pub const PEFT: &str = "PEFT";
/// A launch per projection that does each product and moves each tensor once, at cuBLAS's rate.
pub const LIMIT: &str = "limit";

/// Bytes of a sector of global memory.
const SECTOR: f64 = 32.0;
const WARP: f64 = 32.0;

/// All that was counted on one device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demands {
    /// Key of the device.
    pub device: String,
    pub passes: Vec<Demand>,
    pub decode: Vec<crate::decode::Decode>,
    pub waves: Vec<Waves>,
}

/// How evenly the projections of a model share the steps of the weight out in decode.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Waves {
    pub model: String,
    /// `q 4096x4096`: in_features, out_features.
    pub projection: String,
    pub tokens: usize,
    pub blocks: u64,
    pub efficiency_percent: f64,
}

/// A pass of a layer by one way to compute it, and what its launches ask of the device.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Demand {
    /// [`crate::document::OURS`], [`PLAIN`], [`THREE_LAUNCHES`], [`PEFT`] or [`LIMIT`].
    pub who: String,
    /// `8192x4096x4096 r16`: tokens, in_features, out_features of each projection.
    pub layer: String,
    /// `forward`, `backward` or `decode`.
    pub pass: String,
    pub launches: Vec<Work>,
    /// µs of latencies that its launches don't hide, as far as they are modelled: those of our one
    /// launch for decode ([`crate::decode`]).
    pub waits_us: f64,
}

/// What a launch asks of the device.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Its kernel's symbol, or a formula.
    pub what: String,
    pub blocks: u64,
    /// Bytes between L2 and DRAM.
    pub dram_bytes: f64,
    /// Multiplications and additions of a product that cuBLAS computes, at its published rate.
    pub library_flops: f64,
    /// Counts of all blocks.
    pub all: Counts,
    /// Counts of the multiprocessor that has most to do.
    pub busiest: Counts,
}

/// Sums over blocks, from the emulator's counters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// 32-byte sectors that L2 gives or takes. What a multicast brings to several blocks counts
    /// once.
    pub sectors: f64,
    /// Sectors that arrive at blocks or leave them. A multicast counts for each block.
    pub block_sectors: f64,
    /// Multiplications and additions of `mma.sync`.
    pub mma_flops: f64,
    /// Multiplications and additions of `wgmma`.
    pub wgmma_flops: f64,
    /// Turns of 128 bytes of shared memory.
    pub wavefronts: f64,
    /// Of these, those in which `wgmma` reads its operands.
    pub operand_wavefronts: f64,
    /// Instructions of warps.
    pub instructions: f64,
    /// Of these, integer and logic operations, comparisons and selections.
    pub integer: f64,
}

impl Counts {
    /// Every count by this much.
    pub fn times(self, factor: f64) -> Self {
        Self {
            sectors: self.sectors * factor,
            block_sectors: self.block_sectors * factor,
            mma_flops: self.mma_flops * factor,
            wgmma_flops: self.wgmma_flops * factor,
            wavefronts: self.wavefronts * factor,
            operand_wavefronts: self.operand_wavefronts * factor,
            instructions: self.instructions * factor,
            integer: self.integer * factor,
        }
    }

    pub fn plus(self, other: Self) -> Self {
        Self {
            sectors: self.sectors + other.sectors,
            block_sectors: self.block_sectors + other.block_sectors,
            mma_flops: self.mma_flops + other.mma_flops,
            wgmma_flops: self.wgmma_flops + other.wgmma_flops,
            wavefronts: self.wavefronts + other.wavefronts,
            operand_wavefronts: self.operand_wavefronts + other.operand_wavefronts,
            instructions: self.instructions + other.instructions,
            integer: self.integer + other.integer,
        }
    }
}

/// What can limit a launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource {
    Dram,
    L2,
    Tensor,
    Shared,
    Issue,
    Integer,
}

impl Resource {
    pub const ALL: [Resource; 6] = [
        Resource::Dram,
        Resource::L2,
        Resource::Tensor,
        Resource::Shared,
        Resource::Issue,
        Resource::Integer,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Resource::Dram => "DRAM",
            Resource::L2 => "L2",
            Resource::Tensor => "tensor",
            Resource::Shared => "shared",
            Resource::Issue => "issue",
            Resource::Integer => "integer ALU",
        }
    }
}

impl Work {
    /// µs that the launch keeps a resource busy.
    ///
    /// DRAM and L2 serve all multiprocessors together. What else there is, each has for itself, so
    /// the one with most to do decides; it also takes no more than 64 bytes per clock from L2.
    pub fn us_of(&self, resource: Resource, rates: &Rates) -> f64 {
        let (all, busiest) = (&self.all, &self.busiest);
        // Of GB/s, bytes per µs are the thousandth part; of GHz, clocks per µs are a thousand.
        let clocks = rates.clock.value * 1e3;
        match resource {
            Resource::Dram => self.dram_bytes / (rates.dram.value * 1e3),
            Resource::L2 => {
                let served = all.sectors * SECTOR / (rates.l2.value * 1e3);
                served.max(busiest.block_sectors * SECTOR / INGRESS_BYTES / clocks)
            }
            Resource::Tensor => {
                let whole = |tflops: f64| tflops * 1e6;
                let own = |tflops: f64| whole(tflops) / f64::from(rates.multiprocessors);
                self.library_flops / whole(rates.plain.value)
                    + busiest.wgmma_flops / own(rates.plain.value)
                    + busiest.mma_flops / own(rates.mma())
            }
            Resource::Shared => busiest.wavefronts * 128.0 / SHARED_BYTES / clocks,
            Resource::Issue => busiest.instructions / ISSUE_SLOTS / clocks,
            Resource::Integer => busiest.integer * WARP / INTEGER_LANES / clocks,
        }
    }

    /// The resource that is busy for longest.
    pub fn limit(&self, rates: &Rates) -> Resource {
        let longer =
            |a: &Resource, b: &Resource| self.us_of(*a, rates).total_cmp(&self.us_of(*b, rates));
        // Of equals the first one.
        let last = Resource::ALL.into_iter().rev().max_by(longer);
        last.unwrap_or(Resource::Dram)
    }

    /// The modelled µs of the launch: its limit, and the ramp.
    pub fn us(&self, rates: &Rates) -> f64 {
        self.us_of(self.limit(rates), rates) + rates.ramp.value
    }
}

impl Demand {
    /// The modelled µs of the pass, one launch after the other.
    pub fn us(&self, rates: &Rates) -> f64 {
        let launches = self.launches.iter().map(|launch| launch.us(rates));
        launches.sum::<f64>() + self.waits_us
    }
}

impl Demands {
    /// The rates of the device.
    pub fn rates(&self) -> Option<&'static Rates> {
        Rates::by_key(&self.device)
    }

    pub fn find(&self, who: &str, layer: &str, pass: &str) -> Option<&Demand> {
        let found = |demand: &&Demand| {
            (
                demand.who.as_str(),
                demand.layer.as_str(),
                demand.pass.as_str(),
            ) == (who, layer, pass)
        };
        self.passes.iter().find(found)
    }

    /// The modelled time of a pass, over the plain product's of the same layer and pass.
    pub fn over_plain(&self, demand: &Demand) -> Option<f64> {
        let rates = self.rates()?;
        let plain = self.find(PLAIN, &demand.layer, &demand.pass)?;
        Some(demand.us(rates) / plain.us(rates))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rates::{A100, H100};

    fn close(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-9 * b.abs()
    }

    /// Each resource decides once, by as much as its rate says.
    #[test]
    fn the_longest_time_is_the_limit() {
        let clocks = 1.83e3;
        let cases = [
            (
                Resource::Dram,
                1e9 / H100.dram.value / 1e3,
                Work {
                    dram_bytes: 1e9,
                    ..Work::default()
                },
            ),
            (
                Resource::L2,
                32e9 / H100.l2.value / 1e3,
                Work {
                    all: Counts {
                        sectors: 1e9,
                        ..Counts::default()
                    },
                    ..Work::default()
                },
            ),
            (
                Resource::L2,
                1e6 / 2.0 / clocks,
                busiest(|counts| counts.block_sectors = 1e6),
            ),
            (
                Resource::Shared,
                1e6 / clocks,
                busiest(|counts| counts.wavefronts = 1e6),
            ),
            (
                Resource::Issue,
                1e6 / 4.0 / clocks,
                busiest(|counts| counts.instructions = 1e6),
            ),
            (
                Resource::Integer,
                1e6 / 2.0 / clocks,
                busiest(|counts| (counts.instructions, counts.integer) = (1e6, 1e6)),
            ),
        ];
        for (limit, us, work) in cases {
            assert_eq!(work.limit(&H100), limit);
            assert!(close(work.us(&H100), us + H100.ramp.value), "{limit:?}");
        }
    }

    fn busiest(set: impl Fn(&mut Counts)) -> Work {
        let mut work = Work::default();
        set(&mut work.busiest);
        work
    }

    /// A full wave of wgmma is as fast as cuBLAS, one of mma.sync slower on Hopper only.
    #[test]
    fn tensor_instructions_have_rates_of_their_own() {
        let flops = 1e12;
        let tensor = |work: &Work, rates: &Rates| work.us_of(Resource::Tensor, rates);
        for rates in &Rates::ALL {
            let each = flops / f64::from(rates.multiprocessors);
            let library = Work {
                library_flops: flops,
                ..Work::default()
            };
            let plain = tensor(&library, rates);
            assert!(close(plain, 1e6 / rates.plain.value));
            assert!(close(
                tensor(&busiest(|c| c.wgmma_flops = each), rates),
                plain
            ));
            let mma = tensor(&busiest(|c| c.mma_flops = each), rates);
            let slower = if rates.key.starts_with('h') {
                0.95 / 0.629
            } else {
                1.0
            };
            assert!(close(mma, slower * plain), "{}", rates.key);
        }
    }

    #[test]
    fn ratios_are_to_the_plain_product_of_the_same_pass() {
        let demand = |who: &str, pass: &str, dram_bytes: f64| Demand {
            who: who.to_owned(),
            layer: "l".to_owned(),
            pass: pass.to_owned(),
            launches: vec![
                Work {
                    dram_bytes,
                    ..Work::default()
                };
                2
            ],
            waits_us: 0.0,
        };
        let demands = Demands {
            device: "a100".to_owned(),
            decode: Vec::new(),
            waves: Vec::new(),
            passes: vec![
                demand(PLAIN, "backward", 9e9),
                demand(PLAIN, "forward", 1e9),
                demand(PEFT, "forward", 2e9),
            ],
        };
        let (ramp, one) = (A100.ramp.value, 1e9 / A100.dram.value / 1e3);
        let ratio = demands.over_plain(&demands.passes[2]);
        assert!(ratio.is_some_and(|ratio| close(ratio, (2.0 * one + ramp) / (one + ramp))));
        assert_eq!(demands.over_plain(&demand(PEFT, "decode", 1.0)), None);
    }
}
