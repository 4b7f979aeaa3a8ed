//! What a problem computes, beyond its sizes, and how its tensors lie in memory.

use super::properties::home;
use super::{Problem, check_dimension};
use crate::formats::check_adapters;
use crate::{DType, Error, Formats, Hint, Layout, Mask, Result, Role, RowAdapters, WeightLayout};

impl Problem {
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
    /// never share a tile's depth between blocks, and use `mma.sync` on every device. It asks
    /// nothing of a backward, whose results are the same bits on every run either way.
    pub fn with_batch_invariance(mut self, batch_invariant: bool) -> Self {
        self.batch_invariant = batch_invariant;
        self
    }

    /// Sets whether only the adapters are computed, for frameworks that have a base product of
    /// their own. A forward then adds to y what the adapters make of x, and a backward adds to dx
    /// what they make of dy. The weight is not used.
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
}
