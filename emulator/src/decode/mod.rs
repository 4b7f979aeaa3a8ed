//! From parsed text to what the interpreter runs: opcodes with meaning, registers as slots, control flow with join points.

mod builder;
mod compare;
mod control;
mod convert;
mod finish;
mod float;
mod flow;
mod form;
mod integer;
mod memory;
pub(crate) mod op;
mod slots;
mod special;
pub(crate) mod types;
mod warp;

use self::builder::{Builder, Home, refusal};
pub(crate) use self::builder::{Constant, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, WINDOW_BYTES};
use self::form::Form;
use self::op::{ApproxOp, BitsOp, CarryOp, Control, FloatOp, Inst, IntOp, RegList};
use self::types::Type;
use crate::ast::{self, Place, Space, Statement};

/// Why a module can't be run: the instruction as written, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {opcode}: {reason}")]
pub struct DecodeError {
    pub line: u32,
    /// The full opcode, or the name of what could not be resolved.
    pub opcode: String,
    pub reason: String,
}

/// One kernel parameter's place in the parameter space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamInfo {
    pub offset: u32,
    pub size: u32,
}

/// What a launch of a kernel needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelInfo {
    pub name: String,
    pub params: Vec<ParamInfo>,
    /// Size of the parameter space.
    pub param_bytes: u32,
    /// Statically declared shared memory.
    pub static_shared: u32,
    /// Local memory of each thread.
    pub local_bytes: u32,
    /// `.maxntid`: no block of a launch may have more threads in total.
    pub max_ntid: Option<[u32; 3]>,
    /// `.reqntid`: the only allowed block shape.
    pub req_ntid: Option<[u32; 3]>,
}

/// A kernel ready to run.
pub(crate) struct Kernel {
    pub info: KernelInfo,
    pub code: Vec<Inst>,
    pub places: Vec<Place>,
    pub lists: Vec<RegList>,
    pub tables: Vec<Vec<u32>>,
    /// Slots of each class, constants included.
    pub slots: [u32; 3],
    /// (slot index, value) of the word and the wide constants.
    pub constants: [Vec<(u32, Constant)>; 2],
    /// Where dynamic shared memory starts.
    pub dynamic_shared_at: u32,
}

impl Kernel {
    /// A kernel without code or registers.
    #[cfg(test)]
    pub fn empty() -> Kernel {
        Kernel {
            info: KernelInfo::default(),
            code: Vec::new(),
            places: Vec::new(),
            lists: Vec::new(),
            tables: Vec::new(),
            slots: [0; 3],
            constants: [Vec::new(), Vec::new()],
            dynamic_shared_at: 0,
        }
    }
}

/// A module-scope variable that lives in device memory.
pub(crate) struct Global {
    pub name: String,
    pub size: u64,
    pub align: u64,
    pub init: Vec<u8>,
}

/// A decoded module.
pub struct Program {
    pub(crate) kernels: Vec<Kernel>,
    /// Indexed as the module's variables; `None` for shared ones.
    pub(crate) globals: Vec<Option<Global>>,
    pub(crate) files: Vec<(u32, String)>,
}

impl Program {
    /// Gives meaning to a parsed module.
    ///
    /// # Errors
    /// [`DecodeError`] at the first instruction, modifier or type that the emulator doesn't know.
    pub fn decode(module: &ast::Module) -> Result<Program, DecodeError> {
        let mut globals = Vec::with_capacity(module.variables.len());
        for variable in &module.variables {
            globals.push(match variable.space {
                Space::Shared => None,
                Space::Global | Space::Const if !variable.is_extern => Some(Global {
                    name: variable.name.clone(),
                    size: variable.size,
                    align: u64::from(variable.align),
                    init: variable.init.clone(),
                }),
                _ => {
                    let reason = "external or misplaced variables are not supported".to_owned();
                    return Err(refusal(variable.place, &variable.name, reason));
                }
            });
        }
        let mut kernels = Vec::new();
        for function in module.functions.iter().filter(|f| f.is_entry) {
            kernels.push(kernel(module, function)?);
        }
        Ok(Program {
            kernels,
            globals,
            files: module.files.clone(),
        })
    }

    /// Every kernel.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.kernels.iter().map(|kernel| &kernel.info)
    }
}

