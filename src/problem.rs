//! What is to be computed: sizes, element type and memory layouts of one adapted linear layer. Pure data, no CUDA.

use std::fmt;

use crate::{DType, Error, Result};

/// The tensors of a layer, by their roles. Shapes, row-major: M = tokens, K = in_features, N = out_features, r = rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Tensor {
    /// Input, (M, K).
    X = 0,
    /// Base weight W, (N, K).
    Weight = 1,
    /// lora_A, (r, K).
    LoraA = 2,
    /// lora_B, (N, r).
    LoraB = 3,
    /// Output, (M, N).
    Y = 4,
    /// Gradient of the output, (M, N).
    DY = 5,
    /// Gradient of the input, (M, K).
    DX = 6,
    /// Gradient of lora_A, (r, K).
    DLoraA = 7,
    /// Gradient of lora_B, (N, r).
    DLoraB = 8,
    /// Bias, (N): a single row.
    Bias = 9,
}

impl Tensor {
    /// All of them, in the order of their numbers.
    pub const ALL: [Tensor; 10] = [
        Tensor::X,
        Tensor::Weight,
        Tensor::LoraA,
        Tensor::LoraB,
        Tensor::Y,
        Tensor::DY,
        Tensor::DX,
        Tensor::DLoraA,
        Tensor::DLoraB,
        Tensor::Bias,
    ];

    /// The name used in error messages and, where PEFT has one, there.
    pub const fn name(self) -> &'static str {
        match self {
            Tensor::X => "x",
            Tensor::Weight => "weight",
            Tensor::LoraA => "lora_A",
            Tensor::LoraB => "lora_B",
            Tensor::Y => "y",
            Tensor::DY => "dy",
            Tensor::DX => "dx",
            Tensor::DLoraA => "d_lora_A",
            Tensor::DLoraB => "d_lora_B",
            Tensor::Bias => "bias",
        }
    }
}

impl fmt::Display for Tensor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a matrix lies in memory. Columns are contiguous.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Layout {
    /// Elements from the start of one row to the start of the next; at least the number of columns.
    pub row_stride: i64,
    /// What the address of the first element is a multiple of, in bytes: a power of two, at least the element's size. A plan made for 16
    /// can choose the fast kernels; an address that turns out less aligned is an error.
    pub alignment: usize,
}

/// Dropout on the adapter's input: each element of x is zeroed with probability `p`, the others divided by 1 - p. The base product sees x
/// undropped, as in PEFT.
///
/// The mask is a function of `seed`, `offset`, row and column alone (Philox4x32-10, see [`crate::reference::philox`]): the same on every
/// run, device and tiling. Draw a new one by changing `offset`, say to the training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability in [0, 1). Rounded to a multiple of 2⁻¹⁶, and 1 / (1 - p) is taken of the rounded value.
    pub p: f32,
    /// Philox key.
    pub seed: u64,
    /// High half of the Philox counter.
    pub offset: u64,
}

impl Dropout {
    /// An element is dropped where its 16 random bits are below this: `p` in units of 2⁻¹⁶, at most 65535.
    pub fn threshold(&self) -> u32 {
        ((f64::from(self.p) * 65536.0).round() as u32).min(65535)
    }

    /// 1 / (1 - p) for the rounded `p`.
    pub fn keep_scale(&self) -> f32 {
        65536.0 / (65536 - self.threshold()) as f32
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.p >= 0.0 && self.p < 1.0 {
            Ok(())
        } else {
            Err(Error::DropoutProbability { given: self.p })
        }
    }
}

/// One adapted linear layer applied to a batch of tokens.
///
/// ```
/// use lora_kernels::{DType, Problem};
/// let problem = Problem::new(192, 384, 1536, 8, DType::BF16)?.with_bias(true).with_dropout(true);
/// # Ok::<(), lora_kernels::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Problem {
    tokens: usize,
    in_features: usize,
    out_features: usize,
    rank: usize,
    dtype: DType,
    bias: bool,
    dropout: bool,
    layouts: [Layout; Tensor::ALL.len()],
}

