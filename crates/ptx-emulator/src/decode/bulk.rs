//! Bulk asynchronous copies (PTX ISA section 9.7.9.25.4 to 9.7.9.27) and `tensormap`
//! (9.7.9.28, 9.7.13.16).

use super::DecodeError;
use super::atomic::REDUCTIONS;
use super::atomic::atomic_kind;
use super::builder::{Constant, bare};
use super::form::Form;
use super::op::{AtomicKind, AtomicOp, Bulk, Class, MapField, Op, Reduce, Reg, Window};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

/// Forms of later devices, and the im2col modes, which are not emulated.
const REFUSED: [(&str, &str); 9] = [
    ("im2col", "im2col mode is not supported: use tile mode"),
    (
        "im2col_no_offs",
        "im2col mode is not supported: use tile mode",
    ),
    ("im2col::w", "im2col mode is not supported: use tile mode"),
    (
        "im2col::w::128",
        "im2col mode is not supported: use tile mode",
    ),
    (
        "tile::gather4",
        "gather4 needs a device of compute capability 10.0 or later",
    ),
    (
        "tile::scatter4",
        "scatter4 needs a device of compute capability 10.0 or later",
    ),
    (
        "cp_mask",
        "byte masks need a device of compute capability 10.0 or later",
    ),
    (
        "cta_group::1",
        "pairs of blocks need a device of compute capability 10.0 or later",
    ),
    (
        "cta_group::2",
        "pairs of blocks need a device of compute capability 10.0 or later",
    ),
];

/// The operands of one instruction, from the first to the last.
struct Operands<'f, 'b, 'm> {
    form: &'f mut Form<'b, 'm>,
    next: usize,
    uses: Vec<Reg>,
}

impl<'f, 'b, 'm> Operands<'f, 'b, 'm> {
    fn new(form: &'f mut Form<'b, 'm>) -> Self {
        Operands {
            form,
            next: 0,
            uses: Vec::new(),
        }
    }

    fn push_address(&mut self, operand: &Operand, window: Window) -> Decoded {
        let address = self.form.address_of(operand, self.next)?;
        let own = self.form.window_of(&address);
        if own != Window::Generic && own != window {
            return Err(self.form.error("the variable is in another state space"));
        }
        let offset = Constant::Bits(u64::from(address.offset.cast_unsigned()));
        let offset = self.form.builder.constant(Class::Word, offset);
        self.uses.extend([address.base, offset]);
        Ok(())
    }

    /// An address of a state space that the instruction names.
    fn address(&mut self, window: Window) -> Decoded {
        let operand = self.form.operand(self.next)?;
        self.push_address(operand, window)?;
        self.next += 1;
        Ok(())
    }

    fn word(&mut self) -> Decoded {
        let reg = self.form.src(self.next, Type::Bits(32))?;
        self.uses.push(reg);
        self.next += 1;
        Ok(())
    }

    /// The mask of a cluster's blocks, which has 16 bits.
    fn mask(&mut self) -> Decoded {
        let reg = self.form.src(self.next, Type::Bits(16))?;
        let bits = self.form.declared_bits(self.next);
        if bits.is_some_and(|bits| bits != 16) {
            return Err(self
                .form
                .error("the mask of a cluster's blocks has 16 bits"));
        }
        self.uses.push(reg);
        self.next += 1;
        Ok(())
    }

    /// `[map, {coordinates}]`: the map, then `between`, then the coordinates.
    fn tile(&mut self, rank: u8, between: impl FnOnce(&mut Self, usize) -> Decoded) -> Decoded {
        let operand = self.form.operand(self.next)?;
        let Operand::Vector(parts) = operand else {
            return Err(self.form.error("a tensor map with coordinates is expected"));
        };
        let [map, Operand::Vector(coordinates)] = parts.as_slice() else {
            return Err(self.form.error("a tensor map with coordinates is expected"));
        };
        if coordinates.len() != usize::from(rank) {
            return Err(self.form.error(format!(
                "{} coordinates given, a tensor of {rank} dimensions has {rank}",
                coordinates.len()
            )));
        }
        let address = self.form.address_of(map, self.next)?;
        // The names of global variables and constants are generic addresses at the same time.
        let window = match self.form.window_of(&address) {
            Window::Global => Window::Global,
            _ => Window::Generic,
        };
        self.push_address(map, window)?;
        self.next += 1;
        between(self, self.next)?;
        for coordinate in coordinates {
            let reg = self.form.source(coordinate, Type::Int(Int::S32))?;
            self.uses.push(reg);
        }
        Ok(())
    }

