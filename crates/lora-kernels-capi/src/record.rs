//! What a forward was, between its struct of the header and the core's.

use kernels::raw::ForwardRecord;
use kernels::{Dropout, Problem, Projection, RowAdapters};

use crate::arguments::lora_forward_record;
use crate::enumerations::{dtype, mask};
use crate::error::Result;
use crate::status::lora_status;
use crate::structs::{flag, read, reserved, size};

const RECORD: &str = "args->record";

/// The record of a forward with these arguments.
pub fn record_of(
    problem: &Problem,
    dropout: Option<Dropout>,
    scalings: impl Iterator<Item = f32>,
) -> lora_forward_record {
    let mut record = lora_forward_record {
        struct_size: size_of::<lora_forward_record>() as u32,
        dtype: problem.dtype() as u32,
        adapter_dtype: problem.adapter_dtype() as u32,
        mask: problem.mask() as u32,
        dropout: dropout.is_some().into(),
        p: dropout.map_or(0.0, |dropout| dropout.p),
        seed: dropout.map_or(0, |dropout| dropout.seed),
        offset: dropout.map_or(0, |dropout| dropout.offset),
        tokens: problem.tokens(),
        in_features: problem.in_features(),
        projection_count: problem.projections().len(),
        out_features: [0; Problem::MAX_PROJECTIONS],
        rank: [0; Problem::MAX_PROJECTIONS],
        scaling: [0.0; Problem::MAX_PROJECTIONS],
        dropout_from_memory: problem.has_dropout_from_memory().into(),
        reserved: 0,
        mask_row: problem.mask_origin().0,
        mask_column: problem.mask_origin().1,
        adapters_per_row: match problem.row_adapters() {
            RowAdapters::Table { per_row, .. } => per_row,
            _ => 0,
        },
    };
    for (index, (projection, scaling)) in problem.projections().iter().zip(scalings).enumerate() {
        record.out_features[index] = projection.out_features;
        record.rank[index] = projection.rank;
        record.scaling[index] = if projection.rank > 0 { scaling } else { 0.0 };
    }
    record
}

/// The record that a backward is given, if any.
///
/// # Safety
/// `pointer` is null, or as [`read`] takes it.
pub unsafe fn given_record(pointer: *const lora_forward_record) -> Result<Option<ForwardRecord>> {
    if pointer.is_null() {
        return Ok(None);
    }
    // SAFETY: the caller's promise.
    let given = unsafe { read(pointer, RECORD) }?;
    let count = size(
        format_args!("{RECORD}.projection_count"),
        given.projection_count,
        lora_status::Projections,
    )?;
    let projections: Vec<Projection> = given
        .out_features
        .iter()
        .zip(given.rank)
        .take(count)
        .map(|(&out_features, rank)| Projection { out_features, rank })
        .collect();
    if count > projections.len() {
        return Err(kernels::Error::Projections { given: count }.into());
    }
    let dropped = flag(RECORD, "dropout", given.dropout)?;
    let mut problem = Problem::sharing_x(
        given.tokens,
        given.in_features,
        &projections,
        dtype(RECORD, "dtype", given.dtype)?,
    )?
    .with_adapter_dtype(dtype(RECORD, "adapter_dtype", given.adapter_dtype)?)?
    .with_dropout(dropped)
    .with_dropout_from_memory(flag(
        RECORD,
        "dropout_from_memory",
        given.dropout_from_memory,
    )?)
    .with_mask_origin(given.mask_row, given.mask_column)?
    .with_mask(mask(RECORD, given.mask)?);
    reserved(RECORD, given.reserved)?;
    let argument = format_args!("{RECORD}.adapters_per_row");
    let per_row = size(argument, given.adapters_per_row, lora_status::RowAdapters)?;
    if per_row > 0 {
        // How many slots the table had doesn't matter to what was saved.
        problem = problem.with_row_adapters(RowAdapters::Table { slots: 1, per_row })?;
    }
    let dropout = dropped.then_some(Dropout {
        p: given.p,
        seed: given.seed,
        offset: given.offset,
    });
    Ok(Some(ForwardRecord::new(&problem, dropout, given.scaling)))
}
