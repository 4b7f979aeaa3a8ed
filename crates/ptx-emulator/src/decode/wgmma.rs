//! `wgmma` (PTX ISA section 9.7.15): products of four warps together, of a device of compute
//! capability 9.0.

use super::DecodeError;
use super::builder::bare;
use super::form::Form;
use super::op::{Element, Flag, Op, Product, Reg, Sum, Wgmma};
use super::types::{Float, Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

const B32: Type = Type::Bits(32);
const B64: Type = Type::Bits(64);

/// Registers of a thread that hold a fragment of A: 16 rows of 32 bytes over a warp.
const A_REGISTERS: usize = 4;

#[derive(Clone, Copy)]
enum Kind {
    Multiply,
    Fence,
    Commit,
    Wait,
}

pub(super) fn wgmma(form: &mut Form<'_, '_>) -> Decoded {
    let kind = form.need(&[
        ("mma_async", Kind::Multiply),
        ("fence", Kind::Fence),
        ("commit_group", Kind::Commit),
        ("wait_group", Kind::Wait),
    ])?;
    form.need(&[("sync", ())])?;
    form.need(&[("aligned", ())])?;
    match kind {
        Kind::Multiply => multiply(form),
        Kind::Fence => alone(form, Wgmma::Fence),
        Kind::Commit => alone(form, Wgmma::Commit),
        Kind::Wait => {
            form.expect_operands(1..=1)?;
            let Operand::Integer(count) = *form.operand(0)? else {
                return Err(form.error("the number of groups must be an immediate"));
            };
            let mut inst = bare(Op::Wgmma(Wgmma::Wait));
            inst.imm = i32::try_from(count).map_err(|_| form.error("too many groups"))?;
            form.emit(inst)
        }
    }
}

fn alone(form: &mut Form<'_, '_>, op: Wgmma) -> Decoded {
    form.expect_operands(0..=0)?;
    form.emit(bare(Op::Wgmma(op)))
}

/// The N of integer products: multiples of 16 above 32, and 8, 16, 24, 32.
fn is_n_of_integers(n: u32) -> bool {
    n <= 32 || n.is_multiple_of(16)
}

fn multiply(form: &mut Form<'_, '_>) -> Decoded {
    if form.inst.modifiers.iter().any(|word| word == "sp") {
        return Err(form.error("products of sparse matrices are not supported"));
    }
    if form.inst.modifiers.iter().any(|word| word == "b1") {
        return Err(form.error("products of single bits are not supported"));
    }
    let (n, k) = form.shape(&[("m64nNk8", 8), ("m64nNk16", 16), ("m64nNk32", 32)])?;
    let saturates = form.flag("satfinite");
    const SUMS: [&str; 3] = ["f32", "f16", "s32"];
    const ELEMENTS: [&str; 7] = ["f16", "bf16", "tf32", "e4m3", "e5m2", "s8", "u8"];
    let b = form.ty_among(&ELEMENTS)?;
    let a = form.ty_among(&ELEMENTS)?;
    let d = form.ty_among(&SUMS)?;
    let (elements, sum) = types(form, d, a, b)?;
    let is_integer = sum == Sum::S32;
    if elements[0].k() != k as usize {
        let reason = format!("the K of these types is {}, not {k}", elements[0].k());
        return Err(form.error(reason));
    }
    if !(8..=256).contains(&n) || !n.is_multiple_of(8) || (is_integer && !is_n_of_integers(n)) {
        let above = if is_integer { ", above 32 of 16" } else { "" };
        let reason = format!("N is {n}: it must be a multiple of 8 up to 256{above}");
        return Err(form.error(reason));
    }
    if saturates && !is_integer {
        return Err(form.error("modifier .satfinite is not supported here"));
    }
    let mut product = Product::new((n / 8) as u8, elements, sum);
    product.set(Flag::Saturate, saturates);
    let in_registers = matches!(form.operand(1)?, Operand::Vector(_));
    product.set(Flag::RegisterA, in_registers);
    // Behind D, A, B and the predicate: signs of A and B but for integers, then, of 16-bit
    // elements, which of the matrices in shared memory are transposed.
    let signs = if is_integer { 0 } else { 2 };
    let transposes = match (elements[0].bytes(), in_registers) {
        (2, false) => 2,
        (2, true) => 1,
        _ => 0,
    };
    form.expect_operands(4 + signs + transposes..=4 + signs + transposes)?;
    if signs > 0 {
        product.set(Flag::NegateA, sign(form, 4)?);
        product.set(Flag::NegateB, sign(form, 5)?);
    }
    if transposes == 2 {
        product.set(Flag::TransposeA, bit(form, 6)?);
    }
    if transposes > 0 {
        product.set(Flag::TransposeB, bit(form, 5 + transposes)?);
    }
    let mut inst = bare(Op::Nop);
    let defs = registers(form, 0, product.sum_registers(), true)?;
    let mut uses = Vec::new();
    if in_registers {
        uses = registers(form, 1, A_REGISTERS, false)?;
    } else {
        inst.s[0] = form.src(1, B64)?;
    }
    inst.s[1] = form.src(2, B64)?;
    match form.operand(3)? {
        Operand::Integer(keeps) => product.set(Flag::FromZero, *keeps == 0),
        _ => {
            let (predicate, negated) = form.predicate(3)?;
            inst.s[2] = predicate;
            product.set(Flag::NegatedScale, negated);
        }
    }
    if !product.has(Flag::FromZero) {
        uses.extend(&defs);
    }
    inst.op = Op::Wgmma(Wgmma::Multiply(product));
    inst.list = form.builder.list(defs, uses);
    form.emit(inst)
}

/// The elements of A and B, and of D.
fn types(
    form: &Form<'_, '_>,
    d: Type,
    a: Type,
    b: Type,
) -> Result<([Element; 2], Sum), DecodeError> {
    let element = |ty| match ty {
        Type::Float(Float::F16) => Some(Element::F16),
        Type::Float(Float::Bf16) => Some(Element::Bf16),
        Type::Float(Float::Tf32) => Some(Element::Tf32),
        Type::Float(Float::E4m3) => Some(Element::E4m3),
        Type::Float(Float::E5m2) => Some(Element::E5m2),
        Type::Int8(true) => Some(Element::S8),
        Type::Int8(false) => Some(Element::U8),
        _ => None,
    };
    let sum = match d {
        Type::Float(Float::F32) => Some(Sum::F32),
        Type::Float(Float::F16) => Some(Sum::F16),
        Type::Int(Int::S32) => Some(Sum::S32),
        _ => None,
    };
    use Element::{Bf16, E4m3, E5m2, F16, S8, Tf32, U8};
    let fits = |a, b, sum| match (a, b) {
        (F16, F16) | (E4m3 | E5m2, E4m3 | E5m2) => sum != Sum::S32,
        (Bf16, Bf16) | (Tf32, Tf32) => sum == Sum::F32,
        (S8 | U8, S8 | U8) => sum == Sum::S32,
        _ => false,
    };
    match (element(a), element(b), sum) {
        (Some(a), Some(b), Some(sum)) if fits(a, b, sum) => Ok(([a, b], sum)),
        _ => Err(form.error("these types are not supported together")),
    }
}

/// 1, or -1 for a negated matrix.
fn sign(form: &Form<'_, '_>, index: usize) -> Result<bool, DecodeError> {
    match form.operand(index)? {
        Operand::Integer(1) => Ok(false),
        Operand::Integer(u64::MAX) => Ok(true),
        _ => Err(form.error(format!("operand {} must be 1 or -1", index + 1))),
    }
}

fn bit(form: &Form<'_, '_>, index: usize) -> Result<bool, DecodeError> {
    match form.operand(index)? {
        Operand::Integer(bit @ (0 | 1)) => Ok(*bit == 1),
        _ => Err(form.error(format!("operand {} must be 0 or 1", index + 1))),
    }
}

fn registers(
    form: &mut Form<'_, '_>,
    index: usize,
    count: usize,
    defines: bool,
) -> Result<Vec<Reg>, DecodeError> {
    let items = form.elements(index)?;
    if items.len() != count {
        let reason = format!(
            "operand {} has {} registers, {count} expected",
            index + 1,
            items.len()
        );
        return Err(form.error(reason));
    }
    let mut regs = Vec::with_capacity(count);
    for item in items {
        regs.push(match item {
            Operand::Register(_) if defines => form.destination(item, B32)?,
            Operand::Register(_) => form.source(item, B32)?,
            _ => return Err(form.error(format!("operand {} must be registers", index + 1))),
        });
    }
    Ok(regs)
}
