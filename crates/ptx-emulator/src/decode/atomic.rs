//! Atomics: `atom` and `red` (PTX ISA section 9.7.13).

use super::DecodeError;
use super::builder::bare;
use super::form::Form;
use super::memory::{CLUSTER, GLOBAL, SCOPES, SHARED, WIDEST, resolve};
use super::op::{Atomic, AtomicKind, AtomicOp, Op, Order, Scope, Window};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

/// The operations of `red` and of reductions by copies.
pub(super) const REDUCTIONS: [(&str, AtomicOp); 8] = [
    ("add", AtomicOp::Add),
    ("min", AtomicOp::Min),
    ("max", AtomicOp::Max),
    ("inc", AtomicOp::Increment),
    ("dec", AtomicOp::Decrement),
    ("and", AtomicOp::And),
    ("or", AtomicOp::Or),
    ("xor", AtomicOp::Xor),
];

pub(super) fn atomic_kind(ty: Type) -> Option<AtomicKind> {
    Some(match ty {
        Type::Bits(16) => AtomicKind::B16,
        Type::Bits(32) | Type::Int(Int::U32) => AtomicKind::U32,
        Type::Int(Int::S32) => AtomicKind::S32,
        Type::Bits(64) | Type::Int(Int::U64) => AtomicKind::U64,
        Type::Bits(128) => AtomicKind::B128,
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

/// Elements of a vector of each type, which `add`, `min` and `max` of global memory have.
fn vectors(op: AtomicOp, ty: Type) -> &'static [(&'static str, u8)] {
    const COUNTS: [(&str, u8); 3] = [("v2", 2), ("v4", 4), ("v8", 8)];
    match (op, ty) {
        (AtomicOp::Add, Type::Float(Float::F32)) => &COUNTS[..2],
        (
            AtomicOp::Add | AtomicOp::Min | AtomicOp::Max,
            Type::Float(Float::F16x2 | Float::Bf16x2),
        ) => &COUNTS[..2],
        (AtomicOp::Add | AtomicOp::Min | AtomicOp::Max, Type::Float(Float::F16 | Float::Bf16)) => {
            &COUNTS
        }
        _ => &[],
    }
}

/// Which types an atomic operation has. Extremes of the 16-bit floats are vectors only.
fn atomic_exists(op: AtomicOp, ty: Type, returns: bool, is_vector: bool) -> bool {
    if is_vector {
        return true;
    }
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
        AtomicOp::CompareSwap => returns && matches!(ty, Type::Bits(16 | 32 | 64 | 128)),
        AtomicOp::Exchange => returns && matches!(ty, Type::Bits(32 | 64 | 128)),
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor => matches!(ty, Type::Bits(32 | 64)),
    }
}

/// `atom`, and `red`, which returns nothing.
pub(super) fn atomic<'m>(form: &mut Form<'_, 'm>, returns: bool) -> Result<(), DecodeError> {
    form.type_last();
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
    let count = form.one_of(vectors(op, ty));
    let exists = atomic_exists(op, ty, returns, count.is_some());
    let Some(kind) = atomic_kind(ty).filter(|_| exists) else {
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
    let stated = if count.is_some() {
        form.one_of(&[GLOBAL])
    } else {
        form.one_of(&[GLOBAL, shared, shared_cta, CLUSTER])
    };
    if matches!(
        ty,
        Type::Float(Float::F16 | Float::Bf16 | Float::F16x2 | Float::Bf16x2)
    ) {
        form.need(&[("noftz", ())])?;
    }
    let policy = op != AtomicOp::CompareSwap
        && !matches!(stated, Some(Window::Shared | Window::Cluster))
        && form.flag("L2::cache_hint");
    let at = usize::from(returns);
    let values = if op == AtomicOp::CompareSwap { 2 } else { 1 };
    form.expect_operands(at + 1 + values..=at + 1 + values + usize::from(policy))?;
    let address = form.address(at)?;
    let mut inst = bare(Op::Nop);
    let is_returned = returns && *form.operand(0)? != Operand::Sink;
    let mut uses = Vec::new();
    let mut defs = Vec::new();
    if ty == WIDEST {
        for i in 0..values {
            let value = form.operand(at + 1 + i)?;
            uses.extend(form.wide_source(value)?);
        }
        if is_returned {
            let target = form.operand(0)?;
            defs.extend(form.wide_destination(target)?);
        }
    } else if let Some(count) = count {
        let vector = |form: &Form<'_, 'm>, index| -> Result<&'m [Operand], DecodeError> {
            let items = form.elements(index)?;
            if items.len() == usize::from(count) {
                return Ok(items);
            }
            let given = items.len();
            Err(form.error(format!("{given} registers for {count} elements")))
        };
        for item in vector(form, at + 1)? {
            uses.push(form.source(item, ty)?);
        }
        if is_returned {
            for item in vector(form, 0)? {
                defs.push(form.destination(item, ty)?);
            }
        }
    } else {
        for i in 0..values {
            inst.s[1 + i] = form.src(at + 1 + i, ty)?;
        }
        if is_returned {
            inst.d[0] = form.dst(0, ty)?;
        }
    }
    if !uses.is_empty() {
        inst.list = form.builder.list(defs, uses);
    }
    let window = resolve(form, stated, &address)?;
    if matches!(window, Window::Local | Window::Param) {
        return Err(form.error("atomics work on global and shared memory only"));
    }
    inst.op = Op::Atomic(Atomic {
        window,
        op,
        kind,
        count: count.unwrap_or(1),
        order: order.unwrap_or(Order::Relaxed),
        scope: scope.unwrap_or(Scope::Gpu),
    });
    inst.s[0] = address.base;
    inst.imm = address.offset;
    form.emit(inst)
}
