//! Entries of tables of adapters, and of their gradients, that a program keeps itself.

use bytemuck::{Zeroable, bytes_of};

use crate::bind::DevicePointer;
use crate::bind::check_scaling;
use crate::bind::params::{AdapterEntry, RowGradients, entry_flags};
use crate::typed::RawTableLora;
use crate::{Argument, Error, Problem, Projection, Result, Role};

/// The bytes of an entry. A table is (slots, projections) of them at a multiple of 8; an entry of
/// zeros is that of an empty slot.
pub const TABLE_ENTRY_BYTES: usize = size_of::<AdapterEntry>();

/// The entry of an adapter in a projection, as it stands in [`RawTable::entries`]; `None` for one
/// that leaves the projection alone. [`crate::AdapterTable`] writes them itself.
///
/// [`RawTable::entries`]: crate::RawTable
///
/// # Errors
/// [`Error::NoProjection`], [`Error::TableRank`], [`Error::Scaling`], [`Error::Null`],
/// [`Error::Alignment`], [`Error::TableStride`].
pub fn table_entry(
    problem: &Problem,
    projection: usize,
    adapter: Option<&RawTableLora>,
) -> Result<[u8; TABLE_ENTRY_BYTES]> {
    let planned = planned(problem, projection)?;
    let mut entry = AdapterEntry {
        flags: entry_flags::PRESENT,
        ..Zeroable::zeroed()
    };
    if let Some(adapter) = adapter {
        check_scaling(adapter.scaling)?;
        check_rank(projection, adapter.rank, planned.rank)?;
        let (a, b) = (adapter.a, adapter.b);
        let in_features = problem.in_features();
        let sides = [
            (
                Role::LoraA,
                a,
                adapter.a_stride,
                in_features,
                entry_flags::A_VECTORISED,
            ),
            (
                Role::LoraB,
                b,
                adapter.b_stride,
                adapter.rank,
                entry_flags::B_VECTORISED,
            ),
        ];
        for (role, address, stride, columns, vectorised) in sides {
            if matrix(problem, (projection, role), address, stride, columns)? {
                entry.flags |= vectorised;
            }
        }
        (entry.lora_a, entry.a_stride) = (a, adapter.a_stride);
        (entry.lora_b, entry.b_stride) = (b, adapter.b_stride);
        (entry.rank, entry.scaling) = (adapter.rank as i32, adapter.scaling);
    }
    let mut bytes = [0; TABLE_ENTRY_BYTES];
    bytes.copy_from_slice(bytes_of(&entry));
    Ok(bytes)
}

/// Where the gradients of one projection's part of an adapter go, for [`gradient_entry`].
#[derive(Debug, Clone, Copy)]
pub struct RawTableGradients {
    /// Out: dA, (rank, in_features)
    pub a: DevicePointer,
    /// The elements from a row of dA to the next
    pub a_stride: i64,
    /// Out: dB, (out_features, rank)
    pub b: DevicePointer,
    /// The elements from a row of dB to the next
    pub b_stride: i64,
    /// The adapter's rank in this projection
    pub rank: usize,
}

/// The bytes of an entry of a table of gradients. A table is (slots, projections) of them at a
/// multiple of 8; an entry of zeros is one whose gradients nobody wants.
pub const GRADIENT_ENTRY_BYTES: usize = size_of::<RowGradients>();

/// The entry of an adapter's gradients in a projection, as it stands in [`RawTable::gradients`];
/// `None` where nobody wants them. [`crate::GradientTable`] writes them itself. The rank must be
/// that of the entry in the table of adapters when a backward runs.
///
/// [`RawTable::gradients`]: crate::RawTable
///
/// # Errors
/// [`Error::NoProjection`], [`Error::TableRank`], [`Error::Null`], [`Error::Alignment`],
/// [`Error::TableStride`].
pub fn gradient_entry(
    problem: &Problem,
    projection: usize,
    gradients: Option<&RawTableGradients>,
) -> Result<[u8; GRADIENT_ENTRY_BYTES]> {
    let planned = planned(problem, projection)?;
    let mut entry = RowGradients::zeroed();
    if let Some(given) = gradients {
        check_rank(projection, given.rank, planned.rank)?;
        let (da, db) = ((projection, Role::DLoraA), (projection, Role::DLoraB));
        matrix(problem, da, given.a, given.a_stride, problem.in_features())?;
        matrix(problem, db, given.b, given.b_stride, given.rank)?;
        entry = RowGradients {
            lora_a: given.a,
            lora_b: given.b,
            a_stride: given.a_stride,
            b_stride: given.b_stride,
        };
    }
    let mut bytes = [0; GRADIENT_ENTRY_BYTES];
    bytes.copy_from_slice(bytes_of(&entry));
    Ok(bytes)
}

/// The largest sizes of a projection.
fn planned(problem: &Problem, projection: usize) -> Result<Projection> {
    let projections = problem.projections();
    let planned = projections.get(projection).ok_or(Error::NoProjection {
        given: projection,
        count: projections.len(),
    })?;
    Ok(*planned)
}

fn check_rank(projection: usize, given: usize, most: usize) -> Result<()> {
    if (1..=most).contains(&given) {
        return Ok(());
    }
    Err(Error::TableRank {
        projection,
        given,
        most,
    })
}

/// Checks a matrix of an adapter, or a gradient. Whether it is read 16 bytes at a time.
fn matrix(
    problem: &Problem,
    (projection, role): (usize, Role),
    address: u64,
    stride: i64,
    columns: usize,
) -> Result<bool> {
    let what = Argument::Tensor(role, Some(projection));
    let size = problem.dtype_of(role).size();
    if address == 0 {
        return Err(Error::Null { what });
    }
    if !address.is_multiple_of(size as u64) {
        return Err(Error::Alignment {
            tensor: what,
            given: 1 << address.trailing_zeros(),
            planned: size,
        });
    }
    if stride < columns as i64 {
        return Err(Error::TableStride {
            tensor: what,
            given: stride,
            columns,
        });
    }
    let aligned = (address | (stride as u64).wrapping_mul(size as u64)).is_multiple_of(16);
    Ok(aligned && problem.adapter_dtype() == problem.dtype())
}
