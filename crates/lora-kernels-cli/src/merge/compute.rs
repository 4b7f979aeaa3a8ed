//! Computes pieces of tensors.

use std::borrow::Cow;
use std::sync::Arc;

use lora_kernels::{DType, Element, MergeReport, WeightLayout};
use lora_kernels_adapters::Dtype;

use super::buffer::{Buffer, Pool};
use super::change::{LoraPart, Stack};
use super::engine::{Block, Factors, Lane};
use super::job::{Job, Method, Piece};
use super::numbers::{
    convert, converted, element_bytes, gathered, non_finite, part, read, store, with_float,
    with_type,
};
use super::wide::{Biases, Scales, Values, collected, count};
use crate::failure::Failure;
use crate::replay::Number;

/// What is wanted of a piece.
#[derive(Clone)]
pub enum Pass {
    /// The sums of its columns' squares, for each block.
    Squares,
    /// Its bytes, where each column is multiplied by its scale, if there are any.
    Bytes(Option<Arc<[f64]>>),
}

pub enum Outcome {
    Squares(Vec<Vec<f64>>),
    Bytes(Made),
}

/// A finished piece.
pub struct Made {
    pub bytes: Buffer,
    /// What storing it loses, where adapters were added.
    pub report: Option<MergeReport>,
    /// Elements that are NaN or infinite.
    pub non_finite: u64,
    /// Rows without a direction that magnitudes could be given to.
    pub without_norm: u64,
}

/// Computes a piece from the bytes of its source.
pub fn compute(
    lane: &Lane,
    pool: &Pool,
    job: &Job<'_>,
    piece: Piece,
    pass: &Pass,
    source: Buffer,
) -> Result<Outcome, Failure> {
    let piece = Work {
        lane,
        pool,
        job,
        piece,
    };
    let mut source = source;
    if job.rows_come_first() {
        piece.replace_rows(source.bytes_mut()?, job.source.dtype)?;
    }
    match (pass, job.method) {
        (Pass::Squares, _) => piece.squares(source).map(Outcome::Squares),
        (Pass::Bytes(_), Method::Copied | Method::Converted) => {
            piece.taken(source).map(Outcome::Bytes)
        }
        (Pass::Bytes(_), Method::Added(dtype)) => piece.added(source, dtype).map(Outcome::Bytes),
        (Pass::Bytes(scales), Method::Wide) => {
            piece.wide(source, scales.as_deref()).map(Outcome::Bytes)
        }
    }
}

struct Work<'w, 'a> {
    lane: &'w Lane,
    pool: &'w Pool,
    job: &'w Job<'a>,
    piece: Piece,
}

impl Work<'_, '_> {
    fn elements(&self) -> usize {
        self.piece.rows * self.job.grid.columns
    }

    fn taken(&self, source: Buffer) -> Result<Made, Failure> {
        let job = self.job;
        let mut bytes = source;
        if job.source.dtype != job.dtype {
            let mut into = self.pool.take(self.elements() * job.result_bytes());
            convert(
                bytes.bytes()?,
                job.source.dtype,
                job.dtype,
                into.bytes_mut()?,
            );
            self.pool.give_back(std::mem::replace(&mut bytes, into));
        }
        self.replace_sums_rows(bytes.bytes_mut()?)?;
        Ok(Made {
            non_finite: non_finite(bytes.bytes()?, job.dtype),
            bytes,
            report: None,
            without_norm: 0,
        })
    }

    /// The adapters are added in the type of the weight.
    fn added(&self, source: Buffer, dtype: DType) -> Result<Made, Failure> {
        let mut bytes = source;
        let report = with_type!(dtype, T => {
            self.add::<T>(bytemuck::cast_slice_mut(bytes.bytes_mut()?))?
        });
        self.replace_sums_rows(bytes.bytes_mut()?)?;
        let non_finite = match self.job.rows.is_empty() {
            true => report.non_finite,
            false => non_finite(bytes.bytes()?, self.job.dtype),
        };
        Ok(Made {
            bytes,
            report: Some(report),
            non_finite,
            without_norm: 0,
        })
    }

