//! How undefined bits move from register to register. Operations that only move or mask bits are
//! followed bit by bit; of all others every result is undefined in the lanes where an operand is.

use super::hooks::undefined_lanes;
use super::{halves, report};
use crate::decode::op::{
    BitsOp, Combine, Compare, Control, Convert, Inst, Mma, Move, Number, Op, PredOp, PrmtMode,
    RegList, Select, Vote, WarpOp,
};
use crate::exec::interpret::{Run, list};
use crate::exec::registers::{FULL, LANES, Registers, lanes};
use crate::exec::trap::Outcome;
use crate::exec::{bits, exchange, moves};

/// Instructions between looks whether a warp still has undefined bits.
const LOOK_EVERY: u32 = 64;

impl Run<'_, '_, '_> {
    /// Before an instruction of a warp with undefined bits: diagnoses a guard, then follows the
    /// bits.
    #[cold]
    #[inline(never)]
    pub(in crate::exec) fn follow(&mut self, inst: &Inst) -> Outcome {
        let warp = self.warp.index as usize;
        let mut active = self.group.mask;
        if inst.guard.is_some() {
            if let Some(checks) = &self.core.checks {
                let bad = active & undefined_lanes(checks, warp, inst.guard);
                if bad != 0 {
                    let what = if matches!(inst.op, Op::Control(_)) {
                        "a branch"
                    } else {
                        "whether an instruction runs"
                    };
                    return Err(report::undefined(
                        self,
                        checks,
                        bad.trailing_zeros() as usize,
                        what,
                    ));
                }
            }
            let guard = self.warp.regs.pred(inst.guard);
            active &= if inst.guard_negated { !guard } else { guard };
        }
        if active == 0 {
            return Ok(());
        }
        match inst.op {
            // Loads and atomics say themselves what they bring; what lanes do together is followed
            // when they do.
            Op::Load(_)
            | Op::Store(_)
            | Op::Atomic(_)
            | Op::Async(_)
            | Op::Warp(_)
            | Op::Mma(_)
            | Op::Wgmma(_) => Ok(()),
            Op::Control(Control::BranchIndexed) | Op::Barrier(_) => {
                let Some(checks) = &self.core.checks else {
                    return Ok(());
                };
                let bad = inst
                    .s
                    .iter()
                    .fold(0, |all, r| all | undefined_lanes(checks, warp, *r))
                    & active;
                if bad != 0 {
                    let what = if let Op::Barrier(_) = inst.op {
                        "a barrier"
                    } else {
                        "a branch"
                    };
                    return Err(report::undefined(
                        self,
                        checks,
                        bad.trailing_zeros() as usize,
                        what,
                    ));
                }
                self.propagate(inst, active)
            }
            _ => self.propagate(inst, active),
        }
    }

    pub(super) fn propagate(&mut self, inst: &Inst, active: u32) -> Outcome {
        let Some(mut checks) = self.core.checks.take() else {
            return Ok(());
        };
        let warp = self.warp.index as usize;
        let state = &mut checks.warps[warp];
        flow(
            &mut state.poison,
            &self.warp.regs,
            inst,
            list(self.launch, inst),
            active,
        );
        if state.until_look == 0 {
            state.until_look = LOOK_EVERY;
            if state.poison.is_clear() {
                self.core.tainted &= !(1 << warp);
            }
        }
        state.until_look -= 1;
        self.core.checks = Some(checks);
        Ok(())
    }
}

