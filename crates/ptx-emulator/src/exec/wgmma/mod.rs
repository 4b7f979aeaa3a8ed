//! `wgmma` (PTX ISA section 9.7.15): products of the four warps of a warpgroup, done at the wait
//! that covers them.
//!
//! A product begins when all four warps have issued it. Its operands are read at the latest legal
//! moment: when the first of the warps waits for it, or, for copies that land early, when the last
//! one has issued it. Each warp then adds its own 16 rows at its own wait.

pub(crate) mod descriptor;
mod hopper;
mod operands;
mod product;

use std::collections::VecDeque;

use self::descriptor::{Layout, pieces};
pub(crate) use self::operands::Operands;
use self::operands::{MOST_K, ROWS, WARP_ROWS, from_registers};
use self::product::Sums;
use super::check::PhaseClock;
use super::check::proxy::Flight as Reads;
use super::fault::FaultKind;
use super::interpret::{Next, Run, list};
use super::registers::{FULL, LANES, Words};
use super::trap::{Outcome, Trap};
use super::warp::State;
use crate::decode::op::{Flag, Inst, Product, Reg, Wgmma};

/// Warps of a warpgroup.
const WARPS: usize = 4;

/// What the warpgroups of a block have under way. Empty where the kernel has no `wgmma`.
#[derive(Default)]
pub(crate) struct Warpgroups {
    groups: Vec<Warpgroup>,
    /// Operands to be used again.
    spare: Vec<Box<Operands>>,
    sums: Option<Box<Sums>>,
    /// Whether operands are read as early as possible.
    early: bool,
    /// Warpgroups, by number, whose warps may go on.
    wake: u32,
}

#[derive(Default)]
struct Warpgroup {
    warps: [Flights; WARPS],
    /// Products that a warp has yet to do, oldest first.
    issued: VecDeque<Issued>,
    /// How many products there were before these.
    done: u64,
    /// What warps knew at their last waits.
    waited: PhaseClock,
}

/// What one warp has issued.
#[derive(Default)]
struct Flights {
    issued: u64,
    /// Of these, the first ones that it has done.
    done: u64,
    /// What it had issued when it committed each of its pending groups.
    commits: VecDeque<u64>,
    /// What it reads of shared memory for the products that it has not done, with their numbers.
    reads: VecDeque<(u64, Reads)>,
    /// Fragments of A, of products whose operands are read early.
    fragments: VecDeque<(u64, Box<[Words; 4]>)>,
}

struct Issued {
    pc: u32,
    product: Product,
    /// Descriptors. Zero for an A in registers.
    a: u64,
    b: u64,
    /// Whether D is added to.
    keeps: bool,
    operands: Option<Box<Operands>>,
    /// Warps that have done it, as a mask.
    taken: u8,
}

/// A product that a warp has not waited for, for the checks.
pub(crate) struct Flight {
    pub pc: u32,
    pub product: Product,
    pub committed: bool,
}

impl Warpgroups {
    pub fn new(has_wgmma: bool, warps: usize) -> Self {
        Warpgroups {
            groups: (0..if has_wgmma { warps / WARPS } else { 0 })
                .map(|_| Warpgroup::default())
                .collect(),
            ..Warpgroups::default()
        }
    }

    /// For a new block.
    pub fn reset(&mut self, early: bool) {
        self.groups.fill_with(Warpgroup::default);
        self.early = early;
        self.wake = 0;
    }

    /// Whether a waiting warp may go on now.
    pub fn wakes(&self, warp: u32) -> bool {
        self.wake >> (warp as usize / WARPS) & 1 == 1
    }

    pub fn has_wake(&self) -> bool {
        self.wake != 0
    }

    pub fn end_wake(&mut self) {
        self.wake = 0;
    }

    /// The products that a warp has issued and not waited for, oldest first.
    pub fn flights(&self, warp: u32) -> impl Iterator<Item = Flight> + '_ {
        let group = self.groups.get(warp as usize / WARPS);
        group.into_iter().flat_map(move |group| {
            let own = &group.warps[warp as usize % WARPS];
            let committed = own.commits.back().copied().unwrap_or(own.done);
            let first = group.done;
            (own.done..own.issued).filter_map(move |number| {
                let issued = group.issued.get((number - first) as usize)?;
                Some(Flight {
                    pc: issued.pc,
                    product: issued.product,
                    committed: number < committed,
                })
            })
        })
    }
}

impl Flights {
    /// How many of the products are done after a wait that leaves the newest `keep` groups.
    fn covered(&self, keep: u32) -> u64 {
        let over = self.commits.len().checked_sub(keep as usize + 1);
        let covered = over.and_then(|at| self.commits.get(at));
        covered.copied().unwrap_or(self.done).max(self.done)
    }
}

