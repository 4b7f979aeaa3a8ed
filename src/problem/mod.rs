//! Problems: sizes, formats and memory layouts of adapted linear layers that share their input.
//! Pure data, no CUDA.

mod display;
mod options;
mod properties;

use crate::{DType, Error, Formats, Layout, Mask, Result, Role, RowAdapters, WeightLayout};

/// One of the linear layers that share x.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Projection {
    /// Columns of y: N.
    pub out_features: usize,
    /// Rank of the adapter: r. 0 if the layer has no adapter.
    pub rank: usize,
}

impl Projection {
    /// The rank rounded up to 16: the projection's columns in S and T.
    pub fn padded_rank(&self) -> usize {
        self.rank.next_multiple_of(16)
    }

    pub(crate) fn is_adapted(&self) -> bool {
        self.rank > 0
    }
}

/// Adapted linear layers applied to a batch of tokens: a single one, or several that share x, such
/// as q, k and v, or gate and up.
///
/// ```
/// use lora_kernels::{DType, Problem, Projection};
/// let mlp = Problem::new(192, 384, 1536, 8, DType::BF16)?.with_bias(true).with_dropout(true);
/// let layer = |out_features, rank| Projection { out_features, rank };
/// let qkv = [layer(4096, 16), layer(1024, 0), layer(1024, 16)];
/// let qkv = Problem::sharing_x(4096, 4096, &qkv, DType::BF16)?;
/// # Ok::<(), lora_kernels::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    tokens: usize,
    in_features: usize,
    projections: Vec<Projection>,
    formats: Formats,
    row_adapters: RowAdapters,
    bias: bool,
    dropout: bool,
    dropout_words: bool,
    mask: Mask,
    /// Row and column of the whole layer's mask where this problem's begins
    mask_origin: (u32, u64),
    weight_layout: WeightLayout,
    input_gradient: bool,
    inference: bool,
    batch_invariant: bool,
    delta_only: bool,
    /// Indexed by role.
    accumulate: [bool; Role::ALL.len()],
    /// Indexed by projection and role. The layouts of x and dx are stored with projection 0.
    layouts: Vec<[Layout; Role::ALL.len()]>,
}

impl Problem {
    /// A single adapted projection with contiguous, 16-byte aligned tensors, no bias and no
    /// dropout. Bias, d_lora_A and d_lora_B need only the alignment of an element, because the
    /// kernels check their addresses themselves.
    ///
    /// # Errors
    /// [`Error::Dimension`] unless every size is between 1, for tokens 0, and
    /// [`Problem::MAX_DIMENSION`].
    pub fn new(
        tokens: usize,
        in_features: usize,
        out_features: usize,
        rank: usize,
        dtype: DType,
    ) -> Result<Self> {
        check_dimension("rank", rank)?;
        Self::sharing_x(
            tokens,
            in_features,
            &[Projection { out_features, rank }],
            dtype,
        )
    }

    /// Several projections that share x, with tensors as in [`Problem::new`]. A rank of 0 means no
    /// adapter; at least one projection must have an adapter.
    ///
    /// # Errors
    /// [`Error::Projections`] unless there are between 1 and [`Problem::MAX_PROJECTIONS`],
    /// [`Error::NotAdapted`] if none has a rank, [`Error::Dimension`] unless every other size, and
    /// the sum of the padded ranks, is between 1, for tokens 0, and [`Problem::MAX_DIMENSION`].
    pub fn sharing_x(
        tokens: usize,
        in_features: usize,
        projections: &[Projection],
        dtype: DType,
    ) -> Result<Self> {
        check_tokens(tokens)?;
        check_dimension("in_features", in_features)?;
        if projections.is_empty() || projections.len() > Self::MAX_PROJECTIONS {
            return Err(Error::Projections {
                given: projections.len(),
            });
        }
        for projection in projections {
            check_dimension("out_features", projection.out_features)?;
            if projection.is_adapted() {
                check_dimension("rank", projection.rank)?;
            }
        }
        if !projections.iter().any(Projection::is_adapted) {
            return Err(Error::NotAdapted);
        }
        let mut problem = Self {
            tokens,
            in_features,
            projections: projections.to_vec(),
            formats: Formats::uniform(dtype),
            row_adapters: RowAdapters::default(),
            bias: false,
            dropout: false,
            dropout_words: false,
            mask: Mask::default(),
            mask_origin: (0, 0),
            weight_layout: WeightLayout::default(),
            input_gradient: true,
            inference: false,
            batch_invariant: false,
            delta_only: false,
            accumulate: [false; Role::ALL.len()],
            layouts: Vec::new(),
        };
        check_dimension(
            "the sum of the ranks, each rounded up to 16,",
            problem.padded_ranks(),
        )?;
        let contiguous =
            |projection| Role::ALL.map(|tensor| problem.contiguous(projection, tensor));
        problem.layouts = (0..projections.len()).map(contiguous).collect();
        Ok(problem)
    }

    /// The largest size of a dimension. The kernels' 32-bit indices must not overflow, not even in
    /// a last tile that is partly filled. Offsets into a tensor are 64-bit and may be much larger.
    pub const MAX_DIMENSION: usize = i32::MAX as usize - 0xFFFF;

    /// The most tokens of a forward for inference that takes one launch.
    pub const DECODE_TOKENS: usize = 64;

    /// The largest number of projections that can share x.
    pub const MAX_PROJECTIONS: usize = 8;

    /// The same layers on another number of tokens. Layouts stay.
    ///
    /// # Errors
    /// [`Error::Dimension`] beyond [`Problem::MAX_DIMENSION`], [`Error::Stride`] if a tensor at its
    /// row stride would reach beyond 2⁶³ bytes.
    pub fn with_tokens(mut self, tokens: usize) -> Result<Self> {
        check_tokens(tokens)?;
        self.tokens = tokens;
        for projection in 0..self.projections.len() {
            for tensor in [Role::X, Role::Y, Role::DY, Role::DX] {
                self.layout_of(projection, tensor).check(
                    tensor,
                    self.shape_of(projection, tensor),
                    self.dtype_of(tensor),
                )?;
            }
        }
        Ok(self)
    }
}

/// A batch may be empty.
fn check_tokens(given: usize) -> Result<()> {
    match given {
        0 => Ok(()),
        _ => check_dimension("tokens", given),
    }
}

pub(crate) fn check_dimension(name: &'static str, given: usize) -> Result<()> {
    if given == 0 || given > Problem::MAX_DIMENSION {
        return Err(Error::Dimension { name, given });
    }
    Ok(())
}
