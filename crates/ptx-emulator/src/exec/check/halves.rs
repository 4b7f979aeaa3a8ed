//! Undefined bits in operations on packed values: each part of a result depends on the same part of
//! the operands. Compilers pair a value with whatever is in the other half, and drop that result.

use crate::decode::op::{
    ApproxOp, Combine, Compare, CompareResult, Convert, HalfType, Inst, IntOp, Number, Op, Operand,
};
use crate::decode::types::Float;
use crate::exec::registers::{FULL, LANES, Registers, collect};

const LOW: u64 = 0xffff;
const HIGH: u64 = 0xffff_0000;

/// Follows an operation on packed values. False if it is none.
pub(super) fn follow(poison: &mut Registers, regs: &Registers, inst: &Inst, mask: u32) -> bool {
    match inst.op {
        Op::Half(_, half, _) | Op::Approx(ApproxOp::Ex2Half(half), _) if is_packed(half) => {
            each_half(poison, inst, mask);
        }
        Op::Approx(ApproxOp::TanhHalf(half), _) if is_packed(half) => {
            each_half(poison, inst, mask);
        }
        Op::Int(IntOp::Halves(_), _) => each_half(poison, inst, mask),
        Op::Int(IntOp::Pack(bits, _), _) => pack(poison, inst, mask, u32::from(bits)),
        Op::Convert(how) => return convert(poison, inst, mask, how),
        Op::Compare(
            how @ Compare {
                operand: Operand::Half(half),
                ..
            },
        ) if is_packed(half) => compare(poison, regs, inst, mask, how),
        _ => return false,
    }
    true
}

fn is_packed(half: HalfType) -> bool {
    matches!(half, HalfType::F16x2 | HalfType::Bf16x2)
}

/// All operands' undefined bits in a lane.
fn together(poison: &Registers, inst: &Inst, lane: usize) -> u64 {
    let operands = inst.s.iter().filter(|reg| reg.is_some());
    operands.fold(0, |all, reg| all | poison.lane(*reg, lane))
}

/// A part is undefined as a whole.
fn spoiled(bits: u64, part: u64) -> u64 {
    if bits & part == 0 { 0 } else { part }
}

fn each_half(poison: &mut Registers, inst: &Inst, mask: u32) {
    let mut out = [0; LANES];
    for (lane, value) in out.iter_mut().enumerate() {
        let bits = together(poison, inst, lane);
        *value = spoiled(bits, LOW) | spoiled(bits, HIGH);
    }
    poison.set_any(inst.d[0], mask, &out);
}

/// `cvt.pack`: b, a and c from the low bits on.
fn pack(poison: &mut Registers, inst: &Inst, mask: u32, bits: u32) {
    let part = (1_u64 << bits) - 1;
    let mut out = [0; LANES];
    for (lane, value) in out.iter_mut().enumerate() {
        let [a, b, c] = [0, 1, 2].map(|i| poison.lane(inst.s[i], lane));
        let whole = |undefined: u64| if undefined == 0 { 0 } else { part };
        *value = (whole(b) | whole(a) << bits | c << (2 * bits)) & (LOW | HIGH);
    }
    poison.set_any(inst.d[0], mask, &out);
}

fn convert(poison: &mut Registers, inst: &Inst, mask: u32, how: Convert) -> bool {
    use Float::{Bf16x2, E4m3x2, E5m2x2, F16x2, F32};
    let (Number::Float(to), Number::Float(from)) = (how.to, how.from) else {
        return false;
    };
    // The undefined bits of the result's low and high part.
    let parts: fn(u64, u64) -> [u64; 2] = match (to, from) {
        // The first source is the high part.
        (F16x2 | Bf16x2 | E4m3x2 | E5m2x2, F32) => |high, low| [low, high],
        (E4m3x2 | E5m2x2, F16x2) => |pair, _| [pair & LOW, pair & HIGH],
        (F16x2, E4m3x2 | E5m2x2) => |pair, _| [pair & 0xff, pair & 0xff00],
        _ => return false,
    };
    let width = to.bits() / 2;
    let part = (1_u64 << width) - 1;
    let mut out = [0; LANES];
    for (lane, value) in out.iter_mut().enumerate() {
        let second = if inst.s[1].is_some() {
            poison.lane(inst.s[1], lane)
        } else {
            0
        };
        let [low, high] = parts(poison.lane(inst.s[0], lane), second);
        let whole = |undefined: u64| if undefined == 0 { 0 } else { part };
        *value = whole(low) | whole(high) << width;
    }
    poison.set_any(inst.d[0], mask, &out);
    true
}

fn compare(poison: &mut Registers, regs: &Registers, inst: &Inst, mask: u32, how: Compare) {
    let [a, b, c, _] = inst.s;
    let half =
        |part: u64| collect(|lane| (poison.lane(a, lane) | poison.lane(b, lane)) & part != 0);
    let mut bad = [half(LOW), half(HIGH)];
    if c.is_some() {
        let value = regs.pred(c) ^ if how.negate_c { FULL } else { 0 };
        let unknown = poison.pred(c);
        // A known third operand may decide alone.
        bad = bad.map(|bad| match how.combine {
            Combine::And => unknown | bad & value,
            Combine::Or => unknown | bad & !value,
            Combine::None | Combine::Xor => unknown | bad,
        });
    }
    let [low, high] = bad;
    if how.result == CompareResult::Pred {
        poison.taint(inst.d[0], mask, low);
        poison.taint(inst.d[1], mask, high);
        return;
    }
    let mut out = [0; LANES];
    for (lane, value) in out.iter_mut().enumerate() {
        let of = |bad: u32, part: u64| if bad >> lane & 1 == 1 { part } else { 0 };
        *value = of(low, LOW) | of(high, HIGH);
    }
    poison.set_any(inst.d[0], mask, &out);
}
