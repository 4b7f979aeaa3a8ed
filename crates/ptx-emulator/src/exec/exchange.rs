//! Operations that lanes of a warp do together: shuffles, votes, matches, reductions (PTX ISA
//! section 9.7.13).

use super::registers::{LANES, Registers, collect, lanes};
use crate::decode::op::{Inst, Redux, Shuffle, Vote};

/// The lane that each lane of a `shfl.sync` reads, and whether it is within the segment; a lane
/// reads its own value if it is not.
pub(super) fn sources(regs: &Registers, inst: &Inst, mode: Shuffle) -> ([usize; LANES], u32) {
    let (b, c) = (regs.word(inst.s[1]), regs.word(inst.s[2]));
    let mut sources = [0; LANES];
    let mut valid = 0;
    for lane in 0..LANES as u32 {
        let (delta, control) = (b[lane as usize] & 31, c[lane as usize]);
        let (clamp, segment) = (control & 31, control >> 8 & 31);
        let max = (lane & segment) | (clamp & !segment);
        let min = lane & segment;
        let (from, inside) = match mode {
            Shuffle::Up => (
                lane.wrapping_sub(delta),
                lane as i32 - delta as i32 >= max as i32,
            ),
            Shuffle::Down => (lane + delta, lane + delta <= max),
            Shuffle::Butterfly => (lane ^ delta, lane ^ delta <= max),
            Shuffle::Index => {
                let from = min | (delta & !segment);
                (from, from <= max)
            }
        };
        let from = if inside { from } else { lane };
        sources[lane as usize] = from as usize % LANES;
        valid |= u32::from(inside) << lane;
    }
    (sources, valid)
}

/// `shfl.sync`. `mask` holds the lanes that take part. A source lane outside of it gives an
/// undefined value, which the checks follow; its register is what hardware reads.
pub(super) fn shuffle(regs: &mut Registers, inst: &Inst, mask: u32, mode: Shuffle) {
    let (sources, valid) = sources(regs, inst, mode);
    let a = *regs.word(inst.s[0]);
    regs.set_word(inst.d[0], mask, &sources.map(|from| a[from]));
    if inst.d[1].is_some() {
        regs.set_pred(inst.d[1], mask, valid);
    }
}

pub(super) fn vote(regs: &mut Registers, inst: &Inst, mask: u32, vote: Vote, negated: bool) {
    let source = regs.pred(inst.s[0]);
    let set = mask & if negated { !source } else { source };
    let result = match vote {
        Vote::Ballot => return regs.set_word(inst.d[0], mask, &[set; LANES]),
        Vote::All => set == mask,
        Vote::Any => set != 0,
        Vote::Uniform => set == mask || set == 0,
    };
    regs.set_pred(inst.d[0], mask, if result { mask } else { 0 });
}

pub(super) fn match_any(regs: &mut Registers, inst: &Inst, mask: u32) {
    let values = regs.any(inst.s[0]);
    let mut out = [0; LANES];
    for lane in lanes(mask) {
        out[lane] = mask & collect(|other| values[other] == values[lane]);
    }
    regs.set_word(inst.d[0], mask, &out);
}

pub(super) fn match_all(regs: &mut Registers, inst: &Inst, mask: u32) {
    let values = regs.any(inst.s[0]);
    let first = values[mask.trailing_zeros() as usize % LANES];
    let all = lanes(mask).all(|lane| values[lane] == first);
    regs.set_word(inst.d[0], mask, &[if all { mask } else { 0 }; LANES]);
    if inst.d[1].is_some() {
        regs.set_pred(inst.d[1], mask, if all { mask } else { 0 });
    }
}

pub(super) fn redux(regs: &mut Registers, inst: &Inst, mask: u32, op: Redux) {
    let values = *regs.word(inst.s[0]);
    let all = lanes(mask).map(|lane| values[lane]);
    let result = match op {
        Redux::Add => all.fold(0, u32::wrapping_add),
        Redux::MinU => all.fold(u32::MAX, u32::min),
        Redux::MaxU => all.fold(0, u32::max),
        Redux::MinS => all.fold(i32::MAX, |m, v| m.min(v as i32)) as u32,
        Redux::MaxS => all.fold(i32::MIN, |m, v| m.max(v as i32)) as u32,
        Redux::And => all.fold(u32::MAX, |m, v| m & v),
        Redux::Or => all.fold(0, |m, v| m | v),
        Redux::Xor => all.fold(0, |m, v| m ^ v),
    };
    regs.set_word(inst.d[0], mask, &[result; LANES]);
}

/// The lowest lane of the mask is elected.
pub(super) fn elect(regs: &mut Registers, inst: &Inst, mask: u32) {
    let leader = mask.trailing_zeros() % LANES as u32;
    regs.set_word(inst.d[0], mask, &[leader; LANES]);
    if inst.d[1].is_some() {
        regs.set_pred(inst.d[1], mask, 1 << leader);
    }
}