    /// With a cache policy at the end where there is one.
    fn finish(self, op: Bulk, policy: bool) -> Decoded {
        let count = self.next + usize::from(policy);
        self.form.expect_operands(count..=count)?;
        if policy {
            self.form.src(self.next, Type::Bits(64))?;
        }
        let mut inst = bare(Op::Bulk(op));
        inst.list = self.form.builder.list(Vec::new(), self.uses);
        self.form.emit(inst)
    }
}

fn refuse(form: &mut Form<'_, '_>) -> Decoded {
    let words = &form.inst.modifiers;
    match REFUSED
        .iter()
        .find(|(word, _)| words.iter().any(|w| w == word))
    {
        Some((_, reason)) => Err(form.error(*reason)),
        None => Ok(()),
    }
}

/// What follows `bulk`.
#[derive(Clone, Copy, PartialEq)]
enum Sort {
    Commit,
    Wait,
    Prefetch,
    Tensor,
    /// Completes in a group.
    Grouped,
    /// Completes on an mbarrier.
    Counted,
}

const SORTS: [(&str, Sort); 6] = [
    ("tensor", Sort::Tensor),
    ("bulk_group", Sort::Grouped),
    ("mbarrier::complete_tx::bytes", Sort::Counted),
    ("commit_group", Sort::Commit),
    ("wait_group", Sort::Wait),
    ("prefetch", Sort::Prefetch),
];

/// `cp.async.bulk` and, with `reduces`, `cp.reduce.async.bulk`; these words have been taken.
pub(super) fn copy(form: &mut Form<'_, '_>, reduces: bool) -> Decoded {
    refuse(form)?;
    // `prefetch` and `tensor` stand beside other words of the list.
    let sorts = if reduces { &SORTS[..3] } else { &SORTS[..] };
    let sort = if !reduces && form.flag("prefetch") {
        Sort::Prefetch
    } else if form.flag("tensor") {
        Sort::Tensor
    } else {
        form.need(sorts)?
    };
    match sort {
        Sort::Commit => {
            form.expect_operands(0..=0)?;
            form.emit(bare(Op::Bulk(Bulk::Commit)))
        }
        Sort::Wait => wait(form),
        Sort::Prefetch => prefetch(form),
        Sort::Tensor => tile(form, reduces),
        Sort::Grouped | Sort::Counted => flat(form, reduces, sort),
    }
}

fn wait(form: &mut Form<'_, '_>) -> Decoded {
    let read = form.flag("read");
    form.expect_operands(1..=1)?;
    let Operand::Integer(count) = *form.operand(0)? else {
        return Err(form.error("the number of groups must be an immediate"));
    };
    let mut inst = bare(Op::Bulk(Bulk::Wait { read }));
    inst.imm = i32::try_from(count).map_err(|_| form.error("too many groups"))?;
    form.emit(inst)
}

fn rank(form: &mut Form<'_, '_>) -> Result<u8, DecodeError> {
    form.need(&[("1d", 1), ("2d", 2), ("3d", 3), ("4d", 4), ("5d", 5)])
}

fn prefetch(form: &mut Form<'_, '_>) -> Decoded {
    let rank = match form.flag("tensor") {
        true => Some(rank(form)?),
        false => None,
    };
    form.need(&[("L2", ())])?;
    form.need(&[("global", ())])?;
    let policy = form.flag("L2::cache_hint");
    if rank.is_some() {
        form.flag("tile");
    }
    let mut operands = Operands::new(form);
    match rank {
        Some(rank) => {
            operands.tile(rank, |_, _| Ok(()))?;
            operands.finish(Bulk::PrefetchTile { rank }, policy)
        }
        None => {
            operands.address(Window::Global)?;
            operands.word()?;
            operands.finish(Bulk::Prefetch, policy)
        }
    }
}

/// From where to where.
#[derive(Clone, Copy, PartialEq)]
enum Direction {
    Load,
    Store,
    Send,
}

/// Takes the spaces of a copy that completes in this way.
fn direction(form: &mut Form<'_, '_>, sort: Sort, reduces: bool) -> Result<Direction, DecodeError> {
    if sort == Sort::Grouped {
        form.need(&[("global", ())])?;
        form.need(&[("shared::cta", ())])?;
        return Ok(Direction::Store);
    }
    if reduces {
        form.need(&[("shared::cluster", ())])?;
        form.need(&[("shared::cta", ())])?;
        return Ok(Direction::Send);
    }
    if form.need(&[("shared::cluster", true), ("shared::cta", false)])? {
        return form.need(&[
            ("global", Direction::Load),
            ("shared::cta", Direction::Send),
        ]);
    }
    // The destination was named first, or both orders were meant.
    form.need(&[
        ("global", Direction::Load),
        ("shared::cluster", Direction::Send),
    ])
}

