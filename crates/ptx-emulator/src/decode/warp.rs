//! Warp-level and block-level operations, and the matrix instructions (PTX ISA sections 9.7.9,
//! 9.7.13, 9.7.14).

use super::DecodeError;
use super::builder::bare;
use super::form::Form;
use super::op::{
    Barrier, BarrierReduce, Mma, MmaKind, Op, Redux, Reg, Shuffle, Vote, WarpOp, Window,
};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

const B32: Type = Type::Bits(32);

/// Destination with an optional predicate: `d|p`.
fn with_predicate(form: &mut Form<'_, '_>, ty: Type) -> Result<[Reg; 2], DecodeError> {
    Ok(match form.operand(0)? {
        Operand::Pair(d, p) => [form.destination(d, ty)?, form.destination(p, Type::Pred)?],
        d => [form.destination(d, ty)?, Reg::NONE],
    })
}

/// Instructions of a whole warp on matrices are `.sync.aligned`.
fn need_aligned(form: &mut Form<'_, '_>) -> Decoded {
    need_sync(form)?;
    form.need(&[("aligned", ())])
}

fn need_sync(form: &mut Form<'_, '_>) -> Decoded {
    if form.flag("sync") {
        return Ok(());
    }
    Err(form.error("only the .sync form is supported"))
}

pub(super) fn shuffle(form: &mut Form<'_, '_>) -> Decoded {
    need_sync(form)?;
    let ty = form.ty()?;
    if ty != B32 {
        return Err(form.refuse_type());
    }
    let mode = form.need(&[
        ("up", Shuffle::Up),
        ("down", Shuffle::Down),
        ("bfly", Shuffle::Butterfly),
        ("idx", Shuffle::Index),
    ])?;
    form.expect_operands(5..=5)?;
    let mut inst = bare(Op::Warp(WarpOp::Shuffle(mode)));
    inst.s = [
        form.src(1, B32)?,
        form.src(2, B32)?,
        form.src(3, B32)?,
        form.src(4, B32)?,
    ];
    inst.d = with_predicate(form, B32)?;
    form.emit(inst)
}

pub(super) fn vote(form: &mut Form<'_, '_>) -> Decoded {
    need_sync(form)?;
    let ty = form.ty()?;
    let mode = form.need(&[
        ("all", Vote::All),
        ("any", Vote::Any),
        ("uni", Vote::Uniform),
        ("ballot", Vote::Ballot),
    ])?;
    let result = if mode == Vote::Ballot {
        B32
    } else {
        Type::Pred
    };
    if ty != result {
        return Err(form.refuse_type());
    }
    form.expect_operands(3..=3)?;
    let (source, negated) = form.predicate(1)?;
    let mut inst = bare(Op::Warp(WarpOp::Vote(mode, negated)));
    inst.s[0] = source;
    inst.s[3] = form.src(2, B32)?;
    inst.d[0] = form.dst(0, result)?;
    form.emit(inst)
}

pub(super) fn matching(form: &mut Form<'_, '_>) -> Decoded {
    need_sync(form)?;
    let ty = form.ty()?;
    let all = form.need(&[("all", true), ("any", false)])?;
    if !matches!(ty, Type::Bits(32 | 64)) {
        return Err(form.refuse_type());
    }
    form.expect_operands(3..=3)?;
    let mut inst = bare(Op::Warp(if all {
        WarpOp::MatchAll
    } else {
        WarpOp::MatchAny
    }));
    inst.s[0] = form.src(1, ty)?;
    inst.s[3] = form.src(2, B32)?;
    inst.d = with_predicate(form, B32)?;
    form.emit(inst)
}

pub(super) fn redux(form: &mut Form<'_, '_>) -> Decoded {
    need_sync(form)?;
    let ty = form.ty()?;
    let op = form.need(&[
        ("add", Redux::Add),
        ("min", Redux::MinU),
        ("max", Redux::MaxU),
        ("and", Redux::And),
        ("or", Redux::Or),
        ("xor", Redux::Xor),
    ])?;
    let op = match (op, ty) {
        (Redux::Add, Type::Int(Int::U32 | Int::S32)) => op,
        (Redux::MinU | Redux::MaxU, Type::Int(Int::U32)) => op,
        (Redux::MinU, Type::Int(Int::S32)) => Redux::MinS,
        (Redux::MaxU, Type::Int(Int::S32)) => Redux::MaxS,
        (Redux::And | Redux::Or | Redux::Xor, Type::Bits(32)) => op,
        _ => return Err(form.refuse_type()),
    };
    form.expect_operands(3..=3)?;
    let mut inst = bare(Op::Warp(WarpOp::Redux(op)));
    inst.s[0] = form.src(1, B32)?;
    inst.s[3] = form.src(2, B32)?;
    inst.d[0] = form.dst(0, B32)?;
    form.emit(inst)
}

