//! `setp`, `set`, `selp`, `slct` (PTX ISA section 9.7.6).

use super::registers::{LANES, Registers, collect};
use super::rounding::{bf16_to_f32, f16_to_f32, flush};
use crate::decode::op::{
    Combine, Compare, CompareResult, HalfType, Inst, Operand, Relation, Select,
};
use crate::decode::types::Int;

/// Which of less, equal, greater and unordered a relation accepts.
struct Accepts {
    less: bool,
    equal: bool,
    greater: bool,
    unordered: bool,
}

fn accepts(relation: Relation) -> Accepts {
    let (less, equal, greater, unordered) = match relation {
        Relation::Eq => (false, true, false, false),
        Relation::Ne => (true, false, true, false),
        Relation::Lt => (true, false, false, false),
        Relation::Le => (true, true, false, false),
        Relation::Gt => (false, false, true, false),
        Relation::Ge => (false, true, true, false),
        Relation::Equ => (false, true, false, true),
        Relation::Neu => (true, false, true, true),
        Relation::Ltu => (true, false, false, true),
        Relation::Leu => (true, true, false, true),
        Relation::Gtu => (false, false, true, true),
        Relation::Geu => (false, true, true, true),
        Relation::Num => (true, true, true, false),
        Relation::Nan => (false, false, false, true),
    };
    Accepts {
        less,
        equal,
        greater,
        unordered,
    }
}

/// The comparison loop of one relation and type.
macro_rules! relate {
    ($relation:expr, $regs:expr, $method:ident, $inst:expr, $ty:ty) => {{
        let (a, b) = ($inst.s[0], $inst.s[1]);
        match $relation {
            Relation::Eq => $regs.$method(a, b, |a, b| a as $ty == b as $ty),
            Relation::Ne => $regs.$method(a, b, |a, b| a as $ty != b as $ty),
            Relation::Lt => $regs.$method(a, b, |a, b| (a as $ty) < (b as $ty)),
            Relation::Le => $regs.$method(a, b, |a, b| a as $ty <= b as $ty),
            Relation::Gt => $regs.$method(a, b, |a, b| a as $ty > b as $ty),
            _ => $regs.$method(a, b, |a, b| a as $ty >= b as $ty),
        }
    }};
}

fn int_test(regs: &Registers, inst: &Inst, relation: Relation, int: Int) -> u32 {
    match int {
        Int::U16 | Int::U32 => relate!(relation, regs, test2, inst, u32),
        Int::S16 => relate!(relation, regs, test2, inst, i16),
        Int::S32 => relate!(relation, regs, test2, inst, i32),
        Int::U64 => relate!(relation, regs, wide_test2, inst, u64),
        Int::S64 => relate!(relation, regs, wide_test2, inst, i64),
    }
}

#[inline(always)]
fn float_test(relation: Relation, lane: impl Fn(usize) -> (f64, f64)) -> u32 {
    let accepts = accepts(relation);
    collect(|i| {
        let (a, b) = lane(i);
        (a < b && accepts.less)
            || (a == b && accepts.equal)
            || (a > b && accepts.greater)
            || ((a.is_nan() || b.is_nan()) && accepts.unordered)
    })
}

fn f32_test(regs: &Registers, inst: &Inst, relation: Relation, ftz: bool) -> u32 {
    let (a, b) = (regs.word(inst.s[0]), regs.word(inst.s[1]));
    let accepts = accepts(relation);
    collect(|i| {
        let (a, b) = (f32::from_bits(a[i]), f32::from_bits(b[i]));
        let (a, b) = if ftz { (flush(a), flush(b)) } else { (a, b) };
        ((a < b) & accepts.less)
            | ((a == b) & accepts.equal)
            | ((a > b) & accepts.greater)
            | ((a.is_nan() | b.is_nan()) & accepts.unordered)
    })
}

/// Results for the low (or only) and the high half of the operands.
fn half_test(
    regs: &Registers,
    inst: &Inst,
    relation: Relation,
    half: HalfType,
    ftz: bool,
) -> [u32; 2] {
    let (a, b) = (regs.word(inst.s[0]), regs.word(inst.s[1]));
    let value = |bits: u16| match half {
        HalfType::F16 | HalfType::F16x2 => f64::from(f16_to_f32(if ftz && bits & 0x7c00 == 0 {
            bits & 0x8000
        } else {
            bits
        })),
        HalfType::Bf16 | HalfType::Bf16x2 => f64::from(bf16_to_f32(bits)),
    };
    let low = float_test(relation, |i| (value(a[i] as u16), value(b[i] as u16)));
    if matches!(half, HalfType::F16 | HalfType::Bf16) {
        return [low, low];
    }
    let high = float_test(relation, |i| {
        (value((a[i] >> 16) as u16), value((b[i] >> 16) as u16))
    });
    [low, high]
}