fn flat(form: &mut Form<'_, '_>, reduces: bool, sort: Sort) -> Decoded {
    let to_cluster = form.has("shared::cluster");
    let direction = direction(form, sort, reduces)?;
    let reduce = match reduces {
        true => Some(reduction(form, direction == Direction::Store)?),
        false => None,
    };
    let multicast = direction == Direction::Load && to_cluster && form.flag("multicast::cluster");
    let policy = direction != Direction::Send && form.flag("L2::cache_hint");
    let mut operands = Operands::new(form);
    let (to, from, op) = match direction {
        Direction::Load => (Window::Shared, Window::Global, Bulk::Load { multicast }),
        Direction::Store => (Window::Global, Window::Shared, Bulk::Store { reduce }),
        Direction::Send => (Window::Shared, Window::Shared, Bulk::Send { reduce }),
    };
    operands.address(to)?;
    operands.address(from)?;
    operands.word()?;
    if direction != Direction::Store {
        operands.address(Window::Shared)?;
    }
    if multicast {
        operands.mask()?;
    }
    operands.finish(op, policy)
}

/// The operation of a reduction, and its type, which comes last.
fn reduction(form: &mut Form<'_, '_>, global: bool) -> Result<Reduce, DecodeError> {
    let op = form.need(&REDUCTIONS)?;
    let ty = form.ty_among(&[
        "b32", "b64", "u32", "s32", "u64", "s64", "f16", "bf16", "f32", "f64",
    ])?;
    let is_half = matches!(ty, Type::Float(Float::F16 | Float::Bf16));
    if is_half && op == AtomicOp::Add {
        form.need(&[("noftz", ())])?;
    }
    let kind = atomic_kind(ty)
        .filter(|&kind| exists(op, kind) && (global || in_shared(op, kind)))
        .filter(|_| is_bitwise(op) == matches!(ty, Type::Bits(_)));
    match kind {
        Some(kind) => Ok(Reduce { op, kind }),
        None => Err(form.refuse_type()),
    }
}

fn is_bitwise(op: AtomicOp) -> bool {
    matches!(op, AtomicOp::And | AtomicOp::Or | AtomicOp::Xor)
}

/// Which elements an operation reduces in global memory. Bitwise ones take them as unsigned.
pub(crate) fn exists(op: AtomicOp, kind: AtomicKind) -> bool {
    use AtomicKind::{Bf16, F16, F32, F64, S32, S64, U32, U64};
    match op {
        AtomicOp::Add => matches!(kind, U32 | S32 | U64 | F32 | F64 | F16 | Bf16),
        AtomicOp::Min | AtomicOp::Max => matches!(kind, U32 | S32 | U64 | S64 | F16 | Bf16),
        AtomicOp::Increment | AtomicOp::Decrement => kind == U32,
        AtomicOp::And | AtomicOp::Or | AtomicOp::Xor => matches!(kind, U32 | U64),
        AtomicOp::Exchange | AtomicOp::CompareSwap => false,
    }
}

/// Of these, the ones that there are in shared memory.
fn in_shared(op: AtomicOp, kind: AtomicKind) -> bool {
    match op {
        AtomicOp::Add => {
            matches!(kind, AtomicKind::U32 | AtomicKind::S32 | AtomicKind::U64)
        }
        _ => matches!(kind, AtomicKind::U32 | AtomicKind::S32),
    }
}

fn tile(form: &mut Form<'_, '_>, reduces: bool) -> Decoded {
    let rank = rank(form)?;
    let completions = if reduces { &SORTS[1..2] } else { &SORTS[1..3] };
    let sort = form.need(completions)?;
    let to_cluster = form.has("shared::cluster");
    let direction = direction(form, sort, false)?;
    let reduce = match reduces {
        true => Some(form.need(&REDUCTIONS)?),
        false => None,
    };
    form.flag("tile");
    let multicast = direction == Direction::Load && to_cluster && form.flag("multicast::cluster");
    let policy = form.flag("L2::cache_hint");
    let mut operands = Operands::new(form);
    match direction {
        Direction::Load => {
            operands.address(Window::Shared)?;
            operands.tile(rank, |_, _| Ok(()))?;
            operands.address(Window::Shared)?;
            if multicast {
                operands.mask()?;
            }
            operands.finish(Bulk::LoadTile { rank, multicast }, policy)
        }
        Direction::Store => {
            operands.tile(rank, |operands, _| operands.address(Window::Shared))?;
            operands.finish(Bulk::StoreTile { rank, reduce }, policy)
        }
        Direction::Send => Err(operands
            .form
            .error("a tensor is in global memory: .global is the source or the destination")),
    }
}

