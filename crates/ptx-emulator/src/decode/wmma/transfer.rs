//! `wmma.load` and `wmma.store` as loads and stores of each register's elements.

use super::builder::{Constant, bare};
use super::form::Form;
use super::layout::{Fragment, Role, Shape, fragment};
use super::op::{Access, BitsOp, Class, Extend, IntOp, Move, Op, Reg, Special, Width, Window};
use super::types::{Int, Type};
use super::{DecodeError, Decoded, registers};

pub(super) fn transfer(form: &mut Form<'_, '_>, role: Role, loads: bool) -> Decoded {
    let by_rows = form.need(&[("row", true), ("col", false)])?;
    let shape = Shape::take(form)?;
    let stated = form.one_of(&[
        ("global", Window::Global),
        ("shared", Window::Shared),
        ("shared::cta", Window::Shared),
    ]);
    let ty = match role {
        Role::Sum => form.ty_among(&["f16", "f32", "f64", "s32"])?,
        _ => form.ty_among(&["f16", "bf16", "tf32", "f64", "s8", "u8"])?,
    };
    if !shape.has(ty) {
        return Err(form.error(format!(
            "shape .{} does not exist for this type",
            shape.name
        )));
    }
    form.expect_operands(2..=3)?;
    let (at, to) = if loads { (1, 0) } else { (0, 1) };
    let fragment = fragment(role, shape, ty);
    let values = registers(form, to, fragment.registers, fragment.register, loads)?;
    let address = form.address(at)?;
    let own = form.window_of(&address);
    let window = match (stated, own) {
        (None, own) => own,
        (Some(stated), Window::Generic) => stated,
        (Some(stated), own) if stated == own => stated,
        _ => return Err(form.error("the variable is in another state space")),
    };
    let stride = if form.operands() == 3 {
        form.src(2, Type::Bits(32))?
    } else {
        // As many elements as the matrix is wide.
        let wide = match (role, by_rows) {
            (Role::A, true) | (Role::B, false) => shape.k,
            (Role::A, false) | (Role::Sum, false) => shape.m,
            (Role::B, true) | (Role::Sum, true) => shape.n,
        };
        form.builder
            .constant(Class::Word, Constant::Bits(u64::from(wide)))
    };
    let mut bases = Bases::new(form, &fragment, by_rows, address.base, stride)?;
    // Elements of a register that are neighbours in memory move as one.
    let across = fragment.groups_are_rows == by_rows;
    let whole = across || fragment.packed == 1;
    let count = if whole { 1 } else { fragment.packed };
    let width = match (whole, fragment.register) {
        (false, _) => fragment.width,
        (true, Type::Bits(64)) => Width::B64,
        (true, _) => Width::B32,
    };
    // All addresses are worked out before the first load, which may write a register that they come
    // from.
    let mut plan = Vec::new();
    for piece in &fragment.pieces {
        for element in 0..count {
            let thread = piece.thread + element;
            let (outer, inner) = if across {
                (piece.group, thread)
            } else {
                (thread, piece.group)
            };
            let base = bases.at(form, outer)?;
            let offset = i64::from(address.offset) + i64::from(inner * fragment.width.bytes());
            let offset =
                i32::try_from(offset).map_err(|_| form.error("address offset exceeds 32 bits"))?;
            plan.push((base, offset));
        }
    }
    let pack = 8 * fragment.width.bytes() as u8;
    let mut steps = plan.into_iter();
    for &value in values.iter().take(fragment.pieces.len()) {
        let parts: Vec<Reg> = if whole {
            vec![value]
        } else {
            (0..count)
                .map(|_| form.builder.fresh(Class::Word))
                .collect()
        };
        if !loads && !whole {
            let mut inst = bare(Op::Move(Move::Unpack(pack)));
            inst.s[0] = value;
            inst.list = form.builder.list(parts.clone(), Vec::new());
            form.emit(inst)?;
        }
        for (part, (base, offset)) in parts.iter().zip(steps.by_ref()) {
            let access = Access::weak(window, width, Extend::Zero, 1);
            let mut inst = bare(if loads {
                Op::Load(access)
            } else {
                Op::Store(access)
            });
            inst.s[0] = base;
            inst.imm = offset;
            inst.list = if loads {
                form.builder.list(vec![*part], Vec::new())
            } else {
                form.builder.list(Vec::new(), vec![*part])
            };
            form.emit(inst)?;
        }
        if loads && !whole {
            let mut inst = bare(Op::Move(Move::Pack(pack)));
            inst.d[0] = value;
            inst.list = form.builder.list(Vec::new(), parts);
            form.emit(inst)?;
        }
    }
    for (index, &value) in values.iter().enumerate().skip(fragment.pieces.len()) {
        form.emit_simple(
            Op::Move(Move::Word),
            value,
            &[values[index % fragment.pieces.len()]],
        )?;
    }
    Ok(())
}

