//! Loads, stores, atomics and asynchronous copies (PTX ISA sections 9.7.9, 9.7.13).

use super::DecodeError;
use super::builder::{Home, bare};
use super::form::Form;
use super::op::{Access, Async, Atomic, AtomicKind, AtomicOp, Class, Extend, Op, Reg, Width, Window};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

/// Takes the state space, or `None` for a generic address.
fn window(form: &mut Form<'_, '_>) -> Option<Window> {
    form.one_of(&[
        ("global", Window::Global),
        ("const", Window::Global),
        ("shared", Window::Shared),
        ("shared::cta", Window::Shared),
        ("local", Window::Local),
        ("param", Window::Param),
        ("param::entry", Window::Param),
        ("param::func", Window::Param),
    ])
}

/// Takes the memory-model words; true if another thread may be waiting on the access.
fn strength(form: &mut Form<'_, '_>) -> bool {
    let strong = form
        .one_of(&[
            ("volatile", true),
            ("relaxed", true),
            ("acquire", true),
            ("release", true),
            ("acq_rel", true),
            ("mmio", true),
            ("weak", false),
        ])
        .unwrap_or(false);
    form.one_of(&[("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())]);
    strong
}

/// Takes cache hints, which change nothing here. True if a cache-policy operand follows.
fn cache_hints(form: &mut Form<'_, '_>) -> bool {
    form.one_of(&[
        ("ca", ()),
        ("cg", ()),
        ("cs", ()),
        ("lu", ()),
        ("cv", ()),
        ("wb", ()),
        ("wt", ()),
    ]);
    form.flag("nc");
    let policy = form.flag("L2::cache_hint");
    while form.prefixed("L1::").is_some() || form.prefixed("L2::").is_some() {}
    policy
}

fn width(form: &Form<'_, '_>, ty: Type) -> Result<Width, DecodeError> {
    Ok(match ty.bits() {
        8 => Width::B8,
        16 => Width::B16,
        32 => Width::B32,
        64 => Width::B64,
        _ => return Err(form.refuse_type()),
    })
}

fn vector(form: &mut Form<'_, '_>) -> u8 {
    form.one_of(&[("v2", 2), ("v4", 4), ("v8", 8)]).unwrap_or(1)
}

pub(super) fn load(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    let count = vector(form);
    let strong = strength(form);
    let stated = window(form);
    let policy = cache_hints(form);
    let width = width(form, ty)?;
    form.expect_operands(2..=if policy { 3 } else { 2 })?;
    let signed = matches!(ty, Type::Int(int) if int.signed()) || ty == Type::Int8(true);
    let items = form.elements(0)?;
    if items.len() != usize::from(count) {
        return Err(form.error(format!("{} destinations for {count} elements", items.len())));
    }
    let mut defs = Vec::with_capacity(items.len());
    let mut extend = None;
    for item in items {
        let (reg, declared) = form.relaxed_dst(item, ty)?;
        let own = match declared {
            _ if !signed || declared == ty.bits() => Extend::Zero,
            16 => Extend::SignTo16,
            _ => Extend::Sign,
        };
        if extend.is_some_and(|first| first != own) {
            return Err(form.error("the destinations have different sizes"));
        }
        extend = Some(own);
        defs.push(reg);
    }
    let extend = extend.unwrap_or(Extend::Zero);
    let address = form.address(1)?;
    let mut inst = bare(Op::Nop);
    inst.list = form.builder.list(defs, Vec::new());
    if stated == Some(Window::Param) && matches!(address.home, Some(Home::KernelParam(_))) {
        let Some(Home::KernelParam(base)) = address.home else {
            return Err(form.error("not a parameter"));
        };
        let offset = i64::from(base) + symbol_offset(form, 1)?;
        inst.imm = i32::try_from(offset).map_err(|_| form.error("parameter offset out of range"))?;
        inst.op = Op::LoadParam(width, extend);
        return form.emit(inst);
    }
    let window = resolve(form, stated, &address)?;
    inst.op = Op::Load(Access {
        window,
        width,
        extend,
        count,
        strong,
    });
    inst.s[0] = address.base;
    inst.imm = address.offset;
    form.emit(inst)
}

/// The constant part of `[symbol+a+b]`.
fn symbol_offset(form: &Form<'_, '_>, index: usize) -> Result<i64, DecodeError> {
    match form.operand(index)? {
        Operand::Address(Some(base), offset) => match base.as_ref() {
            Operand::Symbol(_, more) => Ok(offset.wrapping_add(*more)),
            _ => Ok(*offset),
        },
        _ => Ok(0),
    }
}

/// The window that the address is in: what the instruction says, corrected for `.param` of a call, which lives in local memory.
fn resolve(form: &Form<'_, '_>, stated: Option<Window>, address: &super::form::Address) -> Result<Window, DecodeError> {
    let own = form.window_of(address);
    match (stated, own) {
        (None, own) => Ok(own),
        (Some(Window::Param), Window::Local) => Ok(Window::Local),
        (Some(stated), Window::Generic) => Ok(stated),
        (Some(stated), own) if stated == own => Ok(stated),
        _ => Err(form.error("the variable is in another state space")),
    }
}

pub(super) fn store(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    let count = vector(form);
    let strong = strength(form);
    let stated = window(form);
    let policy = cache_hints(form);
    let width = width(form, ty)?;
    form.expect_operands(2..=if policy { 3 } else { 2 })?;
    let items = form.elements(1)?;
    if items.len() != usize::from(count) {
        return Err(form.error(format!("{} sources for {count} elements", items.len())));
    }
    let mut uses = Vec::with_capacity(items.len());
    for item in items {
        uses.push(form.relaxed_src(item, ty)?);
    }
    let address = form.address(0)?;
    let window = resolve(form, stated, &address)?;
    if window == Window::Param {
        return Err(form.error("kernel parameters can't be written"));
    }
    let mut inst = bare(Op::Store(Access {
        window,
        width,
        extend: Extend::Zero,
        count,
        strong,
    }));
    inst.s[0] = address.base;
    inst.imm = address.offset;
    inst.list = form.builder.list(Vec::new(), uses);
    form.emit(inst)
}

fn atomic_kind(ty: Type) -> Option<AtomicKind> {
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

/// `atom`, and `red`, which returns nothing.
pub(super) fn atomic(form: &mut Form<'_, '_>, returns: bool) -> Decoded {
    let ty = form.ty()?;
    strength(form);
    let stated = window(form);
    let policy = cache_hints(form);
    form.flag("noftz");
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
    let Some(kind) = atomic_kind(ty) else {
        return Err(form.refuse_type());
    };
    use AtomicKind::{B16, F64, S32, S64, U32, U64};
    let known = match op {
        AtomicOp::Add => kind != B16,
        AtomicOp::Min | AtomicOp::Max => !matches!(kind, B16 | AtomicKind::F32 | F64),
        AtomicOp::Increment | AtomicOp::Decrement => kind == U32,
        AtomicOp::CompareSwap => matches!(kind, B16 | U32 | U64),
        _ => matches!(kind, U32 | U64),
    };
    if !known || (matches!(kind, S32 | S64) && op == AtomicOp::CompareSwap) {
        return Err(form.refuse_type());
    }
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
    inst.op = Op::Atomic(Atomic { window, op, kind });
    inst.s[0] = address.base;
    inst.imm = address.offset;
    form.emit(inst)
}

/// `cp.async` and its groups. The bulk and mbarrier forms belong to later devices and are refused.
pub(super) fn copy_async(form: &mut Form<'_, '_>) -> Decoded {
    if !form.flag("async") {
        return Err(form.error("only cp.async is supported"));
    }
    let group = form.one_of(&[
        ("commit_group", Async::Commit),
        ("wait_group", Async::WaitGroup),
        ("wait_all", Async::WaitAll),
    ]);
    match group {
        Some(Async::WaitGroup) => {
            form.expect_operands(1..=1)?;
            let Operand::Integer(count) = *form.operand(0)? else {
                return Err(form.error("the number of groups must be an immediate"));
            };
            let mut inst = bare(Op::Async(Async::WaitGroup));
            inst.imm = i32::try_from(count).map_err(|_| form.error("too many groups"))?;
            form.emit(inst)
        }
        Some(op) => {
            form.expect_operands(0..=0)?;
            form.emit(bare(Op::Async(op)))
        }
        None => copy(form),
    }
}

fn copy(form: &mut Form<'_, '_>) -> Decoded {
    let bypasses_l1 = form.need(&[("ca", false), ("cg", true)])?;
    form.need(&[("shared", ()), ("shared::cta", ())])?;
    form.need(&[("global", ())])?;
    let policy = form.flag("L2::cache_hint");
    form.prefixed("L2::");
    form.expect_operands(3..=4 + usize::from(policy))?;
    let bytes = match *form.operand(2)? {
        Operand::Integer(bytes @ (4 | 8)) if !bypasses_l1 => bytes as u8,
        Operand::Integer(16) => 16,
        _ => return Err(form.error("the size must be 4, 8 or 16 bytes, and 16 with .cg")),
    };
    let to = form.address(0)?;
    let from = form.address(1)?;
    if !matches!(form.window_of(&to), Window::Shared | Window::Generic)
        || !matches!(form.window_of(&from), Window::Global | Window::Generic)
    {
        return Err(form.error("the variable is in another state space"));
    }
    let mut inst = bare(Op::Nop);
    let mut ignore_negated = false;
    let extra = form.operands() - usize::from(policy);
    if extra == 4 {
        let is_predicate = match form.operand(3)? {
            Operand::NegatedPredicate(_) => true,
            Operand::Register(name) => {
                let found = form.builder.frame().registers.get(name);
                matches!(found, Some((_, 1)))
            }
            _ => false,
        };
        if is_predicate {
            (inst.s[3], ignore_negated) = form.predicate(3)?;
        } else {
            inst.s[2] = form.src(3, Type::Bits(32))?;
        }
    }
    inst.op = Op::Async(Async::Copy { bytes, ignore_negated });
    inst.s[0] = to.base;
    inst.s[1] = from.base;
    inst.imm = to.offset;
    inst.list = from.offset.cast_unsigned();
    form.emit(inst)
}

/// Prefetches and the like: memory without caches has nothing to do.
pub(super) fn nothing(form: &mut Form<'_, '_>, words: &[&'static str]) -> Decoded {
    for word in words {
        form.flag(word);
    }
    while form.prefixed("L1").is_some() || form.prefixed("L2").is_some() {}
    form.emit(bare(Op::Nop))
}

/// `membar`, `fence`.
pub(super) fn fence(form: &mut Form<'_, '_>, words: &[&'static str]) -> Decoded {
    for word in words {
        form.flag(word);
    }
    form.expect_operands(0..=0)?;
    form.emit(bare(Op::Fence))
}

/// `createpolicy`: a value that only cache hints read.
pub(super) fn create_policy(form: &mut Form<'_, '_>) -> Decoded {
    let words = ["fractional", "range", "cvt", "L2", "global", "b64"];
    for word in words {
        form.flag(word);
    }
    while form.prefixed("L2::").is_some() {}
    let d = form.dst(0, Type::Bits(64))?;
    let zero = form.builder.constant(Class::Wide, super::builder::Constant::Bits(0));
    form.emit_simple(Op::Move(super::op::Move::Wide), d, &[zero])
}

/// `isspacep` compares the address with the space's window; done with unsigned comparisons.
pub(super) fn is_space(form: &mut Form<'_, '_>) -> Decoded {
    use super::builder::{Constant, WINDOW_BYTES};
    use super::op::{Combine, Compare, CompareResult, IntOp, Operand as Kind, Relation};
    let Some((space, base)) = [
        "shared",
        "shared::cta",
        "local",
        "param",
        "param::entry",
        "const",
        "global",
    ]
    .into_iter()
    .find(|space| form.flag(space))
    .and_then(|space| Some((space, Form::window_base(space)?))) else {
        return Err(form.error("a state space is expected"));
    };
    if space == "const" {
        return Err(form.error("constant memory has no window of its own here"));
    }
    form.expect_operands(2..=2)?;
    let ty = Type::Int(Int::U64);
    let a = form.src(1, ty)?;
    let d = form.dst(0, Type::Pred)?;
    let (relation, first, limit) = if space == "global" {
        (Relation::Ge, 0, crate::memory::FIRST_ADDRESS)
    } else {
        (Relation::Lt, base, WINDOW_BYTES)
    };
    let first = form.builder.constant(Class::Wide, Constant::Bits(first));
    let limit = form.builder.constant(Class::Wide, Constant::Bits(limit));
    let offset = form.builder.fresh(Class::Wide);
    form.emit_simple(Op::Int(IntOp::Sub, Int::U64), offset, &[a, first])?;
    let compare = Compare {
        relation,
        operand: Kind::Int(Int::U64),
        combine: Combine::None,
        negate_c: false,
        ftz: false,
        result: CompareResult::Pred,
    };
    form.emit_simple(Op::Compare(compare), d, &[offset, limit, Reg::NONE])
}
