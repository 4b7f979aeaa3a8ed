//! Reads the parts of lora_A and lora_B that belong to a piece of a weight.

use std::ops::Range;

use lora_kernels::{Element, WeightLayout};

use super::change::{LoraPart, Stack};
use super::job::{Job, Piece};
use super::numbers::{CHUNK, converted, converted_into, element_bytes, gathered, part};
use super::product::{Across, Down, Strides};
use crate::failure::Failure;

/// An adapter's part in a piece, dense: lora_A (rank, in_features of the piece) and lora_B
/// (out_features of the piece, rank).
pub struct Factors<A> {
    pub rank: usize,
    pub scaling: f32,
    pub a: Vec<A>,
    pub b: Vec<A>,
}

/// The features of a piece.
struct Features {
    inputs: Range<usize>,
    outputs: Range<usize>,
}

impl Features {
    fn of(job: &Job<'_>, piece: Piece) -> Self {
        let (rows, columns) = (piece.first..piece.first + piece.rows, 0..job.grid.columns);
        match job.change.layout {
            WeightLayout::OutIn => Self {
                inputs: columns,
                outputs: rows,
            },
            WeightLayout::InOut => Self {
                inputs: rows,
                outputs: columns,
            },
        }
    }
}

/// The factors of every adapter, in one type.
pub fn read<A: Element>(job: &Job<'_>, piece: Piece) -> Result<Vec<Factors<A>>, Failure> {
    let Features { inputs, outputs } = Features::of(job, piece);
    let loras = job.change.loras.iter().map(|lora| {
        Ok(Factors {
            rank: lora.rank,
            scaling: lora.factor,
            a: lora_a(job, lora, piece.matrix, inputs.clone())?,
            b: lora_b(lora, piece.matrix, outputs.clone())?,
        })
    });
    loras.collect()
}

/// The factors that all pieces of a matrix share, of every adapter.
pub fn across(job: &Job<'_>, piece: Piece) -> Result<Vec<Across>, Failure> {
    let is_a = job.change.layout == WeightLayout::OutIn;
    let loras = job.change.loras.iter().map(|lora| {
        let (values, strides) = factor(job, lora, piece, is_a)?;
        Ok(Across::new(&values, strides, job.grid.columns))
    });
    loras.collect()
}

/// The factors of a piece's rows, of every adapter.
pub fn down(job: &Job<'_>, piece: Piece) -> Result<Vec<Down>, Failure> {
    let is_a = job.change.layout == WeightLayout::InOut;
    let loras = job.change.loras.iter().map(|lora| {
        let (values, strides) = factor(job, lora, piece, is_a)?;
        Ok(Down::new(&values, strides, piece.rows))
    });
    loras.collect()
}

/// An adapter's lora_A or lora_B for a piece, and how it lies in memory.
fn factor(
    job: &Job<'_>,
    lora: &LoraPart<'_>,
    piece: Piece,
    is_a: bool,
) -> Result<(Vec<f32>, Strides), Failure> {
    let Features { inputs, outputs } = Features::of(job, piece);
    Ok(match is_a {
        true => {
            let strides = Strides::of_ranks(lora.rank, inputs.len());
            (lora_a(job, lora, piece.matrix, inputs)?, strides)
        }
        false => (
            lora_b(lora, piece.matrix, outputs)?,
            Strides::of_features(lora.rank),
        ),
    })
}

/// lora_A's columns for these in_features: (rank, inputs).
fn lora_a<A: Element>(
    job: &Job<'_>,
    lora: &LoraPart<'_>,
    matrix: usize,
    inputs: Range<usize>,
) -> Result<Vec<A>, Failure> {
    let in_features = match job.change.layout {
        WeightLayout::OutIn => job.grid.columns,
        WeightLayout::InOut => job.grid.rows,
    };
    let first = lora.expert.unwrap_or(matrix) * lora.rank;
    if inputs.len() == in_features {
        let rows = first * in_features..(first + lora.rank) * in_features;
        return converted(&part(&lora.a, rows)?);
    }
    let mut values = vec![A::zeroed(); lora.rank * inputs.len()];
    for (row, values) in values.chunks_exact_mut(inputs.len().max(1)).enumerate() {
        let begin = (first + row) * in_features;
        let columns = begin + inputs.start..begin + inputs.end;
        converted_into(&part(&lora.a, columns)?, values)?;
    }
    Ok(values)
}

/// lora_B's rows for these out_features: (outputs, rank).
fn lora_b<A: Element>(
    lora: &LoraPart<'_>,
    matrix: usize,
    outputs: Range<usize>,
) -> Result<Vec<A>, Failure> {
    let (rank, expert) = (lora.rank, lora.expert.unwrap_or(matrix));
    let outputs = outputs.start + lora.first_out..outputs.end + lora.first_out;
    let experts = match lora.stack {
        Stack::Parameter { experts } if experts > 1 => {
            // Every row holds all experts' elements. Only a few rows are in memory at a time.
            let row_bytes = rank * experts * element_bytes(lora.b.dtype);
            let step = (CHUNK / row_bytes.max(1)).max(1);
            let mut values = Vec::with_capacity(outputs.len() * rank);
            for begin in outputs.clone().step_by(step) {
                let rows = begin..outputs.end.min(begin + step);
                let places = rows.flat_map(|output| {
                    (0..rank).map(move |column| (output * rank + column) * experts + expert)
                });
                values.extend(gathered::<A>(&lora.b, places)?);
            }
            return Ok(values);
        }
        Stack::Leading { experts } => experts,
        Stack::One | Stack::Parameter { .. } => 1,
    };
    // lora_B has the same number of rows for each expert.
    let all: usize = lora.b.shape.iter().product();
    let begin = expert * (all / experts);
    let rows = begin + outputs.start * rank..begin + outputs.end * rank;
    converted(&part(&lora.b, rows)?)
}
