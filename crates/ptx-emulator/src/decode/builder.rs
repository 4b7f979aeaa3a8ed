//! The code of one kernel while it is being decoded: registers, constants, labels, variables.

use std::collections::HashMap;

use super::DecodeError;
use super::op::{Class, Inst, NO_LIST, Op, Reg, RegList};
use crate::ast::{self, Place, Space, Variable};

/// Generic addresses of the windows (PTX ISA section 6.4.1.1): all below
/// [`crate::memory::FIRST_ADDRESS`].
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000;
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000;
pub(crate) const PARAM_WINDOW: u64 = 0x0300_0000;
pub(crate) const WINDOW_BYTES: u64 = 0x0100_0000;
/// Where the shared memory of the blocks of a cluster lies, by rank, [`WINDOW_BYTES`] apart:
/// addresses of `.shared::cluster`. A block's own `.shared::cta` addresses are below. Generic
/// addresses lie [`SHARED_WINDOW`] higher, as those of the own block.
pub(crate) const CLUSTER_WINDOW: u64 = 0x1000_0000;

/// Marks the index of a constant until [`super::finish`] gives it a slot behind the registers.
pub(super) const CONSTANT: u32 = 1 << 29;
/// More registers than this in one kernel is refused.
const MOST_REGISTERS: usize = 1 << 22;
/// More instructions than this in one kernel, callees included, are refused.
const MOST_INSTRUCTIONS: usize = 1 << 21;
const MOST_LOCAL_BYTES: u64 = 512 << 10;
/// Bytes that all kernels of a module may take decoded: those of about four million instructions.
const MOST_MODULE_BYTES: usize = 256 << 20;
/// Bytes of a call's frame, of a register, variable, label or constant, and of a statement, which
/// may give no instruction, while they are decoded.
const CALL_BYTES: usize = 256;
const NAME_BYTES: usize = 64;
const STATEMENT_BYTES: usize = 8;
/// Of a label in a branch's table.
const LABEL_BYTES: usize = 24;

/// What is left of a module's decoded size. Calls are decoded in place, in every kernel and every
/// function that has them, so a small text can stand for a huge program: that is refused.
pub(super) struct Budget {
    left: usize,
}

impl Budget {
    pub fn new() -> Self {
        Self {
            left: MOST_MODULE_BYTES,
        }
    }

    /// Takes the bytes of `what`, which stands at `place`.
    pub fn take(&mut self, bytes: usize, place: Place, what: &str) -> Result<(), DecodeError> {
        match self.left.checked_sub(bytes) {
            Some(left) => {
                self.left = left;
                Ok(())
            }
            None => {
                let most = MOST_MODULE_BYTES >> 20;
                let reason = format!(
                    "the module's instructions, with calls expanded in all of its kernels, take \
                     more than {most} MiB: give it fewer kernels, calls or branch targets"
                );
                Err(refusal(place, what, reason))
            }
        }
    }
}

/// A value that is the same for all lanes and known before the launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Constant {
    Bits(u64),
    /// Address of a module-scope variable, plus an offset.
    Variable(usize, i64),
    /// Where dynamic shared memory starts, plus an offset.
    DynamicShared(i64),
    /// Where the shared memory that the system reserves starts, plus an offset.
    ReservedShared(u32),
    /// Where a thread's own stack starts in its local memory.
    StackStart,
    /// `%envreg`: what the driver tells a kernel about its launch.
    Environment(u8),
}

/// Shared memory that the system keeps in each block for itself (PTX ISA section 10.31).
pub(crate) const RESERVED_SHARED: u32 = 1024;

