//! Computes pieces of tensors.

use std::sync::Arc;

use lora_kernels::{DType, MergeReport, WeightLayout};
use lora_kernels_adapters::Dtype;

use super::buffer::{Buffer, Pool};
use super::change::LoraPart;
use super::engine::{self, Block, Lane};
use super::factors;
use super::job::{Job, Method, Piece};
use super::numbers::{collected, convert, element_bytes, narrow, non_finite, part, with_type};
use super::product::{self, Across, Lanes, Term};
use super::wide::{Biases, Factors, Rows, Scales, Values};
use crate::device::Gpu;
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

/// What a piece is computed from.
pub struct Input {
    /// The bytes of its source.
    pub source: Buffer,
    /// On the CPU, the factors that it shares with the other pieces of its matrix.
    pub across: Arc<[Across]>,
}

/// Computes a piece.
pub fn compute(
    lane: &Lane,
    pool: &Pool,
    job: &Job<'_>,
    piece: Piece,
    pass: &Pass,
    input: Input,
) -> Result<Outcome, Failure> {
    let Input { mut source, across } = input;
    let piece = Work {
        lane,
        pool,
        job,
        piece,
        across: &across,
    };
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
    across: &'w [Across],
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
                let squares = values.squares(self.piece.rows);
                let scales = Scales::new(magnitude, rows, &squares)?;
                without_norm = scales.without_norm;
                Some(scales.scales)
            }
            _ => None,
        };
        let mut rows = Rows::new(values, self.biases()?, job.dtype);
        let mut bytes = self.pool.take(self.elements() * job.result_bytes());
        let mut report = (!job.change.loras.is_empty()).then(MergeReport::default);
        let row_bytes = job.grid.columns * job.result_bytes();
        let into = bytes.bytes_mut()?.chunks_exact_mut(row_bytes.max(1));
        for (row, bytes) in into.enumerate() {
            let factors = match (column_scales, &row_scales) {
                (Some(scales), _) => Factors::OfColumns(scales),
                (None, Some(scales)) => Factors::One(scales[row]),
                (None, None) => Factors::One(1.0),
            };
            rows.write(row, factors, bytes, report.as_mut());
        }
        self.pool.give_back(sums);
        self.pool.give_back(source);
        self.replace_sums_rows(bytes.bytes_mut()?)?;
        Ok(Made {
            non_finite: non_finite(bytes.bytes()?, job.dtype),
            bytes,
            report,
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
        let mut row_values = vec![0.0; self.job.grid.columns];
        let blocks = rows.chunks(self.job.grid.block_rows()).map(|rows| {
            let mut squares = vec![0.0; self.job.grid.columns];
            for &row in rows {
                values.read(row, &mut row_values);
                for (sum, value) in squares.iter_mut().zip(&row_values) {
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
            dtype => narrow(source.bytes()?, dtype, sums),
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
    fn add<T: Number + Lanes>(&self, values: &mut [T]) -> Result<MergeReport, Failure> {
        match self.lane {
            Lane::Cpu => self.add_on_cpu(values),
            Lane::Gpu(gpu) => self.add_on_gpu(gpu, values),
        }
    }

    fn add_on_cpu<T: Lanes>(&self, values: &mut [T]) -> Result<MergeReport, Failure> {
        let loras = &self.job.change.loras;
        let down = factors::down(self.job, self.piece)?;
        let terms = loras.iter().zip(&down).zip(self.across);
        let terms = terms.map(|((lora, down), across)| Term {
            scaling: lora.factor,
            down,
            across,
        });
        let columns = self.job.grid.columns;
        Ok(product::add(values, columns, &terms.collect::<Vec<_>>()))
    }

    fn add_on_gpu<T: Number>(&self, gpu: &Gpu, values: &mut [T]) -> Result<MergeReport, Failure> {
        let block = Block {
            rows: self.piece.rows,
            columns: self.job.grid.columns,
            layout: self.job.change.layout,
        };
        // All adapters of a call must have one type: the weight's, or f32, which represents every
        // other type of the kernels exactly.
        let is_same = |lora: &LoraPart<'_>| {
            [lora.a, lora.b]
                .iter()
                .all(|tensor| tensor.element_type() == Some(T::DTYPE))
        };
        let (job, piece) = (self.job, self.piece);
        match job.change.loras.iter().all(is_same) {
            true => engine::add(gpu, values, block, &factors::read::<T>(job, piece)?),
            false => engine::add(gpu, values, block, &factors::read::<f32>(job, piece)?),
        }
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
