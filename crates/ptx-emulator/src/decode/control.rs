//! Branches, calls and ends (PTX ISA section 9.7.12). A call is decoded by decoding the callee's
//! body in its place.

use super::builder::{Home, bare, refusal};
use super::form::Form;
use super::op::{Control, Op, Reg};
use super::types::Type;
use super::{DecodeError, indirect, runtime};
use crate::ast::{Function, Operand};

type Decoded = Result<(), DecodeError>;

/// Calls nested deeper than this are refused: recursion can't be decoded in place.
const DEEPEST_CALL: usize = 32;

pub(super) fn bra(form: &mut Form<'_, '_>) -> Decoded {
    form.flag("uni");
    form.expect_operands(1..=1)?;
    let Operand::Symbol(name, 0) = form.operand(0)? else {
        return Err(form.error("the target must be a label"));
    };
    let label = form.builder.label(name);
    jump(form, label)
}

fn jump(form: &mut Form<'_, '_>, label: u32) -> Decoded {
    let mut inst = bare(Op::Control(Control::Branch));
    inst.imm = label.cast_signed();
    form.emit(inst)
}

pub(super) fn brx(form: &mut Form<'_, '_>) -> Decoded {
    if !form.flag("idx") {
        return Err(form.error("only brx.idx is supported"));
    }
    form.flag("uni");
    form.expect_operands(2..=2)?;
    let mut targets = Vec::new();
    for item in form.elements(1)? {
        let Operand::Symbol(name, 0) = item else {
            return Err(form.error("the targets must be labels"));
        };
        targets.push(form.builder.label(name));
    }
    let index = form.src(0, Type::Bits(32))?;
    form.builder.take_table(targets.len(), form.inst.place)?;
    form.builder.tables.push(targets);
    let mut inst = bare(Op::Control(Control::BranchIndexed));
    inst.s[0] = index;
    inst.list = form.builder.tables.len() as u32 - 1;
    form.emit(inst)
}

pub(super) fn ret(form: &mut Form<'_, '_>) -> Decoded {
    form.flag("uni");
    form.expect_operands(0..=0)?;
    match form.builder.frame().return_label {
        Some(label) => jump(form, label),
        None => form.emit(bare(Op::Control(Control::Exit))),
    }
}

/// `exit`, `trap`, `brkpt`.
pub(super) fn end(form: &mut Form<'_, '_>, control: Control) -> Decoded {
    form.expect_operands(0..=0)?;
    form.emit(bare(Op::Control(control)))
}

pub(super) fn call(form: &mut Form<'_, '_>) -> Decoded {
    form.flag("uni");
    form.builder.looked_at_operands();
    let (results, callee, arguments) = match form.inst.operands.as_slice() {
        [
            Operand::Vector(results),
            callee,
            Operand::Vector(arguments),
            ..,
        ] => (results, callee, arguments),
        _ => return Err(form.error("malformed call")),
    };
    let name = match callee {
        Operand::Symbol(name, 0) => name,
        Operand::Register(_) => return indirect::call(form, callee, results, arguments),
        _ => return Err(form.error("the callee must be a function or a register")),
    };
    if let Some(rule) = runtime::rule(name) {
        return rule(form, results, arguments);
    }
    let module = form.builder.module;
    let Some(function) = module
        .functions
        .iter()
        .find(|f| !f.is_entry && f.name == *name)
    else {
        return Err(form.error(format!("function {name} has no body in this module")));
    };
    if results.len() != function.returns.len() || arguments.len() != function.params.len() {
        return Err(form.error(format!(
            "{name} is called with the wrong number of parameters"
        )));
    }
    let homes = homes(form, function, results, arguments)?;
    let after = form.builder.new_label();
    skip_unless_guarded(form, after)?;
    let place = form.inst.place;
    super::inline(form.builder, function, homes, after, place)
}

/// Where a callee's parameters are: in the caller's `.param` variables.
pub(super) fn homes(
    form: &mut Form<'_, '_>,
    function: &Function,
    results: &[Operand],
    arguments: &[Operand],
) -> Result<Vec<(String, Home)>, DecodeError> {
    let mut homes = Vec::new();
    for (given, declared) in results
        .iter()
        .zip(&function.returns)
        .chain(arguments.iter().zip(&function.params))
    {
        let Operand::Symbol(variable, 0) = given else {
            return Err(form.error("parameters of a call must be .param variables"));
        };
        match form.builder.home(variable)? {
            Some(home @ Home::Local(_)) => homes.push((declared.name.clone(), home)),
            _ => {
                return Err(form.error(format!(
                    "{variable} is not a .param variable of this function"
                )));
            }
        }
    }
    Ok(homes)
}

/// Lanes outside the guard of a call jump over the whole body.
pub(super) fn skip_unless_guarded(form: &mut Form<'_, '_>, after: u32) -> Decoded {
    form.done()?;
    if form.inst.guard.is_some() {
        jump(form, after)?;
        if let Some(last) = form.builder.code.last_mut() {
            last.guard_negated = !last.guard_negated;
        }
    }
    Ok(())
}

/// Refuses a call that is already open, and calls nested too deep.
pub(super) fn check_depth(
    open: &[super::builder::Frame],
    function: &Function,
    place: crate::ast::Place,
) -> Decoded {
    if open.len() > DEEPEST_CALL || open.iter().any(|frame| frame.function == function.name) {
        let reason =
            format!("recursive calls and more than {DEEPEST_CALL} nested ones are not supported");
        return Err(refusal(place, &format!("call {}", function.name), reason));
    }
    Ok(())
}

/// Ends a function whose body may run off its end.
pub(super) fn close(
    builder: &mut super::builder::Builder<'_>,
    place: crate::ast::Place,
) -> Decoded {
    let ends = matches!(
        builder.code.last(),
        Some(inst) if matches!(inst.op, Op::Control(Control::Exit)) && inst.guard == Reg::NONE
    );
    let labelled = builder
        .label_positions
        .iter()
        .flatten()
        .any(|&at| at as usize == builder.code.len());
    if ends && !labelled {
        return Ok(());
    }
    builder.emit(bare(Op::Control(Control::Exit)), place)
}
