//! Entries of a table of adapters that a program keeps itself, in memory of its own.

use bytemuck::{Zeroable, bytes_of};

use crate::bind::check_scaling;
use crate::bind::params::{AdapterEntry, entry_flags};
use crate::typed::RawTableLora;
use crate::{Argument, Error, Problem, Result, Role};

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
    let projections = problem.projections();
    let planned = projections.get(projection).ok_or(Error::NoProjection {
        given: projection,
        count: projections.len(),
    })?;
    let mut entry = AdapterEntry {
        flags: entry_flags::PRESENT,
        ..Zeroable::zeroed()
    };
    if let Some(adapter) = adapter {
        check_scaling(adapter.scaling)?;
        if !(1..=planned.rank).contains(&adapter.rank) {
            return Err(Error::TableRank {
                projection,
                given: adapter.rank,
                most: planned.rank,
            });
        }
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

/// Checks a matrix of an adapter. Whether it is read 16 bytes at a time.
fn matrix(
    problem: &Problem,
    (projection, role): (usize, Role),
    address: u64,
    stride: i64,
    columns: usize,
) -> Result<bool> {
    let what = Argument::Tensor(role, Some(projection));
    let size = problem.adapter_dtype().size();
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