fn flow(poison: &mut Registers, regs: &Registers, inst: &Inst, list: &RegList, mask: u32) {
    if halves::follow(poison, regs, inst, mask) {
        return;
    }
    let exact = match inst.op {
        Op::Move(Move::Special(_)) | Op::LoadParam(..) => {
            results(poison, inst, list, mask, 0);
            true
        }
        Op::Move(Move::Pack(width)) => {
            pack(poison, inst, list, mask, width);
            true
        }
        Op::Move(op) => {
            moves::moves(poison, inst, mask, op, list);
            true
        }
        Op::Bits(op @ (BitsOp::And | BitsOp::Or), _) => {
            logic(poison, regs, inst, mask, op == BitsOp::And);
            true
        }
        Op::Bits(op, int) => match controls(op) {
            Some(which) => with_controls(poison, regs, inst, which, |poison| {
                bits::bits(poison, inst, mask, op, int)
            }),
            None => false,
        },
        Op::Lop3(table) => {
            lop3(poison, regs, inst, mask, table);
            true
        }
        Op::Select(Select::Word | Select::Wide) => {
            select(poison, regs, inst, mask);
            true
        }
        Op::PredLogic(op) => {
            predicates(poison, regs, inst, mask, op);
            true
        }
        Op::Compare(how) => {
            compare(poison, regs, inst, mask, how);
            true
        }
        Op::Convert(how) => {
            convert(poison, inst, mask, how);
            true
        }
        Op::Mma(op) => {
            mma(poison, list, op);
            true
        }
        Op::Warp(WarpOp::Shuffle(mode)) => with_controls(poison, regs, inst, &[1, 2], |poison| {
            exchange::shuffle(poison, inst, mask, mode)
        }),
        Op::Warp(WarpOp::Vote(Vote::Ballot, _)) => {
            let undefined = poison.pred(inst.s[0]) & mask;
            poison.set_word(inst.d[0], mask, &[undefined; LANES]);
            true
        }
        Op::Warp(
            WarpOp::LoadMatrix { .. }
            | WarpOp::StoreMatrix { .. }
            | WarpOp::SyncWarp
            | WarpOp::Pause,
        ) => true,
        Op::Warp(_) => {
            let any = sources(poison, inst, list) & mask != 0;
            results(poison, inst, list, mask, if any { mask } else { 0 });
            true
        }
        _ => false,
    };
    if !exact {
        let bad = sources(poison, inst, list);
        results(poison, inst, list, mask, bad);
    }
}

/// Lanes in which any operand has undefined bits.
fn sources(poison: &Registers, inst: &Inst, list: &RegList) -> u32 {
    let operands = inst.s.iter().chain(&list.uses);
    operands.fold(0, |all, reg| all | poison.nonzero(*reg))
}

fn results(poison: &mut Registers, inst: &Inst, list: &RegList, mask: u32, bad: u32) {
    for reg in inst.d.iter().chain(&list.defs) {
        poison.taint(*reg, mask, bad);
    }
}

/// The operands of a bit operation that say which bits go where; the others are moved.
fn controls(op: BitsOp) -> Option<&'static [usize]> {
    match op {
        BitsOp::Shl | BitsOp::Shr => Some(&[1]),
        BitsOp::FunnelLeftClamp
        | BitsOp::FunnelLeftWrap
        | BitsOp::FunnelRightClamp
        | BitsOp::FunnelRightWrap => Some(&[2]),
        BitsOp::Bfe => Some(&[1, 2]),
        BitsOp::Bfi => Some(&[2, 3]),
        BitsOp::Prmt(PrmtMode::Index) => Some(&[2]),
        BitsOp::Xor | BitsOp::Not | BitsOp::Brev => None,
        _ => None,
    }
}

/// Runs an operation on the undefined bits themselves, with its controls' real values. False if a
/// control is undefined.
fn with_controls(
    poison: &mut Registers,
    regs: &Registers,
    inst: &Inst,
    which: &[usize],
    run: impl FnOnce(&mut Registers),
) -> bool {
    if which.iter().any(|&i| poison.nonzero(inst.s[i]) != 0) {
        return false;
    }
    // An operand that is both moved and a control would be taken for undefined.
    if which
        .iter()
        .any(|&i| (0..4).any(|j| !which.contains(&j) && inst.s[j] == inst.s[i]))
    {
        return false;
    }
    for &i in which {
        poison.set_any(inst.s[i], FULL, &regs.any(inst.s[i]));
    }
    run(poison);
    for &i in which {
        if !inst.d.contains(&inst.s[i]) {
            poison.taint(inst.s[i], FULL, 0);
        }
    }
    true
}

