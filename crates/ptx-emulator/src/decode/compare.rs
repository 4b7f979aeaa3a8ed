//! Comparison and selection (PTX ISA section 9.7.6).

use super::DecodeError;
use super::builder::bare;
use super::float::half_type;
use super::form::Form;
use super::op::{Combine, Compare, CompareResult, HalfType, Op, Operand, Relation, Select};
use super::types::{Float, Int, Type};
use crate::ast;

type Decoded = Result<(), DecodeError>;

fn relation(form: &mut Form<'_, '_>, ty: Type) -> Result<Relation, DecodeError> {
    let choices = [
        ("eq", Relation::Eq),
        ("ne", Relation::Ne),
        ("lt", Relation::Lt),
        ("le", Relation::Le),
        ("gt", Relation::Gt),
        ("ge", Relation::Ge),
        ("equ", Relation::Equ),
        ("neu", Relation::Neu),
        ("ltu", Relation::Ltu),
        ("leu", Relation::Leu),
        ("gtu", Relation::Gtu),
        ("geu", Relation::Geu),
        ("num", Relation::Num),
        ("nan", Relation::Nan),
        ("lo", Relation::Lt),
        ("ls", Relation::Le),
        ("hi", Relation::Gt),
        ("hs", Relation::Ge),
    ];
    // The last four belong to unsigned integers.
    let signless = matches!(ty, Type::Int(int) if !int.signed());
    let relation = form.need(&choices[..if signless { 18 } else { 14 }])?;
    let unordered = !matches!(
        relation,
        Relation::Eq | Relation::Ne | Relation::Lt | Relation::Le | Relation::Gt | Relation::Ge
    );
    let bits_only = matches!(ty, Type::Bits(_)) && !matches!(relation, Relation::Eq | Relation::Ne);
    if bits_only || (unordered && !matches!(ty, Type::Float(_))) {
        return Err(form.error("this comparison does not exist for this type"));
    }
    Ok(relation)
}

fn operand_type(form: &Form<'_, '_>, ty: Type) -> Result<Operand, DecodeError> {
    match ty {
        Type::Float(Float::F32) => Ok(Operand::F32),
        Type::Float(Float::F64) => Ok(Operand::F64),
        Type::Float(float) => half_type(float)
            .map(Operand::Half)
            .ok_or_else(|| form.refuse_type()),
        _ => ty
            .as_int()
            .map(Operand::Int)
            .ok_or_else(|| form.refuse_type()),
    }
}

/// Flushing belongs to f32 and f16.
fn flushes(form: &mut Form<'_, '_>, ty: Type) -> bool {
    matches!(ty, Type::Float(Float::F32 | Float::F16 | Float::F16x2)) && form.flag("ftz")
}

fn combine(form: &mut Form<'_, '_>) -> Combine {
    form.one_of(&[
        ("and", Combine::And),
        ("or", Combine::Or),
        ("xor", Combine::Xor),
    ])
    .unwrap_or(Combine::None)
}

/// The rest of `setp` and `set` once the result's kind and destinations are known.
fn finish(
    form: &mut Form<'_, '_>,
    mut compare: Compare,
    ty: Type,
    d: [super::op::Reg; 2],
) -> Decoded {
    let combines = compare.combine != Combine::None;
    form.expect_operands(if combines { 4..=4 } else { 3..=3 })?;
    let mut sources = [form.src(1, ty)?, form.src(2, ty)?, super::op::Reg::NONE];
    if combines {
        (sources[2], compare.negate_c) = form.predicate(3)?;
    }
    let mut inst = bare(Op::Compare(compare));
    inst.d = d;
    inst.s[..3].copy_from_slice(&sources);
    form.emit(inst)
}

