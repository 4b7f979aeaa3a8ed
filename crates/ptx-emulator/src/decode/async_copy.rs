//! `cp.async` and its groups (PTX ISA section 9.7.9).

use super::DecodeError;
use super::builder::bare;
use super::form::Form;
use super::memory::PREFETCHES;
use super::op::{Async, Op, Window};
use super::types::Type;
use crate::ast::Operand;

/// `cp.async` and its groups, and what is left to [`super::bulk`].
pub(super) fn copy_async(form: &mut Form<'_, '_>) -> Result<(), DecodeError> {
    let reduces = form.flag("reduce");
    form.need(&[("async", ())])?;
    if reduces {
        form.need(&[("bulk", ())])?;
    }
    if reduces || form.flag("bulk") {
        return super::bulk::copy(form, reduces);
    }
    if form.flag("mbarrier") {
        return super::mbarrier::arrive_when_copied(form);
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

fn copy(form: &mut Form<'_, '_>) -> Result<(), DecodeError> {
    let bypasses_l1 = form.need(&[("ca", false), ("cg", true)])?;
    form.need(&[("shared", ()), ("shared::cta", ())])?;
    form.need(&[("global", ())])?;
    let policy = form.flag("L2::cache_hint");
    form.one_of(&PREFETCHES);
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
    inst.op = Op::Async(Async::Copy {
        bytes,
        ignore_negated,
    });
    inst.s[0] = to.base;
    inst.s[1] = from.base;
    inst.imm = to.offset;
    inst.list = from.offset.cast_unsigned();
    form.emit(inst)
}
