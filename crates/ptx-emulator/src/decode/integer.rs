//! Integer arithmetic, logic, shifts and bit fields (PTX ISA sections 9.7.1, 9.7.2, 9.7.8).

use super::DecodeError;
use super::builder::{Constant, bare};
use super::form::Form;
use super::op::{BitsOp, CarryOp, Class, HalvesOp, IntOp, Op, PredOp, PrmtMode};
use super::types::{Int, Type};

type Decoded = Result<(), DecodeError>;

fn int(form: &Form<'_, '_>, ty: Type, widths: &[u32]) -> Result<Int, DecodeError> {
    match ty {
        Type::Int(int) if widths.contains(&int.bits()) => Ok(int),
        _ => Err(form.refuse_type()),
    }
}

/// `add`, `sub`, `min`, `max`, `div`, `rem`, `abs`, `neg` of an integer type.
pub(super) fn arithmetic(form: &mut Form<'_, '_>, op: IntOp) -> Decoded {
    let ty = form.ty()?;
    if let Type::Pair(signed) = ty {
        return halves(form, op, signed);
    }
    let int = int(form, ty, &[16, 32, 64])?;
    let op = match op {
        IntOp::Min if int == Int::S32 && form.flag("relu") => IntOp::MinRelu,
        IntOp::Max if int == Int::S32 && form.flag("relu") => IntOp::MaxRelu,
        op => op,
    };
    let saturates = int == Int::S32 && matches!(op, IntOp::Add | IntOp::Sub) && form.flag("sat");
    let op = match op {
        IntOp::Add if saturates => IntOp::AddSat,
        IntOp::Sub if saturates => IntOp::SubSat,
        _ => op,
    };
    let unary = matches!(op, IntOp::Abs | IntOp::Neg);
    if unary && !int.signed() {
        return Err(form.refuse_type());
    }
    let sources = if unary { 1 } else { 2 };
    form.expect_operands(sources + 1..=sources + 1)?;
    plain(form, Op::Int(op, int), ty, sources)
}

/// `add`, `min`, `max` of two 16-bit integers in a word.
fn halves(form: &mut Form<'_, '_>, op: IntOp, signed: bool) -> Decoded {
    let op = match op {
        IntOp::Add => HalvesOp::Add,
        IntOp::Min if signed && form.flag("relu") => HalvesOp::MinRelu,
        IntOp::Max if signed && form.flag("relu") => HalvesOp::MaxRelu,
        IntOp::Min => HalvesOp::Min,
        IntOp::Max => HalvesOp::Max,
        _ => return Err(form.refuse_type()),
    };
    let int = if signed { Int::S16 } else { Int::U16 };
    plain(form, Op::Int(IntOp::Halves(op), int), Type::Bits(32), 2)
}

/// `cvt.pack.sat.type.s32 d, a, b` for 16 bits, and with `.b32` and a word c to shift them into for
/// fewer.
pub(super) fn pack_saturated(form: &mut Form<'_, '_>) -> Decoded {
    const WORD: Type = Type::Bits(32);
    let last = form.ty_among(&["s32", "b32"])?;
    let shifts = last == WORD;
    if shifts {
        form.ty_among(&["s32"])?;
    }
    form.need(&[("sat", ())])?;
    let (bits, signed) = if shifts {
        form.need(&[
            ("u8", (8, false)),
            ("s8", (8, true)),
            ("u4", (4, false)),
            ("s4", (4, true)),
            ("u2", (2, false)),
            ("s2", (2, true)),
        ])?
    } else {
        form.need(&[("u16", (16, false)), ("s16", (16, true))])?
    };
    form.expect_operands(if shifts { 4..=4 } else { 3..=3 })?;
    let (a, b) = (form.src(1, WORD)?, form.src(2, WORD)?);
    let c = if shifts {
        form.src(3, WORD)?
    } else {
        form.builder.constant(Class::Word, Constant::Bits(0))
    };
    let d = form.dst(0, WORD)?;
    form.emit_simple(Op::Int(IntOp::Pack(bits, signed), Int::S32), d, &[a, b, c])
}

/// One destination and `sources` sources of the same type.
pub(super) fn plain(form: &mut Form<'_, '_>, op: Op, ty: Type, sources: usize) -> Decoded {
    form.expect_operands(sources + 1..=sources + 1)?;
    let mut regs = Vec::with_capacity(sources);
    for i in 1..=sources {
        regs.push(form.src(i, ty)?);
    }
    let d = form.dst(0, ty)?;
    form.emit_simple(op, d, &regs)
}

#[derive(Clone, Copy)]
enum Half {
    Low,
    High,
    Wide,
}

