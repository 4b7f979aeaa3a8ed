//! What our launches ask of the virtual device: its own plans, run on the emulator.

use half::bf16;
use lora_kernels::layer::BackwardOptions;
use lora_kernels::plan::Launch;
use lora_kernels::{LoraLinear, MatMut, Problem};
use ptx_emulator::counters::{Blocks, KernelCounters};
use ptx_emulator::device::DeviceModel;

use super::case::Case;
use super::counts::{counts, per_block};
use super::tensors::Tensors;
use crate::gpu::Gpu;
use crate::sizes::DROPOUT;
use crate::{Outcome, model};
use lora_kernels_report::bound::{Demand, Work};
use lora_kernels_report::document::OURS;

pub struct Ours<'a> {
    gpu: &'a Gpu,
    layer: LoraLinear,
    device: DeviceModel,
}

/// The counters of each launch of a pass, in order.
struct Counted {
    /// Of the first block, or of the first cluster.
    first: Vec<KernelCounters>,
    /// Of every block, but for products with the weight unless `with_products`.
    whole: Option<Vec<KernelCounters>>,
    with_products: bool,
}

/// The memory of a pass, in bytes.
#[derive(Clone, Copy)]
struct Memory {
    saved: u64,
    workspace: u64,
}

impl<'a> Ours<'a> {
    pub fn load(gpu: &'a Gpu, device: DeviceModel) -> Outcome<Self> {
        Ok(Self {
            gpu,
            layer: LoraLinear::new(&gpu.stream)?,
            device,
        })
    }

    /// Forward and backward with dropout.
    pub fn training(&self, case: &Case) -> Outcome<[Demand; 2]> {
        let problem = case.problem(true)?;
        let tensors = Tensors::new(&self.gpu.stream, &problem)?;
        let inputs = tensors.inputs(&problem).with_dropout(DROPOUT);
        let forward = |blocks: &Blocks| {
            let call = || Ok(self.layer.forward(&inputs)?);
            self.gpu.counters(blocks, call)
        };
        let plan = self.layer.forward_plan(&inputs)?;
        let (first, (_y, saved)) = forward(&first_blocks(plan.launches()))?;
        let with_products = is_split(plan.launches());
        let counted = Counted {
            first,
            whole: match with_products {
                true => Some(forward(&Blocks::All)?.0),
                false => None,
            },
            with_products,
        };
        let mut memory = Memory {
            saved: plan.saved().bytes() as u64,
            workspace: plan.workspace_bytes() as u64,
        };
        let forward = self.works(plan.launches(), &counted, &problem, memory)?;

        let dy = tensors.dy(&problem);
        let backward = |blocks: &Blocks, dx: bool| {
            let options = BackwardOptions::<MatMut<'_, bf16>>::default().with_input_gradient(dx);
            let call = || Ok(self.layer.backward_with(&inputs, &saved, &dy, options)?);
            Outcome::Ok(self.gpu.counters(blocks, call)?.0)
        };
        let plan = self.layer.backward_plan(&inputs, &dy)?;
        let with_products = is_split(plan.launches());
        let counted = Counted {
            first: backward(&first_blocks(plan.launches()), true)?,
            // Without dx, the last launch has only the blocks that sum dA.
            whole: Some(backward(&Blocks::All, with_products)?),
            with_products,
        };
        memory.workspace = plan.workspace_bytes() as u64;
        let backward = self.works(plan.launches(), &counted, &problem, memory)?;
        Ok([
            demand(case, "forward", forward),
            demand(case, "backward", backward),
        ])
    }

