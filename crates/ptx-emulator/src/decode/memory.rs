//! Loads, stores and fences (PTX ISA sections 9.7.9, 9.7.13).

use super::DecodeError;
use super::builder::{Home, bare};
use super::form::Form;
use super::op::{
    Access, Class, ClusterOp, Extend, FenceKind, Op, Order, ProxySpace, Reg, Scope, Width, Window,
};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

pub(super) const GLOBAL: (&str, Window) = ("global", Window::Global);
pub(super) const SHARED: [(&str, Window); 2] =
    [("shared", Window::Shared), ("shared::cta", Window::Shared)];
pub(super) const CLUSTER: (&str, Window) = ("shared::cluster", Window::Cluster);
const LOCAL: (&str, Window) = ("local", Window::Local);
const PARAM: [(&str, Window); 3] = [
    ("param", Window::Param),
    ("param::entry", Window::Param),
    ("param::func", Window::Param),
];

pub(super) const SCOPES: [(&str, Scope); 4] = [
    ("cta", Scope::Cta),
    ("cluster", Scope::Cluster),
    ("gpu", Scope::Gpu),
    ("sys", Scope::Sys),
];

/// Takes the words of the memory model from a load or a store; `ordering` is the one that has its
/// direction.
fn strength(
    form: &mut Form<'_, '_>,
    ordering: (&'static str, Order),
) -> Result<Strength, DecodeError> {
    if form.flag("mmio") {
        form.need(&[("relaxed", ())])?;
        form.need(&[("sys", ())])?;
        return Ok(Strength::of(Order::Relaxed, Scope::Sys));
    }
    let order = form.one_of(&[
        ("volatile", Order::Volatile),
        ("relaxed", Order::Relaxed),
        ordering,
        ("weak", Order::Weak),
    ]);
    Ok(match order {
        None => Strength {
            said: false,
            ..Strength::of(Order::Weak, Scope::Gpu)
        },
        Some(Order::Weak) => Strength::of(Order::Weak, Scope::Gpu),
        Some(Order::Volatile) => Strength::of(Order::Volatile, Scope::Sys),
        Some(order) => Strength::of(order, form.need(&SCOPES)?),
    })
}

#[derive(Clone, Copy)]
struct Strength {
    order: Order,
    scope: Scope,
    /// Whether a word of the instruction says so.
    said: bool,
}

impl Strength {
    fn of(order: Order, scope: Scope) -> Self {
        Strength {
            order,
            scope,
            said: true,
        }
    }

    /// True if another thread may be waiting on the access.
    fn is_strong(self) -> bool {
        self.order.is_strong()
    }
}

/// Takes cache hints, which change nothing here. True if a cache-policy operand follows.
fn cache_hints(
    form: &mut Form<'_, '_>,
    operators: &[(&'static str, ())],
    strength: Strength,
    is_global: bool,
) -> bool {
    if strength.order == Order::Volatile {
        return false;
    }
    let has_operator = !strength.is_strong() && form.one_of(operators).is_some();
    if is_global && !has_operator {
        form.one_of(&[
            ("L1::evict_normal", ()),
            ("L1::evict_unchanged", ()),
            ("L1::evict_first", ()),
            ("L1::evict_last", ()),
            ("L1::no_allocate", ()),
        ]);
    }
    is_global && form.flag("L2::cache_hint")
}

pub(super) const PREFETCHES: [(&str, ()); 3] =
    [("L2::64B", ()), ("L2::128B", ()), ("L2::256B", ())];

/// Two registers hold a value of this type.
pub(super) const WIDEST: Type = Type::Bits(128);

/// The type of an element in memory, and how many there are.
fn elements(form: &mut Form<'_, '_>) -> Result<(Type, Width, u8), DecodeError> {
    let ty = form.ty()?;
    if ty == WIDEST {
        return Ok((ty, Width::B64, 2));
    }
    let basic = super::compare::is_basic(ty) || ty.bits() == 8;
    if !basic || ty == Type::Pred {
        return Err(form.refuse_type());
    }
    let width = width(form, ty)?;
    let count = form.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1);
    if ty.bits() * u32::from(count) > 128 {
        return Err(form.error(format!(
            "{count} elements of {} bits are more than 128",
            ty.bits()
        )));
    }
    Ok((ty, width, count))
}

fn width(form: &Form<'_, '_>, ty: Type) -> Result<Width, DecodeError> {
    Ok(match ty.bits() {
        _ if matches!(ty, Type::Float(Float::E4m3 | Float::E5m2)) => {
            return Err(form.refuse_type());
        }
        8 => Width::B8,
        16 => Width::B16,
        32 => Width::B32,
        64 => Width::B64,
        _ => return Err(form.refuse_type()),
    })
}

pub(super) fn load(form: &mut Form<'_, '_>) -> Decoded {
    let strength = strength(form, ("acquire", Order::Acquire))?;
    let [shared, shared_cta] = SHARED;
    let [param, entry, func] = PARAM;
    let constant = ("const", Window::Global);
    let stated = if strength.is_strong() {
        form.one_of(&[GLOBAL, shared, shared_cta, CLUSTER])
    } else {
        form.one_of(&[
            GLOBAL, constant, shared, shared_cta, CLUSTER, LOCAL, param, entry, func,
        ])
    };
    let is_global = matches!(stated, None | Some(Window::Global));
    let cached = stated.is_some() && is_global && !strength.said && form.flag("nc");
    let operators = [("ca", ()), ("cg", ()), ("cs", ()), ("lu", ()), ("cv", ())];
    let policy = cache_hints(
        form,
        &operators[..if cached { 3 } else { 5 }],
        strength,
        is_global,
    );
    if is_global {
        form.one_of(&PREFETCHES);
    }
    load_elements(form, stated, policy, strength, cached)
}

/// `ldu`: a load from global memory with the same address in all lanes, which nobody checks.
pub(super) fn load_uniform(form: &mut Form<'_, '_>) -> Decoded {
    let stated = form.one_of(&[GLOBAL]);
    let strength = Strength::of(Order::Weak, Scope::Gpu);
    load_elements(form, stated, false, strength, true)
}

fn load_elements(
    form: &mut Form<'_, '_>,
    stated: Option<Window>,
    policy: bool,
    strength: Strength,
    read_only: bool,
) -> Decoded {
    let (ty, width, count) = elements(form)?;
    form.expect_operands(2..=if policy { 3 } else { 2 })?;
    let signed = matches!(ty, Type::Int(int) if int.signed()) || ty == Type::Int8(true);
    let items = form.elements(0)?;
    let mut defs = Vec::with_capacity(usize::from(count));
    let mut extend = None;
    if ty == WIDEST {
        let target = form.operand(0)?;
        defs.extend(form.wide_destination(target)?);
    } else if items.len() != usize::from(count) {
        return Err(form.error(format!("{} destinations for {count} elements", items.len())));
    }
    for item in items.iter().filter(|_| ty != WIDEST) {
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
        inst.imm =
            i32::try_from(offset).map_err(|_| form.error("parameter offset out of range"))?;
        inst.op = Op::LoadParam(width, extend);
        return form.emit(inst);
    }
    let window = resolve(form, stated, &address)?;
    inst.op = Op::Load(Access {
        order: strength.order,
        scope: strength.scope,
        read_only,
        ..Access::weak(window, width, extend, count)
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

/// The window that the address is in: what the instruction says, corrected for `.param` of a call,
/// which lives in local memory.
pub(super) fn resolve(
    form: &Form<'_, '_>,
    stated: Option<Window>,
    address: &super::form::Address,
) -> Result<Window, DecodeError> {
    let own = form.window_of(address);
    match (stated, own) {
        (None, own) => Ok(own),
        (Some(Window::Param), Window::Local) => Ok(Window::Local),
        // The own block's addresses are among the cluster's.
        (Some(Window::Cluster), Window::Shared) => Ok(Window::Shared),
        (Some(stated), Window::Generic) => Ok(stated),
        (Some(stated), own) if stated == own => Ok(stated),
        _ => Err(form.error("the variable is in another state space")),
    }
}

pub(super) fn store(form: &mut Form<'_, '_>) -> Decoded {
    let strength = strength(form, ("release", Order::Release))?;
    let [shared, shared_cta] = SHARED;
    let [param, _, func] = PARAM;
    let stated = if strength.is_strong() {
        form.one_of(&[GLOBAL, shared, shared_cta, CLUSTER])
    } else {
        form.one_of(&[GLOBAL, shared, shared_cta, CLUSTER, LOCAL, param, func])
    };
    let operators = [("wb", ()), ("cg", ()), ("cs", ()), ("wt", ())];
    let is_global = matches!(stated, None | Some(Window::Global));
    let policy = cache_hints(form, &operators, strength, is_global);
    let (ty, width, count) = elements(form)?;
    form.expect_operands(2..=if policy { 3 } else { 2 })?;
    let items = form.elements(1)?;
    let mut uses = Vec::with_capacity(usize::from(count));
    if ty == WIDEST {
        let source = form.operand(1)?;
        uses.extend(form.wide_source(source)?);
    } else if items.len() != usize::from(count) {
        return Err(form.error(format!("{} sources for {count} elements", items.len())));
    }
    for item in items.iter().filter(|_| ty != WIDEST) {
        uses.push(form.relaxed_src(item, ty)?);
    }
    let address = form.address(0)?;
    let window = resolve(form, stated, &address)?;
    if window == Window::Param {
        return Err(form.error("kernel parameters can't be written"));
    }
    let mut inst = bare(Op::Store(Access {
        order: strength.order,
        scope: strength.scope,
        ..Access::weak(window, width, Extend::Zero, count)
    }));
    inst.s[0] = address.base;
    inst.imm = address.offset;
    inst.list = form.builder.list(Vec::new(), uses);
    form.emit(inst)
}

/// `membar`, an older word for `fence.sc` and `fence.proxy`.
pub(super) fn membar(form: &mut Form<'_, '_>) -> Decoded {
    if form.flag("proxy") {
        let kind = form.need(&PROXIES[..1])?;
        return proxy_fence(form, kind);
    }
    let scope = form.need(&[("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Sys)])?;
    form.expect_operands(0..=0)?;
    form.emit(bare(Op::Fence(FenceKind::Thread(Order::AcqRel, scope))))
}

pub(super) fn fence(form: &mut Form<'_, '_>) -> Decoded {
    if form.flag("proxy") {
        let kind = form.need(&PROXIES)?;
        return proxy_fence(form, kind);
    }
    if form.flag("mbarrier_init") {
        form.need(&[("release", ())])?;
        form.need(&[("cluster", ())])?;
        form.expect_operands(0..=0)?;
        return form.emit(bare(Op::Fence(FenceKind::MbarrierInit)));
    }
    let order = form.one_of(&[
        ("acq_rel", Order::AcqRel),
        ("sc", Order::AcqRel),
        ("acquire", Order::Acquire),
        ("release", Order::Release),
    ]);
    restricted(form, order)?;
    let scope = form.need(&SCOPES)?;
    form.expect_operands(0..=0)?;
    let order = order.unwrap_or(Order::AcqRel);
    form.emit(bare(Op::Fence(FenceKind::Thread(order, scope))))
}

/// Takes the restriction of a fence to one space, where it has the order that goes with it; the
/// fence then counts as one for all spaces.
fn restricted(form: &mut Form<'_, '_>, order: Option<Order>) -> Result<bool, DecodeError> {
    let word = match order {
        Some(Order::Acquire) => "sync_restrict::shared::cluster",
        Some(Order::Release) => "sync_restrict::shared::cta",
        _ => return Ok(false),
    };
    let is_restricted = form.flag(word);
    if is_restricted && !form.has("cluster") {
        return Err(form.error("a fence of this restriction has the scope .cluster"));
    }
    Ok(is_restricted)
}

/// Kinds of accesses that a fence puts in order with ordinary ones.
#[derive(Clone, Copy)]
enum Proxy {
    Alias,
    Async,
    AsyncGeneric,
    TensorMap,
}

/// The first one has an older form.
const PROXIES: [(&str, Proxy); 4] = [
    ("alias", Proxy::Alias),
    ("async", Proxy::Async),
    ("async::generic", Proxy::AsyncGeneric),
    ("tensormap::generic", Proxy::TensorMap),
];

/// `fence.proxy` and the kind have been taken.
fn proxy_fence(form: &mut Form<'_, '_>, kind: Proxy) -> Decoded {
    let orders = [("acquire", Order::Acquire), ("release", Order::Release)];
    let fence = match kind {
        Proxy::Alias => FenceKind::ProxyAlias,
        Proxy::Async => {
            let space = form.one_of(&[
                ("global", ProxySpace::Global),
                ("shared::cta", ProxySpace::Shared),
                ("shared::cluster", ProxySpace::Shared),
            ]);
            FenceKind::ProxyAsync(space.unwrap_or(ProxySpace::All))
        }
        Proxy::AsyncGeneric => {
            let order = form.need(&orders)?;
            if !restricted(form, Some(order))? {
                return Err(form.error("this fence needs its .sync_restrict"));
            }
            form.need(&[("cluster", ())])?;
            FenceKind::ProxyAsync(ProxySpace::Shared)
        }
        Proxy::TensorMap => {
            let acquire = form.need(&orders)? == Order::Acquire;
            let scope = form.need(&SCOPES)?;
            FenceKind::ProxyTensormap { acquire, scope }
        }
    };
    let mut inst = bare(Op::Fence(fence));
    if matches!(fence, FenceKind::ProxyTensormap { acquire: true, .. }) {
        form.expect_operands(2..=2)?;
        let address = form.address(0)?;
        if *form.operand(1)? != Operand::Integer(128) {
            return Err(form.error("the size must be 128, that of a tensor map"));
        }
        inst.s[0] = address.base;
        inst.imm = address.offset;
    } else {
        form.expect_operands(0..=0)?;
    }
    form.emit(inst)
}

/// `isspacep` compares the address with the space's window; done with unsigned comparisons.
pub(super) fn is_space(form: &mut Form<'_, '_>) -> Decoded {
    use super::builder::{Constant, WINDOW_BYTES};
    use super::op::{Combine, Compare, CompareResult, IntOp, Operand as Kind, Relation};
    let Some((space, base)) = [
        "shared",
        "shared::cta",
        "shared::cluster",
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
    if let "shared" | "shared::cta" | "shared::cluster" = space {
        // The own block's memory has an address among the cluster's, too.
        let cluster = space == "shared::cluster";
        return form.emit_simple(Op::Cluster(ClusterOp::IsShared { cluster }), d, &[a]);
    }
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
