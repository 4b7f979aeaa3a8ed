//! What is checked of a call's arguments before anything is launched.

use super::DevicePointer;
use super::params::DropoutParams;
use crate::{Dropout, Error, Problem, Result, Tensor};

pub(super) fn scaling(scaling: f32) -> Result<()> {
    if scaling.is_finite() {
        Ok(())
    } else {
        Err(Error::Scaling { given: scaling })
    }
}

pub(super) fn optional(what: &'static str, given: bool, planned: bool, hint: &'static str) -> Result<()> {
    if given == planned {
        Ok(())
    } else {
        Err(Error::Optional { what, given, hint })
    }
}

pub(super) fn dropout(dropout: Option<Dropout>, problem: &Problem) -> Result<DropoutParams> {
    optional(
        "dropout",
        dropout.is_some(),
        problem.has_dropout(),
        "see Problem::with_dropout",
    )?;
    let Some(dropout) = dropout else {
        return Ok(DropoutParams {
            seed: 0,
            offset: 0,
            threshold: 0,
            keep_scale: 1.0,
        });
    };
    dropout.check()?;
    Ok(DropoutParams {
        seed: dropout.seed,
        offset: dropout.offset,
        threshold: dropout.threshold(),
        keep_scale: dropout.keep_scale(),
    })
}

/// The largest power of two, up to 256, that divides an address.
fn alignment(pointer: DevicePointer) -> usize {
    1 << pointer.trailing_zeros().min(8)
}

pub(super) fn pointer(problem: &Problem, tensor: Tensor, pointer: DevicePointer) -> Result<()> {
    if pointer == 0 {
        return Err(Error::Null { what: tensor.name() });
    }
    let planned = problem.layout(tensor).alignment;
    if !pointer.is_multiple_of(planned as u64) {
        return Err(Error::Alignment {
            tensor,
            given: alignment(pointer),
            planned,
        });
    }
    Ok(())
}

pub(super) fn buffer(buffer: &'static str, pointer: DevicePointer, needed: usize) -> Result<()> {
    if pointer == 0 && needed > 0 {
        return Err(Error::Null { what: buffer });
    }
    if !pointer.is_multiple_of(crate::plan::BUFFER_ALIGNMENT as u64) {
        return Err(Error::BufferAlignment {
            buffer,
            given: alignment(pointer),
        });
    }
    Ok(())
}
