//! `cvt`, `mov`, `cvta` (PTX ISA section 9.7.9).

use super::DecodeError;
use super::builder::{Constant, bare};
use super::form::{Form, ROUNDINGS, class_of};
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

/// What a conversion from one type to another may say (PTX ISA section 9.7.9.21).
#[derive(Default)]
struct Rule {
    /// Roundings to choose from: one must be given, unless there are none.
    rounds: &'static [(&'static str, Round)],
    /// `.rni` and its kin may be given; to an integer they must.
    integral: bool,
    needs_integral: bool,
    ftz: bool,
    sat: bool,
    relu: bool,
    satfinite: Permission,
}

#[derive(Default, Clone, Copy, PartialEq)]
enum Permission {
    #[default]
    Never,
    Perhaps,
    /// Not with the directed roundings.
    Nearest,
    /// Only with `.rna`: with the others from sm_100 on.
    Away,
    Always,
}

const NEAREST: [(&str, Round); 1] = [("rn", Round::Nearest)];
const NEAREST_OR_ZERO: [(&str, Round); 2] = [("rn", Round::Nearest), ("rz", Round::Zero)];
const TF32_ROUNDINGS: [(&str, Round); 3] = [
    ("rna", Round::NearestAway),
    ("rn", Round::Nearest),
    ("rz", Round::Zero),
];

fn rule(to: Number, from: Number) -> Option<Rule> {
    use Float::{Bf16, F16, F32, F64};
    let bits = |number| match number {
        Number::Int(int) => (int.bits(), int.signed()),
        Number::Int8(signed) => (8, signed),
        Number::Float(float) => (float.bits(), true),
    };
    let scalar = |f| matches!(f, F16 | Bf16 | F32 | F64);
    let rule = Rule::default();
    Some(match (to, from) {
        (Number::Float(to), Number::Float(from)) => return floats(to, from),
        (Number::Float(to), from) => {
            if !scalar(to) || (to == Bf16 && bits(from).0 == 8) {
                return None;
            }
            Rule {
                rounds: &ROUNDINGS,
                ftz: to == F32,
                sat: to != Bf16,
                ..rule
            }
        }
        (to, Number::Float(from)) => {
            if !scalar(from) || (from == Bf16 && bits(to).0 == 8) {
                return None;
            }
            Rule {
                needs_integral: true,
                ftz: from == F32,
                sat: from != Bf16,
                ..rule
            }
        }
        (to, from) => {
            let ((to_bits, to_signed), (from_bits, from_signed)) = (bits(to), bits(from));
            // Saturation belongs to a result that can't hold every value.
            let holds_all = match (to_signed, from_signed) {
                (true, false) => to_bits > from_bits,
                (false, true) => false,
                _ => to_bits >= from_bits,
            };
            Rule {
                sat: !holds_all,
                ..rule
            }
        }
    })
}

fn floats(to: Float, from: Float) -> Option<Rule> {
    use Float::{Bf16, Bf16x2, E4m3x2, E5m2x2, F16, F16x2, F32, F64, Tf32};
    let rule = Rule::default();
    Some(match (to, from) {
        (F16, F16) | (F64, F64) => Rule {
            integral: true,
            sat: true,
            ..rule
        },
        (F32, F32) => Rule {
            integral: true,
            ftz: true,
            sat: true,
            ..rule
        },
        (Bf16, Bf16) => Rule {
            integral: true,
            ..rule
        },
        (F32, F16) | (F64, F32) => Rule {
            ftz: true,
            sat: true,
            ..rule
        },
        (F64, F16) => Rule { sat: true, ..rule },
        (F32, Bf16) => Rule { ftz: true, ..rule },
        (F64, Bf16) => rule,
        (F16, F32) => Rule {
            rounds: &ROUNDINGS,
            ftz: true,
            sat: true,
            relu: true,
            satfinite: Permission::Nearest,
            ..rule
        },
        (Bf16, F32) => Rule {
            rounds: &ROUNDINGS,
            relu: true,
            satfinite: Permission::Nearest,
            ..rule
        },
        (F32, F64) => Rule {
            rounds: &ROUNDINGS,
            ftz: true,
            sat: true,
            ..rule
        },
        (F16, F64) => Rule {
            rounds: &ROUNDINGS,
            sat: true,
            ..rule
        },
        (Bf16, F64 | F16) | (F16, Bf16) => Rule {
            rounds: &ROUNDINGS,
            ..rule
        },
        (F16x2 | Bf16x2, F32) => Rule {
            rounds: &NEAREST_OR_ZERO,
            relu: true,
            satfinite: Permission::Perhaps,
            ..rule
        },
        (Tf32, F32) => Rule {
            rounds: &TF32_ROUNDINGS,
            relu: true,
            satfinite: Permission::Away,
            ..rule
        },
        (E4m3x2 | E5m2x2, F32 | F16x2) => Rule {
            rounds: &NEAREST,
            relu: true,
            satfinite: Permission::Always,
            ..rule
        },
        (F16x2, E4m3x2 | E5m2x2) => Rule {
            rounds: &NEAREST,
            relu: true,
            ..rule
        },
        _ => return None,
    })
}

