//! `cvt`, `mov`, `cvta` (PTX ISA section 9.7.9).

use super::DecodeError;
use super::builder::{Constant, bare};
use super::form::{Form, class_of};
use super::op::{Class, Convert, IntOp, Move, Number, Op, Reg, Round, Saturate};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

fn number(ty: Type) -> Option<Number> {
    Some(match ty {
        Type::Int(int) => Number::Int(int),
        Type::Int8(signed) => Number::Int8(signed),
        Type::Float(float) => Number::Float(float),
        _ => return None,
    })
}

pub(super) fn cvt(form: &mut Form<'_, '_>) -> Decoded {
    let (from_ty, to_ty) = (form.ty()?, form.ty()?);
    let (Some(from), Some(to)) = (number(from_ty), number(to_ty)) else {
        return Err(form.refuse_type());
    };
    let integral = form.one_of(&[
        ("rni", Round::Nearest),
        ("rzi", Round::Zero),
        ("rmi", Round::Down),
        ("rpi", Round::Up),
    ]);
    let plain = match form.rounding() {
        None if form.flag("rna") => Some(Round::NearestAway),
        other => other,
    };
    let ftz = form.flag("ftz");
    let relu = form.flag("relu");
    let sat = match (form.flag("sat"), form.flag("satfinite"), relu) {
        (false, false, false) => Saturate::No,
        (true, false, false) => Saturate::Sat,
        (false, true, false) => Saturate::SatFinite,
        (false, true, true) => Saturate::SatFiniteRelu,
        (false, false, true) => Saturate::Relu,
        _ => return Err(form.error("these saturations exclude each other")),
    };
    if integral.is_some() && plain.is_some() {
        return Err(form.error("two rounding modifiers"));
    }
    let convert = Convert {
        to,
        from,
        round: integral.or(plain).unwrap_or(match (to, from) {
            (Number::Int(_) | Number::Int8(_), Number::Float(_)) => Round::Zero,
            _ => Round::Nearest,
        }),
        integral: integral.is_some(),
        sat,
        ftz,
    };
    check(form, &convert, plain.is_some())?;
    let packs = matches!(
        to,
        Number::Float(Float::F16x2 | Float::Bf16x2 | Float::E4m3x2 | Float::E5m2x2)
    ) && from == Number::Float(Float::F32);
    form.expect_operands(if packs { 3..=3 } else { 2..=2 })?;
    let mut inst = bare(Op::Convert(convert));
    let first = form.operand(1)?;
    inst.s[0] = form.relaxed_src(first, from_ty)?;
    if packs {
        inst.s[1] = form.src(2, from_ty)?;
    }
    let target = form.operand(0)?;
    let (d, bits) = form.relaxed_dst(target, to_ty)?;
    inst.d[0] = d;
    // The result is extended to the register's declared size.
    inst.imm = bits as i32;
    form.emit(inst)
}

/// Which pairs of types and modifiers exist.
fn check(form: &Form<'_, '_>, convert: &Convert, rounded: bool) -> Decoded {
    let refuse = || Err(form.error("this conversion is not supported"));
    let scalar = |f: Float| matches!(f, Float::F16 | Float::Bf16 | Float::F32 | Float::F64);
    match (convert.to, convert.from) {
        (Number::Int(_) | Number::Int8(_), Number::Int(_) | Number::Int8(_)) => {
            if convert.integral || rounded || convert.ftz || !matches!(convert.sat, Saturate::No | Saturate::Sat) {
                return refuse();
            }
        }
        (Number::Int(_) | Number::Int8(_), Number::Float(f)) => {
            if !scalar(f) || !convert.integral || !matches!(convert.sat, Saturate::No | Saturate::Sat) {
                return refuse();
            }
        }
        (Number::Float(f), Number::Int(_) | Number::Int8(_)) => {
            if !scalar(f) || convert.integral || !matches!(convert.sat, Saturate::No | Saturate::Sat) {
                return refuse();
            }
        }
        (Number::Float(to), Number::Float(from)) => {
            let fp8 = |f| matches!(f, Float::E4m3x2 | Float::E5m2x2);
            let ok = match (to, from) {
                (Float::Tf32, Float::F32) => rounded,
                (Float::F16x2 | Float::Bf16x2, Float::F32) => rounded,
                (to, Float::F32) if fp8(to) => rounded,
                (to, Float::F16x2) if fp8(to) => rounded,
                (Float::F16x2, from) if fp8(from) => rounded,
                (to, from) => {
                    let narrows = to.bits() < from.bits() || (to != from && to.bits() == 16 && from.bits() == 16);
                    // A narrowing needs a rounding; `.integral` belongs to a conversion of a type to itself.
                    scalar(to) && scalar(from) && (rounded || !narrows) && (!convert.integral || to == from)
                }
            };
            let away = convert.round == Round::NearestAway && to != Float::Tf32;
            if !ok || away {
                return refuse();
            }
        }
    }
    Ok(())
}