/// Register and predicate operands that must be the same in all lanes.
fn uniform<T: Copy + PartialEq>(values: &[T; LANES]) -> Option<T> {
    values
        .iter()
        .all(|value| *value == values[0])
        .then_some(values[0])
}

impl Run<'_, '_, '_> {
    /// A `wgmma` instruction.
    pub(super) fn wgmma(&mut self, inst: &Inst, active: u32, op: Wgmma) -> Result<Next, Box<Trap>> {
        if op == Wgmma::Wait && !self.all_have_issued(inst) {
            return self.park(active, State::Warpgroup);
        }
        if active != FULL {
            return self.meet(inst, active, FULL);
        }
        self.together(inst, active)?;
        Ok(Next::Step)
    }

    /// Whether the other warps of the warpgroup have issued what this wait covers.
    fn all_have_issued(&self, inst: &Inst) -> bool {
        let warp = self.warp.index as usize;
        let Some(group) = self.core.warpgroups.groups.get(warp / WARPS) else {
            return true;
        };
        let covered = group.warps[warp % WARPS].covered(inst.imm.cast_unsigned());
        group.warps.iter().all(|other| other.issued >= covered)
    }

    /// What the whole warp does when it is there.
    pub(super) fn wgmma_together(&mut self, inst: &Inst, op: Wgmma) -> Outcome {
        let warp = self.warp.index as usize;
        match op {
            Wgmma::Multiply(product) => self.issue_product(inst, product),
            Wgmma::Fence => Ok(()),
            Wgmma::Commit => {
                if let Some(group) = self.core.warpgroups.groups.get_mut(warp / WARPS) {
                    let own = &mut group.warps[warp % WARPS];
                    own.commits.push_back(own.issued);
                }
                Ok(())
            }
            Wgmma::Wait => self.finish_products(inst.imm.cast_unsigned()),
        }
    }

    fn issue_product(&mut self, inst: &Inst, product: Product) -> Outcome {
        let (warp, pc) = (self.warp.index as usize, self.group.pc);
        let illegal = |message: String| Err(Trap::new(FaultKind::IllegalInstruction, 0, message));
        let regs = &self.warp.regs;
        let in_registers = product.has(Flag::RegisterA);
        let descriptor = |reg: Reg| uniform(regs.wide(reg));
        let a = if in_registers {
            Some(0)
        } else {
            descriptor(inst.s[0])
        };
        let (Some(a), Some(b)) = (a, descriptor(inst.s[1])) else {
            return illegal("lanes of the warp give different matrix descriptors".to_owned());
        };
        let keeps = if inst.s[2].is_some() {
            match regs.pred(inst.s[2])
                ^ if product.has(Flag::NegatedScale) {
                    FULL
                } else {
                    0
                } {
                0 => false,
                FULL => true,
                _ => return illegal("lanes of the warp give different scale-d".to_owned()),
            }
        } else {
            !product.has(Flag::FromZero)
        };
        let mut layouts = [None; 2];
        for (layout, descriptor) in layouts
            .iter_mut()
            .zip([(!in_registers).then_some(a), Some(b)])
        {
            *layout = match descriptor.map(Layout::new).transpose() {
                Ok(layout) => layout,
                Err(message) => return illegal(message),
            };
        }
        self.in_bounds(product, layouts)?;
        let warps = self.launch.grid.threads() / LANES as u32;
        let core = &mut *self.core;
        let early = core.warpgroups.early;
        let Some(group) = core.warpgroups.groups.get_mut(warp / WARPS) else {
            return illegal(format!(
                "warp {warp} of {warps} has no warpgroup: four whole warps from a multiple of four \
                 on are needed"
            ));
        };
        let number = group.warps[warp % WARPS].issued;
        match group.issued.get((number - group.done) as usize) {
            None => group.issued.push_back(Issued {
                pc,
                product,
                a,
                b,
                keeps,
                operands: None,
                taken: 0,
            }),
            Some(first) if first.pc != pc => {
                let line = |pc: u32| {
                    let place = self.launch.kernel.places.get(pc as usize);
                    place.map_or(0, |place| place.ptx_line)
                };
                return illegal(format!(
                    "another wgmma than the other warps of the warpgroup: they execute that at PTX \
                     line {}, warp {warp} that at PTX line {}",
                    line(first.pc),
                    line(pc)
                ));
            }
            Some(first) if (first.a, first.b, first.keeps) != (a, b, keeps) => {
                return illegal(format!(
                    "warps of a warpgroup give different matrix descriptors or scale-d: A \
                     {:#018x}, B {:#018x}, keep {}, and warp {warp} A {a:#018x}, B {b:#018x}, keep \
                     {keeps}",
                    first.a, first.b, first.keeps
                ));
            }
            Some(_) => {}
        }
        let reads = self.begin_reads(product, layouts)?;
        let core = &mut *self.core;
        let Some(group) = core.warpgroups.groups.get_mut(warp / WARPS) else {
            return Ok(());
        };
        core.changes += 1;
        core.counts.mma_flops += flops(product);
        let own = &mut group.warps[warp % WARPS];
        own.issued += 1;
        own.reads.extend(reads.map(|reads| (number, reads)));
        if early && in_registers {
            let regs = &self.warp.regs;
            let fragment = fragment(inst, self.launch.kernel.lists.as_slice());
            own.fragments
                .push_back((number, Box::new(fragment.map(|reg| *regs.word(reg)))));
        }
        if group.warps.iter().all(|other| other.issued > number) {
            core.warpgroups.wake |= 1 << (warp / WARPS);
            if early {
                self.read_operands(number)?;
            }
        }
        if let Some(counting) = &mut self.worker.counting {
            let first = warp.is_multiple_of(WARPS);
            counting.product(pc, product, if first { layouts } else { [None; 2] });
        }
        Ok(())
    }

    /// A warp's reads for the products before `number` are over, and these lanes of the running
    /// warp know it.
    fn end_reads(&mut self, warp: usize, number: u64, lanes: u32) {
        loop {
            let groups = &mut self.core.warpgroups.groups;
            let Some(group) = groups.get_mut(warp / WARPS) else {
                return;
            };
            let reads = &mut group.warps[warp % WARPS].reads;
            match reads.front() {
                Some((first, _)) if *first < number => {}
                _ => return,
            }
            if let Some((_, reads)) = reads.pop_front() {
                self.async_end(lanes, reads);
            }
        }
    }

    /// Lanes are about to arrive on mbarriers through the cluster's window. One such arrival stands
    /// for the warpgroup, as CUTLASS has it: tensor cores run the products of the four warps
    /// together, so what this warp has waited for is over for the others, too. An arrival of the
    /// block's own window stands for its warp alone.
    pub(super) fn products_of_all(&mut self, lanes: u32) {
        let warp = self.warp.index as usize;
        let groups = &self.core.warpgroups.groups;
        let Some(group) = groups.get(warp / WARPS) else {
            return;
        };
        let done = group.warps[warp % WARPS].done;
        if done == 0 || self.core.checks.is_none() {
            return;
        }
        let first = warp / WARPS * WARPS;
        (first..first + WARPS).for_each(|other| self.end_reads(other, done, lanes));
        if let (Some(checks), Some(group)) = (
            &mut self.core.checks,
            self.core.warpgroups.groups.get(warp / WARPS),
        ) {
            checks.take_products(warp, lanes, &group.waited);
        }
    }

    fn in_bounds(&self, product: Product, layouts: [Option<Layout>; 2]) -> Outcome {
        let end = self.core.shared.len();
        let matrices = [
            ("A", product.has(Flag::TransposeA), ROWS),
            ("B", product.has(Flag::TransposeB), product.n()),
        ];
        for (layout, (name, transposed, extent)) in layouts.into_iter().zip(matrices) {
            let Some(layout) = layout else {
                continue;
            };
            let beyond = (0..pieces(extent))
                .map(|number| layout.piece(number, transposed, extent))
                .find(|at| at + descriptor::PIECE > end);
            if let Some(at) = beyond {
                let message = format!(
                    "wgmma reads 16 bytes of {name} at {at:#x} of shared memory, which has {end:#x}: \
                     its descriptor leads beyond the end"
                );
                return Err(Trap::new(FaultKind::IllegalAddress, 0, message));
            }
        }
        Ok(())
    }

    /// Reads A and B of the product of this number, for all four warps.
    fn read_operands(&mut self, number: u64) -> Outcome {
        let warp = self.warp.index as usize;
        let core = &mut *self.core;
        let groups = &mut core.warpgroups;
        let group = &mut groups.groups[warp / WARPS];
        let Some(issued) = group.issued.get_mut((number - group.done) as usize) else {
            return Ok(());
        };
        if issued.operands.is_some() {
            return Ok(());
        }
        let mut operands = groups.spare.pop().unwrap_or_else(Operands::new);
        let product = issued.product;
        let in_registers = product.has(Flag::RegisterA);
        let refused = |message| Trap::new(FaultKind::IllegalInstruction, 0, message);
        let a = (!in_registers)
            .then(|| Layout::new(issued.a))
            .transpose()
            .map_err(refused)?;
        let b = Layout::new(issued.b).map_err(refused)?;
        operands
            .gather(core.shared.bytes(), product, a, b)
            .map_err(|at| {
                let message = format!("wgmma reads beyond shared memory at {at:#x}");
                Trap::new(FaultKind::IllegalAddress, 0, message)
            })?;
        if let Some(checks) = &core.checks {
            checks.undefined_operands(&mut operands, product, a, b);
        }
        issued.operands = Some(operands);
        Ok(())
    }

    /// Does the products of all groups but the newest `keep`, and writes their sums.
    fn finish_products(&mut self, keep: u32) -> Outcome {
        let warp = self.warp.index as usize;
        let Some(group) = self.core.warpgroups.groups.get_mut(warp / WARPS) else {
            return Ok(());
        };
        let own = &mut group.warps[warp % WARPS];
        let covered = own.covered(keep);
        let kept = own.commits.len().min(keep as usize);
        own.commits.drain(..own.commits.len() - kept);
        if own.done == covered {
            return Ok(());
        }
        let numbers = own.done..covered;
        for number in numbers.clone() {
            self.read_operands(number)?;
        }
        self.core.changes += 1;
        let mut sums = self.core.warpgroups.sums.take().unwrap_or_else(Sums::new);
        // The registers of D that the sums stand for.
        let mut held: Option<(Product, &[Reg])> = None;
        for number in numbers {
            let groups = &mut self.core.warpgroups;
            let group = &mut groups.groups[warp / WARPS];
            let at = (number - group.done) as usize;
            let Some(issued) = group.issued.get_mut(at) else {
                continue;
            };
            let (product, pc, keeps) = (issued.product, issued.pc, issued.keeps);
            let inst = &self.launch.kernel.code[pc as usize];
            let defs = list(self.launch, inst).defs.as_slice();
            if let Some((last, regs)) = held
                && (regs != defs || last.sum != product.sum || !keeps)
            {
                sums.store(&mut self.warp.regs, regs, last.sum);
                held = None;
            }
            if !keeps {
                sums.clear();
            } else if held.is_none() {
                sums.load(&self.warp.regs, defs, product.sum);
            }
            held = Some((product, defs));
            let Some(operands) = &issued.operands else {
                continue;
            };
            let mut own_rows = [[0.0; MOST_K]; WARP_ROWS];
            if product.has(Flag::RegisterA) {
                let early = group.warps[warp % WARPS].fragments.pop_front();
                let regs = fragment(inst, self.launch.kernel.lists.as_slice());
                let fragment = match &early {
                    Some((_, fragment)) => fragment.each_ref(),
                    None => regs.map(|reg| self.warp.regs.word(reg)),
                };
                from_registers(product, fragment, &mut own_rows);
            } else {
                let first = WARP_ROWS * (warp % WARPS);
                own_rows.copy_from_slice(&operands.a[first..first + WARP_ROWS]);
            }
            sums.add(product, &own_rows, &operands.b, self.launch.numerics);
            if let Some(checks) = &mut self.core.checks {
                let tainted = self.core.tainted >> warp & 1 == 1;
                let regs = list(self.launch, inst);
                let flight = Flight {
                    pc,
                    product,
                    committed: true,
                };
                let tainted = checks.follow_product(warp, flight, keeps, regs, operands, tainted);
                self.core.tainted |= u32::from(tainted) << warp;
            }
            issued.taken |= 1 << (warp % WARPS);
            group.warps[warp % WARPS].done = number + 1;
            self.end_reads(warp, number + 1, FULL);
        }
        if let Some((product, defs)) = held {
            sums.store(&mut self.warp.regs, defs, product.sum);
        }
        self.core.warpgroups.sums = Some(sums);
        self.core.warpgroups.forget(warp / WARPS);
        self.check_waited();
        if let (Some(checks), Some(group)) = (
            &mut self.core.checks,
            self.core.warpgroups.groups.get_mut(warp / WARPS),
        ) {
            checks.give_products(warp, &mut group.waited);
        }
        Ok(())
    }
}

impl Warpgroups {
    /// Forgets products that all four warps have done.
    fn forget(&mut self, group: usize) {
        let group = &mut self.groups[group];
        while group.issued.front().is_some_and(|first| first.taken == 0xf) {
            let first = group.issued.pop_front();
            self.spare.extend(first.and_then(|first| first.operands));
            group.done += 1;
        }
    }
}

/// The registers of A.
fn fragment(inst: &Inst, lists: &[crate::decode::op::RegList]) -> [Reg; 4] {
    let list = lists.get(inst.list as usize);
    let uses = list.and_then(|list| list.uses.first_chunk::<4>());
    uses.copied().unwrap_or([Reg::NONE; 4])
}

/// Multiplications and additions of a warp's share.
pub(crate) fn flops(product: Product) -> u64 {
    2 * (WARP_ROWS * product.n() * product.k()) as u64
}