/// Addresses of a lane's elements: one for each row (or column) of the matrix that it has elements
/// in.
struct Bases {
    first: Reg,
    /// Bytes from one row (or column) to the next.
    stride: Reg,
    known: Vec<(u32, Reg)>,
}

impl Bases {
    fn new(
        form: &mut Form<'_, '_>,
        fragment: &Fragment,
        by_rows: bool,
        base: Reg,
        stride: Reg,
    ) -> Result<Bases, DecodeError> {
        let size = fragment.width.bytes();
        let lane = form.builder.fresh(Class::Word);
        form.emit_simple(Op::Move(Move::Special(Special::LaneId)), lane, &[])?;
        let [group, thread] = [(BitsOp::Shr, 2), (BitsOp::And, 3)].map(|(op, value)| {
            let value = form.builder.constant(Class::Word, Constant::Bits(value));
            let d = form.builder.fresh(Class::Word);
            form.emit_simple(Op::Bits(op, Int::U32), d, &[lane, value])
                .map(|()| d)
        });
        let (group, thread) = (group?, thread?);
        let (outer, outer_scale, inner, inner_scale) = if fragment.groups_are_rows == by_rows {
            (group, 1, thread, fragment.scale)
        } else {
            (thread, fragment.scale, group, 1)
        };
        let base = if base.is_wide() {
            base
        } else {
            product(form, base, 1)?
        };
        let stride = product(form, stride, size)?;
        let inner = product(form, inner, inner_scale * size)?;
        let outer = product(form, outer, outer_scale)?;
        let start = form.builder.fresh(Class::Wide);
        form.emit_simple(Op::Int(IntOp::Add, Int::U64), start, &[base, inner])?;
        let first = form.builder.fresh(Class::Wide);
        form.emit_simple(
            Op::Int(IntOp::MadLo, Int::U64),
            first,
            &[outer, stride, start],
        )?;
        Ok(Bases {
            first,
            stride,
            known: vec![(0, first)],
        })
    }

    /// The address `outer` rows (or columns) behind the lane's first.
    fn at(&mut self, form: &mut Form<'_, '_>, outer: u32) -> Result<Reg, DecodeError> {
        if let Some(&(_, reg)) = self.known.iter().find(|(known, _)| *known == outer) {
            return Ok(reg);
        }
        let count = form
            .builder
            .constant(Class::Wide, Constant::Bits(u64::from(outer)));
        let d = form.builder.fresh(Class::Wide);
        form.emit_simple(
            Op::Int(IntOp::MadLo, Int::U64),
            d,
            &[count, self.stride, self.first],
        )?;
        self.known.push((outer, d));
        Ok(d)
    }
}

/// A 32-bit register times a constant, in 64 bits.
fn product(form: &mut Form<'_, '_>, value: Reg, factor: u32) -> Result<Reg, DecodeError> {
    let factor = form
        .builder
        .constant(Class::Word, Constant::Bits(u64::from(factor)));
    let d = form.builder.fresh(Class::Wide);
    form.emit_simple(Op::Int(IntOp::MulWide, Int::U32), d, &[value, factor])?;
    Ok(d)
}
