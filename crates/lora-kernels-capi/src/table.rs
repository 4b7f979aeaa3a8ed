//! Tables of adapters, in memory that the program keeps.

use kernels::RawTable;
use kernels::RawTableLora;
use kernels::raw::{RowsArgs, TABLE_ENTRY_BYTES, table_entry};

use crate::arguments::{lora_rows, lora_table_adapter, lora_table_entry};
use crate::error::Result;
use crate::plan::lora_forward_plan;
use crate::planned::find;
use crate::status::{lora_status, run};
use crate::structs::{check_out, put, read, reserved, size};

const _: () = assert!(size_of::<lora_table_entry>() == TABLE_ENTRY_BYTES);

/// The rows of a call, if any.
///
/// # Safety
/// `pointer` is null, or as [`read`] takes it.
pub unsafe fn rows(pointer: *const lora_rows) -> Result<Option<RowsArgs>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let given = unsafe { read(pointer, "args->rows") }?;
    reserved("args->rows", given.reserved)?;
    Ok(Some(RowsArgs {
        table: RawTable {
            entries: given.entries,
            wrong: given.wrong,
            gradients: 0,
        },
        slots: given.slots,
        weights: (given.weights != 0).then_some(given.weights),
    }))
}

/// Makes the entry of an adapter in a table, for a copy to lora_rows.entries: entry (slot,
/// projection) of (adapter_slots, projections). Ranks, strides and addresses are checked against
/// the plan's problem. All plans with the same projections, in_features and types can use the
/// entry. No driver and no GPU are needed.
///
/// The copy is the program's, ordered before the calls that read it; a call captured in a graph
/// reads what stands there when it runs. The adapter's memory stays valid until the entry has been
/// overwritten and all calls before that have run. Zeros make a slot empty.
///
/// projection: of the plan's problem, counted from 0.
/// adapter: what it is there. Every projection of a slot needs an entry; one that the adapter
/// leaves alone has a rank of 0.
/// entry: out; untouched on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_table_entry_of(
    plan: *const lora_forward_plan,
    projection: usize,
    adapter: *const lora_table_adapter,
    entry: *mut lora_table_entry,
) -> lora_status {
    run(|| {
        check_out(entry, "entry")?;
        let plan = find(plan)?;
        let problem = plan.problem();
        let projection = size("projection", projection, lora_status::NoProjection)?;
        // SAFETY: the caller's promise: null or valid.
        let given = unsafe { read(adapter, "adapter") }?;
        let rank = size("adapter.rank", given.rank, lora_status::Dimension)?;
        let or = |stride, dense| if stride == 0 { dense } else { stride };
        let adapter = (rank > 0).then_some(RawTableLora {
            a: given.lora_a,
            a_stride: or(given.lora_a_stride, problem.in_features() as i64),
            b: given.lora_b,
            b_stride: or(given.lora_b_stride, rank as i64),
            rank,
            scaling: given.scaling,
        });
        let bytes = table_entry(problem, projection, adapter.as_ref())?;
        let words = std::array::from_fn(|i| {
            u64::from_ne_bytes(std::array::from_fn(|byte| bytes[8 * i + byte]))
        });
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(entry, lora_table_entry { words }, "entry") }
    })
}
