//! Calls of functions that the driver provides: `vprintf` and `__assertfail` (CUDA C++ Programming
//! Guide, "Formatted output" and "Assertion").

use super::DecodeError;
use super::builder::{Constant, Home, bare};
use super::form::Form;
use super::op::{Access, Class, Control, Extend, Op, Reg, Width, Window};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;
/// Decodes a call with these results and arguments.
type Call = fn(&mut Form<'_, '_>, &[Operand], &[Operand]) -> Decoded;

/// The rule for a function of the driver.
pub(super) fn rule(name: &str) -> Option<Call> {
    Some(match name {
        "vprintf" => print,
        "__assertfail" => assertion,
        _ => return None,
    })
}

/// `vprintf(format, arguments)`: both are generic addresses.
fn print(form: &mut Form<'_, '_>, results: &[Operand], arguments: &[Operand]) -> Decoded {
    let ([result], [format, values]) = (results, arguments) else {
        return Err(form.error("vprintf has one result and two parameters"));
    };
    let mut inst = bare(Op::Print);
    inst.s[0] = argument(form, format, Width::B64)?;
    inst.s[1] = argument(form, values, Width::B64)?;
    let printed = form.builder.fresh(Class::Word);
    inst.d[0] = printed;
    form.emit(inst)?;
    let mut inst = bare(Op::Store(access(Width::B32)));
    inst.s[0] = place(form, result)?;
    inst.list = form.builder.list(Vec::new(), vec![printed]);
    form.emit(inst)
}

/// `__assertfail(message, file, line, function, bytes of a character)`.
fn assertion(form: &mut Form<'_, '_>, _results: &[Operand], arguments: &[Operand]) -> Decoded {
    let mut inst = bare(Op::Control(Control::Assert));
    if let [message, file, line, function, ..] = arguments {
        inst.s = [
            argument(form, message, Width::B64)?,
            argument(form, file, Width::B64)?,
            argument(form, line, Width::B32)?,
            argument(form, function, Width::B64)?,
        ];
    }
    form.emit(inst)
}

fn access(width: Width) -> Access {
    Access::weak(Window::Local, width, Extend::Zero, 1)
}

/// Where a `.param` variable of a call lies.
fn place(form: &mut Form<'_, '_>, given: &Operand) -> Result<Reg, DecodeError> {
    let Operand::Symbol(name, 0) = given else {
        return Err(form.error("parameters of a call must be .param variables"));
    };
    match form.builder.home(name)? {
        Some(Home::Local(offset)) => {
            let offset = Constant::Bits(u64::from(offset));
            Ok(form.builder.constant(Class::Wide, offset))
        }
        _ => Err(form.error(format!("{name} is not a .param variable of this function"))),
    }
}

/// Reads an argument into a register.
fn argument(form: &mut Form<'_, '_>, given: &Operand, width: Width) -> Result<Reg, DecodeError> {
    let class = if width == Width::B64 {
        Class::Wide
    } else {
        Class::Word
    };
    let value = form.builder.fresh(class);
    let mut inst = bare(Op::Load(access(width)));
    inst.s[0] = place(form, given)?;
    inst.list = form.builder.list(vec![value], Vec::new());
    form.emit(inst)?;
    Ok(value)
}
