//! Fewer slots than registers: nvcc's PTX names thousands of virtual registers, most of them live
//! for a few instructions. Registers whose lives don't overlap share a slot, so that a warp's
//! registers fit the host's cache.
//!
//! A life is an interval of instruction positions: a register read at instruction i lives at 2i,
//! one written there at 2i + 1. Lanes of a warp may be at different places; each has its own
//! storage in a slot, so only one thread's path matters.

use super::flight;
use super::flow::Flow;
use super::op::{Inst, Reg, RegList};

/// Bits of both live sets together beyond which the analysis isn't worth its memory.
const MOST_BITS: usize = 1 << 31;

/// Calls `read` and `write` for the registers of an instruction.
pub(super) fn visit(
    inst: &Inst,
    lists: &[RegList],
    mut read: impl FnMut(Reg),
    mut write: impl FnMut(Reg),
) {
    let list = if uses_list(inst) {
        lists.get(inst.list as usize)
    } else {
        None
    };
    let guarded = inst.guard != Reg::NONE;
    if guarded {
        read(inst.guard);
    }
    for reg in inst.s.into_iter().filter(|r| r.is_some()) {
        read(reg);
    }
    for &reg in list.into_iter().flat_map(|l| &l.uses) {
        read(reg);
    }
    let defs = list.into_iter().flat_map(|l| &l.defs).copied();
    for reg in inst.d.into_iter().chain(defs).filter(|r| r.is_some()) {
        // Lanes outside the guard keep the old value.
        if guarded {
            read(reg);
        }
        write(reg);
    }
}

/// Whether `list` is the index of a register list.
pub(crate) fn uses_list(inst: &Inst) -> bool {
    use super::op::{Async, Op};
    !matches!(inst.op, Op::Control(_) | Op::Async(Async::Copy { .. }))
        && inst.list != super::op::NO_LIST
}

pub(super) struct Assigned {
    /// For each register, its slot.
    pub slots: Vec<u32>,
    /// Slots of each class.
    pub used: [u32; 3],
    /// Registers that may be read before anything is written to them, which have their slots to
    /// themselves from the start. Not known of a kernel too large for the analysis.
    pub unset: Vec<usize>,
}

/// Gives registers slots. `number` gives them dense numbers. With `apart`, those of `wgmma` have
/// their slots to themselves.
pub(super) fn assign(
    code: &[Inst],
    lists: &[RegList],
    flow: &Flow,
    classes: &[usize],
    number: impl Fn(Reg) -> Option<usize>,
    apart: bool,
) -> Assigned {
    let count = classes.len();
    let identity = || {
        let mut used = [0_u32; 3];
        let slots = classes
            .iter()
            .map(|&class| {
                used[class] += 1;
                used[class] - 1
            })
            .collect();
        Assigned {
            slots,
            used,
            unset: Vec::new(),
        }
    };
    if flow.blocks.len().saturating_mul(count) > MOST_BITS / 2 {
        return identity();
    }
    let (intervals, unset) = intervals(code, lists, flow, count, &number, apart);
    let mut order: Vec<usize> = (0..count)
        .filter(|&r| intervals[r].0 <= intervals[r].1)
        .collect();
    order.sort_unstable_by_key(|&r| intervals[r].0);
    let mut slots = vec![0; count];
    let mut used = [0_u32; 3];
    // Per class, slots in use as a heap of (end, slot), and free slots.
    let mut busy: [std::collections::BinaryHeap<std::cmp::Reverse<(u32, u32)>>; 3] =
        Default::default();
    let mut free: [Vec<u32>; 3] = Default::default();
    for register in order {
        let class = classes[register];
        let (start, end) = intervals[register];
        while let Some(&std::cmp::Reverse((over, slot))) = busy[class].peek() {
            if over >= start {
                break;
            }
            busy[class].pop();
            free[class].push(slot);
        }
        let slot = free[class].pop().unwrap_or_else(|| {
            used[class] += 1;
            used[class] - 1
        });
        slots[register] = slot;
        busy[class].push(std::cmp::Reverse((end, slot)));
    }
    Assigned { slots, used, unset }
}

/// First and last position at which each register lives, and the registers that live at the start.
fn intervals(
    code: &[Inst],
    lists: &[RegList],
    flow: &Flow,
    count: usize,
    number: &impl Fn(Reg) -> Option<usize>,
    apart: bool,
) -> (Vec<(u32, u32)>, Vec<usize>) {
    let words = count.div_ceil(64);
    let blocks = flow.blocks.len();
    // Upward-exposed reads and writes of each block, then what is live at its start.
    let mut live_in = vec![0_u64; words * blocks];
    let mut written = vec![0_u64; words * blocks];
    for (index, block) in flow.blocks.iter().enumerate() {
        let reads = &mut live_in[index * words..(index + 1) * words];
        let writes = &mut written[index * words..(index + 1) * words];
        for inst in &code[block.start..block.end] {
            let mut defined = Vec::new();
            visit(
                inst,
                lists,
                |reg| {
                    if let Some(n) = number(reg)
                        && writes[n / 64] >> (n % 64) & 1 == 0
                    {
                        reads[n / 64] |= 1 << (n % 64);
                    }
                },
                |reg| defined.extend(number(reg)),
            );
            for n in defined {
                writes[n / 64] |= 1 << (n % 64);
            }
        }
    }
    let mut live_out = vec![0_u64; words * blocks];
    let mut changed = true;
    while changed {
        changed = false;
        for (index, block) in flow.blocks.iter().enumerate().rev() {
            for word in 0..words {
                let out = block
                    .successors
                    .iter()
                    .fold(0, |all, &s| all | live_in[s * words + word]);
                let at = index * words + word;
                live_out[at] = out;
                let now = live_in[at] | (out & !written[at]);
                if now != live_in[at] {
                    live_in[at] = now;
                    changed = true;
                }
            }
        }
    }
    let mut intervals = vec![(u32::MAX, 0_u32); count];
    let mut touch = |n: usize, at: usize| {
        let at = at as u32;
        intervals[n].0 = intervals[n].0.min(at);
        intervals[n].1 = intervals[n].1.max(at);
    };
    for (index, block) in flow.blocks.iter().enumerate() {
        for (pc, inst) in code.iter().enumerate().take(block.end).skip(block.start) {
            let mut seen = Vec::new();
            visit(
                inst,
                lists,
                |reg| seen.extend(number(reg).map(|n| (n, 2 * pc))),
                |_| {},
            );
            visit(
                inst,
                lists,
                |_| {},
                |reg| seen.extend(number(reg).map(|n| (n, 2 * pc + 1))),
            );
            for (n, at) in seen {
                touch(n, at);
            }
        }
        for (set, at) in [(&live_in, 2 * block.start), (&live_out, 2 * block.end - 1)] {
            for word in 0..words {
                let mut bits = set[index * words + word];
                while bits != 0 {
                    touch(word * 64 + bits.trailing_zeros() as usize, at);
                    bits &= bits - 1;
                }
            }
        }
    }
    flight::in_flight(code, lists, flow, count, number, &mut touch);
    if apart {
        flight::all(code, lists, number, |n| {
            touch(n, 0);
            touch(n, 2 * code.len());
        });
    }
    let at_start = |n: &usize| {
        live_in
            .get(n / 64)
            .is_some_and(|bits| bits >> (n % 64) & 1 == 1)
    };
    (intervals, (0..count).filter(at_start).collect())
}
