//! Problems: sizes, formats and memory layouts of adapted linear layers that share their input.
//! Pure data, no CUDA.

use std::fmt;

use crate::formats::check_adapters;
use crate::{DType, Error, Formats, Hint, Layout, Mask, Result, Role, RowAdapters, WeightLayout};

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

    /// Sets whether every projection has a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// Sets whether there is dropout on the adapters' input. All adapters use the same mask of x.
    pub fn with_dropout(mut self, dropout: bool) -> Self {
        self.dropout = dropout;
        self
    }

    /// Sets whether seed and offset of the dropout are read from device memory, so that a replay of
    /// a captured graph draws the mask of what stands there then. `Dropout::seed` of a call is then
    /// the device address of two u64, the seed and the offset, at a multiple of 8, and
    /// `Dropout::offset` is 0. They must not change between a forward and its backward. Only raw
    /// calls take such a problem, because the address carries no lifetime.
    pub fn with_dropout_from_memory(mut self, from_memory: bool) -> Self {
        self.dropout_words = from_memory;
        self
    }

    /// Sets where this problem's dropout mask begins in the mask of a whole layer, of which this is
    /// a shard: its first row (token) and its first column of x. Shards with the same seed and
    /// offset then drop what the whole layer drops. The saved mask is of this problem's own rows
    /// and columns.
    ///
    /// # Errors
    /// [`Error::MaskOrigin`] if the column isn't a multiple of 8, which is how many columns a call
    /// of Philox draws, or if rows or columns reach past 2^32 or 2^35.
    pub fn with_mask_origin(mut self, row: u64, column: u64) -> Result<Self> {
        let refused = |what, given, allowed| {
            Err(Error::MaskOrigin {
                what,
                given,
                allowed,
            })
        };
        if !column.is_multiple_of(8) {
            let allowed = "a multiple of 8: one draw gives eight columns; shard in_features there";
            return refused("column", column, allowed);
        }
        if column > (1 << 35) - Self::MAX_DIMENSION as u64 - 1 {
            return refused(
                "column",
                column,
                "below 2^35 - 2^31: the columns are counted in 2^35",
            );
        }
        match u32::try_from(row) {
            Ok(row) if u64::from(row) + self.tokens as u64 <= 1 << 32 => {
                self.mask_origin = (row, column);
                Ok(self)
            }
            _ => refused(
                "row",
                row,
                "at most 2^32 less the tokens: the rows are counted in 2^32",
            ),
        }
    }

    /// Sets where backward gets the dropout mask from. It doesn't change any result.
    pub fn with_mask(mut self, mask: Mask) -> Self {
        self.mask = mask;
        self
    }

    /// Sets the type of the adapters and their gradients: f32 over 16-bit tensors, PEFT's default,
    /// or the tensors' own type. An f32 element of lora_A or lora_B is rounded to the tensors' type
    /// when it is used, as autocast does. d_lora_A and d_lora_B are not rounded.
    ///
    /// # Errors
    /// [`Error::AdapterDType`] for any other type, [`Error::Stride`] if a layout given earlier
    /// reaches beyond 2⁶³ bytes in f32.
    pub fn with_adapter_dtype(self, dtype: DType) -> Result<Self> {
        check_adapters(dtype, self.formats.activations)?;
        let formats = Formats {
            adapters: dtype,
            gradients: dtype,
            ..self.formats
        };
        self.with_formats(formats)
    }

    /// Sets the element type of each role. Layouts that were set before stay, with an alignment of
    /// at least an element; the others have their default for the new type.
    ///
    /// # Errors
    /// [`Error::AdapterDType`] or [`Error::Format`] if there are no kernels for these types,
    /// [`Error::Stride`] if a layout given earlier reaches beyond 2⁶³ bytes in the new type.
    pub fn with_formats(mut self, formats: Formats) -> Result<Self> {
        formats.check()?;
        let before = self.clone();
        self.formats = formats;
        for projection in 0..self.projections.len() {
            for tensor in Role::ALL
                .into_iter()
                .filter(|&tensor| tensor != Role::Merged)
            {
                let mut layout = self.layout_of(projection, tensor);
                if layout == before.contiguous(projection, tensor) {
                    layout = self.contiguous(projection, tensor);
                }
                layout.alignment = layout.alignment.max(self.dtype_of(tensor).size());
                self = self.with_layout_of(projection, tensor, layout)?;
            }
        }
        Ok(self)
    }

    /// Sets which adapters each row of x uses. With a table, the rank of a projection is the
    /// largest that an adapter of the table may have there, and the adapters' layouts don't matter:
    /// the table has their addresses and strides. Forwards with a table have no dropout yet.
    ///
    /// # Errors
    /// [`Error::Dimension`] unless a table has between 1 and [`Problem::MAX_DIMENSION`] slots, a
    /// list has between 1 and [`RowAdapters::MOST_PER_ROW`] places, and S has at most
    /// [`Problem::MAX_DIMENSION`] columns.
    pub fn with_row_adapters(mut self, row_adapters: RowAdapters) -> Result<Self> {
        if let RowAdapters::Table { slots, per_row } = row_adapters {
            check_dimension("the slots of the table", slots)?;
            check_dimension("the adapters per row", per_row)?;
            if per_row > RowAdapters::MOST_PER_ROW {
                return Err(Error::RowAdapters { given: per_row });
            }
        }
        self.row_adapters = row_adapters;
        check_dimension(
            "the sum of the ranks, each rounded up to 16 and counted for every adapter of a row,",
            self.padded_ranks(),
        )?;
        Ok(self)
    }

    /// Sets whether there will be no backward. Then nothing is saved for one, and a forward of up
    /// to [`Problem::DECODE_TOKENS`] tokens without dropout takes one launch.
    pub fn with_inference(mut self, inference: bool) -> Self {
        self.inference = inference;
        self
    }

    /// Sets whether the bits of a row of y depend on nothing but this row, its adapters, and the
    /// weights: not on other rows, on how many there are, nor on whether the forward is one for
    /// inference or for training. The default is not, which is faster: batch-invariant forwards
    /// read the weight once for every [`Problem::DECODE_TOKENS`] tokens. They have no dropout and
    /// take weights stored (out, in). It asks nothing of a backward, whose results are the same
    /// bits on every run either way.
    pub fn with_batch_invariance(mut self, batch_invariant: bool) -> Self {
        self.batch_invariant = batch_invariant;
        self
    }

    /// Sets whether only the adapters are computed, for frameworks that have a base product of
    /// their own. A forward then adds to y what the adapters make of x, and a backward adds to dx
    /// what they make of dy. The weight is not used. Such forwards have no dropout yet.
    pub fn with_delta_only(mut self, delta_only: bool) -> Self {
        self.delta_only = delta_only;
        self
    }

    /// Sets how the weights of all projections are stored. Their layouts become contiguous and
    /// 16-byte aligned again, until [`Problem::with_layout`] is called.
    pub fn with_weight_layout(mut self, layout: WeightLayout) -> Self {
        self.weight_layout = layout;
        for projection in 0..self.projections.len() {
            self.layouts[projection][Role::Weight as usize] =
                self.contiguous(projection, Role::Weight);
        }
        self
    }

    /// Sets whether backward computes dx, which is the default.
    pub fn with_input_gradient(mut self, input_gradient: bool) -> Self {
        self.input_gradient = input_gradient;
        self
    }

    /// Sets whether an output of all projections is added to its previous values, in f32 and
    /// rounded once, instead of overwriting them, which is the default.
    ///
    /// # Errors
    /// [`Error::Accumulate`] unless the tensor is y, dx, d_lora_A or d_lora_B.
    pub fn with_accumulate(mut self, tensor: Role, accumulate: bool) -> Result<Self> {
        if !matches!(tensor, Role::Y | Role::DX | Role::DLoraA | Role::DLoraB) {
            return Err(Error::Accumulate { tensor });
        }
        self.accumulate[tensor as usize] = accumulate;
        Ok(self)
    }

    /// Sets the layout of x, dx, or a tensor of the first projection.
    ///
    /// # Errors
    /// As [`Problem::with_layout_of`].
    pub fn with_layout(self, tensor: Role, layout: Layout) -> Result<Self> {
        self.with_layout_of(0, tensor, layout)
    }

    /// Sets the layout of a tensor of a projection. x and dx are shared by all projections.
    ///
    /// # Errors
    /// [`Error::NoProjection`] if there is no such projection, [`Error::NoPart`] for the merged
    /// weight, [`Error::Stride`] if rows would overlap or reach beyond 2⁶³ bytes,
    /// [`Error::LayoutAlignment`] if the alignment is not a power of two or is smaller than an
    /// element.
    pub fn with_layout_of(
        mut self,
        projection: usize,
        tensor: Role,
        layout: Layout,
    ) -> Result<Self> {
        if projection >= self.projections.len() {
            return Err(Error::NoProjection {
                given: projection,
                count: self.projections.len(),
            });
        }
        if tensor == Role::Merged {
            return Err(Error::NoPart {
                tensor,
                problem: "a layer",
                hint: Hint::MergeProblem,
            });
        }
        layout.check(
            tensor,
            self.shape_of(projection, tensor),
            self.dtype_of(tensor),
        )?;
        self.layouts[home(projection, tensor)][tensor as usize] = layout;
        Ok(self)
    }

    /// Rows of x: M. Without any, a forward gives an empty y and a backward zero gradients.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of x: K.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// The layers that share x.
    pub fn projections(&self) -> &[Projection] {
        &self.projections
    }

    /// The type of each role.
    pub fn formats(&self) -> &Formats {
        &self.formats
    }

    /// The element type of the activations: x, y, dy, dx and the bias.
    pub fn dtype(&self) -> DType {
        self.formats.activations
    }

    /// The element type of lora_A and lora_B.
    pub fn adapter_dtype(&self) -> DType {
        self.formats.adapters
    }

    /// The element type of a tensor.
    pub fn dtype_of(&self, tensor: Role) -> DType {
        match tensor {
            Role::X | Role::Y | Role::DY | Role::DX | Role::Bias => self.formats.activations,
            Role::Weight | Role::Merged => self.formats.weight.dtype(),
            Role::LoraA | Role::LoraB => self.formats.adapters,
            Role::DLoraA | Role::DLoraB => self.formats.gradients,
        }
    }

    /// Which adapter each row of x uses.
    pub fn row_adapters(&self) -> RowAdapters {
        self.row_adapters
    }

    /// Whether a bias is added to every y.
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    /// Whether the adapters' input goes through dropout.
    pub fn has_dropout(&self) -> bool {
        self.dropout
    }

    /// Whether seed and offset of the dropout are read from device memory.
    pub fn has_dropout_from_memory(&self) -> bool {
        self.dropout_words
    }

    /// The row and the column of the whole layer's dropout mask where this problem's begins.
    pub fn mask_origin(&self) -> (u64, u64) {
        (self.mask_origin.0.into(), self.mask_origin.1)
    }

    /// Where backward gets the dropout mask from.
    pub fn mask(&self) -> Mask {
        self.mask
    }

    /// How the weights are stored.
    pub fn weight_layout(&self) -> WeightLayout {
        self.weight_layout
    }

    /// Whether backward computes dx.
    pub fn has_input_gradient(&self) -> bool {
        self.input_gradient
    }

    /// Whether there will be no backward.
    pub fn is_inference(&self) -> bool {
        self.inference
    }

    /// Whether the bits of a row of y depend on this row alone.
    pub fn is_batch_invariant(&self) -> bool {
        self.batch_invariant
    }

    /// Whether only the adapters are computed.
    pub fn is_delta_only(&self) -> bool {
        self.delta_only
    }

    /// Whether an output is added to its previous values.
    pub fn accumulates(&self, tensor: Role) -> bool {
        self.accumulate[tensor as usize] || self.delta_only && matches!(tensor, Role::Y | Role::DX)
    }

    /// The layout of x, dx, or a tensor of the first projection.
    pub fn layout(&self, tensor: Role) -> Layout {
        self.layout_of(0, tensor)
    }

    /// The layout of a tensor of a projection.
    pub fn layout_of(&self, projection: usize, tensor: Role) -> Layout {
        match self.layouts.get(home(projection, tensor)) {
            Some(layouts) => layouts[tensor as usize],
            None => self.contiguous(projection, tensor),
        }
    }

    /// (rows, columns) of x, dx, or a tensor of the first projection.
    pub fn shape(&self, tensor: Role) -> (usize, usize) {
        self.shape_of(0, tensor)
    }

    /// (rows, columns) of a tensor of a projection. A projection that doesn't exist has no features
    /// and no rank.
    pub fn shape_of(&self, projection: usize, tensor: Role) -> (usize, usize) {
        let Projection { out_features, rank } = self
            .projections
            .get(projection)
            .copied()
            .unwrap_or_default();
        match tensor {
            Role::X | Role::DX => (self.tokens, self.in_features),
            Role::Weight | Role::Merged => self.weight_layout.shape(out_features, self.in_features),
            Role::LoraA | Role::DLoraA => (rank, self.in_features),
            Role::LoraB | Role::DLoraB => (out_features, rank),
            Role::Y | Role::DY => (self.tokens, out_features),
            Role::Bias => (1, out_features),
        }
    }

    /// The columns of S and T: the sum of the ranks, each rounded up to 16, and with a table as
    /// many for each place in a row's list.
    pub fn padded_ranks(&self) -> usize {
        self.rank_offset(self.projections.len())
    }

    /// The first column of a projection in S and T.
    pub fn rank_offset(&self, projection: usize) -> usize {
        let before = self.projections.iter().take(projection);
        let ranks: usize = before.map(Projection::padded_rank).sum();
        ranks.saturating_mul(self.row_adapters.per_row())
    }

    /// The projections that have an adapter, with their indices.
    pub(crate) fn adapted(&self) -> impl Iterator<Item = (usize, Projection)> + '_ {
        let all = self.projections.iter().copied().enumerate();
        all.filter(|(_, projection)| projection.is_adapted())
    }

    fn contiguous(&self, projection: usize, tensor: Role) -> Layout {
        Layout {
            row_stride: self.shape_of(projection, tensor).1 as i64,
            alignment: match tensor {
                Role::Bias | Role::DLoraA | Role::DLoraB => self.dtype_of(tensor).size(),
                _ => 16,
            },
        }
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

/// The projection that the layout of a tensor is stored with.
fn home(projection: usize, tensor: Role) -> usize {
    if matches!(tensor, Role::X | Role::DX) {
        0
    } else {
        projection
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tokens {}, in_features {}, ",
            self.tokens, self.in_features
        )?;
        match self.projections.as_slice() {
            [one] => write!(f, "out_features {}, rank {}", one.out_features, one.rank)?,
            several => {
                f.write_str("projections")?;
                for Projection { out_features, rank } in several {
                    write!(f, " {out_features} (rank {rank})")?;
                }
            }
        }
        write!(f, ", {}", self.dtype())?;
        if self.adapter_dtype() != self.dtype() {
            write!(f, ", {} adapters", self.adapter_dtype())?;
        }
        if self.weight_layout == WeightLayout::InOut {
            f.write_str(", weight (in, out)")?;
        }
        if self.bias {
            f.write_str(", bias")?;
        }
        if self.dropout {
            f.write_str(", dropout")?;
            if self.mask == Mask::Redrawn {
                f.write_str(" redrawn")?;
            }
            if self.dropout_words {
                f.write_str(" from memory")?;
            }
            if self.mask_origin != (0, 0) {
                let (row, column) = self.mask_origin;
                write!(f, " of rows from {row} and columns from {column} on")?;
            }
        }
        if !self.input_gradient {
            f.write_str(", no dx")?;
        }
        if let RowAdapters::Table { slots, per_row } = self.row_adapters {
            write!(f, ", {per_row} of {slots} adapters per row")?;
        }
        for (set, text) in [
            (self.inference, ", inference"),
            (self.batch_invariant, ", batch-invariant"),
            (self.delta_only, ", delta only"),
        ] {
            f.write_str(if set { text } else { "" })?;
        }
        for tensor in Role::ALL
            .into_iter()
            .filter(|&tensor| self.accumulate[tensor as usize])
        {
            write!(f, ", {tensor} +=")?;
        }
        Ok(())
    }
}