fn pack(poison: &mut Registers, inst: &Inst, list: &RegList, mask: u32, width: u8) {
    let low = u64::MAX >> (64 - u32::from(width).clamp(1, 64));
    let mut out = [0; LANES];
    for (part, reg) in list.uses.iter().enumerate() {
        for (lane, value) in out.iter_mut().enumerate() {
            *value |= (poison.lane(*reg, lane) & low) << (part * usize::from(width));
        }
    }
    poison.set_any(inst.d[0], mask, &out);
}

/// A zero makes a conjunction defined whatever the other bit is; a one a disjunction.
fn combined(pa: u64, a: u64, pb: u64, b: u64, and: bool) -> u64 {
    let (a, b) = if and { (a, b) } else { (!a, !b) };
    (pa & b) | (pb & a) | (pa & pb)
}

fn logic(poison: &mut Registers, regs: &Registers, inst: &Inst, mask: u32, and: bool) {
    let [sa, sb, ..] = inst.s;
    let (pa, pb, a, b) = (poison.any(sa), poison.any(sb), regs.any(sa), regs.any(sb));
    let mut out = [0; LANES];
    for lane in 0..LANES {
        out[lane] = combined(pa[lane], a[lane], pb[lane], b[lane], and);
    }
    poison.set_any(inst.d[0], mask, &out);
}

fn lop3(poison: &mut Registers, regs: &Registers, inst: &Inst, mask: u32, table: u8) {
    let value = |a: u32, b: u32, c: u32| {
        (0..8).filter(|i| table >> i & 1 == 1).fold(0, |all, i| {
            let pick = |v: u32, bit: u32| if i >> bit & 1 == 1 { v } else { !v };
            all | pick(a, 2) & pick(b, 1) & pick(c, 0)
        })
    };
    let mut out = [0; LANES];
    for (lane, word) in out.iter_mut().enumerate() {
        let [p, v] = [poison as &Registers, regs]
            .map(|file| [0, 1, 2].map(|i| file.lane(inst.s[i], lane) as u32));
        let now = value(v[0], v[1], v[2]);
        for flips in 1_u32..8 {
            let flipped = |i: usize| v[i] ^ if flips >> i & 1 == 1 { p[i] } else { 0 };
            *word |= now ^ value(flipped(0), flipped(1), flipped(2));
        }
    }
    poison.set_word(inst.d[0], mask, &out);
}

fn select(poison: &mut Registers, regs: &Registers, inst: &Inst, mask: u32) {
    let (a, b) = (poison.any(inst.s[0]), poison.any(inst.s[1]));
    let (unknown, chosen) = (poison.pred(inst.s[2]), regs.pred(inst.s[2]));
    let mut out = [0; LANES];
    for lane in 0..LANES {
        out[lane] = match (unknown >> lane & 1, chosen >> lane & 1) {
            (1, _) => u64::MAX,
            (_, 1) => a[lane],
            _ => b[lane],
        };
    }
    poison.set_any(inst.d[0], mask, &out);
}

fn predicates(poison: &mut Registers, regs: &Registers, inst: &Inst, mask: u32, op: PredOp) {
    let pair = |file: &Registers, i: usize| {
        u64::from(if inst.s[i].is_some() {
            file.pred(inst.s[i])
        } else {
            0
        })
    };
    let (pa, pb, a, b) = (
        pair(poison, 0),
        pair(poison, 1),
        pair(regs, 0),
        pair(regs, 1),
    );
    let bits = match op {
        PredOp::And => combined(pa, a, pb, b, true),
        PredOp::Or => combined(pa, a, pb, b, false),
        PredOp::Xor | PredOp::Not => pa | pb,
    };
    poison.set_pred(inst.d[0], mask, bits as u32);
}