pub(super) fn mov(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    form.expect_operands(2..=2)?;
    match (form.operand(0)?, form.operand(1)?) {
        (Operand::Vector(parts), _) => unpack(form, parts, ty),
        (_, Operand::Vector(parts)) => pack(form, parts, ty),
        _ => {
            let source = match (form.operand(1)?, ty) {
                (&Operand::Integer(value), Type::Pred) => {
                    return set_predicate(form, value != 0);
                }
                (operand, _) => form.source(operand, ty)?,
            };
            let d = form.dst(0, ty)?;
            let op = match class_of(ty.bits()) {
                Class::Word => Move::Word,
                Class::Wide => Move::Wide,
                Class::Pred => Move::Pred,
            };
            form.emit_simple(Op::Move(op), d, &[source])
        }
    }
}

/// `mov.pred p, 1`: as a comparison of constants.
fn set_predicate(form: &mut Form<'_, '_>, value: bool) -> Decoded {
    use super::op::{Combine, Compare, CompareResult, Operand as Kind, Relation};
    let zero = form.builder.constant(Class::Word, Constant::Bits(0));
    let compare = Compare {
        relation: if value { Relation::Eq } else { Relation::Ne },
        operand: Kind::Int(Int::U32),
        combine: Combine::None,
        negate_c: false,
        ftz: false,
        result: CompareResult::Pred,
    };
    let d = form.dst(0, Type::Pred)?;
    form.emit_simple(Op::Compare(compare), d, &[zero, zero])
}

fn part_type(form: &Form<'_, '_>, parts: usize, ty: Type) -> Result<Type, DecodeError> {
    let bits = ty.bits();
    let part = if parts == 0 { 0 } else { bits / parts as u32 };
    if !matches!(part, 8 | 16 | 32) || part * parts as u32 != bits || !matches!(parts, 2 | 4 | 8) {
        return Err(form.error(format!("{parts} parts of a {bits}-bit value")));
    }
    Ok(Type::Bits(part))
}

fn pack(form: &mut Form<'_, '_>, parts: &[Operand], ty: Type) -> Decoded {
    let part = part_type(form, parts.len(), ty)?;
    let mut uses = Vec::with_capacity(parts.len());
    for operand in parts {
        uses.push(form.source(operand, part)?);
    }
    let d = form.dst(0, ty)?;
    let mut inst = bare(Op::Move(Move::Pack(part.bits() as u8)));
    inst.d[0] = d;
    inst.list = form.builder.list(Vec::new(), uses);
    form.emit(inst)
}

fn unpack(form: &mut Form<'_, '_>, parts: &[Operand], ty: Type) -> Decoded {
    let part = part_type(form, parts.len(), ty)?;
    let source = form.src(1, ty)?;
    let mut defs = Vec::with_capacity(parts.len());
    for operand in parts {
        defs.push(match operand {
            Operand::Sink => Reg::NONE,
            other => form.destination(other, part)?,
        });
    }
    let mut inst = bare(Op::Move(Move::Unpack(part.bits() as u8)));
    inst.s[0] = source;
    inst.list = form.builder.list(defs, Vec::new());
    form.emit(inst)
}

/// `cvta` adds the base of the space's window, `cvta.to` takes it off.
pub(super) fn cvta(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    if ty != Type::Int(Int::U64) {
        return Err(form.refuse_type());
    }
    let to = form.flag("to");
    let spaces = [
        "global",
        "shared",
        "shared::cta",
        "local",
        "const",
        "param",
        "param::entry",
    ];
    let space = form.need(&spaces.map(|space| (space, space)))?;
    let Some(base) = Form::window_base(space) else {
        return Err(form.error("a state space is expected"));
    };
    form.expect_operands(2..=2)?;
    let a = form.src(1, ty)?;
    let d = form.dst(0, ty)?;
    if base == 0 {
        return form.emit_simple(Op::Move(Move::Wide), d, &[a]);
    }
    let base = form.builder.constant(Class::Wide, Constant::Bits(base));
    let op = if to { IntOp::Sub } else { IntOp::Add };
    form.emit_simple(Op::Int(op, Int::U64), d, &[a, base])
}