    fn works(
        &self,
        launches: &[Launch],
        counted: &Counted,
        problem: &Problem,
        memory: Memory,
    ) -> Outcome<Vec<Work>> {
        let of = |(index, launch): (usize, &Launch)| {
            let missing = || format!("{} was not counted", launch.variant.symbol());
            let first = counted.first.get(index).ok_or_else(missing)?;
            let whole = counted.whole.as_ref().and_then(|all| all.get(index));
            let traffic = model::planned(
                launch,
                problem,
                &self.device,
                memory.saved,
                memory.workspace,
            );
            let work = match whole {
                _ if is_product(launch) && !counted.with_products => {
                    self.product(launch, first, whole)
                }
                Some(whole) => {
                    let block = per_block(first, launch.cluster);
                    let blocks = counts(whole, launch.cluster).instructions / block.instructions;
                    self.evenly(launch, whole, blocks)
                }
                None => self.evenly(launch, first, f64::from(launch.blocks)),
            };
            Outcome::Ok(Work {
                dram_bytes: (traffic.read + traffic.written) as f64,
                ..work
            })
        };
        launches.iter().enumerate().map(of).collect()
    }

    /// A product whose first block ran. A persistent block does one tile after the other, and the
    /// first has as many as any. `more` has the other work at the end of the grid.
    fn product(
        &self,
        launch: &Launch,
        first: &KernelCounters,
        more: Option<&KernelCounters>,
    ) -> Work {
        let block = per_block(first, launch.cluster);
        let (items, blocks) = launch.schedule.map_or((1, 1), |schedule| {
            (schedule.items(), u64::from(schedule.blocks))
        });
        let multiprocessors = u64::from(self.device.multiprocessors);
        let more = more.map(|more| counts(more, 1)).unwrap_or_default();
        let of_first = items.div_ceil(blocks) as f64;
        let most = items_of_busiest(items, blocks, multiprocessors) as f64;
        Work {
            what: launch.variant.symbol().to_owned(),
            blocks: launch.blocks.into(),
            all: block.times(items as f64 / of_first).plus(more),
            busiest: block
                .times(most / of_first)
                .plus(more.times(1.0 / multiprocessors as f64)),
            ..Work::default()
        }
    }

    /// A launch whose work is that of so many equal blocks, of which some or all ran.
    fn evenly(&self, launch: &Launch, ran: &KernelCounters, blocks: f64) -> Work {
        let scale = launch.blocks as f64 / ran.blocks_run.max(1) as f64;
        let all = counts(ran, launch.cluster).times(scale);
        let multiprocessors = f64::from(self.device.multiprocessors);
        // A few small blocks at the end of the grid make no turn of their own.
        let turns = (blocks / multiprocessors - 0.05).ceil().max(1.0);
        Work {
            what: launch.variant.symbol().to_owned(),
            blocks: launch.blocks.into(),
            all,
            busiest: all.times(turns / blocks.max(1.0)),
            ..Work::default()
        }
    }
}

/// Block b takes the items b, b + blocks, and so on; multiprocessor 0 holds the blocks 0,
/// `multiprocessors`, and so on.
fn items_of_busiest(items: u64, blocks: u64, multiprocessors: u64) -> u64 {
    let held = (0..blocks).step_by(multiprocessors.max(1) as usize);
    held.map(|block| items.saturating_sub(block).div_ceil(blocks))
        .sum()
}

fn demand(case: &Case, pass: &str, launches: Vec<Work>) -> Demand {
    Demand {
        who: OURS.to_owned(),
        layer: case.name(),
        pass: pass.to_owned(),
        launches,
        waits_us: 0.0,
    }
}

fn is_product(launch: &Launch) -> bool {
    launch.schedule.is_some()
}

fn is_split(launches: &[Launch]) -> bool {
    let schedules = launches.iter().filter_map(|launch| launch.schedule);
    schedules.into_iter().any(|schedule| schedule.splits > 1)
}

/// The first block of each launch, with the others of its cluster.
fn first_blocks(launches: &[Launch]) -> Blocks {
    let clusters = launches.iter().map(|launch| u64::from(launch.cluster));
    Blocks::listed((0..clusters.max().unwrap_or(1)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_that_share_a_multiprocessor_share_its_items() {
        // One block each; two each, of which only the first has six; more places than items.
        assert_eq!(items_of_busiest(1024, 128, 132), 8);
        assert_eq!(items_of_busiest(1376, 256, 128), 6 + 5);
        assert_eq!(items_of_busiest(3, 3, 132), 1);
    }
}
