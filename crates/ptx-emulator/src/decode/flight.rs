//! Registers of a `wgmma.mma_async` between its issue and the wait that covers it (PTX ISA section
//! 9.7.15.6): they live until then, and whether a `wgmma.fence` may be missing.

use super::flow::Flow;
use super::op::{Inst, Move, Op, Reg, RegList, Wgmma};
use super::slots::visit;

/// Bit sets of registers, one for each basic block.
struct Sets {
    bits: Vec<u64>,
    words: usize,
}

impl Sets {
    fn new(blocks: usize, registers: usize) -> Self {
        let words = registers.div_ceil(64);
        Sets {
            bits: vec![0; words * blocks],
            words,
        }
    }

    fn of(&self, block: usize) -> &[u64] {
        &self.bits[block * self.words..(block + 1) * self.words]
    }

    /// Adds to a block's set. True if it grew.
    fn join(&mut self, block: usize, more: &[u64]) -> bool {
        let own = &mut self.bits[block * self.words..(block + 1) * self.words];
        let mut grew = false;
        for (own, more) in own.iter_mut().zip(more) {
            grew |= *more & !*own != 0;
            *own |= more;
        }
        grew
    }
}

fn insert(set: &mut [u64], n: usize) {
    set[n / 64] |= 1 << (n % 64);
}

fn members(set: &[u64]) -> impl Iterator<Item = usize> + '_ {
    set.iter().enumerate().flat_map(|(word, &bits)| {
        (0..64)
            .filter(move |bit| bits >> bit & 1 == 1)
            .map(move |bit| 64 * word + bit)
    })
}

fn is_product(inst: &Inst) -> bool {
    matches!(inst.op, Op::Wgmma(Wgmma::Multiply(_)))
}

/// The registers of D, and of A where it is in registers.
fn registers<'a>(
    inst: &Inst,
    lists: &'a [RegList],
    number: &'a impl Fn(Reg) -> Option<usize>,
) -> impl Iterator<Item = usize> + 'a {
    let list = lists.get(inst.list as usize);
    let regs = list
        .into_iter()
        .flat_map(|list| list.defs.iter().chain(&list.uses));
    regs.filter_map(move |&reg| number(reg))
}

/// Calls `touch` with each register that may be in flight and a position at which it is, for the
/// ends of every block and for every wait.
pub(super) fn in_flight(
    code: &[Inst],
    lists: &[RegList],
    flow: &Flow,
    count: usize,
    number: &impl Fn(Reg) -> Option<usize>,
    mut touch: impl FnMut(usize, usize),
) {
    if !code.iter().any(is_product) {
        return;
    }
    let step = |set: &mut [u64], inst: &Inst| match inst.op {
        Op::Wgmma(Wgmma::Multiply(_)) => {
            registers(inst, lists, number).for_each(|n| insert(set, n));
        }
        Op::Wgmma(Wgmma::Wait) if inst.imm == 0 && !inst.guard.is_some() => set.fill(0),
        _ => {}
    };
    let mut at_start = Sets::new(flow.blocks.len(), count);
    let mut open: Vec<usize> = (0..flow.blocks.len()).collect();
    while let Some(block) = open.pop() {
        let mut set = at_start.of(block).to_vec();
        let bounds = &flow.blocks[block];
        code[bounds.start..bounds.end]
            .iter()
            .for_each(|inst| step(&mut set, inst));
        for &next in &bounds.successors {
            if at_start.join(next, &set) {
                open.push(next);
            }
        }
    }
    for (index, block) in flow.blocks.iter().enumerate() {
        let mut set = at_start.of(index).to_vec();
        members(&set).for_each(|n| touch(n, 2 * block.start));
        for (pc, inst) in code.iter().enumerate().take(block.end).skip(block.start) {
            if inst.op == Op::Wgmma(Wgmma::Wait) {
                members(&set).for_each(|n| touch(n, 2 * pc + 1));
            }
            step(&mut set, inst);
        }
        members(&set).for_each(|n| touch(n, 2 * block.end - 1));
    }
}

/// Calls `f` with every register of a product.
pub(super) fn all(
    code: &[Inst],
    lists: &[RegList],
    number: &impl Fn(Reg) -> Option<usize>,
    f: impl FnMut(usize),
) {
    let products = code.iter().filter(|inst| is_product(inst));
    products
        .flat_map(|inst| registers(inst, lists, number))
        .for_each(f);
}

/// What lies between the last `wgmma.fence` and a place, on any way to it.
#[derive(Clone)]
struct Since {
    /// Registers of products that were read or written.
    touched: Vec<u64>,
    /// There was no fence.
    unfenced: bool,
    /// On all ways there was one after the last wait. Compilers place moves of start values there
    /// that stand before the fence in the source.
    opened: bool,
}

impl Since {
    fn step(
        &mut self,
        inst: &Inst,
        lists: &[RegList],
        used: &[u64],
        number: &impl Fn(Reg) -> Option<usize>,
    ) {
        match inst.op {
            Op::Wgmma(Wgmma::Fence) => {
                self.touched.fill(0);
                self.unfenced = false;
                self.opened = true;
            }
            Op::Wgmma(Wgmma::Commit | Wgmma::Wait) => self.opened = false,
            Op::Wgmma(Wgmma::Multiply(_)) => {}
            Op::Move(Move::Word) if self.opened => {}
            _ => {
                let touched = std::cell::RefCell::new(&mut self.touched);
                let touch = |reg| {
                    if let Some(n) = number(reg)
                        && used[n / 64] >> (n % 64) & 1 == 1
                    {
                        insert(&mut touched.borrow_mut(), n);
                    }
                };
                visit(inst, lists, touch, touch);
            }
        }
    }
}

/// Whether a product may be reached without the `wgmma.fence` that it needs: before the first one,
/// and after its registers were accessed.
pub(super) fn may_lack_fence(
    code: &[Inst],
    lists: &[RegList],
    flow: &Flow,
    count: usize,
    number: &impl Fn(Reg) -> Option<usize>,
) -> bool {
    if !code.iter().any(is_product) {
        return false;
    }
    let mut used = vec![0; count.div_ceil(64)];
    for inst in code.iter().filter(|inst| is_product(inst)) {
        registers(inst, lists, number).for_each(|n| insert(&mut used, n));
    }
    let start = |entry: bool| Since {
        touched: vec![0; count.div_ceil(64)],
        unfenced: entry,
        opened: !entry,
    };
    let mut states: Vec<Since> = (0..flow.blocks.len())
        .map(|block| start(block == 0))
        .collect();
    let mut open: Vec<usize> = (0..flow.blocks.len()).rev().collect();
    while let Some(block) = open.pop() {
        let mut state = states[block].clone();
        let bounds = &flow.blocks[block];
        for inst in &code[bounds.start..bounds.end] {
            state.step(inst, lists, &used, number);
        }
        for &next in &bounds.successors {
            let to = &mut states[next];
            let mut changed = state.unfenced & !to.unfenced | !state.opened & to.opened;
            to.unfenced |= state.unfenced;
            to.opened &= state.opened;
            for (own, more) in to.touched.iter_mut().zip(&state.touched) {
                changed |= *more & !*own != 0;
                *own |= more;
            }
            if changed {
                open.push(next);
            }
        }
    }
    flow.blocks.iter().zip(states).any(|(block, mut state)| {
        code[block.start..block.end].iter().any(|inst| {
            let lacks = is_product(inst)
                && (state.unfenced
                    || registers(inst, lists, number)
                        .any(|n| state.touched[n / 64] >> (n % 64) & 1 == 1));
            state.step(inst, lists, &used, number);
            lacks
        })
    })
}
