//! Clusters (PTX ISA sections 9.7.9.23, 9.7.9.24, 9.7.13.4) and `setmaxnreg`.

use super::DecodeError;
use super::builder::bare;
use super::form::Form;
use super::op::{ClusterOp, Op, Order};
use super::types::{Int, Type};
use crate::ast::Operand;

type Decoded = Result<(), DecodeError>;

const B32: Type = Type::Bits(32);

/// An address of 32 or 64 bits, and whether it is generic.
fn address_type(form: &mut Form<'_, '_>) -> Result<(Type, bool), DecodeError> {
    let ty = form.ty_among(&["u32", "u64"])?;
    let generic = !form.flag("shared::cluster");
    if generic && ty != Type::Int(Int::U64) {
        return Err(form.error("a generic address has 64 bits"));
    }
    Ok((ty, generic))
}

/// `mapa`: an address of this block's shared memory becomes the same one of another block.
pub(super) fn map_address(form: &mut Form<'_, '_>) -> Decoded {
    let (ty, generic) = address_type(form)?;
    form.expect_operands(3..=3)?;
    let a = form.src(1, ty)?;
    let rank = form.src(2, B32)?;
    let d = form.dst(0, ty)?;
    form.emit_simple(Op::Cluster(ClusterOp::Map { generic }), d, &[a, rank])
}

/// `getctarank`: the block that an address belongs to.
pub(super) fn rank_of(form: &mut Form<'_, '_>) -> Decoded {
    let (ty, generic) = address_type(form)?;
    form.expect_operands(2..=2)?;
    let a = form.src(1, ty)?;
    let d = form.dst(0, B32)?;
    form.emit_simple(Op::Cluster(ClusterOp::RankOf { generic }), d, &[a])
}

/// `barrier.cluster.arrive` and `.wait`, the first two words taken.
pub(super) fn barrier(form: &mut Form<'_, '_>) -> Decoded {
    let arrives = form.need(&[("arrive", true), ("wait", false)])?;
    let op = if arrives {
        let orders = [("release", Order::Release), ("relaxed", Order::Relaxed)];
        let order = form.one_of(&orders).unwrap_or(Order::Release);
        let aligned = form.flag("aligned");
        ClusterOp::Arrive { order, aligned }
    } else {
        form.flag("acquire");
        let aligned = form.flag("aligned");
        ClusterOp::Wait { aligned }
    };
    form.expect_operands(0..=0)?;
    form.emit(bare(Op::Cluster(op)))
}

/// `setmaxnreg.inc` and `.dec`.
pub(super) fn set_registers(form: &mut Form<'_, '_>) -> Decoded {
    let increase = form.need(&[("inc", true), ("dec", false)])?;
    form.need(&[("sync", ())])?;
    form.need(&[("aligned", ())])?;
    if form.ty()? != Type::Int(Int::U32) {
        return Err(form.refuse_type());
    }
    form.expect_operands(1..=1)?;
    let count = match *form.operand(0)? {
        Operand::Integer(count) => count,
        _ => return Err(form.error("the number of registers must be an immediate")),
    };
    if !(24..=256).contains(&count) || count % 8 != 0 {
        return Err(form.error(format!(
            "{count} registers; a multiple of 8 from 24 to 256 is allowed"
        )));
    }
    let mut inst = bare(Op::Cluster(ClusterOp::SetRegisters { increase }));
    inst.imm = count as i32;
    form.emit(inst)
}