pub(super) fn active_mask(form: &mut Form<'_, '_>) -> Decoded {
    if form.ty()? != B32 {
        return Err(form.refuse_type());
    }
    let d = form.dst(0, B32)?;
    form.emit_simple(Op::Warp(WarpOp::ActiveMask), d, &[])
}

pub(super) fn elect(form: &mut Form<'_, '_>) -> Decoded {
    need_sync(form)?;
    form.expect_operands(2..=2)?;
    let mut inst = bare(Op::Warp(WarpOp::Elect));
    inst.s[3] = form.src(1, B32)?;
    inst.d = with_predicate(form, B32)?;
    form.emit(inst)
}

/// `bar` and `barrier`: per-warp synchronisation, and the sixteen barriers of a block.
pub(super) fn barrier(form: &mut Form<'_, '_>) -> Decoded {
    let is_bar = form.inst.opcode == "bar";
    if is_bar && form.flag("warp") {
        need_sync(form)?;
        form.expect_operands(1..=1)?;
        let mut inst = bare(Op::Warp(WarpOp::SyncWarp));
        inst.s[3] = form.src(0, B32)?;
        return form.emit(inst);
    }
    form.flag("cta");
    let aligned = i32::from(is_bar || form.flag("aligned"));
    #[derive(Clone, Copy, PartialEq)]
    enum Kind {
        Sync,
        Arrive,
        Red,
    }
    let kind = form.need(&[
        ("sync", Kind::Sync),
        ("arrive", Kind::Arrive),
        ("red", Kind::Red),
    ])?;
    if kind != Kind::Red {
        form.expect_operands(if kind == Kind::Sync { 1..=2 } else { 2..=2 })?;
        let op = if kind == Kind::Sync {
            Barrier::Sync
        } else {
            Barrier::Arrive
        };
        let mut inst = bare(Op::Barrier(op));
        inst.imm = aligned;
        inst.s[0] = form.src(0, B32)?;
        if form.operands() == 2 {
            inst.s[1] = form.src(1, B32)?;
        }
        return form.emit(inst);
    }
    let ty = form.ty()?;
    let reduce = form.need(&[
        ("popc", BarrierReduce::Popc),
        ("and", BarrierReduce::And),
        ("or", BarrierReduce::Or),
    ])?;
    let result = if reduce == BarrierReduce::Popc {
        Type::Int(Int::U32)
    } else {
        Type::Pred
    };
    if ty != result {
        return Err(form.refuse_type());
    }
    form.expect_operands(3..=4)?;
    let last = form.operands() - 1;
    let (predicate, negated) = form.predicate(last)?;
    let mut inst = bare(Op::Barrier(Barrier::Reduce(reduce, negated)));
    inst.imm = aligned;
    inst.s[0] = form.src(1, B32)?;
    if last == 3 {
        inst.s[1] = form.src(2, B32)?;
    }
    inst.s[2] = predicate;
    inst.d[0] = form.dst(0, result)?;
    form.emit(inst)
}

