//! What the parser makes of a PTX module: the text's own structure, names resolved to nothing yet.
//!
//! Opcodes and their modifiers stay strings here; [`crate::decode`] gives them meaning and refuses
//! what it does not know.

/// A source position: the line of the PTX text, and the CUDA source line that the last `.loc`
/// named.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// Line in the PTX text, from 1.
    pub ptx_line: u32,
    /// Index into [`Module::files`] (the number that `.file` gave), 0 if no `.loc` came before.
    pub file: u32,
    /// Line in that file, 0 if unknown.
    pub line: u32,
}

/// A PTX module (PTX ISA section 5).
#[derive(Debug, Clone, Default)]
pub struct Module {
    /// `.version` as (major, minor).
    pub version: (u32, u32),
    /// `.target`, the first word: `sm_80`, `sm_90a`.
    pub target: String,
    /// `.file` table: (index, path).
    pub files: Vec<(u32, String)>,
    /// Module-scope `.global`, `.const` and `.shared` variables, `.extern .shared` included.
    pub variables: Vec<Variable>,
    /// `.entry` and `.func` with a body.
    pub functions: Vec<Function>,
}

/// A state space (PTX ISA section 5.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Space {
    /// Registers.
    Reg,
    /// Parameters of a kernel or function.
    Param,
    /// Memory of a block.
    Shared,
    /// Memory of the device.
    Global,
    /// Constant memory.
    Const,
    /// Memory of a thread.
    Local,
}

/// A variable with storage: `.shared .align 16 .b8 tile[4096];`, a `.param`, a `.local` depot.
#[derive(Debug, Clone)]
pub struct Variable {
    /// Its name, without brackets.
    pub name: String,
    /// Where it lies.
    pub space: Space,
    /// Alignment in bytes.
    pub align: u32,
    /// Fundamental type: `b8`, `u32`, `f32` (without the dot).
    pub ty: String,
    /// Size in bytes; 0 for an unsized `.extern .shared` array.
    pub size: u64,
    /// `.extern`: defined at launch (dynamic shared memory).
    pub is_extern: bool,
    /// Initial bytes, zero-padded by the reader to `size`.
    pub init: Vec<u8>,
    /// Addresses among the initial bytes, which are zero there.
    pub links: Vec<Link>,
    /// Where it is declared.
    pub place: Place,
}

/// The address of a variable or a function as an initial value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// Bytes from the start of the variable that holds it.
    pub offset: u64,
    /// The name.
    pub symbol: String,
    /// Bytes to add to the address.
    pub addend: i64,
}

/// `.entry` or `.func`.
#[derive(Debug, Clone)]
pub struct Function {
    /// The symbol.
    pub name: String,
    /// Whether it is a kernel.
    pub is_entry: bool,
    /// Return parameters of a `.func`, `space` = `Param`.
    pub returns: Vec<Variable>,
    /// Parameters in order, `space` = `Param`.
    pub params: Vec<Variable>,
    /// `.maxntid`, missing dimensions 1.
    pub max_ntid: Option<[u32; 3]>,
    /// `.reqntid`.
    pub req_ntid: Option<[u32; 3]>,
    /// `.reqnctapercluster`.
    pub req_cluster: Option<[u32; 3]>,
    /// `.explicitcluster`.
    pub explicit_cluster: bool,
    /// `.maxclusterrank`.
    pub max_cluster_rank: Option<u32>,
    /// Registers that the body uses, all scopes: names made unique (`%r1`, inner-scope ones with a
    /// suffix), with their type (`b32`, `pred`).
    pub registers: Vec<(String, String)>,
    /// `.shared`, `.local` and (for calls) `.param` variables declared in the body, names made
    /// unique.
    pub variables: Vec<Variable>,
    /// Labels and instructions, in their order.
    pub body: Vec<Statement>,
    /// Where it begins.
    pub place: Place,
}

/// One line of a body. Scoped labels and registers already carry their unique names.
#[derive(Debug, Clone)]
pub enum Statement {
    /// A place to branch to.
    Label(String),
    /// An instruction.
    Instruction(Instruction),
}

/// `@!%p1 ld.global.v4.f32 {%f1,%f2,%f3,%f4}, [%rd1+16];`
#[derive(Debug, Clone)]
pub struct Instruction {
    /// Guard predicate: register name, and whether negated.
    pub guard: Option<(String, bool)>,
    /// First word of the opcode: `ld`.
    pub opcode: String,
    /// What follows, without dots: `["global", "v4", "f32"]`; `shared::cta` stays one word.
    pub modifiers: Vec<String>,
    /// As written, with three exceptions. `call` has always
    /// `[Vector(results), callee, Vector(arguments)]`, then the prototype's symbol if there is one.
    /// `brx.idx` has the labels as a `Vector` of symbols in place of its table. A tensor map with
    /// coordinates, `[map, {x, y}]`, is a `Vector` of an `Address` and a `Vector`.
    pub operands: Vec<Operand>,
    /// Where it stands.
    pub place: Place,
}

/// An operand.
#[derive(Debug, Clone, PartialEq)]
pub enum Operand {
    /// A register, special registers included (`%tid.x`, `%laneid`).
    Register(String),
    /// `!%p1` as a source operand.
    NegatedPredicate(String),
    /// An integer immediate, two's complement.
    Integer(u64),
    /// A float immediate `0fXXXXXXXX` (as f32 bits).
    F32(u32),
    /// A float immediate `0dXXXXXXXXXXXXXXXX` or a decimal one (as f64 bits).
    F64(u64),
    /// A label, variable or function name, with a byte offset (`tile+16`).
    Symbol(String, i64),
    /// `[base+offset]`; the base is a register or a symbol, or nothing for an absolute address.
    Address(Option<Box<Operand>>, i64),
    /// `{%r1, %r2, 0f00000000}`
    Vector(Vec<Operand>),
    /// `%p1|%p2` (two destinations of setp, or shfl's optional predicate).
    Pair(Box<Operand>, Box<Operand>),
    /// `_`
    Sink,
}