pub(super) fn compare(regs: &mut Registers, inst: &Inst, mask: u32, compare: Compare) {
    let (relation, ftz) = (compare.relation, compare.ftz);
    let [low, high] = match compare.operand {
        Operand::Int(int) => [int_test(regs, inst, relation, int); 2],
        Operand::F32 => [f32_test(regs, inst, relation, ftz); 2],
        Operand::F64 => {
            let (a, b) = (regs.wide(inst.s[0]), regs.wide(inst.s[1]));
            [float_test(relation, |i| (f64::from_bits(a[i]), f64::from_bits(b[i]))); 2]
        }
        Operand::Half(half) => half_test(regs, inst, relation, half, ftz),
    };
    let combined = |bits: u32| -> u32 {
        if compare.combine == Combine::None {
            return bits;
        }
        let c = regs.pred(inst.s[2]);
        let c = if compare.negate_c { !c } else { c };
        match compare.combine {
            Combine::And => bits & c,
            Combine::Or => bits | c,
            _ => bits ^ c,
        }
    };
    let is_packed = matches!(
        compare.operand,
        Operand::Half(HalfType::F16x2 | HalfType::Bf16x2)
    );
    let first = combined(low);
    // The second predicate is the high half's result, or the inverse comparison's.
    let second = combined(if is_packed { high } else { !low });
    let one16 = match compare.operand {
        Operand::Half(HalfType::Bf16 | HalfType::Bf16x2) => 0x3f80,
        _ => 0x3c00,
    };
    let (true_value, halves) = match compare.result {
        CompareResult::Pred => {
            regs.set_pred(inst.d[0], mask, first);
            if inst.d[1].is_some() {
                regs.set_pred(inst.d[1], mask, second);
            }
            return;
        }
        CompareResult::Mask32 => (u32::MAX, false),
        CompareResult::One32 => (1.0_f32.to_bits(), false),
        CompareResult::Mask16 => (0xffff, false),
        CompareResult::One16 => (one16, false),
        CompareResult::MaskHalves => (0xffff, true),
        CompareResult::OneHalves => (one16, true),
    };
    let mut out = [0; LANES];
    for lane in 0..LANES {
        let low = if first >> lane & 1 == 1 {
            true_value
        } else {
            0
        };
        let high = if halves && second >> lane & 1 == 1 {
            true_value << 16
        } else {
            0
        };
        out[lane] = low | high;
    }
    regs.set_word(inst.d[0], mask, &out);
}

pub(super) fn select(regs: &mut Registers, inst: &Inst, mask: u32, select: Select) {
    let float = |bits: u32, ftz: bool| {
        let x = f32::from_bits(bits);
        if ftz { flush(x) } else { x }
    };
    let chosen = match select {
        Select::Word | Select::Wide => regs.pred(inst.s[2]),
        Select::WordBySign | Select::WideBySign => {
            regs.test2(inst.s[2], inst.s[2], |c, _| c as i32 >= 0)
        }
        // NaN chooses the second.
        Select::WordByFloat(ftz) | Select::WideByFloat(ftz) => {
            regs.test2(inst.s[2], inst.s[2], |c, _| float(c, ftz) >= 0.0)
        }
    };
    if matches!(
        select,
        Select::Word | Select::WordBySign | Select::WordByFloat(_)
    ) {
        let (a, b) = (regs.word(inst.s[0]), regs.word(inst.s[1]));
        let mut out = [0; LANES];
        for lane in 0..LANES {
            out[lane] = if chosen >> lane & 1 == 1 {
                a[lane]
            } else {
                b[lane]
            };
        }
        return regs.set_word(inst.d[0], mask, &out);
    }
    let (a, b) = (regs.wide(inst.s[0]), regs.wide(inst.s[1]));
    let mut out = [0; LANES];
    for lane in 0..LANES {
        out[lane] = if chosen >> lane & 1 == 1 {
            a[lane]
        } else {
            b[lane]
        };
    }
    regs.set_wide(inst.d[0], mask, &out);
}
