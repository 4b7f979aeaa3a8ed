//! Merge problems: a base weight and the adapters that are added to it. Pure data, no CUDA.

use std::fmt;

use bytemuck::{Pod, Zeroable};

use crate::formats::check_adapters;
use crate::problem::check_dimension;
use crate::{DType, Error, Hint, Layout, Problem, Result, Role, WeightLayout};

/// Adding adapters to a base weight: merged = W + Σ scaling·B·A, summed in f32 and rounded once. A
/// negative scaling takes an adapter out again.
///
/// Shapes: W and merged are (out_features, in_features), or transposed as the [`WeightLayout`]
/// says. Each adapter has lora_A (rank, in_features) and lora_B (out_features, rank).
///
/// ```
/// use lora_kernels::{DType, MergeProblem};
/// let problem = MergeProblem::new(4096, 11008, &[16, 64], DType::BF16)?
///     .with_adapter_dtype(DType::F32)?
///     .with_safe(true);
/// # Ok::<(), lora_kernels::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MergeProblem {
    out_features: usize,
    in_features: usize,
    dtype: DType,
    adapter_dtype: DType,
    weight_layout: WeightLayout,
    safe: bool,
    report: bool,
    weight: Layout,
    merged: Layout,
    adapters: Vec<MergedAdapter>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct MergedAdapter {
    rank: usize,
    lora_a: Layout,
    lora_b: Layout,
}

impl MergeProblem {
    /// The largest number of adapters of a call.
    pub const MAX_ADAPTERS: usize = Problem::MAX_PROJECTIONS;

    /// A merge of one adapter per rank, in the weight's type. All matrices are contiguous, and the
    /// weight and the merged weight are 16-byte aligned. lora_A and lora_B need only the alignment
    /// of an element.
    ///
    /// # Errors
    /// [`Error::Adapters`] unless there are between 1 and [`MergeProblem::MAX_ADAPTERS`],
    /// [`Error::Dimension`] unless every size is between 1 and [`Problem::MAX_DIMENSION`].
    pub fn new(
        out_features: usize,
        in_features: usize,
        ranks: &[usize],
        dtype: DType,
    ) -> Result<Self> {
        check_dimension("out_features", out_features)?;
        check_dimension("in_features", in_features)?;
        if ranks.is_empty() || ranks.len() > Self::MAX_ADAPTERS {
            return Err(Error::Adapters { given: ranks.len() });
        }
        for &rank in ranks {
            check_dimension("rank", rank)?;
        }
        let contiguous = Layout {
            row_stride: 0,
            alignment: 16,
        };
        let adapter = |&rank| MergedAdapter {
            rank,
            lora_a: contiguous,
            lora_b: contiguous,
        };
        let mut problem = Self {
            out_features,
            in_features,
            dtype,
            adapter_dtype: dtype,
            weight_layout: WeightLayout::default(),
            safe: false,
            report: false,
            weight: contiguous,
            merged: contiguous,
            adapters: ranks.iter().map(adapter).collect(),
        };
        problem.lay_out_adapters();
        Ok(problem.with_weight_layout(WeightLayout::default()))
    }

    /// Sets the type of the adapters: f32 over a 16-bit weight, PEFT's default, or the weight's own
    /// type. Their layouts become contiguous again, until [`MergeProblem::with_adapter_layout`] is
    /// called. f32 elements are used unrounded.
    ///
    /// # Errors
    /// [`Error::AdapterDType`] for any other type.
    pub fn with_adapter_dtype(mut self, dtype: DType) -> Result<Self> {
        check_adapters(dtype, self.dtype)?;
        self.adapter_dtype = dtype;
        self.lay_out_adapters();
        Ok(self)
    }

    /// Sets how the weight and the merged weight are stored. Their layouts become contiguous and
    /// 16-byte aligned again, until [`MergeProblem::with_layout`] is called.
    pub fn with_weight_layout(mut self, layout: WeightLayout) -> Self {
        self.weight_layout = layout;
        self.weight = Layout {
            row_stride: self.shape(Role::Weight).1 as i64,
            alignment: 16,
        };
        self.merged = self.weight;
        self
    }