/// `mul`, `mad`, `mul24`, `mad24` of an integer type.
pub(super) fn multiply(form: &mut Form<'_, '_>, adds: bool, is_24: bool) -> Decoded {
    let ty = form.ty()?;
    let half = form.need(&[("lo", Half::Low), ("hi", Half::High), ("wide", Half::Wide)])?;
    let widths: &[u32] = match half {
        _ if is_24 => &[32],
        Half::Wide => &[16, 32],
        _ => &[16, 32, 64],
    };
    let int = int(form, ty, widths)?;
    let op = match (adds, half) {
        (false, Half::Low) if is_24 => IntOp::Mul24Lo,
        (false, Half::High) if is_24 => IntOp::Mul24Hi,
        (true, Half::Low) if is_24 => IntOp::Mad24Lo,
        (true, Half::High) if is_24 => IntOp::Mad24Hi,
        (_, Half::Wide) if is_24 => return Err(form.error("no .wide form")),
        (false, Half::Low) => IntOp::MulLo,
        (false, Half::High) => IntOp::MulHi,
        (false, Half::Wide) => IntOp::MulWide,
        (true, Half::Low) => IntOp::MadLo,
        (true, Half::High) if int == Int::S32 && form.flag("sat") => IntOp::MadHiSat,
        (true, Half::High) => IntOp::MadHi,
        (true, Half::Wide) => IntOp::MadWide,
    };
    let result = match half {
        Half::Wide => Type::Bits(int.bits() * 2),
        _ => ty,
    };
    form.expect_operands(if adds { 4..=4 } else { 3..=3 })?;
    let mut sources = vec![form.src(1, ty)?, form.src(2, ty)?];
    if adds {
        sources.push(form.src(3, result)?);
    }
    let d = form.dst(0, result)?;
    form.emit_simple(Op::Int(op, int), d, &sources)
}

/// `add.cc`, `addc`, `sub.cc`, `subc`, `mad.cc`, `madc`.
pub(super) fn carry(form: &mut Form<'_, '_>, op: CarryOp, carry_in: bool) -> Decoded {
    let ty = form.ty()?;
    let int = int(form, ty, &[32, 64])?;
    let carry_out = form.flag("cc");
    let op = match op {
        CarryOp::MadLo => form.need(&[("lo", CarryOp::MadLo), ("hi", CarryOp::MadHi)])?,
        other => other,
    };
    let sources = if matches!(op, CarryOp::Add | CarryOp::Sub) {
        2
    } else {
        3
    };
    form.expect_operands(sources + 1..=sources + 1)?;
    let mut inst = bare(Op::Carry(op, int));
    for i in 0..sources {
        inst.s[i] = form.src(i + 1, ty)?;
    }
    inst.d[0] = form.dst(0, ty)?;
    let flag = form.builder.carry();
    if carry_in {
        inst.s[3] = flag;
    }
    if carry_out {
        inst.d[1] = flag;
    }
    form.emit(inst)
}

pub(super) fn sad(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    let int = int(form, ty, &[16, 32, 64])?;
    plain(form, Op::Int(IntOp::Sad, int), ty, 3)
}

/// `dp4a`, `dp2a`: two types in the opcode.
pub(super) fn dot(form: &mut Form<'_, '_>, two: bool) -> Decoded {
    let (b, a) = (form.ty()?, form.ty()?);
    let sign = |ty| match ty {
        Type::Int(Int::S32) => Some(true),
        Type::Int(Int::U32) => Some(false),
        _ => None,
    };
    let (Some(a), Some(b)) = (sign(a), sign(b)) else {
        return Err(form.refuse_type());
    };
    let op = if two {
        let high = form.need(&[("lo", false), ("hi", true)])?;
        IntOp::Dp2a(a, b, high)
    } else {
        IntOp::Dp4a(a, b)
    };
    plain(form, Op::Int(op, Int::U32), Type::Bits(32), 3)
}

/// `and`, `or`, `xor`, `not`, `cnot`.
pub(super) fn logic(form: &mut Form<'_, '_>, op: BitsOp) -> Decoded {
    let ty = form.ty()?;
    let sources = if matches!(op, BitsOp::Not | BitsOp::Cnot) {
        1
    } else {
        2
    };
    match ty {
        Type::Pred => {
            let op = match op {
                BitsOp::And => PredOp::And,
                BitsOp::Or => PredOp::Or,
                BitsOp::Xor => PredOp::Xor,
                BitsOp::Not => PredOp::Not,
                _ => return Err(form.refuse_type()),
            };
            plain(form, Op::PredLogic(op), ty, sources)
        }
        Type::Bits(16 | 32 | 64) => bits(form, op, ty, sources),
        _ => Err(form.refuse_type()),
    }
}

fn bits(form: &mut Form<'_, '_>, op: BitsOp, ty: Type, sources: usize) -> Decoded {
    let Some(int) = ty.as_int() else {
        return Err(form.refuse_type());
    };
    plain(form, Op::Bits(op, int), ty, sources)
}

/// `shl`, `shr`: the amount is always 32 bits.
pub(super) fn shift(form: &mut Form<'_, '_>, op: BitsOp) -> Decoded {
    let ty = form.ty()?;
    let Some(int) = ty.as_int() else {
        return Err(form.refuse_type());
    };
    if op == BitsOp::Shl && !matches!(ty, Type::Bits(_)) {
        return Err(form.refuse_type());
    }
    form.expect_operands(3..=3)?;
    let a = form.src(1, ty)?;
    let amount = form.src(2, Type::Bits(32))?;
    let d = form.dst(0, ty)?;
    form.emit_simple(Op::Bits(op, int), d, &[a, amount])
}

