//! Checks of a call's arguments before anything is launched.

use bytemuck::Zeroable;

use super::extents::{Access, Extents};
use super::params::{AdapterEntry, DropoutParams, MaskOrigin, RowGradients};
use super::{DevicePointer, Lora, LoraGradients, RawRows};
use crate::plan::BUFFER_ALIGNMENT;
use crate::{
    Argument, DType, Dropout, Error, Hint, Layout, Problem, Projection, Result, Role, RowAdapters,
};

pub(crate) fn scaling(scaling: f32) -> Result<()> {
    if scaling.is_finite() {
        Ok(())
    } else {
        Err(Error::Scaling { given: scaling })
    }
}

pub(super) fn count(problem: &Problem, given: usize) -> Result<()> {
    let planned = problem.projections().len();
    if given == planned {
        Ok(())
    } else {
        Err(Error::ProjectionCount { given, planned })
    }
}

/// Checks that an optional argument is present exactly if the plan has it.
pub(super) fn optional(what: Argument, given: bool, planned: bool, hint: Hint) -> Result<()> {
    if given == planned {
        Ok(())
    } else {
        Err(Error::Optional { what, given, hint })
    }
}

/// The dropout of a call, and where its mask begins and its words are.
pub(super) fn dropout(
    extents: &mut Extents,
    dropout: Option<Dropout>,
    problem: &Problem,
) -> Result<(DropoutParams, MaskOrigin)> {
    optional(
        Argument::Dropout,
        dropout.is_some(),
        problem.has_dropout(),
        Hint::Dropout,
    )?;
    let Some(dropout) = dropout else {
        let none = DropoutParams {
            seed: 0,
            offset: 0,
            threshold: 0,
            keep_scale: 1.0,
        };
        return Ok((none, MaskOrigin::zeroed()));
    };
    dropout.check()?;
    let from_memory = problem.has_dropout_from_memory();
    if from_memory && (dropout.seed == 0 || !dropout.seed.is_multiple_of(8) || dropout.offset != 0)
    {
        return Err(Error::DropoutWords {
            given: format!("seed {} and offset {}", dropout.seed, dropout.offset),
        });
    }
    if from_memory {
        let (what, size) = (Argument::Dropout, (1, 2 * size_of::<u64>() / WORD));
        words(
            extents,
            Access::Read,
            what,
            size,
            size_of::<u64>(),
            dropout.seed,
        )?;
    }
    let by_value = |number| if from_memory { 0 } else { number };
    let (row, column) = problem.mask_origin();
    Ok((
        DropoutParams {
            seed: by_value(dropout.seed),
            offset: by_value(dropout.offset),
            threshold: dropout.threshold(),
            keep_scale: dropout.keep_scale(),
        },
        MaskOrigin {
            words: if from_memory { dropout.seed } else { 0 },
            row0: row as u32,
            group0: (column / 8) as u32,
        },
    ))
}

/// The largest power of two, at most 256, that divides an address.
fn alignment(pointer: DevicePointer) -> usize {
    1 << pointer.trailing_zeros().min(8)
}

/// Checks that an address is not null and aligned as planned.
#[inline]
pub(super) fn address(what: Argument, planned: usize, pointer: DevicePointer) -> Result<()> {
    if pointer != 0 && pointer & (planned as u64 - 1) == 0 {
        return Ok(());
    }
    Err(if pointer == 0 {
        Error::Null { what }
    } else {
        Error::Alignment {
            tensor: what,
            given: alignment(pointer),
            planned,
        }
    })
}

/// The name of a tensor in messages, with its projection if there are several.
pub(crate) fn argument(problem: &Problem, projection: usize, tensor: Role) -> Argument {
    let shared = matches!(tensor, Role::X | Role::DX);
    Argument::Tensor(tensor, which(problem, projection).filter(|_| !shared))
}

/// The projection's index if messages must name it.
pub(crate) fn which(problem: &Problem, projection: usize) -> Option<usize> {
    (problem.projections().len() > 1).then_some(projection)
}

/// The address of a buffer, which must be there and aligned.
pub(super) fn buffer(what: Argument, pointer: Option<DevicePointer>) -> Result<DevicePointer> {
    match pointer {
        None | Some(0) => Err(Error::Null { what }),
        Some(pointer) if !pointer.is_multiple_of(BUFFER_ALIGNMENT as u64) => {
            Err(Error::BufferAlignment {
                buffer: what,
                given: alignment(pointer),
            })
        }
        Some(pointer) => Ok(pointer),
    }
}