fn matrix_words(form: &mut Form<'_, '_>) -> Result<(u8, bool, Window), DecodeError> {
    need_aligned(form)?;
    let ty = form.ty()?;
    if !form.flag("m8n8") || ty != Type::Bits(16) {
        return Err(form.error("only .m8n8 of .b16 is supported"));
    }
    let count = form.need(&[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let transposed = form.flag("trans");
    let window = form
        .one_of(&[("shared", Window::Shared), ("shared::cta", Window::Shared)])
        .unwrap_or(Window::Generic);
    Ok((count, transposed, window))
}

pub(super) fn load_matrix(form: &mut Form<'_, '_>) -> Decoded {
    let (count, transposed, window) = matrix_words(form)?;
    form.expect_operands(2..=2)?;
    let defs = fragment(form, 0, B32, usize::from(count), true)?;
    let address = form.address(1)?;
    let mut inst = bare(Op::Warp(WarpOp::LoadMatrix {
        count,
        transposed,
        window,
    }));
    inst.s[0] = address.base;
    inst.imm = address.offset;
    inst.list = form.builder.list(defs, Vec::new());
    form.emit(inst)
}

pub(super) fn store_matrix(form: &mut Form<'_, '_>) -> Decoded {
    let (count, transposed, window) = matrix_words(form)?;
    form.expect_operands(2..=2)?;
    let uses = fragment(form, 1, B32, usize::from(count), false)?;
    let address = form.address(0)?;
    let mut inst = bare(Op::Warp(WarpOp::StoreMatrix {
        count,
        transposed,
        window,
    }));
    inst.s[0] = address.base;
    inst.imm = address.offset;
    inst.list = form.builder.list(Vec::new(), uses);
    form.emit(inst)
}

pub(super) fn move_matrix(form: &mut Form<'_, '_>) -> Decoded {
    need_aligned(form)?;
    let ty = form.ty()?;
    if !form.flag("m8n8") || !form.flag("trans") || ty != Type::Bits(16) {
        return Err(form.error("only .m8n8.trans of .b16 is supported"));
    }
    form.expect_operands(2..=2)?;
    let a = form.src(1, B32)?;
    let d = form.dst(0, B32)?;
    form.emit_simple(Op::Warp(WarpOp::MoveMatrix), d, &[a])
}

/// The registers of a matrix fragment.
fn fragment(
    form: &mut Form<'_, '_>,
    index: usize,
    ty: Type,
    count: usize,
    is_destination: bool,
) -> Result<Vec<Reg>, DecodeError> {
    let items = form.elements(index)?;
    if items.len() != count {
        return Err(form.error(format!(
            "operand {} has {} registers, {count} expected",
            index + 1,
            items.len()
        )));
    }
    let mut regs = Vec::with_capacity(count);
    for item in items {
        regs.push(if is_destination {
            form.destination(item, ty)?
        } else {
            form.source(item, ty)?
        });
    }
    Ok(regs)
}

/// `mma.sync.aligned.m16n8kK.row.col.D.A.B.C`.
pub(super) fn mma(form: &mut Form<'_, '_>) -> Decoded {
    need_aligned(form)?;
    let shapes = ["m16n8k4", "m16n8k8", "m16n8k16", "m16n8k32", "m8n8k4"];
    let shape = form.need(&shapes.map(|shape| (shape, shape)))?;
    if !form.flag("row") || !form.flag("col") {
        return Err(form.error("only .row.col is supported"));
    }
    if form.has("e4m3") || form.has("e5m2") {
        return mma_fp8(form, shape);
    }
    let saturate = form.flag("satfinite");
    let types = {
        const KNOWN: [&str; 8] = ["f16", "bf16", "tf32", "f32", "f64", "s8", "u8", "s32"];
        let mut next = || form.ty_among(&KNOWN);
        let (c, b, a, d) = (next()?, next()?, next()?, next()?);
        [d, a, b, c]
    };
    let float = |f| Type::Float(f);
    let int8 = |ty| match ty {
        Type::Int8(signed) => Some(signed),
        _ => None,
    };
    let f32s = float(Float::F32);
    let (kind, elements_per_register) = match types {
        [d, a, b, c] if a == float(Float::F16) && a == b && d == f32s && c == f32s => {
            (MmaKind::F16F32, 2)
        }
        [d, a, b, c] if [d, b, c] == [a; 3] && a == float(Float::F16) => (MmaKind::F16F16, 2),
        [d, a, b, c] if a == float(Float::Bf16) && a == b && d == f32s && c == f32s => {
            (MmaKind::Bf16F32, 2)
        }
        [d, a, b, c] if a == float(Float::Tf32) && a == b && d == f32s && c == f32s => {
            (MmaKind::Tf32F32, 1)
        }
        [d, a, b, c] if [d, b, c] == [a; 3] && a == float(Float::F64) => (MmaKind::F64, 1),
        [d, a, b, c] if d == Type::Int(Int::S32) && c == d => match (int8(a), int8(b)) {
            (Some(a_signed), Some(b_signed)) => (
                MmaKind::Int8 {
                    a_signed,
                    b_signed,
                    saturate,
                },
                4,
            ),
            _ => return Err(form.error("these operand types are not supported")),
        },
        _ => return Err(form.error("these operand types are not supported")),
    };
    let (m, k) = match (kind, shape) {
        (MmaKind::F16F32 | MmaKind::F16F16 | MmaKind::Bf16F32, "m16n8k8") => (16, 8),
        (MmaKind::F16F32 | MmaKind::F16F16 | MmaKind::Bf16F32, "m16n8k16") => (16, 16),
        (MmaKind::Tf32F32, "m16n8k4") => (16, 4),
        (MmaKind::Tf32F32, "m16n8k8") => (16, 8),
        (MmaKind::Int8 { .. }, "m16n8k16") => (16, 16),
        (MmaKind::Int8 { .. }, "m16n8k32") => (16, 32),
        (MmaKind::F64, "m8n8k4") => (8, 4),
        (MmaKind::F64, "m16n8k4") => (16, 4),
        (MmaKind::F64, "m16n8k8") => (16, 8),
        (MmaKind::F64, "m16n8k16") => (16, 16),
        _ => return Err(form.error(format!("shape .{shape} is not supported for these types"))),
    };
    let kind = match (kind, m) {
        (MmaKind::F64, 16) => MmaKind::F64Tall,
        _ => kind,
    };
    if saturate && !matches!(kind, MmaKind::Int8 { .. }) {
        return Err(form.error("modifier .satfinite is not supported here"));
    }
    form.expect_operands(4..=4)?;
    let (operand_ty, sum_ty, sums) = match kind {
        MmaKind::F64 => (Type::Bits(64), Type::Bits(64), 2),
        MmaKind::F64Tall => (Type::Bits(64), Type::Bits(64), 4),
        MmaKind::F16F16 => (B32, B32, 2),
        _ => (B32, B32, 4),
    };
    let per_lane = |rows: usize| rows * usize::from(k) / 32 / elements_per_register;
    let mut uses = fragment(form, 1, operand_ty, per_lane(m), false)?;
    uses.extend(fragment(form, 2, operand_ty, per_lane(8), false)?);
    uses.extend(fragment(form, 3, sum_ty, sums, false)?);
    let defs = fragment(form, 0, sum_ty, sums, true)?;
    let mut inst = bare(Op::Mma(Mma { kind, k }));
    inst.list = form.builder.list(defs, uses);
    form.emit(inst)
}

/// `mma.sync` of e4m3 and e5m2, each of A and B for itself.
fn mma_fp8(form: &mut Form<'_, '_>, shape: &str) -> Decoded {
    const SUMS: [&str; 2] = ["f16", "f32"];
    const ELEMENTS: [(&str, bool); 2] = [("e4m3", false), ("e5m2", true)];
    let k = match shape {
        "m16n8k16" => 16,
        "m16n8k32" => 32,
        _ => return Err(form.error(format!("shape .{shape} is not supported for these types"))),
    };
    let c = form.ty_among(&SUMS)?;
    let (a_e5m2, b_e5m2) = (form.need(&ELEMENTS)?, form.need(&ELEMENTS)?);
    let d = form.ty_among(&SUMS)?;
    if c != d {
        return Err(form.error("the types of C and D must be the same"));
    }
    let kind = MmaKind::Fp8 {
        a_e5m2,
        b_e5m2,
        to_f16: d == Type::Float(Float::F16),
    };
    form.expect_operands(4..=4)?;
    let sums = if kind.sums_halves() { 2 } else { 4 };
    let mut uses = fragment(form, 1, B32, usize::from(k) / 8, false)?;
    uses.extend(fragment(form, 2, B32, usize::from(k) / 16, false)?);
    uses.extend(fragment(form, 3, B32, sums, false)?);
    let defs = fragment(form, 0, B32, sums, true)?;
    let mut inst = bare(Op::Mma(Mma { kind, k }));
    inst.list = form.builder.list(defs, uses);
    form.emit(inst)
}

/// `nanosleep`: the interpreter treats it as a hint that this thread waits for another.
pub(super) fn nanosleep(form: &mut Form<'_, '_>) -> Decoded {
    let ty = form.ty()?;
    if ty != Type::Int(Int::U32) {
        return Err(form.refuse_type());
    }
    form.expect_operands(1..=1)?;
    let mut inst = bare(Op::Warp(WarpOp::Pause));
    inst.s[0] = form.src(0, ty)?;
    form.emit(inst)
}