pub(super) fn cvt(form: &mut Form<'_, '_>) -> Decoded {
    if form.flag("pack") {
        return super::integer::pack_saturated(form);
    }
    let (from_ty, to_ty) = (form.ty()?, form.ty()?);
    let (Some(from), Some(to)) = (number(from_ty), number(to_ty)) else {
        return Err(form.refuse_type());
    };
    let Some(rule) = rule(to, from) else {
        return Err(form.error("this conversion is not supported"));
    };
    const INTEGRAL: [(&str, Round); 4] = [
        ("rni", Round::Nearest),
        ("rzi", Round::Zero),
        ("rmi", Round::Down),
        ("rpi", Round::Up),
    ];
    let integral = if rule.needs_integral {
        Some(form.need(&INTEGRAL)?)
    } else if rule.integral {
        form.one_of(&INTEGRAL)
    } else {
        None
    };
    let round = if rule.rounds.is_empty() {
        integral.unwrap_or_default()
    } else {
        form.need(rule.rounds)?
    };
    // What follows a rounding of the 16-bit types knows two of them, and `.relu` none of the others
    // either.
    let is_directed = matches!(round, Round::Up | Round::Down);
    let relu = rule.relu && !is_directed && round != Round::NearestAway && form.flag("relu");
    let satfinite = match rule.satfinite {
        Permission::Always => form.need(&[("satfinite", true)])?,
        Permission::Perhaps => form.flag("satfinite"),
        Permission::Away => round == Round::NearestAway && form.flag("satfinite"),
        Permission::Nearest => !is_directed && form.flag("satfinite"),
        Permission::Never => false,
    };
    let saturates = rule.sat && !relu && !satfinite && form.flag("sat");
    let convert = Convert {
        to,
        from,
        round,
        integral: integral.is_some(),
        sat: match (saturates, satfinite, relu) {
            (true, ..) => Saturate::Sat,
            (_, true, true) => Saturate::SatFiniteRelu,
            (_, true, false) => Saturate::SatFinite,
            (_, false, true) => Saturate::Relu,
            (_, false, false) => Saturate::No,
        },
        ftz: rule.ftz && !relu && !satfinite && form.flag("ftz"),
    };
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

pub(super) fn mov(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    if ty == super::memory::WIDEST {
        return move_widest(form);
    }
    if !super::compare::is_basic(ty) {
        return Err(form.refuse_type());
    }
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

/// `mov.b128`, half by half: between registers, or from and to two of 64 or four of 32 bits.
fn move_widest(form: &mut Form<'_, '_>) -> Decoded {
    form.expect_operands(2..=2)?;
    let (target, source) = (form.operand(0)?, form.operand(1)?);
    let parts = |items: &[Operand]| match items.len() {
        2 => Some(Type::Bits(64)),
        4 => Some(Type::Bits(32)),
        _ => None,
    };
    let wrong = "a 128-bit value has two parts of 64 or four of 32 bits";
    match (target, source) {
        (Operand::Vector(items), source) => {
            let ty = parts(items).ok_or_else(|| form.error(wrong))?;
            let halves = form.wide_source(source)?;
            for (half, items) in halves.into_iter().zip(items.chunks(items.len() / 2)) {
                let mut defs = Vec::with_capacity(items.len());
                for item in items {
                    defs.push(match item {
                        Operand::Sink => Reg::NONE,
                        item => form.destination(item, ty)?,
                    });
                }
                if let [d] = *defs.as_slice() {
                    if d.is_some() {
                        form.emit_simple(Op::Move(Move::Wide), d, &[half])?;
                    }
                    continue;
                }
                let mut inst = bare(Op::Move(Move::Unpack(32)));
                inst.s[0] = half;
                inst.list = form.builder.list(defs, Vec::new());
                form.emit(inst)?;
            }
        }
        (target, Operand::Vector(items)) => {
            let ty = parts(items).ok_or_else(|| form.error(wrong))?;
            let halves = form.wide_destination(target)?;
            for (half, items) in halves.into_iter().zip(items.chunks(items.len() / 2)) {
                let mut uses = Vec::with_capacity(items.len());
                for item in items {
                    uses.push(form.source(item, ty)?);
                }
                if let [s] = *uses.as_slice() {
                    form.emit_simple(Op::Move(Move::Wide), half, &[s])?;
                    continue;
                }
                let mut inst = bare(Op::Move(Move::Pack(32)));
                inst.d[0] = half;
                inst.list = form.builder.list(Vec::new(), uses);
                form.emit(inst)?;
            }
        }
        (target, source) => {
            let (from, to) = (form.wide_source(source)?, form.wide_destination(target)?);
            for (d, s) in to.into_iter().zip(from) {
                form.emit_simple(Op::Move(Move::Wide), d, &[s])?;
            }
        }
    }
    Ok(())
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
        "shared::cluster",
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