/// What a rule asks of an opcode; [`super::catalogue`] listens.
pub(super) enum Ask {
    /// Whether the word is among the modifiers.
    Word(&'static str),
    /// One of these words, all of them missing.
    Missing(Vec<&'static str>),
    /// A type, at the end: one of these, or any if there are none.
    Type(&'static [&'static str]),
}

/// What a symbol names.
#[derive(Clone, Copy, Debug)]
pub(super) enum Home {
    Shared(u32),
    DynamicShared,
    Local(u32),
    KernelParam(u32),
    /// Index into the module's variables; `.global` or `.const`.
    Module(usize),
}

/// The names of the function that is being decoded; a call opens a new frame.
#[derive(Default)]
pub(super) struct Frame {
    /// Name to slot and declared bits.
    pub registers: HashMap<String, (Reg, u32)>,
    pub variables: HashMap<String, Home>,
    /// Name to label number.
    pub labels: HashMap<String, u32>,
    /// Where `ret` goes: `None` in the kernel itself.
    pub return_label: Option<u32>,
    /// Parameters that return values, in order, for the caller.
    pub function: String,
}

pub(super) struct Builder<'m> {
    pub module: &'m ast::Module,
    /// The whole module's, which its kernels hand on.
    pub budget: Budget,
    /// The lists and constants that the budget has paid for.
    taken_lists: usize,
    taken_constants: usize,
    pub code: Vec<Inst>,
    pub places: Vec<Place>,
    pub lists: Vec<RegList>,
    pub tables: Vec<Vec<u32>>,
    pub frames: Vec<Frame>,
    /// Label number to instruction index.
    pub label_positions: Vec<Option<u32>>,
    pub register_counts: [u32; 3],
    pub constants: [Vec<Constant>; 2],
    constant_slots: HashMap<(Class, Constant), Reg>,
    module_shared: HashMap<usize, u32>,
    pub shared_bytes: u32,
    pub dynamic_align: u32,
    pub local_bytes: u32,
    /// Whether the code asks for the shared memory that the system reserves.
    pub uses_reserved_shared: bool,
    /// The end of the thread's stack in local memory, where the module has instructions for it.
    pub stack: Reg,
    /// The carry flag of `add.cc` and its kin.
    pub carry: Reg,
    junk: [Reg; 3],
    /// While the catalogue is made: who hears what the rules ask. The register [`ANY`] then fits
    /// everywhere.
    pub listener: Option<super::catalogue::Listener>,
}

/// The name of a register that fits every operand while the catalogue is made.
pub(super) const ANY: &str = "%any";

impl<'m> Builder<'m> {
    pub fn new(module: &'m ast::Module, budget: Budget) -> Self {
        Builder {
            module,
            budget,
            taken_lists: 0,
            taken_constants: 0,
            code: Vec::new(),
            places: Vec::new(),
            lists: Vec::new(),
            tables: Vec::new(),
            frames: Vec::new(),
            label_positions: Vec::new(),
            register_counts: [0; 3],
            constants: [Vec::new(), Vec::new()],
            constant_slots: HashMap::new(),
            module_shared: HashMap::new(),
            shared_bytes: 0,
            dynamic_align: 1,
            local_bytes: 0,
            uses_reserved_shared: false,
            stack: Reg::NONE,
            carry: Reg::NONE,
            junk: [Reg::NONE; 3],
            listener: None,
        }
    }

    pub fn asked(&mut self, ask: &Ask) {
        if let Some(listener) = &mut self.listener {
            listener.hear(ask);
        }
    }

    pub fn looked_at_operands(&self) {
        if let Some(listener) = &self.listener {
            listener.looked_at_operands.set(true);
        }
    }

    /// Whether an operand is the catalogue's placeholder.
    pub fn is_any(&self, name: &str) -> bool {
        self.listener.is_some() && name == ANY
    }

    pub fn frame(&mut self) -> &mut Frame {
        if self.frames.is_empty() {
            self.frames.push(Frame::default());
        }
        let last = self.frames.len() - 1;
        &mut self.frames[last]
    }

    /// A new slot.
    pub fn fresh(&mut self, class: Class) -> Reg {
        let count = &mut self.register_counts[class as usize];
        *count += 1;
        Reg::new(class, *count - 1)
    }

    /// Two new slots for the halves of 128 bits, one behind the other.
    pub fn fresh_pair(&mut self) -> [Reg; 2] {
        [self.fresh(Class::Wide), self.fresh(Class::Wide)]
    }