    /// Sets whether nothing is written if a merged element would be a NaN or an infinity. A safe
    /// merge takes two more launches, and always has a report, which says whether it wrote.
    pub fn with_safe(mut self, safe: bool) -> Self {
        self.safe = safe;
        self
    }

    /// Sets whether a [`MergeReport`] is written, which takes one more launch. A safe merge always
    /// has one.
    pub fn with_report(mut self, report: bool) -> Self {
        self.report = report;
        self
    }

    /// Sets the layout of the weight and with it that of the merged weight, or that of the merged
    /// weight alone.
    ///
    /// # Errors
    /// [`Error::NoPart`] for another role, [`Error::Stride`] if rows would overlap or reach beyond
    /// 2⁶³ bytes, [`Error::LayoutAlignment`] if the alignment is not a power of two or is smaller
    /// than an element.
    pub fn with_layout(mut self, tensor: Role, layout: Layout) -> Result<Self> {
        if matches!(tensor, Role::Weight | Role::Merged) {
            layout.check(tensor, self.shape(tensor), self.dtype)?;
        }
        match tensor {
            Role::Weight => (self.weight, self.merged) = (layout, layout),
            Role::Merged => self.merged = layout,
            _ => return Err(no_part(tensor)),
        }
        Ok(self)
    }

    /// Sets the layout of lora_A or lora_B of one adapter.
    ///
    /// # Errors
    /// [`Error::NoAdapter`] if there is no such adapter, [`Error::NoPart`] for another tensor, and
    /// those of [`MergeProblem::with_layout`].
    pub fn with_adapter_layout(
        mut self,
        adapter: usize,
        tensor: Role,
        layout: Layout,
    ) -> Result<Self> {
        let (shape, count) = (self.adapter_shape(adapter, tensor), self.adapters.len());
        let Some(found) = self.adapters.get_mut(adapter) else {
            return Err(Error::NoAdapter {
                given: adapter,
                count,
            });
        };
        if matches!(tensor, Role::LoraA | Role::LoraB) {
            layout.check(tensor, shape, self.adapter_dtype)?;
        }
        match tensor {
            Role::LoraA => found.lora_a = layout,
            Role::LoraB => found.lora_b = layout,
            _ => return Err(no_part(tensor)),
        }
        Ok(self)
    }

    /// The layer's out_features: N.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// The layer's in_features: K.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The ranks of the adapters, in order.
    pub fn ranks(&self) -> impl ExactSizeIterator<Item = usize> + '_ {
        self.adapters.iter().map(|adapter| adapter.rank)
    }

    /// The element type of the weight and of the merged weight.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// The element type of the adapters.
    pub fn adapter_dtype(&self) -> DType {
        self.adapter_dtype
    }

    /// How the weight is stored.
    pub fn weight_layout(&self) -> WeightLayout {
        self.weight_layout
    }

    /// Whether nothing is written if a merged element would be a NaN or an infinity.
    pub fn is_safe(&self) -> bool {
        self.safe
    }

    /// Whether a report is written.
    pub fn has_report(&self) -> bool {
        self.report || self.safe
    }

    /// (rows, columns) of the weight and of the merged weight, as stored.
    pub fn shape(&self, tensor: Role) -> (usize, usize) {
        match tensor {
            Role::Weight | Role::Merged => self
                .weight_layout
                .shape(self.out_features, self.in_features),
            _ => (0, 0),
        }
    }

    /// (rows, columns) of lora_A or lora_B of an adapter. An adapter that doesn't exist has rank 0.
    pub fn adapter_shape(&self, adapter: usize, tensor: Role) -> (usize, usize) {
        let rank = self.adapters.get(adapter).map_or(0, |adapter| adapter.rank);
        match tensor {
            Role::LoraA => (rank, self.in_features),
            Role::LoraB => (self.out_features, rank),
            _ => (0, 0),
        }
    }

    /// The layout of the weight or of the merged weight.
    pub fn layout(&self, tensor: Role) -> Layout {
        if tensor == Role::Merged {
            self.merged
        } else {
            self.weight
        }
    }

    /// The layout of lora_A or lora_B of an adapter; `None` if it does not exist.
    pub fn adapter_layout(&self, adapter: usize, tensor: Role) -> Option<Layout> {
        let adapter = self.adapters.get(adapter)?;
        match tensor {
            Role::LoraA => Some(adapter.lora_a),
            Role::LoraB => Some(adapter.lora_b),
            _ => None,
        }
    }

    fn lay_out_adapters(&mut self) {
        let (in_features, alignment) = (self.in_features, self.adapter_dtype.size());
        let contiguous = |columns: usize| Layout {
            row_stride: columns as i64,
            alignment,
        };
        for adapter in &mut self.adapters {
            adapter.lora_a = contiguous(in_features);
            adapter.lora_b = contiguous(adapter.rank);
        }
    }
}