    /// The sums are f32's; what follows is computed in f64 and rounded once.
    fn wide(&self, source: Buffer, column_scales: Option<&[f64]>) -> Result<Made, Failure> {
        let job = self.job;
        let sums = self.sums(&source)?;
        let values = self.values(&source, &sums)?;
        let mut without_norm = 0;
        let row_scales = match (&job.change.magnitude, job.change.layout) {
            (Some(magnitude), WeightLayout::OutIn) => {
                let rows = self.piece.first..self.piece.first + self.piece.rows;
                let squares = (0..self.piece.rows).map(|row| {
                    let squares = values.row(row).map(|value| value * value);
                    squares.sum()
                });
                let scales = Scales::new(magnitude, rows, &squares.collect::<Vec<f64>>())?;
                without_norm = scales.without_norm;
                Some(scales.scales)
            }
            _ => None,
        };
        let biases = self.biases()?;
        let mut bytes = self.pool.take(self.elements() * job.result_bytes());
        let mut report = MergeReport::default();
        let row_bytes = job.grid.columns * job.result_bytes();
        let rows = bytes.bytes_mut()?.chunks_exact_mut(row_bytes.max(1));
        for (row, bytes) in rows.enumerate() {
            let scale = row_scales.as_ref().map_or(1.0, |scales| scales[row]);
            let scaled = values.row(row).enumerate().map(|(column, value)| {
                let value = match column_scales {
                    Some(scales) => value * scales[column],
                    None => value * scale,
                };
                biases.added(value, row * job.grid.columns + column)
            });
            store(scaled.clone(), job.dtype, bytes);
            if !job.change.loras.is_empty() {
                let stored = collected(bytes, job.dtype);
                let old = values.old(row);
                for ((old, wanted), stored) in old.into_iter().zip(scaled).zip(stored) {
                    count(&mut report, old, wanted, stored);
                }
            }
        }
        self.pool.give_back(sums);
        self.pool.give_back(source);
        self.replace_sums_rows(bytes.bytes_mut()?)?;
        Ok(Made {
            non_finite: non_finite(bytes.bytes()?, job.dtype),
            bytes,
            report: (!job.change.loras.is_empty()).then_some(report),
            without_norm,
        })
    }
}

impl Work<'_, '_> {
    /// For each block of the piece, the sums of its columns' squares.
    fn squares(&self, source: Buffer) -> Result<Vec<Vec<f64>>, Failure> {
        let sums = self.sums(&source)?;
        let values = self.values(&source, &sums)?;
        let rows: Vec<usize> = (0..self.piece.rows).collect();
        let blocks = rows.chunks(self.job.grid.block_rows()).map(|rows| {
            let mut squares = vec![0.0; self.job.grid.columns];
            for &row in rows {
                for (sum, value) in squares.iter_mut().zip(values.row(row)) {
                    *sum += value * value;
                }
            }
            squares
        });
        let blocks = blocks.collect();
        self.pool.give_back(sums);
        self.pool.give_back(source);
        Ok(blocks)
    }

    /// The source with the adapters added, in f32; of a source in f64, what is to be added to it.
    fn sums(&self, source: &Buffer) -> Result<Buffer, Failure> {
        let mut buffer = self.pool.take(self.elements() * size_of::<f32>());
        let sums: &mut [f32] = bytemuck::cast_slice_mut(buffer.bytes_mut()?);
        match self.job.source.dtype {
            // Adding to -0 keeps every value, the two zeros included.
            Dtype::F64 => sums.fill(-0.0),
            dtype => with_float!(dtype, S => {
                let values = read::<S>(source.bytes()?);
                sums.iter_mut().zip(values).for_each(|(sum, value)| *sum = value as f32);
            }, else ()),
        }
        if !self.job.change.loras.is_empty() {
            self.add::<f32>(sums)?;
        }
        Ok(buffer)
    }

    fn values<'v>(&self, source: &'v Buffer, sums: &'v Buffer) -> Result<Values<'v>, Failure> {
        Ok(Values {
            sums: bytemuck::cast_slice(sums.bytes()?),
            source: source.bytes()?,
            dtype: self.job.source.dtype,
            columns: self.job.grid.columns,
        })
    }