pub(super) fn setp(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    let compare = Compare {
        relation: relation(form, ty)?,
        operand: operand_type(form, ty)?,
        combine: combine(form),
        negate_c: false,
        ftz: flushes(form, ty),
        result: CompareResult::Pred,
    };
    let d = match form.operand(0)? {
        ast::Operand::Pair(p, q) => [
            form.destination(p, Type::Pred)?,
            form.destination(q, Type::Pred)?,
        ],
        p => [form.destination(p, Type::Pred)?, super::op::Reg::NONE],
    };
    let packed = matches!(
        compare.operand,
        Operand::Half(HalfType::F16x2 | HalfType::Bf16x2)
    );
    if packed != d[1].is_some() && packed {
        return Err(form.error("a packed comparison needs two predicates"));
    }
    finish(form, compare, ty, d)
}

pub(super) fn set(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    let result_ty = form.ty()?;
    let operand = operand_type(form, ty)?;
    let packed = matches!(operand, Operand::Half(HalfType::F16x2 | HalfType::Bf16x2));
    let is_half = matches!(operand, Operand::Half(_));
    let result = match result_ty {
        Type::Int(Int::U32 | Int::S32) if packed => CompareResult::MaskHalves,
        Type::Int(Int::U32 | Int::S32) => CompareResult::Mask32,
        Type::Int(Int::U16 | Int::S16) if is_half && !packed => CompareResult::Mask16,
        Type::Float(Float::F32) if !is_half => CompareResult::One32,
        Type::Float(_) if is_half && packed && result_ty == ty => CompareResult::OneHalves,
        Type::Float(_) if is_half && result_ty == ty => CompareResult::One16,
        _ => return Err(form.refuse_type()),
    };
    let compare = Compare {
        relation: relation(form, ty)?,
        operand,
        combine: combine(form),
        negate_c: false,
        ftz: flushes(form, ty),
        result,
    };
    let d = form.dst(0, result_ty)?;
    finish(form, compare, ty, [d, super::op::Reg::NONE])
}

/// Values that are chosen or moved: bits, integers and floats of which there are scalars in PTX
/// since its beginning.
pub(super) fn is_basic(ty: Type) -> bool {
    match ty {
        Type::Float(float) => matches!(float, Float::F32 | Float::F64),
        Type::Int8(_) | Type::Bits(8 | 128) | Type::Pair(_) => false,
        Type::Bits(_) | Type::Int(_) | Type::Pred => true,
    }
}

pub(super) fn selp(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    if !is_basic(ty) {
        return Err(form.refuse_type());
    }
    let select = match ty.bits() {
        16 | 32 => Select::Word,
        64 => Select::Wide,
        _ => return Err(form.refuse_type()),
    };
    form.expect_operands(4..=4)?;
    let sources = [form.src(1, ty)?, form.src(2, ty)?, form.src(3, Type::Pred)?];
    let d = form.dst(0, ty)?;
    form.emit_simple(Op::Select(select), d, &sources)
}

pub(super) fn slct(form: &mut Form<'_, '_>) -> Decoded {
    let condition = form.ty()?;
    let ty = form.ty()?;
    if !is_basic(ty) {
        return Err(form.refuse_type());
    }
    let ftz = condition == Type::Float(Float::F32) && form.flag("ftz");
    let wide = match ty.bits() {
        16 | 32 => false,
        64 => true,
        _ => return Err(form.refuse_type()),
    };
    let select = match (condition, wide) {
        (Type::Int(Int::S32), false) => Select::WordBySign,
        (Type::Int(Int::S32), true) => Select::WideBySign,
        (Type::Float(Float::F32), false) => Select::WordByFloat(ftz),
        (Type::Float(Float::F32), true) => Select::WideByFloat(ftz),
        _ => return Err(form.refuse_type()),
    };
    form.expect_operands(4..=4)?;
    let sources = [form.src(1, ty)?, form.src(2, ty)?, form.src(3, condition)?];
    let d = form.dst(0, ty)?;
    form.emit_simple(Op::Select(select), d, &sources)
}
