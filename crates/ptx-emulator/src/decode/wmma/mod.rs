//! `wmma` (PTX ISA section 9.7.14.4), decoded into what it stands for: loads, stores, moves and
//! `mma.sync`.
//!
//! PTX leaves open which lane holds which element of a fragment. Here fragments are those of
//! `mma.sync`, with g = lane / 4 and t = lane % 4: a matrix is cut into parts of 16 (or, beside
//! them, 8) rows of A, or columns of B, one after the other in the registers. `m8n32k16` is the
//! transposed product: its B has the layout of an A, its A that of a B, and its sum lies by
//! columns. Where a fragment of f16 has more registers than elements (A and B have always eight),
//! they repeat.

mod layout;
mod multiply;
mod transfer;

use self::layout::Role;
use super::form::Form;
use super::op::Reg;
use super::types::Type;
use super::{DecodeError, builder, form, op, types};

type Decoded = Result<(), DecodeError>;

/// `wmma.load`, `wmma.store`, `wmma.mma`.
pub(super) fn wmma(form: &mut Form<'_, '_>) -> Decoded {
    #[derive(Clone, Copy)]
    enum Kind {
        Load,
        Store,
        Multiply,
    }
    let kind = form.need(&[
        ("load", Kind::Load),
        ("store", Kind::Store),
        ("mma", Kind::Multiply),
    ])?;
    form.need(&[("sync", ())])?;
    form.need(&[("aligned", ())])?;
    match kind {
        Kind::Load => {
            let role = form.need(&[("a", Role::A), ("b", Role::B), ("c", Role::Sum)])?;
            transfer::transfer(form, role, true)
        }
        Kind::Store => {
            form.need(&[("d", ())])?;
            transfer::transfer(form, Role::Sum, false)
        }
        Kind::Multiply => multiply::multiply(form),
    }
}

/// The registers of an operand.
fn registers(
    form: &mut Form<'_, '_>,
    index: usize,
    count: usize,
    ty: Type,
    defines: bool,
) -> Result<Vec<Reg>, DecodeError> {
    let items = form.elements(index)?;
    if items.len() != count {
        return Err(form.error(format!(
            "operand {} has {} registers, {count} expected",
            index + 1,
            items.len()
        )));
    }
    items
        .iter()
        .map(|item| {
            if defines {
                form.destination(item, ty)
            } else {
                form.source(item, ty)
            }
        })
        .collect()
}
