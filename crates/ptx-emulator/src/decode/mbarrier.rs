//! `mbarrier` (PTX ISA section 9.7.13.15) and what completes on one: `st.async`, `red.async`,
//! `cp.async.mbarrier.arrive`.

use super::DecodeError;
use super::atomic::REDUCTIONS;
use super::atomic::atomic_kind;
use super::builder::bare;
use super::form::Form;
use super::memory::{CLUSTER, SHARED};
use super::op::{
    AsyncStore, AtomicOp, Class, Mbarrier, MbarrierOp, Op, Order, Scope, Width, Window,
};
use super::types::{Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

const B32: Type = Type::Bits(32);
const B64: Type = Type::Bits(64);

/// Order and scope: `.relaxed` or `strong` with `.cta` or `.cluster`.
fn order(
    form: &mut Form<'_, '_>,
    strong: (&'static str, Order),
) -> Result<(Order, Scope), DecodeError> {
    let given = form.one_of(&[("relaxed", Order::Relaxed), strong]);
    let Some(order) = given else {
        return Ok((strong.1, Scope::Cta));
    };
    let scope = form.need(&[("cta", Scope::Cta), ("cluster", Scope::Cluster)])?;
    Ok((order, scope))
}

/// The space of the mbarrier; `remote` allows those of other blocks.
fn space(form: &mut Form<'_, '_>, remote: bool) -> Option<Window> {
    let [shared, shared_cta] = SHARED;
    if remote {
        form.one_of(&[CLUSTER, shared, shared_cta])
    } else {
        form.one_of(&[shared, shared_cta])
    }
}

/// Appends the operation on the mbarrier that operand `at` addresses.
fn emit(
    form: &mut Form<'_, '_>,
    at: usize,
    stated: Option<Window>,
    (op, order, scope): (MbarrierOp, Order, Scope),
    fill: impl FnOnce(&mut Form<'_, '_>, &mut super::op::Inst) -> Decoded,
) -> Decoded {
    let address = form.address(at)?;
    let window = super::memory::resolve(form, stated, &address)?;
    if !matches!(window, Window::Shared | Window::Cluster | Window::Generic) {
        return Err(form.error("an mbarrier lies in shared memory"));
    }
    let mut inst = bare(Op::Mbarrier(Mbarrier {
        op,
        window,
        order,
        scope,
    }));
    inst.s[0] = address.base;
    inst.imm = address.offset;
    fill(form, &mut inst)?;
    form.emit(inst)
}

pub(super) fn mbarrier(form: &mut Form<'_, '_>) -> Decoded {
    #[derive(Clone, Copy)]
    enum Kind {
        Init,
        Invalidate,
        Expect,
        Complete,
        Arrive { drops: bool },
        Wait { suspends: bool },
        PendingCount,
    }
    let kind = form.need(&[
        ("init", Kind::Init),
        ("inval", Kind::Invalidate),
        ("expect_tx", Kind::Expect),
        ("complete_tx", Kind::Complete),
        ("arrive", Kind::Arrive { drops: false }),
        ("arrive_drop", Kind::Arrive { drops: true }),
        ("test_wait", Kind::Wait { suspends: false }),
        ("try_wait", Kind::Wait { suspends: true }),
        ("pending_count", Kind::PendingCount),
    ])?;
    if form.ty()? != B64 {
        return Err(form.refuse_type());
    }
    match kind {
        Kind::Init => {
            let stated = space(form, false);
            form.expect_operands(2..=2)?;
            let what = (MbarrierOp::Init, Order::Weak, Scope::Cta);
            emit(form, 0, stated, what, |form, inst| {
                inst.s[1] = form.src(1, B32)?;
                Ok(())
            })
        }
        Kind::Invalidate => {
            let stated = space(form, false);
            form.expect_operands(1..=1)?;
            let what = (MbarrierOp::Invalidate, Order::Weak, Scope::Cta);
            emit(form, 0, stated, what, |_, _| Ok(()))
        }
        Kind::Expect | Kind::Complete => {
            let (order, scope) = order(form, ("relaxed", Order::Relaxed))?;
            let stated = space(form, true);
            form.expect_operands(2..=2)?;
            let op = match kind {
                Kind::Expect => MbarrierOp::ExpectTx,
                _ => MbarrierOp::CompleteTx,
            };
            emit(form, 0, stated, (op, order, scope), |form, inst| {
                inst.s[1] = form.src(1, B32)?;
                Ok(())
            })
        }
        Kind::Arrive { drops } => arrive(form, drops),
        Kind::Wait { suspends } => wait(form, suspends),
        Kind::PendingCount => {
            form.expect_operands(2..=2)?;
            let state = form.src(1, B64)?;
            let d = form.dst(0, B32)?;
            form.emit_simple(Op::MbarrierPending, d, &[state])
        }
    }
}

fn arrive(form: &mut Form<'_, '_>, drops: bool) -> Decoded {
    let expects = form.flag("expect_tx");
    let no_complete = !expects && form.flag("noComplete");
    let (order, scope) = order(form, ("release", Order::Release))?;
    let stated = space(form, !no_complete);
    let needs_count = expects || no_complete;
    form.expect_operands(if needs_count { 3..=3 } else { 2..=3 })?;
    let op = MbarrierOp::Arrive {
        expects,
        drops,
        no_complete,
    };
    emit(form, 1, stated, (op, order, scope), |form, inst| {
        if form.operands() == 3 {
            inst.s[1] = form.src(2, B32)?;
        }
        let is_sink = *form.operand(0)? == Operand::Sink;
        if !is_sink {
            if stated == Some(Window::Cluster) {
                return Err(form.error("an arrival of .shared::cluster gives no state: write _"));
            }
            inst.d[0] = form.dst(0, B64)?;
        }
        Ok(())
    })
}

fn wait(form: &mut Form<'_, '_>, suspends: bool) -> Decoded {
    let parity = form.flag("parity");
    let (order, scope) = order(form, ("acquire", Order::Acquire))?;
    let stated = space(form, false);
    form.expect_operands(3..=if suspends { 4 } else { 3 })?;
    let op = MbarrierOp::Wait { parity, suspends };
    emit(form, 1, stated, (op, order, scope), |form, inst| {
        inst.s[1] = form.src(2, if parity { B32 } else { B64 })?;
        if form.operands() == 4 {
            // How long the thread may be suspended: an upper bound, which nothing here needs.
            inst.s[2] = form.src(3, B32)?;
        }
        inst.d[0] = form.dst(0, Type::Pred)?;
        Ok(())
    })
}

/// `cp.async.mbarrier.arrive`, the first two words taken.
pub(super) fn arrive_when_copied(form: &mut Form<'_, '_>) -> Decoded {
    form.need(&[("arrive", ())])?;
    if form.ty()? != B64 {
        return Err(form.refuse_type());
    }
    let increments = !form.flag("noinc");
    let stated = space(form, false);
    form.expect_operands(1..=1)?;
    let op = MbarrierOp::ArriveWhenCopied { increments };
    emit(form, 0, stated, (op, Order::Release, Scope::Cta), |_, _| {
        Ok(())
    })
}

/// `st.async`, and `red.async`, which applies an operation; the first word taken.
pub(super) fn async_store(form: &mut Form<'_, '_>, reduces: bool) -> Decoded {
    let ty = if reduces {
        form.ty_among(&["u32", "s32", "u64", "b32"])?
    } else {
        form.ty_among(&["b32", "b64", "u32", "u64", "s32", "s64", "f32", "f64"])?
    };
    form.need(&[("mbarrier::complete_tx::bytes", ())])?;
    let reduce = if reduces {
        if form.flag("relaxed") {
            form.need(&[("cluster", ())])?;
        }
        let op = form.need(&REDUCTIONS)?;
        let fits = match op {
            AtomicOp::Add => ty != B32,
            AtomicOp::Min | AtomicOp::Max => matches!(ty, Type::Int(Int::U32 | Int::S32)),
            AtomicOp::Increment | AtomicOp::Decrement => ty == Type::Int(Int::U32),
            _ => ty == B32,
        };
        match atomic_kind(ty).filter(|_| fits) {
            Some(kind) => Some((op, kind)),
            None => return Err(form.refuse_type()),
        }
    } else {
        form.flag("weak");
        None
    };
    let stated = form.one_of(&[CLUSTER]);
    let count = if reduces {
        1
    } else {
        form.one_of(&[("v2", 2), ("v4", 4)]).unwrap_or(1)
    };
    let width = if ty.bits() == 64 {
        Width::B64
    } else {
        Width::B32
    };
    if count == 4 && width == Width::B64 {
        return Err(form.error("4 elements of 64 bits are more than 128"));
    }
    form.expect_operands(3..=3)?;
    let items = form.elements(1)?;
    if items.len() != usize::from(count) {
        return Err(form.error(format!("{} sources for {count} elements", items.len())));
    }
    let mut uses = Vec::with_capacity(items.len());
    for item in items {
        uses.push(form.source(item, ty)?);
    }
    let mbarrier = form.address(2)?;
    let address = form.address(0)?;
    let window = super::memory::resolve(form, stated, &address)?;
    if !matches!(window, Window::Cluster | Window::Shared | Window::Generic) {
        return Err(form.error("the destination must be shared memory"));
    }
    let mut inst = bare(Op::AsyncStore(AsyncStore {
        window,
        width,
        count,
        reduce,
    }));
    inst.s[0] = address.base;
    inst.imm = address.offset;
    inst.s[1] = mbarrier.base;
    if mbarrier.offset != 0 {
        let offset = form.builder.constant(
            Class::Wide,
            super::builder::Constant::Bits(i64::from(mbarrier.offset) as u64),
        );
        inst.s[2] = offset;
    }
    inst.list = form.builder.list(Vec::new(), uses);
    form.emit(inst)
}