    /// Adds the adapters' parts to a piece of a weight of type `T`.
    fn add<T: Number>(&self, values: &mut [T]) -> Result<MergeReport, Failure> {
        // All adapters of a call must have one type: the weight's, or f32, which represents every
        // other type of the kernels exactly.
        let is_same = |lora: &LoraPart<'_>| {
            [lora.a, lora.b]
                .iter()
                .all(|tensor| tensor.element_type() == Some(T::DTYPE))
        };
        match self.job.change.loras.iter().all(is_same) {
            true => self.add_as::<T, T>(values),
            false => self.add_as::<T, f32>(values),
        }
    }

    fn add_as<T: Number, A: Number>(&self, values: &mut [T]) -> Result<MergeReport, Failure> {
        let block = Block {
            rows: self.piece.rows,
            columns: self.job.grid.columns,
            layout: self.job.change.layout,
        };
        let factors = self
            .job
            .change
            .loras
            .iter()
            .map(|lora| self.factors::<A>(lora));
        let factors = factors.collect::<Result<Vec<_>, Failure>>()?;
        self.lane.add(values, block, &factors)
    }

    /// The rows of lora_B or, for a transposed weight, the columns of lora_A that belong to the
    /// piece, and the whole other matrix.
    fn factors<A: Element>(&self, lora: &LoraPart<'_>) -> Result<Factors<'static, A>, Failure> {
        let Piece {
            first,
            rows,
            matrix,
        } = self.piece;
        let grid = &self.job.grid;
        let expert = lora.expert.unwrap_or(matrix);
        let (in_features, inputs, outputs) = match self.job.change.layout {
            WeightLayout::OutIn => (grid.columns, 0..grid.columns, first..first + rows),
            WeightLayout::InOut => (grid.rows, first..first + rows, 0..grid.columns),
        };
        let rank = lora.rank;
        let row_of_a = |row: usize| (expert * rank + row) * in_features;
        let a = match inputs.len() == in_features {
            true => converted::<A>(&part(&lora.a, row_of_a(0)..row_of_a(rank))?)?,
            false => {
                let places = (0..rank)
                    .flat_map(|row| inputs.clone().map(move |input| row_of_a(row) + input));
                gathered(&lora.a, places)?
            }
        };
        let outputs = outputs.start + lora.first_out..outputs.end + lora.first_out;
        let b = match lora.stack {
            Stack::Parameter { experts } if experts > 1 => {
                let places = outputs.flat_map(|output| {
                    (0..rank).map(move |column| (output * rank + column) * experts + expert)
                });
                gathered(&lora.b, places)?
            }
            stack => {
                // lora_B has the same number of rows for each expert.
                let experts = match stack {
                    Stack::Leading { experts } => experts,
                    Stack::One | Stack::Parameter { .. } => 1,
                };
                let all: usize = lora.b.shape.iter().product();
                let begin = expert * (all / experts);
                converted::<A>(&part(
                    &lora.b,
                    begin + outputs.start * rank..begin + outputs.end * rank,
                )?)?
            }
        };
        Ok(Factors {
            rank,
            scaling: lora.factor,
            a: Cow::Owned(a),
            b: Cow::Owned(b),
        })
    }

    fn biases(&self) -> Result<Biases, Failure> {
        let job = self.job;
        let first = job.grid.place(self.piece);
        let biases = job.change.biases.iter().map(|(factor, bias)| {
            let bias = part(bias, first..first + self.elements())?;
            Ok((*factor, collected(&bias.read()?, bias.dtype)))
        });
        Ok(Biases {
            biases: biases.collect::<Result<_, Failure>>()?,
            in_f64: job.dtype == Dtype::F64,
        })
    }

    fn replace_sums_rows(&self, bytes: &mut [u8]) -> Result<(), Failure> {
        match self.job.rows_come_first() {
            true => Ok(()),
            false => self.replace_rows(bytes, self.job.dtype),
        }
    }

    /// Puts the replaced rows into a piece of this type.
    fn replace_rows(&self, bytes: &mut [u8], dtype: Dtype) -> Result<(), Failure> {
        let job = self.job;
        let first = self.piece.first;
        let begin = job.rows.partition_point(|(row, ..)| *row < first);
        let row_bytes = job.grid.columns * element_bytes(dtype);
        for &(row, at, from) in job.rows[begin..]
            .iter()
            .take_while(|(row, ..)| *row < first + self.piece.rows)
        {
            let values = &job.change.rows[at].values;
            let values = part(
                values,
                from * job.grid.columns..(from + 1) * job.grid.columns,
            )?;
            let into = &mut bytes[(row - first) * row_bytes..(row - first + 1) * row_bytes];
            convert(&values.read()?, values.dtype, dtype, into);
        }
        Ok(())
    }
}