/// `tensormap.replace` and `tensormap.cp_fenceproxy`.
pub(super) fn tensor_map(form: &mut Form<'_, '_>) -> Decoded {
    if form.flag("cp_fenceproxy") {
        return publish(form);
    }
    form.need(&[("replace", ())])?;
    form.need(&[("tile", ())])?;
    let field = form.need(&[
        ("global_address", MapField::Address),
        ("rank", MapField::Rank),
        ("box_dim", MapField::BoxDim(0)),
        ("global_dim", MapField::Dim(0)),
        ("global_stride", MapField::Stride(0)),
        ("element_stride", MapField::ElementStride(0)),
        ("elemtype", MapField::ElementType),
        ("interleave_layout", MapField::Interleave),
        ("swizzle_mode", MapField::Swizzle),
        ("fill_mode", MapField::Fill),
    ])?;
    let wide = matches!(field, MapField::Address | MapField::Stride(_));
    let word = if wide { "b64" } else { "b32" };
    if form.ty()? != Type::Bits(if wide { 64 } else { 32 }) {
        return Err(form.error(format!("the type of this field is .{word}")));
    }
    form.need(&[("b1024", ())])?;
    let window = form
        .one_of(&[("global", Window::Global), ("shared::cta", Window::Shared)])
        .unwrap_or(Window::Generic);
    let most = match field {
        MapField::BoxDim(_) | MapField::Dim(_) | MapField::ElementStride(_) => Some(4),
        MapField::Stride(_) => Some(3),
        _ => None,
    };
    let mut operands = Operands::new(form);
    let operand = operands.form.operand(0)?;
    let address = operands.form.address_of(operand, 0)?;
    let window =
        super::memory::resolve(operands.form, Some(window), &address).or_else(|error| {
            if window == Window::Generic {
                Ok(window)
            } else {
                Err(error)
            }
        })?;
    let offset = Constant::Bits(u64::from(address.offset.cast_unsigned()));
    let offset = operands.form.builder.constant(Class::Word, offset);
    operands.uses.extend([address.base, offset]);
    operands.next = 1;
    let field = match most {
        Some(most) => {
            let ordinal = match *operands.form.operand(1)? {
                Operand::Integer(ordinal) if ordinal <= most => ordinal as u8,
                _ => {
                    return Err(operands
                        .form
                        .error(format!("the dimension must be an immediate, 0 to {most}")));
                }
            };
            operands.next = 2;
            with_ordinal(field, ordinal)
        }
        None => field,
    };
    let enumerated = match field {
        MapField::ElementType => Some((12, "types 13 to 15 need compute capability 10.0")),
        MapField::Interleave => Some((2, "0 to 2")),
        MapField::Swizzle => Some((3, "mode 4 (96 bytes) needs compute capability 10.3")),
        MapField::Fill => Some((1, "0 or 1")),
        _ => None,
    };
    if let Some((most, reason)) = enumerated {
        match *operands.form.operand(operands.next)? {
            Operand::Integer(value) if value <= most => {}
            _ => {
                return Err(operands.form.error(format!(
                    "the value must be an immediate, 0 to {most}: {reason}"
                )));
            }
        }
    }
    let value = operands
        .form
        .src(operands.next, Type::Bits(if wide { 64 } else { 32 }))?;
    operands.uses.push(value);
    operands.next += 1;
    operands.finish(Bulk::Replace { window, field }, false)
}

fn with_ordinal(field: MapField, ordinal: u8) -> MapField {
    match field {
        MapField::BoxDim(_) => MapField::BoxDim(ordinal),
        MapField::Dim(_) => MapField::Dim(ordinal),
        MapField::Stride(_) => MapField::Stride(ordinal),
        MapField::ElementStride(_) => MapField::ElementStride(ordinal),
        other => other,
    }
}

fn publish(form: &mut Form<'_, '_>) -> Decoded {
    for word in [
        "global",
        "shared::cta",
        "tensormap::generic",
        "release",
        "sync",
        "aligned",
    ] {
        form.need(&[(word, ())])?;
    }
    form.need(&super::memory::SCOPES)?;
    let mut operands = Operands::new(form);
    operands.address(Window::Global)?;
    operands.address(Window::Shared)?;
    if *operands.form.operand(2)? != Operand::Integer(128) {
        return Err(operands
            .form
            .error("the size must be 128, that of a tensor map"));
    }
    operands.next = 3;
    operands.finish(Bulk::PublishMap, false)
}
