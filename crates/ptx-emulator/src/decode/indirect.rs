//! Calls through a register. A function has an address, which names it and holds no code; a call
//! compares it with those of the functions that it may mean, each decoded in its place.

use super::DecodeError;
use super::builder::{Builder, Constant, bare};
use super::control::{check_depth, homes};
use super::form::Form;
use super::op::{
    Class, Combine, Compare, CompareResult, Control, Op, Operand as Kind, Reg, Relation,
};
use super::types::{Int, Type};
use crate::ast::{Function, Module, Operand, Place, Statement};

type Decoded = Result<(), DecodeError>;

/// Addresses of functions lie below those of device memory, where nothing else does.
const FUNCTIONS: u64 = 0x10_0000_0000;
const STEP: u64 = 16;

/// The address that stands for a function.
pub(super) fn address(module: &Module, name: &str) -> Option<u64> {
    let index = module.functions.iter().position(|f| f.name == name)?;
    Some(FUNCTIONS + STEP * index as u64)
}

/// Functions whose address the module takes.
fn taken(module: &Module) -> Vec<&Function> {
    let mut names = std::collections::HashSet::new();
    for variable in &module.variables {
        names.extend(variable.links.iter().map(|link| link.symbol.as_str()));
    }
    for statement in module.functions.iter().flat_map(|f| &f.body) {
        if let Statement::Instruction(inst) = statement
            && inst.opcode == "mov"
            && let Some(Operand::Symbol(name, _)) = inst.operands.get(1)
        {
            names.insert(name);
        }
    }
    let functions = module.functions.iter();
    functions
        .filter(|f| !f.is_entry && names.contains(f.name.as_str()))
        .collect()
}

/// `call (results), register, (arguments), prototype`.
pub(super) fn call(
    form: &mut Form<'_, '_>,
    callee: &Operand,
    results: &[Operand],
    arguments: &[Operand],
) -> Decoded {
    let target = form.source(callee, Type::Bits(64))?;
    let place = form.inst.place;
    let after = form.builder.new_label();
    super::control::skip_unless_guarded(form, after)?;
    let module = form.builder.module;
    for function in taken(module) {
        if results.len() != function.returns.len() || arguments.len() != function.params.len() {
            continue;
        }
        let Some(address) = address(module, &function.name) else {
            continue;
        };
        let next = form.builder.new_label();
        let differs = form.builder.fresh(Class::Pred);
        let mut compare = bare(Op::Compare(Compare {
            relation: Relation::Ne,
            operand: Kind::Int(Int::U64),
            combine: Combine::None,
            negate_c: false,
            ftz: false,
            result: CompareResult::Pred,
        }));
        let constant = Constant::Bits(address);
        compare.d[0] = differs;
        compare.s[0] = target;
        compare.s[1] = form.builder.constant(Class::Wide, constant);
        form.builder.emit(compare, place)?;
        branch(form.builder, next, differs, place)?;
        if check_depth(&form.builder.frames, function, place).is_err() {
            // Known only when it runs: the call may never take this way.
            form.builder
                .emit(bare(Op::Control(Control::Recursion)), place)?;
        } else {
            let homes = homes(form, function, results, arguments)?;
            let end = form.builder.new_label();
            super::inline(form.builder, function, homes, end, place)?;
            branch(form.builder, after, Reg::NONE, place)?;
        }
        form.builder.place_label(next);
    }
    form.builder
        .emit(bare(Op::Control(Control::NoFunction)), place)?;
    form.builder.place_label(after);
    Ok(())
}

/// A jump, under a guard if there is one.
fn branch(builder: &mut Builder<'_>, label: u32, guard: Reg, place: Place) -> Decoded {
    let mut inst = bare(Op::Control(Control::Branch));
    inst.imm = label.cast_signed();
    inst.guard = guard;
    builder.emit(inst, place)
}
