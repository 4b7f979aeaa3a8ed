//! Floating-point arithmetic of every width (PTX ISA sections 9.7.3, 9.7.4).

use super::DecodeError;
use super::form::{Form, ROUNDINGS};
use super::integer::plain;
use super::op::{ApproxOp, FloatMods, FloatOp, HalfType, Op, Round};
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

/// The modifiers that an exact operation has for a type, the rounding aside (PTX ISA sections 9.7.3
/// to 9.7.5).
fn modifiers(op: FloatOp, float: Float) -> &'static [&'static str] {
    match (op, float) {
        (FloatOp::CopySign, _) => &[],
        (FloatOp::Min | FloatOp::Max, Float::F32 | Float::F16 | Float::F16x2) => {
            &["ftz", "NaN", "xorsign"]
        }
        (FloatOp::Min | FloatOp::Max, Float::Bf16 | Float::Bf16x2) => &["NaN", "xorsign"],
        (FloatOp::Abs | FloatOp::Neg, Float::F32 | Float::F16 | Float::F16x2) => &["ftz"],
        (FloatOp::Div | FloatOp::Rcp | FloatOp::Sqrt, Float::F32) => &["ftz"],
        (FloatOp::Add | FloatOp::Sub | FloatOp::Mul | FloatOp::Fma, Float::F32) => &["ftz", "sat"],
        (FloatOp::Add | FloatOp::Sub | FloatOp::Mul, Float::F16 | Float::F16x2) => &["ftz", "sat"],
        (FloatOp::Fma, Float::F16 | Float::F16x2) => &["ftz", "sat", "relu"],
        (FloatOp::Fma, Float::Bf16 | Float::Bf16x2) => &["relu"],
        _ => &[],
    }
}

/// Takes the rounding, which some operations need and 16-bit types have one of.
fn rounding(form: &mut Form<'_, '_>, op: FloatOp, is_half: bool) -> Result<Round, DecodeError> {
    let choices: &[(&'static str, Round)] = match (op, is_half) {
        (FloatOp::Add | FloatOp::Sub | FloatOp::Mul | FloatOp::Fma, true) => {
            &[("rn", Round::Nearest)]
        }
        (FloatOp::Add | FloatOp::Sub | FloatOp::Mul, false) => &ROUNDINGS,
        (FloatOp::Fma | FloatOp::Div | FloatOp::Rcp | FloatOp::Sqrt, false) => &ROUNDINGS,
        _ => return Ok(Round::Nearest),
    };
    if matches!(op, FloatOp::Add | FloatOp::Sub | FloatOp::Mul) {
        return Ok(form.one_of(choices).unwrap_or_default());
    }
    form.need(choices)
}

/// Exact operations: what remains open after the modifiers is determined by IEEE 754.
pub(super) fn arithmetic(form: &mut Form<'_, '_>, op: FloatOp) -> Decoded {
    let ty = form.ty()?;
    let Type::Float(float) = ty else {
        return Err(form.refuse_type());
    };
    let half = half_type(float);
    let no_half = matches!(
        op,
        FloatOp::Div | FloatOp::Rcp | FloatOp::Sqrt | FloatOp::CopySign
    );
    if !matches!(float, Float::F32 | Float::F64) && (half.is_none() || no_half) {
        return Err(form.refuse_type());
    }
    let round = rounding(form, op, half.is_some())?;
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
    let known = match op {
        FloatOp::Min3 | FloatOp::Max3 => &["ftz", "NaN"],
        _ => modifiers(op, float),
    };
    let mut has = |word| known.contains(&word) && form.flag(word);
    let mods = FloatMods {
        round,
        ftz: has("ftz"),
        sat: has("sat"),
        nan: has("NaN"),
        relu: has("relu"),
        xorsign_abs: has("xorsign"),
    };
    if mods.xorsign_abs {
        // One modifier of two words.
        form.need(&[("abs", ())])?;
    }
    if mods.sat && mods.relu {
        return Err(form.error("modifiers .sat and .relu exclude each other"));
    }
    let decoded = match half {
        Some(half) => Op::Half(op, half, mods),
        None if float == Float::F32 => Op::F32(op, mods),
        None => Op::F64(op, mods),
    };
    plain(form, decoded, ty, sources)
}

/// `mad` of a float type: `fma` under an older name, without 16-bit types.
pub(super) fn multiply_add(form: &mut Form<'_, '_>) -> Decoded {
    if matches!(form.peek_ty(), Some(Type::Float(float)) if half_type(float).is_some()) {
        form.ty()?;
        return Err(form.refuse_type());
    }
    arithmetic(form, FloatOp::Fma)
}

/// `div`, `rcp`, `sqrt` with a rounding, or their approximations.
pub(super) fn division(form: &mut Form<'_, '_>, exact: FloatOp, approx: ApproxOp) -> Decoded {
    if approx == ApproxOp::Div && form.flag("full") {
        return approximation(form, approx);
    }
    if !form.flag("approx") {
        return arithmetic(form, exact);
    }
    approximation(form, approx)
}

/// `ex2`, `lg2`, `sin`, `cos`, `tanh`, `rsqrt`: always approximate.
pub(super) fn approximate(form: &mut Form<'_, '_>, op: ApproxOp) -> Decoded {
    form.need(&[("approx", ())])?;
    approximation(form, op)
}

fn approximation(form: &mut Form<'_, '_>, op: ApproxOp) -> Decoded {
    let ty = form.ty()?;
    let Type::Float(float) = ty else {
        return Err(form.refuse_type());
    };
    let (op, flushes) = match (op, float, half_type(float)) {
        (ApproxOp::Tanh, Float::F32, _) => (op, Flush::Never),
        (ApproxOp::Tanh, _, Some(half)) => (ApproxOp::TanhHalf(half), Flush::Never),
        (_, Float::F32, _) => (op, Flush::Perhaps),
        (ApproxOp::Rcp, Float::F64, _) => (ApproxOp::RcpF64, Flush::Always),
        (ApproxOp::Rsqrt, Float::F64, _) => (ApproxOp::RsqrtF64, Flush::Perhaps),
        (ApproxOp::Ex2, Float::F16 | Float::F16x2, Some(half)) => {
            (ApproxOp::Ex2Half(half), Flush::Never)
        }
        (ApproxOp::Ex2, _, Some(half)) => (ApproxOp::Ex2Half(half), Flush::Always),
        _ => return Err(form.refuse_type()),
    };
    let ftz = match flushes {
        Flush::Never => false,
        Flush::Perhaps => form.flag("ftz"),
        Flush::Always => form.need(&[("ftz", true)])?,
    };
    let mods = FloatMods {
        ftz,
        ..FloatMods::default()
    };
    let sources = if op == ApproxOp::Div { 2 } else { 1 };
    plain(form, Op::Approx(op, mods), ty, sources)
}

/// Whether a form has `.ftz`.
enum Flush {
    Never,
    Perhaps,
    Always,
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