impl Problem {
    /// A problem with contiguous, 16-byte aligned tensors, no bias and no dropout. Bias, d_lora_A and d_lora_B, which the kernels read or write
    /// element by element, need no more than an element's alignment.
    ///
    /// # Errors
    /// [`Error::Dimension`] unless every size is between 1 and [`Problem::MAX_DIMENSION`].
    pub fn new(tokens: usize, in_features: usize, out_features: usize, rank: usize, dtype: DType) -> Result<Self> {
        for (name, given) in [
            ("tokens", tokens),
            ("in_features", in_features),
            ("out_features", out_features),
            ("rank", rank),
        ] {
            if given == 0 || given > Self::MAX_DIMENSION {
                return Err(Error::Dimension { name, given });
            }
        }
        let mut problem = Self {
            tokens,
            in_features,
            out_features,
            rank,
            dtype,
            bias: false,
            dropout: false,
            layouts: [Layout {
                row_stride: 0,
                alignment: 16,
            }; Tensor::ALL.len()],
        };
        for tensor in Tensor::ALL {
            problem.layouts[tensor as usize].row_stride = problem.shape(tensor).1 as i64;
        }
        for tensor in [Tensor::Bias, Tensor::DLoraA, Tensor::DLoraB] {
            problem.layouts[tensor as usize].alignment = dtype.size();
        }
        Ok(problem)
    }

    /// The largest size of any dimension: the kernels' 32-bit indices must not overflow on the last, partly filled tile either. Offsets into
    /// a tensor may go far beyond: they are 64-bit.
    pub const MAX_DIMENSION: usize = i32::MAX as usize - 0xFFFF;

    /// With or without a bias.
    pub fn with_bias(mut self, bias: bool) -> Self {
        self.bias = bias;
        self
    }

    /// With or without dropout on the adapter's input.
    pub fn with_dropout(mut self, dropout: bool) -> Self {
        self.dropout = dropout;
        self
    }

    /// With another layout of one tensor.
    ///
    /// # Errors
    /// [`Error::Stride`] if rows would overlap or reach beyond 2⁶³ bytes, [`Error::LayoutAlignment`] if the alignment is no power of two or
    /// less than an element.
    pub fn with_layout(mut self, tensor: Tensor, layout: Layout) -> Result<Self> {
        let (rows, columns) = self.shape(tensor);
        let bytes = layout
            .row_stride
            .checked_mul(rows as i64)
            .and_then(|n| n.checked_mul(self.dtype.size() as i64));
        if layout.row_stride < columns as i64 || bytes.is_none() {
            return Err(Error::Stride {
                tensor,
                given: layout.row_stride,
                columns,
            });
        }
        if !layout.alignment.is_power_of_two() || layout.alignment < self.dtype.size() {
            return Err(Error::LayoutAlignment {
                tensor,
                given: layout.alignment,
                element: self.dtype.size(),
            });
        }
        self.layouts[tensor as usize] = layout;
        Ok(self)
    }

    /// Rows of x: M.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns of x: K.
    pub fn in_features(&self) -> usize {
        self.in_features
    }

    /// Columns of y: N.
    pub fn out_features(&self) -> usize {
        self.out_features
    }

    /// Rank of the adapter: r.
    pub fn rank(&self) -> usize {
        self.rank
    }

    /// Type of every tensor.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Whether a bias is added to y.
    pub fn has_bias(&self) -> bool {
        self.bias
    }

    /// Whether the adapter's input goes through dropout.
    pub fn has_dropout(&self) -> bool {
        self.dropout
    }

    /// The layout of a tensor.
    pub fn layout(&self, tensor: Tensor) -> Layout {
        self.layouts[tensor as usize]
    }

    /// (rows, columns) of a tensor.
    pub fn shape(&self, tensor: Tensor) -> (usize, usize) {
        match tensor {
            Tensor::X | Tensor::DX => (self.tokens, self.in_features),
            Tensor::Weight => (self.out_features, self.in_features),
            Tensor::LoraA | Tensor::DLoraA => (self.rank, self.in_features),
            Tensor::LoraB | Tensor::DLoraB => (self.out_features, self.rank),
            Tensor::Y | Tensor::DY => (self.tokens, self.out_features),
            Tensor::Bias => (1, self.out_features),
        }
    }

    /// The rank rounded up to 16, the columns of S and T.
    pub fn padded_rank(&self) -> usize {
        self.rank.next_multiple_of(16)
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "tokens {}, in_features {}, out_features {}, rank {}, {}",
            self.tokens, self.in_features, self.out_features, self.rank, self.dtype
        )?;
        if self.bias {
            f.write_str(", bias")?;
        }
        if self.dropout {
            f.write_str(", dropout")?;
        }
        Ok(())
    }
}
