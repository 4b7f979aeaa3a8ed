//! A thread's own stack: `alloca`, `stacksave`, `stackrestore` (PTX ISA section 9.7.14). It grows
//! upwards in local memory, behind the variables; its end is in a register.

use super::DecodeError;
use super::builder::{Builder, Constant, bare};
use super::form::Form;
use super::op::{BitsOp, Class, IntOp, Move, Op, Reg};
use super::types::{Int, Type};
use crate::ast::{Function, Operand, Place, Statement};

type Decoded = Result<(), DecodeError>;

/// What a thread may have at once.
const STACK_BYTES: u32 = 4096;
const LARGEST_ALIGNMENT: u64 = 1 << 12;

impl Builder<'_> {
    /// Bytes of a thread's stack: none where the module has no instruction for it.
    pub(super) fn stack_bytes(&self) -> u32 {
        if self.stack.is_some() { STACK_BYTES } else { 0 }
    }
}

fn uses_stack(function: &Function) -> bool {
    function.body.iter().any(|statement| {
        matches!(
            statement,
            Statement::Instruction(inst)
                if matches!(inst.opcode.as_str(), "alloca" | "stacksave" | "stackrestore")
        )
    })
}

fn copy(builder: &mut Builder<'_>, to: Reg, from: Reg, place: Place) -> Decoded {
    let mut inst = bare(Op::Move(Move::Wide));
    (inst.d[0], inst.s[0]) = (to, from);
    builder.emit(inst, place)
}

/// At a kernel's start.
pub(super) fn begin(builder: &mut Builder<'_>, place: Place) -> Decoded {
    if !builder.module.functions.iter().any(uses_stack) {
        return Ok(());
    }
    builder.stack = builder.fresh(Class::Wide);
    let start = builder.constant(Class::Wide, Constant::StackStart);
    copy(builder, builder.stack, start, place)
}

/// At a callee's start: a register with the end of the caller's stack, if the callee changes it.
pub(super) fn enter(
    builder: &mut Builder<'_>,
    function: &Function,
    place: Place,
) -> Result<Reg, DecodeError> {
    if !builder.stack.is_some() || !uses_stack(function) {
        return Ok(Reg::NONE);
    }
    let before = builder.fresh(Class::Wide);
    copy(builder, before, builder.stack, place)?;
    Ok(before)
}

/// At a callee's end, with what [`enter`] returned.
pub(super) fn leave(builder: &mut Builder<'_>, before: Reg, place: Place) -> Decoded {
    if !before.is_some() {
        return Ok(());
    }
    copy(builder, builder.stack, before, place)
}

/// The end of the stack; while the catalogue is made, any register.
fn end(form: &mut Form<'_, '_>) -> Reg {
    if form.builder.stack.is_some() {
        form.builder.stack
    } else {
        form.builder.junk(Class::Wide)
    }
}

/// `u32` and `u64` alone: whether it is 64 bits.
fn is_wide(form: &mut Form<'_, '_>) -> Result<bool, DecodeError> {
    match form.ty()? {
        Type::Int(Int::U32) => Ok(false),
        Type::Int(Int::U64) => Ok(true),
        _ => Err(form.refuse_type()),
    }
}

/// A source of either size, in 64 bits.
fn widened(form: &mut Form<'_, '_>, index: usize, wide: bool) -> Result<Reg, DecodeError> {
    if wide {
        return form.src(index, Type::Bits(64));
    }
    let word = form.src(index, Type::Bits(32))?;
    let zero = form.builder.constant(Class::Word, Constant::Bits(0));
    let value = form.builder.fresh(Class::Wide);
    let mut inst = bare(Op::Move(Move::Pack(32)));
    inst.d[0] = value;
    inst.list = form.builder.list(Vec::new(), vec![word, zero]);
    form.emit(inst)?;
    Ok(value)
}

/// Writes a 64-bit value to a destination of either size.
fn deliver(form: &mut Form<'_, '_>, value: Reg, wide: bool) -> Decoded {
    if wide {
        let d = form.dst(0, Type::Bits(64))?;
        return form.emit_simple(Op::Move(Move::Wide), d, &[value]);
    }
    let d = form.dst(0, Type::Bits(32))?;
    let mut inst = bare(Op::Move(Move::Unpack(32)));
    inst.s[0] = value;
    inst.list = form.builder.list(vec![d, Reg::NONE], Vec::new());
    form.emit(inst)
}

/// `alloca d, bytes{, alignment}`: an address in local memory.
pub(super) fn allocate(form: &mut Form<'_, '_>) -> Decoded {
    let wide = is_wide(form)?;
    form.expect_operands(2..=3)?;
    let alignment = match form.inst.operands.get(2) {
        None => 8,
        Some(&Operand::Integer(value)) if value.is_power_of_two() && value <= LARGEST_ALIGNMENT => {
            value
        }
        Some(_) => {
            let what = format!("the alignment must be a power of two up to {LARGEST_ALIGNMENT}");
            return Err(form.error(what));
        }
    };
    let bytes = widened(form, 1, wide)?;
    let end = end(form);
    let mut constant = |bits| form.builder.constant(Class::Wide, Constant::Bits(bits));
    let (most, mask) = (constant(alignment - 1), constant(!(alignment - 1)));
    let start = form.builder.fresh(Class::Wide);
    form.emit_simple(Op::Int(IntOp::Add, Int::U64), start, &[end, most])?;
    form.emit_simple(Op::Bits(BitsOp::And, Int::U64), start, &[start, mask])?;
    form.emit_simple(Op::Int(IntOp::Add, Int::U64), end, &[start, bytes])?;
    deliver(form, start, wide)
}

pub(super) fn save(form: &mut Form<'_, '_>) -> Decoded {
    let wide = is_wide(form)?;
    form.expect_operands(1..=1)?;
    let end = end(form);
    deliver(form, end, wide)
}

pub(super) fn restore(form: &mut Form<'_, '_>) -> Decoded {
    let wide = is_wide(form)?;
    form.expect_operands(1..=1)?;
    let saved = widened(form, 0, wide)?;
    let end = end(form);
    form.emit_simple(Op::Move(Move::Wide), end, &[saved])
}
