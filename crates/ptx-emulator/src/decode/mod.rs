//! From parsed text to what the interpreter runs: opcodes with meaning, registers as slots, control
//! flow with join points.
//!
#![doc = include_str!("../../docs/instructions.md")]

mod async_copy;
mod atomic;
mod builder;
pub(crate) mod bulk;
mod catalogue;
mod cluster;
mod compare;
mod control;
mod convert;
mod finish;
mod flight;
mod float;
mod flow;
mod form;
mod hint;
mod indirect;
mod integer;
mod mbarrier;
mod memory;
pub(crate) mod op;
mod opcodes;
mod polls;
mod runtime;
mod slots;
mod special;
mod stack;
pub(crate) mod types;
mod warp;
mod wgmma;
mod wmma;

use std::collections::HashMap;

use self::builder::{Budget, Builder, Home, refusal};
pub(crate) use self::builder::{
    CLUSTER_WINDOW, Constant, LOCAL_WINDOW, PARAM_WINDOW, RESERVED_SHARED, SHARED_WINDOW,
    WINDOW_BYTES,
};
pub use self::catalogue::catalogue;
use self::form::Form;
use self::op::{Inst, Reg, RegList, SyncUse};
pub(crate) use self::slots::uses_list;
use crate::ast::{self, Place, Space, Statement};

/// Why a module can't be run: the instruction as written, and what is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("PTX line {line}: {opcode}: {reason}")]
pub struct DecodeError {
    /// Line of the PTX, from 1.
    pub line: u32,
    /// The full opcode, or the name of what could not be resolved.
    pub opcode: String,
    /// What it is that is not understood.
    pub reason: String,
}

/// One kernel parameter's place in the parameter space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamInfo {
    /// Bytes from the start of the parameters.
    pub offset: u32,
    /// Bytes.
    pub size: u32,
}

/// What a launch of a kernel needs to know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct KernelInfo {
    /// The symbol.
    pub name: String,
    /// Its parameters, in their order.
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
    /// 32-bit registers of each thread, by ptxas' figures; `None` where nothing tells.
    pub registers: Option<u32>,
    /// `.reqnctapercluster`: the only allowed cluster shape.
    pub req_cluster: Option<[u32; 3]>,
    /// `.explicitcluster`: every launch must say the size of its clusters.
    pub explicit_cluster: bool,
    /// `.maxclusterrank`: blocks that a cluster may have.
    pub max_cluster_rank: Option<u32>,
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
    /// Registers that may be read before they are written.
    pub unset: Vec<Reg>,
    /// (slot index, value) of the word and the wide constants.
    pub constants: [Vec<(u32, Constant)>; 2],
    /// Where a thread's own stack starts in its local memory.
    pub stack_at: u32,
    /// Where dynamic shared memory starts.
    pub dynamic_shared_at: u32,
    /// Whether it has instructions by which it could wait for another launch, or let one start.
    pub may_wait: bool,
    /// What orders its threads' accesses.
    pub sync: SyncUse,
    /// Shared memory that the system reserves, where the kernel asks for it, else 0.
    pub reserved_shared: u32,
    /// It has `wgmma`.
    pub has_wgmma: bool,
    /// One of its `wgmma` may be reached without the `wgmma.fence` that it needs.
    pub may_lack_fence: bool,
}

impl Kernel {
    /// Whether the code reads the special registers that tell where a grid's workspace is.
    pub fn asks_for_workspace(&self) -> bool {
        let [words, _] = &self.constants;
        let asks = |constant| matches!(constant, Constant::Environment(1 | 2));
        words.iter().any(|&(_, constant)| asks(constant))
    }

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
            unset: Vec::new(),
            constants: [Vec::new(), Vec::new()],
            stack_at: 0,
            dynamic_shared_at: 0,
            may_wait: false,
            sync: SyncUse::default(),
            reserved_shared: 0,
            has_wgmma: false,
            may_lack_fence: false,
        }
    }
}

