//! Atomics: `atom` and `red` (PTX ISA section 9.7.13).

use super::DecodeError;
use super::builder::bare;
use super::form::Form;
use super::memory::{GLOBAL, SCOPES, SHARED, resolve};
use super::op::{Atomic, AtomicKind, AtomicOp, Op, Order, Scope, Window};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

pub(super) fn atomic_kind(ty: Type) -> Option<AtomicKind> {
    Some(match ty {
        Type::Bits(16) => AtomicKind::B16,
        Type::Bits(32) | Type::Int(Int::U32) => AtomicKind::U32,
        Type::Int(Int::S32) => AtomicKind::S32,
        Type::Bits(64) | Type::Int(Int::U64) => AtomicKind::U64,
        Type::Int(Int::S64) => AtomicKind::S64,
        Type::Float(Float::F32) => AtomicKind::F32,
        Type::Float(Float::F64) => AtomicKind::F64,
        Type::Float(Float::F16) => AtomicKind::F16,
        Type::Float(Float::Bf16) => AtomicKind::Bf16,
        Type::Float(Float::F16x2) => AtomicKind::F16x2,
        Type::Float(Float::Bf16x2) => AtomicKind::Bf16x2,
        _ => return None,
    })
}

/// Which types an atomic operation has; the 16-bit floats have `add` only.
fn atomic_exists(op: AtomicOp, ty: Type, returns: bool) -> bool {
    let is_half = matches!(ty, Type::Float(float) if super::float::half_type(float).is_some());
    match op {
        AtomicOp::Add => {
            is_half
                || matches!(
                    ty,
                    Type::Int(Int::U32 | Int::S32 | Int::U64)
                        | Type::Float(Float::F32 | Float::F64)
                )
        }
        AtomicOp::Min | AtomicOp::Max => matches!(ty, Type::Int(int) if int.bits() >= 32),
        AtomicOp::Increment | AtomicOp::Decrement => ty == Type::Int(Int::U32),
        AtomicOp::CompareSwap => returns && matches!(ty, Type::Bits(16 | 32 | 64)),
        AtomicOp::Exchange => returns && matches!(ty, Type::Bits(32 | 64)),
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor => matches!(ty, Type::Bits(32 | 64)),
    }
}

/// `atom`, and `red`, which returns nothing.
pub(super) fn atomic(form: &mut Form<'_, '_>, returns: bool) -> Result<(), DecodeError> {
    let ty = form.ty()?;
    let op = form.need(&[
        ("add", AtomicOp::Add),
        ("min", AtomicOp::Min),
        ("max", AtomicOp::Max),
        ("and", AtomicOp::And),
        ("or", AtomicOp::Or),
        ("xor", AtomicOp::Xor),
        ("exch", AtomicOp::Exchange),
        ("cas", AtomicOp::CompareSwap),
        ("inc", AtomicOp::Increment),
        ("dec", AtomicOp::Decrement),
    ])?;
    let Some(kind) = atomic_kind(ty).filter(|_| atomic_exists(op, ty, returns)) else {
        return Err(form.refuse_type());
    };
    let orders = [
        ("relaxed", Order::Relaxed),
        ("release", Order::Release),
        ("acquire", Order::Acquire),
        ("acq_rel", Order::AcqRel),
    ];
    let order = form.one_of(&orders[..if returns { 4 } else { 2 }]);
    let scope = form.one_of(&SCOPES);
    let [shared, shared_cta] = SHARED;
    let stated = form.one_of(&[GLOBAL, shared, shared_cta]);
    if matches!(
        ty,
        Type::Float(Float::F16 | Float::Bf16 | Float::F16x2 | Float::Bf16x2)
    ) {
        form.need(&[("noftz", ())])?;
    }
    let policy = op != AtomicOp::CompareSwap
        && stated != Some(Window::Shared)
        && form.flag("L2::cache_hint");
    let at = usize::from(returns);
    let values = if op == AtomicOp::CompareSwap { 2 } else { 1 };
    form.expect_operands(at + 1 + values..=at + 1 + values + usize::from(policy))?;
    let address = form.address(at)?;
    let mut inst = bare(Op::Nop);
    for i in 0..values {
        inst.s[1 + i] = form.src(at + 1 + i, ty)?;
    }
    if returns && *form.operand(0)? != Operand::Sink {
        inst.d[0] = form.dst(0, ty)?;
    }
    let window = resolve(form, stated, &address)?;
    if matches!(window, Window::Local | Window::Param) {
        return Err(form.error("atomics work on global and shared memory only"));
    }
    inst.op = Op::Atomic(Atomic {
        window,
        op,
        kind,
        order: order.unwrap_or(Order::Relaxed),
        scope: scope.unwrap_or(Scope::Gpu),
    });
    inst.s[0] = address.base;
    inst.imm = address.offset;
    form.emit(inst)
}
