//! Prefetches, cache policies and other hints: memory without caches has nothing to do for them
//! (PTX ISA section 9.7.9).

use super::DecodeError;
use super::builder::{Constant, bare};
use super::form::Form;
use super::op::{Class, Move, Op};
use super::types::Type;
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

/// An instruction whose first operand is an address, and whose second, where it has one, is the
/// number of bytes that it means.
pub(super) fn address(form: &mut Form<'_, '_>, sized: bool) -> Decoded {
    form.expect_operands(if sized { 2..=2 } else { 1..=1 })?;
    form.address(0)?;
    if sized && *form.operand(1)? != Operand::Integer(128) {
        return Err(form.error("the size must be 128"));
    }
    form.emit(bare(Op::Nop))
}

pub(super) fn prefetch(form: &mut Form<'_, '_>) -> Decoded {
    if form.flag("tensormap") {
        form.one_of(&[("param", ()), ("const", ())]);
        return address(form, false);
    }
    let is_global = form.flag("global");
    if !is_global {
        form.flag("local");
    }
    let eviction = is_global
        && form
            .one_of(&[("L2::evict_last", ()), ("L2::evict_normal", ())])
            .is_some();
    if !eviction {
        form.need(&[("L1", ()), ("L2", ())])?;
    }
    address(form, false)
}

const PRIORITIES: [(&str, ()); 4] = [
    ("L2::evict_last", ()),
    ("L2::evict_normal", ()),
    ("L2::evict_first", ()),
    ("L2::evict_unchanged", ()),
];

const SECONDARY: [(&str, ()); 2] = [("L2::evict_first", ()), ("L2::evict_unchanged", ())];

/// `createpolicy`: a value that only cache hints read.
pub(super) fn create_policy(form: &mut Form<'_, '_>) -> Decoded {
    #[derive(Clone, Copy)]
    enum Kind {
        Fractional,
        Range,
        Convert,
    }
    let kind = form.need(&[
        ("fractional", Kind::Fractional),
        ("range", Kind::Range),
        ("cvt", Kind::Convert),
    ])?;
    if form.ty()? != Type::Bits(64) {
        return Err(form.refuse_type());
    }
    let operands = match kind {
        Kind::Fractional => {
            form.need(&PRIORITIES)?;
            form.one_of(&SECONDARY);
            1..=2
        }
        Kind::Range => {
            form.flag("global");
            form.need(&PRIORITIES)?;
            form.one_of(&SECONDARY);
            4..=4
        }
        Kind::Convert => {
            form.need(&[("L2", ())])?;
            2..=2
        }
    };
    form.expect_operands(operands)?;
    let d = form.dst(0, Type::Bits(64))?;
    let zero = form.builder.constant(Class::Wide, Constant::Bits(0));
    form.emit_simple(Op::Move(Move::Wide), d, &[zero])
}
