//! `wmma.mma` as `mma.sync` of the fragments' parts.

use super::builder::bare;
use super::form::Form;
use super::layout::{Role, Shape, fragment};
use super::op::{Class, Mma, MmaKind, Move, Op, Reg};
use super::types::{Float, Int, Type};
use super::{DecodeError, Decoded, registers};

/// `wmma.mma.sync.aligned.layoutA.layoutB.shape`, types of D and C, for other elements than f16 of
/// D, A, B and C.
pub(super) fn multiply(form: &mut Form<'_, '_>) -> Decoded {
    // The layouts are those that the fragments were loaded with: here they are the same fragments.
    for _ in 0..2 {
        form.need(&[("row", ()), ("col", ())])?;
    }
    let shape = Shape::take(form)?;
    // These follow the types in the text.
    let rounds = form.flag("rn");
    let saturate = form.flag("satfinite");
    let [d, a, b, c] = types(form)?;
    let int8 = |ty| match ty {
        Type::Int8(signed) => Some(signed),
        _ => None,
    };
    use Float::{Bf16, F16, F32, F64, Tf32};
    let kind = match (a, b, c) {
        _ if c != d => return Err(form.error("the types of C and D must be the same")),
        (Type::Float(F16), Type::Float(F16), Type::Float(F32)) => MmaKind::F16F32,
        (Type::Float(F16), Type::Float(F16), Type::Float(F16)) => MmaKind::F16F16,
        (Type::Float(Bf16), Type::Float(Bf16), Type::Float(F32)) => MmaKind::Bf16F32,
        (Type::Float(Tf32), Type::Float(Tf32), Type::Float(F32)) => MmaKind::Tf32F32,
        (Type::Float(F64), Type::Float(F64), Type::Float(F64)) => MmaKind::F64,
        (a, b, Type::Int(Int::S32)) => match (int8(a), int8(b)) {
            (Some(a_signed), Some(b_signed)) if a_signed == b_signed => MmaKind::Int8 {
                a_signed,
                b_signed,
                saturate,
            },
            _ => return Err(form.refuse_type()),
        },
        _ => return Err(form.refuse_type()),
    };
    if (rounds && kind != MmaKind::F64) || (saturate && !matches!(kind, MmaKind::Int8 { .. })) {
        return Err(form.error("a modifier that these types do not have"));
    }
    if !shape.has(a) {
        return Err(form.error(format!(
            "shape .{} does not exist for these types",
            shape.name
        )));
    }
    form.expect_operands(4..=4)?;
    let [of_a, of_b, of_sum] =
        [(Role::A, a), (Role::B, b), (Role::Sum, c)].map(|(role, ty)| fragment(role, shape, ty));
    let defs = registers(form, 0, of_sum.registers, of_sum.register, true)?;
    let a = registers(form, 1, of_a.registers, of_a.register, false)?;
    let b = registers(form, 2, of_b.registers, of_b.register, false)?;
    let c = registers(form, 3, of_sum.registers, of_sum.register, false)?;
    let (a, b) = (&a[..of_a.pieces.len()], &b[..of_b.pieces.len()]);
    // What stands where `mma` has A (parts of 16) and B (parts of 8).
    let (first, second) = if shape.is_transposed() {
        (b, a)
    } else {
        (a, b)
    };
    let (across, down) = if shape.is_transposed() {
        (shape.n, shape.m)
    } else {
        (shape.m, shape.n)
    };
    let (first_parts, second_parts) = (across.div_ceil(16) as usize, (down / 8) as usize);
    let sum_each = defs.len() / (first_parts * second_parts);
    // A register of the result may also be one of an operand that a later part needs.
    let shared = defs.iter().any(|d| a.contains(d) || b.contains(d))
        || c.iter().zip(&defs).any(|(c, d)| c != d && defs.contains(c));
    let class = defs.first().and_then(|d| d.class()).unwrap_or(Class::Word);
    let targets: Vec<Reg> = if shared {
        defs.iter().map(|_| form.builder.fresh(class)).collect()
    } else {
        defs.clone()
    };
    for i in 0..first_parts {
        for j in 0..second_parts {
            let part = |regs: &[Reg], index: usize, of: usize| {
                let each = regs.len() / of;
                regs[index * each..(index + 1) * each].to_vec()
            };
            let sum = (i * second_parts + j) * sum_each;
            let mut uses = part(first, i, first_parts);
            uses.extend(part(second, j, second_parts));
            uses.extend(&c[sum..sum + sum_each]);
            let mut inst = bare(Op::Mma(Mma {
                kind,
                k: shape.k as u8,
            }));
            inst.list = form
                .builder
                .list(targets[sum..sum + sum_each].to_vec(), uses);
            form.emit(inst)?;
        }
    }
    if shared {
        let op = if class == Class::Wide {
            Move::Wide
        } else {
            Move::Word
        };
        for (&d, &s) in defs.iter().zip(&targets) {
            form.emit_simple(Op::Move(op), d, &[s])?;
        }
    }
    Ok(())
}

/// The types of D, A, B and C; with two of them, those of D and C, A and B being f16.
fn types(form: &mut Form<'_, '_>) -> Result<[Type; 4], DecodeError> {
    const SUMS: [&str; 4] = ["f16", "f32", "f64", "s32"];
    const ELEMENTS: [&str; 5] = ["bf16", "tf32", "f64", "s8", "u8"];
    const BOTH: [&str; 8] = ["f16", "f32", "s32", "bf16", "tf32", "f64", "s8", "u8"];
    let c = form.ty_among(&SUMS)?;
    let next = form.ty_among(&BOTH)?;
    let half = Type::Float(Float::F16);
    if (next == half || next == Type::Float(Float::F32)) && form.peek_ty().is_none() {
        return Ok([next, half, half, c]);
    }
    let a = form.ty_among(&ELEMENTS)?;
    let d = form.ty_among(&SUMS)?;
    Ok([d, a, next, c])
}