/// `shf.{l,r}.{clamp,wrap}.b32`.
pub(super) fn funnel(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    let left = form.need(&[("l", true), ("r", false)])?;
    let wrap = form.need(&[("wrap", true), ("clamp", false)])?;
    if ty != Type::Bits(32) {
        return Err(form.refuse_type());
    }
    let op = match (left, wrap) {
        (true, true) => BitsOp::FunnelLeftWrap,
        (true, false) => BitsOp::FunnelLeftClamp,
        (false, true) => BitsOp::FunnelRightWrap,
        (false, false) => BitsOp::FunnelRightClamp,
    };
    plain(form, Op::Bits(op, Int::U32), ty, 3)
}

/// `bfe`, `bfi`: position and length are 32 bits.
pub(super) fn field(form: &mut Form<'_, '_>, insert: bool) -> Decoded {
    let ty = form.ty()?;
    let Some(int) = ty.as_int().filter(|i| i.bits() >= 32) else {
        return Err(form.refuse_type());
    };
    if insert != matches!(ty, Type::Bits(_)) {
        return Err(form.refuse_type());
    }
    let values = if insert { 2 } else { 1 };
    form.expect_operands(values + 3..=values + 3)?;
    let mut sources = Vec::with_capacity(4);
    for i in 1..=values {
        sources.push(form.src(i, ty)?);
    }
    sources.push(form.src(values + 1, Type::Bits(32))?);
    sources.push(form.src(values + 2, Type::Bits(32))?);
    let d = form.dst(0, ty)?;
    let op = if insert { BitsOp::Bfi } else { BitsOp::Bfe };
    form.emit_simple(Op::Bits(op, int), d, &sources)
}

/// `clz`, `popc`, `bfind`: a 32-bit result from 32 or 64 bits. `brev`: the same width.
pub(super) fn count(form: &mut Form<'_, '_>, op: BitsOp) -> Decoded {
    let ty = form.ty()?;
    let Some(int) = ty.as_int().filter(|i| i.bits() >= 32) else {
        return Err(form.refuse_type());
    };
    // `bfind` looks for the sign, the others know bits only.
    if (op == BitsOp::Bfind) == matches!(ty, Type::Bits(_)) {
        return Err(form.refuse_type());
    }
    let op = match op {
        BitsOp::Bfind if form.flag("shiftamt") => BitsOp::BfindShift,
        other => other,
    };
    form.expect_operands(2..=2)?;
    let a = form.src(1, ty)?;
    let result = if op == BitsOp::Brev {
        ty
    } else {
        Type::Bits(32)
    };
    let d = form.dst(0, result)?;
    form.emit_simple(Op::Bits(op, int), d, &[a])
}

pub(super) fn fns(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    if ty != Type::Bits(32) {
        return Err(form.refuse_type());
    }
    plain(form, Op::Bits(BitsOp::Fns, Int::U32), ty, 3)
}

/// `bmsk`, `szext`.
pub(super) fn mask(form: &mut Form<'_, '_>, extend: bool) -> Decoded {
    let ty = form.ty()?;
    let clamp = form.need(&[("clamp", true), ("wrap", false)])?;
    let int = match (extend, ty) {
        (false, Type::Bits(32)) => Int::U32,
        (true, Type::Int(int @ (Int::U32 | Int::S32))) => int,
        _ => return Err(form.refuse_type()),
    };
    let op = match (extend, clamp) {
        (false, true) => BitsOp::BmskClamp,
        (false, false) => BitsOp::BmskWrap,
        (true, true) => BitsOp::SzextClamp,
        (true, false) => BitsOp::SzextWrap,
    };
    plain(form, Op::Bits(op, int), ty, 2)
}

/// `lop3.b32 d, a, b, c, table` and the form with a predicate result is refused.
pub(super) fn lop3(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    if ty != Type::Bits(32) {
        return Err(form.refuse_type());
    }
    form.expect_operands(5..=5)?;
    let crate::ast::Operand::Integer(table @ 0..=255) = *form.operand(4)? else {
        return Err(form.error("the look-up table must be an immediate from 0 to 255"));
    };
    let sources = [form.src(1, ty)?, form.src(2, ty)?, form.src(3, ty)?];
    let d = form.dst(0, ty)?;
    form.emit_simple(Op::Lop3(table as u8), d, &sources)
}

pub(super) fn prmt(form: &mut Form<'_, '_>) -> Decoded {
    let mode = form
        .one_of(&[
            ("f4e", PrmtMode::F4e),
            ("b4e", PrmtMode::B4e),
            ("rc8", PrmtMode::Rc8),
            ("ecl", PrmtMode::Ecl),
            ("ecr", PrmtMode::Ecr),
            ("rc16", PrmtMode::Rc16),
        ])
        .unwrap_or(PrmtMode::Index);
    let ty = form.ty()?;
    if ty != Type::Bits(32) {
        return Err(form.refuse_type());
    }
    plain(form, Op::Bits(BitsOp::Prmt(mode), Int::U32), ty, 3)
}