    /// A slot nobody reads: for `_` as a destination.
    pub fn junk(&mut self, class: Class) -> Reg {
        if !self.junk[class as usize].is_some() {
            self.junk[class as usize] = self.fresh(class);
        }
        self.junk[class as usize]
    }

    pub fn carry(&mut self) -> Reg {
        if !self.carry.is_some() {
            self.carry = self.fresh(Class::Pred);
        }
        self.carry
    }

    /// The slot that holds a constant. Predicates have none.
    pub fn constant(&mut self, class: Class, value: Constant) -> Reg {
        let value = match (class, value) {
            (Class::Word, Constant::Bits(bits)) => Constant::Bits(bits & 0xffff_ffff),
            _ => value,
        };
        if let Some(&reg) = self.constant_slots.get(&(class, value)) {
            return reg;
        }
        let file = &mut self.constants[usize::from(class == Class::Wide)];
        let reg = Reg::new(class, CONSTANT | file.len() as u32);
        file.push(value);
        self.constant_slots.insert((class, value), reg);
        reg
    }

    pub fn label(&mut self, name: &str) -> u32 {
        let next = self.label_positions.len() as u32;
        let label = *self.frame().labels.entry(name.to_owned()).or_insert(next);
        if label == next {
            self.label_positions.push(None);
        }
        label
    }

    /// A label without a name.
    pub fn new_label(&mut self) -> u32 {
        self.label_positions.push(None);
        self.label_positions.len() as u32 - 1
    }

    pub fn place_label(&mut self, label: u32) {
        let here = self.code.len() as u32;
        if let Some(position) = self.label_positions.get_mut(label as usize) {
            *position = Some(here);
        }
    }

    pub fn list(&mut self, defs: Vec<Reg>, uses: Vec<Reg>) -> u32 {
        self.lists.push(RegList { defs, uses });
        self.lists.len() as u32 - 1
    }

    /// Takes what a statement takes beside its instructions.
    pub fn take_statement(
        &mut self,
        statement: &ast::Statement,
        function: &ast::Function,
    ) -> Result<(), DecodeError> {
        let bytes = match statement {
            ast::Statement::Label(_) => NAME_BYTES,
            ast::Statement::Instruction(_) => STATEMENT_BYTES,
        };
        self.budget.take(bytes, function.place, &function.name)
    }

    /// Takes what the labels of a branch's table take, in the table and in the flow of control.
    pub fn take_table(&mut self, labels: usize, place: Place) -> Result<(), DecodeError> {
        let bytes = labels.saturating_mul(LABEL_BYTES);
        self.budget.take(bytes, place, "brx.idx")
    }

    /// Appends an operation.
    pub fn emit(&mut self, inst: Inst, place: Place) -> Result<(), DecodeError> {
        if self.code.len() == MOST_INSTRUCTIONS {
            let reason =
                format!("a kernel of more than {MOST_INSTRUCTIONS} instructions, calls expanded");
            return Err(refusal(place, "call", reason));
        }
        let lists = self.lists.get(self.taken_lists..).unwrap_or_default();
        let lists = lists.iter().map(|list| {
            size_of::<RegList>() + size_of::<Reg>() * (list.defs.len() + list.uses.len())
        });
        let constants = self.constant_slots.len() - self.taken_constants;
        let bytes =
            size_of::<Inst>() + size_of::<Place>() + lists.sum::<usize>() + constants * NAME_BYTES;
        self.budget.take(bytes, place, "an instruction")?;
        self.taken_lists = self.lists.len();
        self.taken_constants = self.constant_slots.len();
        self.code.push(inst);
        self.places.push(place);
        Ok(())
    }

