//! Merges weights on the device or, if asked to, with the CPU reference.

use std::borrow::Cow;

use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::reference::{self, Adapter, View};
use lora_kernels::{DType, Lora, MatRef, MergeReport, WeightLayout};

use lora_kernels_adapters::Tensor;

use super::change::LoraPart;
use super::numbers::{converted, part, with_type};
use crate::device::{Choice, Gpu, or_cpu};
use crate::failure::Failure;
use crate::replay::Number;

/// Bytes of a weight that are merged at a time, so that the memory needed on host and device
/// doesn't depend on the model.
const PIECE: usize = 64 << 20;

pub enum Engine {
    Gpu(Gpu),
    Cpu,
}

/// A dense weight to merge, (rows, columns).
#[derive(Clone, Copy)]
pub struct Weight<'a> {
    pub dtype: DType,
    pub rows: usize,
    pub columns: usize,
    pub layout: WeightLayout,
    /// Its elements, in `dtype` or another float type.
    pub data: Tensor<'a>,
    pub loras: &'a [LoraPart<'a>],
}

/// The elements of lora_A and lora_B.
type Pair<'a, A> = (Cow<'a, [A]>, Cow<'a, [A]>);

/// Receives the merged rows in order.
pub type Sink<'a> = dyn FnMut(&[u8]) -> Result<(), Failure> + 'a;

impl Engine {
    pub fn open(choice: Choice) -> Result<Self, Failure> {
        match choice {
            Choice::Cpu => Ok(Engine::Cpu),
            Choice::Gpu(ordinal) => Ok(Engine::Gpu(Gpu::open(ordinal).map_err(or_cpu)?)),
        }
    }

    pub fn name(&self) -> Result<String, Failure> {
        match self {
            Engine::Cpu => Ok("CPU (the reference)".into()),
            Engine::Gpu(gpu) => gpu.name(),
        }
    }

    /// Merges a weight piece by piece.
    pub fn merge(&self, weight: Weight<'_>, sink: &mut Sink<'_>) -> Result<MergeReport, Failure> {
        // All adapters of a call must have one type: the weight's, or f32, which represents every
        // other type exactly.
        let same = weight
            .loras
            .iter()
            .all(|lora| lora.a.element_type() == Some(weight.dtype));
        with_type!(weight.dtype, T => {
            if same {
                self.merge_as::<T, T>(weight, sink)
            } else {
                self.merge_as::<T, f32>(weight, sink)
            }
        })
    }

    fn merge_as<T: Number, A: Number>(
        &self,
        weight: Weight<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<MergeReport, Failure> {
        let matrices = weight
            .loras
            .iter()
            .map(|lora| (converted::<A>(&lora.a), converted::<A>(&lora.b)));
        let matrices: Vec<Pair<'_, A>> = matrices.collect();
        let on_device = match self {
            Engine::Cpu => Vec::new(),
            Engine::Gpu(gpu) => {
                let upload = |(a, b): &Pair<'_, A>| {
                    Ok((
                        gpu.stream().clone_htod(&a[..])?,
                        gpu.stream().clone_htod(&b[..])?,
                    ))
                };
                matrices
                    .iter()
                    .map(upload)
                    .collect::<Result<Vec<_>, Failure>>()?
            }
        };
        let mut total = MergeReport::default();
        let row_bytes = weight.columns * size_of::<T>();
        let rows_at_once = (PIECE / row_bytes).max(1);
        for first in (0..weight.rows).step_by(rows_at_once) {
            let rows = rows_at_once.min(weight.rows - first);
            let piece = Piece {
                weight,
                first,
                rows,
            };
            let elements = first * weight.columns..(first + rows) * weight.columns;
            let values = converted::<T>(&part(&weight.data, elements));
            let (merged, report) = match self {
                Engine::Cpu => piece.on_cpu(&values, &matrices)?,
                Engine::Gpu(gpu) => piece.on_gpu(gpu, &values, &on_device)?,
            };
            total.add(&report);
            sink(bytemuck::cast_slice(&merged))?;
        }
        Ok(total)
    }
}

/// A range of rows of a weight.
struct Piece<'a> {
    weight: Weight<'a>,
    first: usize,
    rows: usize,
}

impl Piece<'_> {
    /// Offsets of the piece in A and in B. A row of the weight is an output feature (a row of B)
    /// or, if transposed, an input feature (a column of A).
    fn offsets(&self, lora: &LoraPart<'_>) -> (usize, usize) {
        match self.weight.layout {
            WeightLayout::OutIn => (0, self.first * lora.rank),
            WeightLayout::InOut => (self.first, 0),
        }
    }

    /// (out_features, in_features) of the piece.
    fn features(&self) -> (usize, usize) {
        match self.weight.layout {
            WeightLayout::OutIn => (self.rows, self.weight.columns),
            WeightLayout::InOut => (self.weight.columns, self.rows),
        }
    }

    fn on_cpu<T: Number, A: Number>(
        &self,
        values: &[T],
        matrices: &[Pair<'_, A>],
    ) -> Result<(Vec<T>, MergeReport), Failure> {
        let (out_features, in_features) = self.features();
        let failed = |error: reference::ShapeError| {
            Failure::Refused(format!("the reference refused a weight: {error}"))
        };
        let adapters = self
            .weight
            .loras
            .iter()
            .zip(matrices)
            .map(|(lora, (a, b))| {
                let (at_a, at_b) = self.offsets(lora);
                Ok(Adapter {
                    a: View::with_row_stride(&a[at_a..], lora.rank, in_features, lora.in_features)?,
                    b: View::new(&b[at_b..], out_features, lora.rank)?,
                    scaling: lora.factor,
                })
            });
        let adapters = adapters.collect::<Result<Vec<_>, _>>().map_err(failed)?;
        let weight = View::new(values, self.rows, self.weight.columns).map_err(failed)?;
        let merged = reference::merge(weight, self.weight.layout, &adapters).map_err(failed)?;
        Ok((merged.weight, merged.report))
    }

    fn on_gpu<T: Number, A: Number>(
        &self,
        gpu: &Gpu,
        values: &[T],
        matrices: &[(CudaSlice<A>, CudaSlice<A>)],
    ) -> Result<(Vec<T>, MergeReport), Failure> {
        let (out_features, in_features) = self.features();
        let weight = gpu.stream().clone_htod(values)?;
        let adapters = self.weight.loras.iter().zip(matrices);
        let adapters = adapters.map(|(lora, (a, b))| {
            let (at_a, at_b) = self.offsets(lora);
            Lora {
                a: MatRef::new(a.slice(at_a..), lora.rank, in_features)
                    .with_row_stride(lora.in_features as i64),
                b: MatRef::new(b.slice(at_b..), out_features, lora.rank),
                scaling: lora.factor,
            }
        });
        let (merged, report) = gpu.layer.merge_with_report(
            &MatRef::new(weight.as_view(), self.rows, self.weight.columns),
            &adapters.collect::<Vec<_>>(),
            self.weight.layout,
        )?;
        Ok((gpu.stream().clone_dtoh(&merged)?, report))
    }
}
