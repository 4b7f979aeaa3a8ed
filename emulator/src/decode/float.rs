//! Floating-point arithmetic of every width (PTX ISA sections 9.7.3, 9.7.4).

use super::DecodeError;
use super::form::Form;
use super::integer::plain;
use super::op::{ApproxOp, FloatMods, FloatOp, HalfType, Op};
use super::types::{Float, Type};

type Decoded = Result<(), DecodeError>;

pub(super) fn half_type(float: Float) -> Option<HalfType> {
    Some(match float {
        Float::F16 => HalfType::F16,
        Float::Bf16 => HalfType::Bf16,
        Float::F16x2 => HalfType::F16x2,
        Float::Bf16x2 => HalfType::Bf16x2,
        _ => return None,
    })
}

/// Exact operations: what remains open after the modifiers is determined by IEEE 754.
pub(super) fn arithmetic(form: &mut Form<'_, '_>, op: FloatOp) -> Decoded {
    let ty = form.ty()?;
    let Type::Float(float) = ty else {
        return Err(form.refuse_type());
    };
    // `.noftz` only says what happens anyway.
    form.flag("noftz");
    let chooses = matches!(op, FloatOp::Min | FloatOp::Max);
    let rounds = !chooses && !matches!(op, FloatOp::Abs | FloatOp::Neg | FloatOp::CopySign);
    let mods = FloatMods {
        round: if rounds { form.rounding() } else { None }.unwrap_or_default(),
        ftz: form.flag("ftz"),
        sat: form.flag("sat"),
        nan: chooses && form.flag("NaN"),
        relu: form.flag("relu"),
        xorsign_abs: chooses && form.flag("xorsign") && form.flag("abs"),
    };
    let sources = match op {
        FloatOp::Abs | FloatOp::Neg | FloatOp::Rcp | FloatOp::Sqrt => 1,
        FloatOp::Fma => 3,
        FloatOp::Min | FloatOp::Max if form.operands() == 4 && float == Float::F32 => 3,
        _ => 2,
    };
    let op = match (op, sources) {
        (FloatOp::Min, 3) => FloatOp::Min3,
        (FloatOp::Max, 3) => FloatOp::Max3,
        _ => op,
    };
    if mods.relu && !(op == FloatOp::Fma && half_type(float).is_some()) {
        return Err(form.error("modifier .relu is not supported here"));
    }
    let can_saturate = matches!(
        op,
        FloatOp::Add | FloatOp::Sub | FloatOp::Mul | FloatOp::Fma | FloatOp::Div
    );
    if mods.sat && (float == Float::F64 || !can_saturate) {
        return Err(form.error("modifier .sat is not supported here"));
    }
    let decoded = match float {
        Float::F32 => Op::F32(op, mods),
        Float::F64 if !mods.ftz => Op::F64(op, mods),
        _ => match half_type(float) {
            Some(half) if !matches!(op, FloatOp::Div | FloatOp::Rcp | FloatOp::Sqrt) => Op::Half(op, half, mods),
            _ => return Err(form.refuse_type()),
        },
    };
    plain(form, decoded, ty, sources)
}

/// `div`, `rcp`, `sqrt` with a rounding, or their approximations.
pub(super) fn division(form: &mut Form<'_, '_>, exact: FloatOp, approx: ApproxOp) -> Decoded {
    let full = form.flag("full");
    if !form.flag("approx") && !full {
        return arithmetic(form, exact);
    }
    if full && approx != ApproxOp::Div {
        return Err(form.error("modifier .full is not supported here"));
    }
    approximate(form, approx)
}

/// `ex2`, `lg2`, `sin`, `cos`, `tanh`, `rsqrt`, ...: always approximate.
pub(super) fn approximate(form: &mut Form<'_, '_>, op: ApproxOp) -> Decoded {
    let ty = form.ty()?;
    form.flag("approx");
    let mods = FloatMods {
        ftz: form.flag("ftz"),
        ..FloatMods::default()
    };
    let Type::Float(float) = ty else {
        return Err(form.refuse_type());
    };
    let op = match (op, float, half_type(float)) {
        (_, Float::F32, _) => op,
        (ApproxOp::Rcp, Float::F64, _) => ApproxOp::RcpF64,
        (ApproxOp::Rsqrt, Float::F64, _) => ApproxOp::RsqrtF64,
        (ApproxOp::Ex2, _, Some(half)) => ApproxOp::Ex2Half(half),
        (ApproxOp::Tanh, _, Some(half)) => ApproxOp::TanhHalf(half),
        _ => return Err(form.refuse_type()),
    };
    let sources = if op == ApproxOp::Div { 2 } else { 1 };
    plain(form, Op::Approx(op, mods), ty, sources)
}

/// `copysign`, whose first source gives the sign.
pub(super) fn copysign(form: &mut Form<'_, '_>) -> Decoded {
    arithmetic(form, FloatOp::CopySign)
}

pub(super) fn testp(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    let op = form.need(&[
        ("finite", FloatOp::TestFinite),
        ("infinite", FloatOp::TestInfinite),
        ("number", FloatOp::TestNumber),
        ("notanumber", FloatOp::TestNan),
        ("normal", FloatOp::TestNormal),
        ("subnormal", FloatOp::TestSubnormal),
    ])?;
    let mods = FloatMods::default();
    let decoded = match ty {
        Type::Float(Float::F32) => Op::F32(op, mods),
        Type::Float(Float::F64) => Op::F64(op, mods),
        _ => return Err(form.refuse_type()),
    };
    form.expect_operands(2..=2)?;
    let a = form.src(1, ty)?;
    let d = form.dst(0, Type::Pred)?;
    form.emit_simple(decoded, d, &[a])
}
