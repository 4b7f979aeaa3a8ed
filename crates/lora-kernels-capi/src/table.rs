//! Tables of adapters, in memory that the program keeps.

use kernels::RawTable;
use kernels::RawTableLora;
use kernels::raw::{
    GRADIENT_ENTRY_BYTES, RawTableGradients, RowsArgs, TABLE_ENTRY_BYTES, gradient_entry,
    table_entry,
};

use crate::arguments::{
    lora_gradient_entry, lora_rows, lora_table_adapter, lora_table_entry, lora_table_gradients,
};
use crate::error::Result;
use crate::plan::{lora_backward_plan, lora_forward_plan};
use crate::planned::find;
use crate::status::{lora_status, run};
use crate::structs::{check_out, put, read, reserved, size};

const _: () = assert!(size_of::<lora_table_entry>() == TABLE_ENTRY_BYTES);
const _: () = assert!(size_of::<lora_gradient_entry>() == GRADIENT_ENTRY_BYTES);

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
            gradients: given.gradients,
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
        let adapter = (rank > 0).then_some(RawTableLora {
            a: given.lora_a,
            a_stride: or(given.lora_a_stride, problem.in_features()),
            b: given.lora_b,
            b_stride: or(given.lora_b_stride, rank),
            rank,
            scaling: given.scaling,
        });
        let words = words(table_entry(problem, projection, adapter.as_ref())?);
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(entry, lora_table_entry { words }, "entry") }
    })
}

/// Makes the entry of an adapter's gradients in a table, for a copy to lora_rows.gradients: entry
/// (slot, projection) of (adapter_slots, projections). Rank, strides and addresses are checked
/// against the plan's problem. The rank is that of the adapter's entry in the table of adapters
/// when a backward runs; nobody can check that. No driver and no GPU are needed.
///
/// The copy is the program's, ordered before the calls that read it, and the gradients' memory
/// stays valid as that of lora_table_entry_of. A backward writes the gradients of the adapters that
/// its rows name, or adds to them if the problem accumulates them; those of other adapters stay as
/// they are.
///
/// projection: of the plan's problem, counted from 0.
/// gradients: where they go there. Every projection of a slot needs an entry.
/// entry: out; untouched on failure.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn lora_gradient_entry_of(
    plan: *const lora_backward_plan,
    projection: usize,
    gradients: *const lora_table_gradients,
    entry: *mut lora_gradient_entry,
) -> lora_status {
    run(|| {
        check_out(entry, "entry")?;
        let plan = find(plan)?;
        let problem = plan.problem();
        let projection = size("projection", projection, lora_status::NoProjection)?;
        // SAFETY: the caller's promise: null or valid.
        let given = unsafe { read(gradients, "gradients") }?;
        reserved("gradients", given.reserved)?;
        let rank = size("gradients.rank", given.rank, lora_status::Dimension)?;
        let gradients = (rank > 0).then_some(RawTableGradients {
            a: given.d_lora_a,
            a_stride: or(given.d_lora_a_stride, problem.in_features()),
            b: given.d_lora_b,
            b_stride: or(given.d_lora_b_stride, rank),
            rank,
        });
        let words = words(gradient_entry(problem, projection, gradients.as_ref())?);
        // SAFETY: not null, and valid by the caller's promise.
        unsafe { put(entry, lora_gradient_entry { words }, "entry") }
    })
}

/// A stride, or that of dense rows.
fn or(stride: i64, columns: usize) -> i64 {
    if stride == 0 { columns as i64 } else { stride }
}

fn words<const BYTES: usize, const WORDS: usize>(bytes: [u8; BYTES]) -> [u64; WORDS] {
    const { assert!(BYTES == 8 * WORDS) };
    std::array::from_fn(|i| u64::from_ne_bytes(std::array::from_fn(|byte| bytes[8 * i + byte])))
}