fn kernel(module: &ast::Module, function: &ast::Function) -> Result<Kernel, DecodeError> {
    let mut builder = Builder::new(module);
    builder.open_frame(function)?;
    let mut params = Vec::with_capacity(function.params.len());
    let mut end = 0_u64;
    for param in &function.params {
        let offset = end.next_multiple_of(u64::from(param.align.max(1)));
        end = offset.saturating_add(param.size);
        if end > 32_764 {
            let reason = "the parameters exceed 32764 bytes".to_owned();
            return Err(refusal(param.place, &param.name, reason));
        }
        params.push(ParamInfo {
            offset: offset as u32,
            size: param.size as u32,
        });
        let home = Home::KernelParam(offset as u32);
        builder.frame().variables.insert(param.name.clone(), home);
    }
    body(&mut builder, function)?;
    control::close(&mut builder, function.place)?;
    let info = KernelInfo {
        name: function.name.clone(),
        params,
        param_bytes: end as u32,
        max_ntid: function.max_ntid,
        req_ntid: function.req_ntid,
        ..KernelInfo::default()
    };
    finish::finish(builder, info)
}

fn body<'m>(builder: &mut Builder<'m>, function: &'m ast::Function) -> Result<(), DecodeError> {
    for statement in &function.body {
        match statement {
            Statement::Label(name) => {
                let label = builder.label(name);
                builder.place_label(label);
            }
            Statement::Instruction(inst) => instruction(&mut Form::new(builder, inst))?,
        }
    }
    Ok(())
}

/// Decodes a callee in the place of the call. Its parameters are the caller's `.param` variables.
fn inline<'m>(
    builder: &mut Builder<'m>,
    function: &'m ast::Function,
    homes: Vec<(String, Home)>,
    after: u32,
    place: Place,
) -> Result<(), DecodeError> {
    control::check_depth(&builder.frames, function, place)?;
    builder.open_frame(function)?;
    let frame = builder.frame();
    frame.return_label = Some(after);
    frame.variables.extend(homes);
    body(builder, function)?;
    builder.frames.pop();
    builder.place_label(after);
    Ok(())
}

fn is_float(form: &Form<'_, '_>) -> bool {
    matches!(form.peek_ty(), Some(Type::Float(_)))
}