    /// Declares a function's registers and variables in a new frame.
    pub fn open_frame(&mut self, function: &'m ast::Function) -> Result<(), DecodeError> {
        let names = function.registers.len() + function.variables.len() + function.params.len();
        let bytes = CALL_BYTES.saturating_add(names.saturating_mul(NAME_BYTES));
        self.budget.take(bytes, function.place, &function.name)?;
        let mut frame = Frame {
            function: function.name.clone(),
            ..Frame::default()
        };
        for (name, ty) in &function.registers {
            let declared = super::types::Type::parse(ty).map(super::types::Type::bits);
            if declared == Some(128) {
                let reg = self.fresh_pair()[0];
                frame.registers.insert(name.clone(), (reg, 128));
                continue;
            }
            let (class, bits) = match declared {
                Some(1) => (Class::Pred, 1),
                Some(bits @ (8 | 16 | 32)) => (Class::Word, bits),
                Some(64) => (Class::Wide, 64),
                _ => {
                    return Err(refusal(
                        function.place,
                        ".reg",
                        format!("register type .{ty} of {name} is not supported"),
                    ));
                }
            };
            if self.register_counts.iter().sum::<u32>() as usize >= MOST_REGISTERS {
                return Err(refusal(
                    function.place,
                    ".reg",
                    format!("more than {MOST_REGISTERS} registers"),
                ));
            }
            let reg = self.fresh(class);
            frame.registers.insert(name.clone(), (reg, bits));
        }
        self.frames.push(frame);
        for variable in &function.variables {
            let home = match variable.space {
                Space::Shared if variable.is_extern => {
                    self.dynamic_align = self.dynamic_align.max(variable.align);
                    Home::DynamicShared
                }
                Space::Shared => Home::Shared(self.place_shared(variable)?),
                Space::Local | Space::Param => Home::Local(self.place_local(variable)?),
                Space::Global | Space::Const | Space::Reg => {
                    return Err(refusal(
                        variable.place,
                        &variable.name,
                        "variables of this space are not allowed in a function".to_owned(),
                    ));
                }
            };
            self.frame().variables.insert(variable.name.clone(), home);
        }
        Ok(())
    }

    fn place_shared(&mut self, variable: &Variable) -> Result<u32, DecodeError> {
        place(&mut self.shared_bytes, variable, WINDOW_BYTES)
    }

    /// A place in the thread's local memory: `.local` variables, and the parameters of calls.
    pub fn place_local(&mut self, variable: &Variable) -> Result<u32, DecodeError> {
        place(&mut self.local_bytes, variable, MOST_LOCAL_BYTES)
    }

    /// What `name` means here.
    pub fn home(&mut self, name: &str) -> Result<Option<Home>, DecodeError> {
        if let Some(&home) = self.frame().variables.get(name) {
            return Ok(Some(home));
        }
        let module = self.module;
        let Some(index) = module.variables.iter().position(|v| v.name == name) else {
            return Ok(None);
        };
        let variable = &module.variables[index];
        Ok(Some(match variable.space {
            Space::Shared if variable.is_extern => {
                self.dynamic_align = self.dynamic_align.max(variable.align);
                Home::DynamicShared
            }
            Space::Shared => match self.module_shared.get(&index) {
                Some(&offset) => Home::Shared(offset),
                None => {
                    let offset = self.place_shared(variable)?;
                    self.module_shared.insert(index, offset);
                    Home::Shared(offset)
                }
            },
            _ => Home::Module(index),
        }))
    }
}

/// Appends a variable to a space that is `used` bytes long.
fn place(used: &mut u32, variable: &Variable, most: u64) -> Result<u32, DecodeError> {
    let align = u64::from(variable.align.max(1));
    let offset = u64::from(*used)
        .checked_next_multiple_of(align)
        .unwrap_or(u64::MAX);
    let end = offset.saturating_add(variable.size);
    if end > most {
        return Err(refusal(
            variable.place,
            &variable.name,
            format!("the variable ends at byte {end} of its space, which has {most}"),
        ));
    }
    *used = end as u32;
    Ok(offset as u32)
}

pub(super) fn refusal(place: Place, what: &str, reason: String) -> DecodeError {
    DecodeError {
        line: place.ptx_line,
        opcode: what.to_owned(),
        reason,
    }
}

/// An instruction with no operands.
pub(super) fn bare(op: Op) -> Inst {
    Inst {
        op,
        guard: Reg::NONE,
        guard_negated: false,
        d: [Reg::NONE; 2],
        s: [Reg::NONE; 4],
        imm: 0,
        list: NO_LIST,
    }
}