impl fmt::Display for MergeProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "out_features {}, in_features {}, ",
            self.out_features, self.in_features
        )?;
        f.write_str(if self.adapters.len() == 1 {
            "rank"
        } else {
            "ranks"
        })?;
        for rank in self.ranks() {
            write!(f, " {rank}")?;
        }
        write!(f, ", {}", self.dtype)?;
        if self.adapter_dtype != self.dtype {
            write!(f, ", {} adapters", self.adapter_dtype)?;
        }
        if self.weight_layout == WeightLayout::InOut {
            f.write_str(", weight (in, out)")?;
        }
        if self.safe {
            f.write_str(", safe")?;
        } else if self.report {
            f.write_str(", report")?;
        }
        Ok(())
    }
}

fn no_part(tensor: Role) -> Error {
    Error::NoPart {
        tensor,
        problem: "a merge",
        hint: Hint::MergeTensors,
    }
}

/// The report of a merge: what it changed, and what storing the result in the weight's type lost.
///
/// bf16 keeps 8 significant bits of a weight, so most elements of a delta that is a thousandth of
/// the weight are rounded away. The bits of the sums depend only on the arguments and the tile
/// size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Pod, Zeroable)]
#[repr(C)]
pub struct MergeReport {
    /// Σ delta² over the elements whose merged value is finite.
    pub delta_squares: f64,
    /// Σ (stored merged - W - delta)² over the elements whose merged value is finite.
    pub error_squares: f64,
    /// The number of elements of the weight.
    pub elements: u64,
    /// The number of elements whose delta is not 0.
    pub nonzero: u64,
    /// The number of these whose stored value did not change, because the delta was rounded away.
    pub unchanged: u64,
    /// The number of elements whose merged value is a NaN or an infinity. If it is not 0, a safe
    /// merge has written nothing.
    pub non_finite: u64,
}

impl MergeReport {
    /// The size of a report in device memory, in bytes.
    pub const BYTES: usize = size_of::<Self>();

    /// The report from the bytes that the kernels wrote; `None` unless there are
    /// [`MergeReport::BYTES`] bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        bytemuck::try_pod_read_unaligned(bytes).ok()
    }

    /// The share of the elements with a delta that did not change, between 0 and 1. It is 0 if
    /// there is no delta.
    pub fn unchanged_share(&self) -> f64 {
        if self.nonzero == 0 {
            return 0.0;
        }
        self.unchanged as f64 / self.nonzero as f64
    }

    /// ‖stored change - delta‖ / ‖delta‖: 0 is exact, 1 is as if nothing had been merged. It is 0
    /// if there is no delta.
    pub fn relative_error(&self) -> f64 {
        if self.delta_squares == 0.0 {
            return 0.0;
        }
        (self.error_squares / self.delta_squares).sqrt()
    }

    /// Adds the report of another weight, for figures over a whole model.
    pub fn add(&mut self, other: &MergeReport) {
        self.delta_squares += other.delta_squares;
        self.error_squares += other.error_squares;
        self.elements += other.elements;
        self.nonzero += other.nonzero;
        self.unchanged += other.unchanged;
        self.non_finite += other.non_finite;
    }
}