/// A module-scope variable that lives in device memory.
pub(crate) struct Global {
    pub name: String,
    pub size: u64,
    pub align: u64,
    pub init: Vec<u8>,
    /// Offsets of addresses among the initial bytes, and what they are.
    pub links: Vec<(u64, Constant)>,
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
    /// [`DecodeError`] at the first instruction, modifier or type that the emulator doesn't know,
    /// or where the module's kernels take more than 256 MiB decoded.
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
                    links: links(module, variable)?,
                }),
                _ => {
                    let reason = "external or misplaced variables are not supported".to_owned();
                    return Err(refusal(variable.place, &variable.name, reason));
                }
            });
        }
        let mut kernels = Vec::new();
        let mut budget = Budget::new();
        for function in module.functions.iter().filter(|f| f.is_entry) {
            let decoded;
            (decoded, budget) = kernel(module, function, budget)?;
            kernels.push(decoded);
        }
        Ok(Program {
            kernels,
            globals,
            files: module.files.clone(),
        })
    }

    /// Tells the kernels how many registers a thread of each takes, by the kernel's name.
    pub fn set_registers(&mut self, registers: &HashMap<String, u32>) {
        for kernel in &mut self.kernels {
            kernel.info.registers = registers.get(&kernel.info.name).copied();
        }
    }

    /// Every kernel.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.kernels.iter().map(|kernel| &kernel.info)
    }
}

/// The addresses among a variable's initial values.
fn links(
    module: &ast::Module,
    variable: &ast::Variable,
) -> Result<Vec<(u64, Constant)>, DecodeError> {
    let found = |link: &ast::Link| {
        let variables = &module.variables;
        let index = variables.iter().position(|v| v.name == link.symbol);
        let constant = match index.map(|index| (index, variables[index].space)) {
            Some((index, Space::Global | Space::Const)) => {
                Some(Constant::Variable(index, link.addend))
            }
            Some(_) => None,
            None => indirect::address(module, &link.symbol).map(Constant::Bits),
        };
        let reason = || {
            let name = &link.symbol;
            refusal(
                variable.place,
                &variable.name,
                format!("{name} is no variable in device memory and no function of this module"),
            )
        };
        Ok((link.offset, constant.ok_or_else(reason)?))
    };
    variable.links.iter().map(found).collect()
}

/// Decodes a kernel. Returns what it leaves of the module's budget.
fn kernel(
    module: &ast::Module,
    function: &ast::Function,
    budget: Budget,
) -> Result<(Kernel, Budget), DecodeError> {
    let mut builder = Builder::new(module, budget);
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
    stack::begin(&mut builder, function.place)?;
    body(&mut builder, function)?;
    control::close(&mut builder, function.place)?;
    let info = KernelInfo {
        name: function.name.clone(),
        params,
        param_bytes: end as u32,
        max_ntid: function.max_ntid,
        req_ntid: function.req_ntid,
        req_cluster: function.req_cluster,
        explicit_cluster: function.explicit_cluster,
        max_cluster_rank: function.max_cluster_rank,
        ..KernelInfo::default()
    };
    let budget = std::mem::replace(&mut builder.budget, Budget::new());
    Ok((finish::finish(builder, info)?, budget))
}

fn body<'m>(builder: &mut Builder<'m>, function: &'m ast::Function) -> Result<(), DecodeError> {
    for statement in &function.body {
        builder.take_statement(statement, function)?;
        match statement {
            Statement::Label(name) => {
                let label = builder.label(name);
                builder.place_label(label);
            }
            Statement::Instruction(inst) => opcodes::instruction(&mut Form::new(builder, inst))?,
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
    let before = stack::enter(builder, function, place)?;
    body(builder, function)?;
    builder.frames.pop();
    builder.place_label(after);
    stack::leave(builder, before, place)
}