/// Gives one instruction its meaning.
fn instruction(form: &mut Form<'_, '_>) -> Result<(), DecodeError> {
    let opcode = form.inst.opcode.as_str();
    let carries = form.inst.modifiers.iter().any(|word| word == "cc");
    match opcode {
        "add" if carries => integer::carry(form, CarryOp::Add, false),
        "sub" if carries => integer::carry(form, CarryOp::Sub, false),
        "mad" if carries => integer::carry(form, CarryOp::MadLo, false),
        "addc" => integer::carry(form, CarryOp::Add, true),
        "subc" => integer::carry(form, CarryOp::Sub, true),
        "madc" => integer::carry(form, CarryOp::MadLo, true),
        "add" if is_float(form) => float::arithmetic(form, FloatOp::Add),
        "sub" if is_float(form) => float::arithmetic(form, FloatOp::Sub),
        "mul" if is_float(form) => float::arithmetic(form, FloatOp::Mul),
        "mad" if is_float(form) => float::arithmetic(form, FloatOp::Fma),
        "min" if is_float(form) => float::arithmetic(form, FloatOp::Min),
        "max" if is_float(form) => float::arithmetic(form, FloatOp::Max),
        "abs" if is_float(form) => float::arithmetic(form, FloatOp::Abs),
        "neg" if is_float(form) => float::arithmetic(form, FloatOp::Neg),
        "fma" => float::arithmetic(form, FloatOp::Fma),
        "div" if is_float(form) => float::division(form, FloatOp::Div, ApproxOp::Div),
        "rcp" => float::division(form, FloatOp::Rcp, ApproxOp::Rcp),
        "sqrt" => float::division(form, FloatOp::Sqrt, ApproxOp::Sqrt),
        "rsqrt" => float::approximate(form, ApproxOp::Rsqrt),
        "ex2" => float::approximate(form, ApproxOp::Ex2),
        "lg2" => float::approximate(form, ApproxOp::Lg2),
        "sin" => float::approximate(form, ApproxOp::Sin),
        "cos" => float::approximate(form, ApproxOp::Cos),
        "tanh" => float::approximate(form, ApproxOp::Tanh),
        "copysign" => float::copysign(form),
        "testp" => float::testp(form),
        "add" => integer::arithmetic(form, IntOp::Add),
        "sub" => integer::arithmetic(form, IntOp::Sub),
        "div" => integer::arithmetic(form, IntOp::Div),
        "rem" => integer::arithmetic(form, IntOp::Rem),
        "min" => integer::arithmetic(form, IntOp::Min),
        "max" => integer::arithmetic(form, IntOp::Max),
        "abs" => integer::arithmetic(form, IntOp::Abs),
        "neg" => integer::arithmetic(form, IntOp::Neg),
        "mul" => integer::multiply(form, false, false),
        "mad" => integer::multiply(form, true, false),
        "mul24" => integer::multiply(form, false, true),
        "mad24" => integer::multiply(form, true, true),
        "sad" => integer::sad(form),
        "dp4a" => integer::dot(form, false),
        "dp2a" => integer::dot(form, true),
        "and" => integer::logic(form, BitsOp::And),
        "or" => integer::logic(form, BitsOp::Or),
        "xor" => integer::logic(form, BitsOp::Xor),
        "not" => integer::logic(form, BitsOp::Not),
        "cnot" => integer::logic(form, BitsOp::Cnot),
        "lop3" => integer::lop3(form),
        "shl" => integer::shift(form, BitsOp::Shl),
        "shr" => integer::shift(form, BitsOp::Shr),
        "shf" => integer::funnel(form),
        "bfe" => integer::field(form, false),
        "bfi" => integer::field(form, true),
        "bfind" => integer::count(form, BitsOp::Bfind),
        "brev" => integer::count(form, BitsOp::Brev),
        "clz" => integer::count(form, BitsOp::Clz),
        "popc" => integer::count(form, BitsOp::Popc),
        "fns" => integer::fns(form),
        "bmsk" => integer::mask(form, false),
        "szext" => integer::mask(form, true),
        "prmt" => integer::prmt(form),
        "setp" => compare::setp(form),
        "set" => compare::set(form),
        "selp" => compare::selp(form),
        "slct" => compare::slct(form),
        "cvt" => convert::cvt(form),
        "mov" => convert::mov(form),
        "cvta" => convert::cvta(form),
        "ld" | "ldu" => memory::load(form),
        "st" => memory::store(form),
        "atom" => memory::atomic(form, true),
        "red" => memory::atomic(form, false),
        "cp" => memory::copy_async(form),
        "isspacep" => memory::is_space(form),
        "createpolicy" => memory::create_policy(form),
        "prefetch" => memory::nothing(form, &["global", "local", "const", "param"]),
        "prefetchu" | "discard" | "applypriority" => memory::nothing(form, &["global"]),
        "membar" => memory::fence(form, &["cta", "gl", "sys"]),
        "fence" => memory::fence(
            form,
            &["acq_rel", "sc", "acquire", "release", "cta", "gpu", "sys", "cluster"],
        ),
        "griddepcontrol" => memory::nothing(form, &["wait", "launch_dependents"]),
        "pmevent" => memory::nothing(form, &["mask"]),
        "bar" | "barrier" => warp::barrier(form),
        "shfl" => warp::shuffle(form),
        "vote" => warp::vote(form),
        "match" => warp::matching(form),
        "redux" => warp::redux(form),
        "activemask" => warp::active_mask(form),
        "elect" => warp::elect(form),
        "ldmatrix" => warp::load_matrix(form),
        "stmatrix" => warp::store_matrix(form),
        "movmatrix" => warp::move_matrix(form),
        "mma" => warp::mma(form),
        "nanosleep" => warp::nanosleep(form),
        "bra" => control::bra(form),
        "brx" => control::brx(form),
        "call" => control::call(form),
        "ret" => control::ret(form),
        "exit" => control::end(form, Control::Exit),
        "trap" | "brkpt" => control::end(form, Control::Trap),
        _ => Err(form.error("this instruction is not supported")),
    }
}