/// Checks that an adapter is given exactly if the projection has a rank, and that both its matrices
/// are there.
pub(super) fn lora(
    extents: &mut Extents,
    problem: &Problem,
    projection: usize,
    given: Option<&Lora<DevicePointer>>,
) -> Result<()> {
    adapted(problem, projection, Argument::Lora, given.is_some())?;
    let Some(lora) = given else { return Ok(()) };
    scaling(lora.scaling)?;
    extents.tensor(problem, projection, Role::LoraA, lora.a)?;
    extents.tensor(problem, projection, Role::LoraB, lora.b)
}

/// Checks that gradients are given exactly if the projection has a rank.
pub(super) fn gradients(
    extents: &mut Extents,
    problem: &Problem,
    projection: usize,
    given: Option<&LoraGradients<DevicePointer>>,
) -> Result<()> {
    adapted(problem, projection, Argument::Gradients, given.is_some())?;
    let Some(gradients) = given else {
        return Ok(());
    };
    extents.tensor(problem, projection, Role::DLoraA, gradients.a)?;
    extents.tensor(problem, projection, Role::DLoraB, gradients.b)
}

/// Checks that rows are given exactly if the problem has a table of adapters, and that all of their
/// memory is there.
pub(super) fn rows(
    extents: &mut Extents,
    problem: &Problem,
    given: Option<&RawRows>,
) -> Result<()> {
    let RowAdapters::Table { slots, per_row } = problem.row_adapters() else {
        return optional(Argument::Rows, given.is_some(), false, Hint::RowAdapters);
    };
    optional(Argument::Rows, given.is_some(), true, Hint::RowAdapters)?;
    let Some(rows) = given.filter(|_| problem.tokens() > 0) else {
        return Ok(());
    };
    let entries = words_of::<AdapterEntry>(problem);
    let (table, tokens) = (&rows.table, problem.tokens());
    let alignment = align_of::<AdapterEntry>();
    let (read, what) = (Access::Read, Argument::Table);
    words(
        extents,
        read,
        what,
        (slots, entries),
        alignment,
        table.entries,
    )?;
    let lists = (tokens, per_row);
    words(extents, read, Argument::RowSlots, lists, WORD, rows.slots)?;
    if let Some(weights) = rows.weights {
        words(extents, read, Argument::RowWeights, lists, WORD, weights)?;
    }
    if table.wrong != 0 {
        words(extents, Access::Written, what, (1, 1), WORD, table.wrong)?;
    }
    Ok(())
}

/// Checks that a backward's rows say where the gradients of their adapters go.
pub(super) fn row_gradients(
    extents: &mut Extents,
    problem: &Problem,
    given: Option<&RawRows>,
) -> Result<()> {
    let (RowAdapters::Table { slots, .. }, Some(rows)) = (problem.row_adapters(), given) else {
        return Ok(());
    };
    if problem.tokens() == 0 {
        return Ok(());
    }
    let size = (slots, words_of::<RowGradients>(problem));
    let alignment = align_of::<RowGradients>();
    let (what, start) = (Argument::Gradients(None), rows.table.gradients);
    words(extents, Access::Read, what, size, alignment, start)
}

/// The bytes of a word.
const WORD: usize = size_of::<u32>();

/// The words of a table's row, which has a struct for each projection.
fn words_of<Struct>(problem: &Problem) -> usize {
    size_of::<Struct>() / WORD * problem.projections().len()
}

/// Checks the address of dense rows of 32-bit words, and adds their memory.
fn words(
    extents: &mut Extents,
    access: Access,
    what: Argument,
    (rows, columns): (usize, usize),
    alignment: usize,
    start: DevicePointer,
) -> Result<()> {
    let layout = Layout {
        row_stride: columns as i64,
        alignment,
    };
    extents.matrix(access, what, (rows, columns), layout, DType::F32, start)
}

/// Checks that an argument is given exactly if the projection has a rank.
pub(crate) fn adapted(
    problem: &Problem,
    projection: usize,
    what: impl FnOnce(Option<usize>) -> Argument,
    given: bool,
) -> Result<()> {
    let mut projections = problem.projections().iter().skip(projection);
    let planned = !problem.row_adapters().is_table()
        && projections.next().is_some_and(Projection::is_adapted);
    if given == planned {
        return Ok(());
    }
    let what = what(which(problem, projection));
    optional(what, given, planned, Hint::Rank)
}