fn compare(poison: &mut Registers, regs: &Registers, inst: &Inst, mask: u32, how: Compare) {
    let mut bad = poison.nonzero(inst.s[0]) | poison.nonzero(inst.s[1]);
    if inst.s[2].is_some() {
        let c = regs.pred(inst.s[2]) ^ if how.negate_c { FULL } else { 0 };
        let unknown = poison.pred(inst.s[2]);
        // A known third operand may decide alone.
        bad = match how.combine {
            Combine::And => unknown | bad & c,
            Combine::Or => unknown | bad & !c,
            Combine::None | Combine::Xor => unknown | bad,
        };
    }
    for reg in inst.d {
        poison.taint(reg, mask, bad);
    }
}

fn convert(poison: &mut Registers, inst: &Inst, mask: u32, how: Convert) {
    let width = |number: Number| match number {
        Number::Int(int) => int.bits(),
        Number::Int8(_) => 8,
        Number::Float(_) => 64,
    };
    let mut seen = width(how.from);
    if let (Number::Int(_) | Number::Int8(_), crate::decode::op::Saturate::No) = (how.from, how.sat)
        && let Number::Int(_) | Number::Int8(_) = how.to
    {
        seen = seen.min(width(how.to));
    }
    let low = u64::MAX >> (64 - seen.clamp(1, 64));
    let bad = (0..LANES).fold(0, |all, lane| {
        all | u32::from(poison.lane(inst.s[0], lane) & low != 0) << lane
    }) | poison.nonzero(inst.s[1]);
    for reg in inst.d {
        poison.taint(reg, mask, bad);
    }
}

/// A row of A spoils that row of the result, a column of B that column, an element of C that
/// element.
fn mma(poison: &mut Registers, list: &RegList, op: Mma) {
    let (rows, per_register) = (op.kind.rows(), op.kind.per_register());
    let a_count = (rows * usize::from(op.k) / LANES / per_register).max(1);
    let b_count = (8 * usize::from(op.k) / LANES / per_register).max(1);
    if a_count + b_count > list.uses.len() {
        return;
    }
    let (a, rest) = list.uses.split_at(a_count);
    let (b, c) = rest.split_at(b_count);
    let (mut bad_rows, mut bad_columns) = (0_u32, 0_u32);
    for (i, reg) in a.iter().enumerate() {
        for lane in lanes(poison.nonzero(*reg)) {
            bad_rows |= 1 << (lane / 4 + if rows == 16 { 8 * (i % 2) } else { 0 });
        }
    }
    for reg in b {
        for lane in lanes(poison.nonzero(*reg)) {
            bad_columns |= 1 << (lane / 4);
        }
    }
    let halves = op.kind.sums_halves();
    let sums: Vec<_> = c
        .iter()
        .map(|reg| {
            (0..LANES)
                .map(|lane| poison.lane(*reg, lane))
                .collect::<Vec<_>>()
        })
        .collect();
    for (i, reg) in list.defs.iter().enumerate() {
        let mut out = [0_u64; LANES];
        for (lane, value) in out.iter_mut().enumerate() {
            let before = sums
                .get(i)
                .and_then(|sum| sum.get(lane))
                .copied()
                .unwrap_or(0);
            let row = lane / 4 + if halves { 8 * i } else { 8 * (i / 2) };
            let bad = |column: usize| bad_rows >> row & 1 == 1 || bad_columns >> column & 1 == 1;
            let column = 2 * (lane % 4);
            *value = if halves {
                let [low, high] =
                    [(column, 0xffff_u64), (column + 1, 0xffff_0000)].map(|(column, bits)| {
                        if bad(column) || before & bits != 0 {
                            bits
                        } else {
                            0
                        }
                    });
                low | high
            } else if bad(column + i % 2) || before != 0 {
                u64::MAX
            } else {
                0
            };
        }
        poison.set_any(*reg, FULL, &out);
    }
}
