//! From parsed text to what the interpreter runs: opcodes with meaning, registers as slots, control flow with join points.

use crate::ast;

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

/// A decoded module.
pub struct Program {
    kernels: Vec<KernelInfo>,
}

impl Program {
    /// Gives meaning to a parsed module.
    ///
    /// # Errors
    /// [`DecodeError`] at the first instruction, modifier or type that the emulator doesn't know.
    pub fn decode(module: &ast::Module) -> Result<Program, DecodeError> {
        let entry = module.functions.iter().find(|f| f.is_entry);
        match entry {
            None => Ok(Program {
                kernels: Vec::new(),
            }),
            Some(f) => Err(DecodeError {
                line: f.place.ptx_line,
                opcode: f.name.clone(),
                reason: "the decoder is not connected yet".to_owned(),
            }),
        }
    }

    /// Every kernel.
    pub fn kernels(&self) -> impl Iterator<Item = &KernelInfo> {
        self.kernels.iter()
    }
}
