//! The layer that is computed, and its tensors.

use lora_kernels::Dropout;

use super::Result;

/// The ranks for which kernels are built.
const RANKS: [usize; 4] = [16, 32, 64, 128];

/// Every other size must be a multiple of this, because the peers' kernels handle no partial tiles.
const MULTIPLE: usize = 128;

/// An adapted linear layer in bf16 with dense tensors and no bias.
#[derive(Debug, Clone, PartialEq)]
pub struct PeerLayer {
    /// M
    pub tokens: usize,
    /// K
    pub in_features: usize,
    /// N
    pub out_features: usize,
    /// r
    pub rank: usize,
    /// s
    pub scaling: f32,
    /// D, the adapters that lie behind each other in lora_A and lora_B: one, but for
    /// [`super::ServingPeer`].
    pub adapters: usize,
    /// The dropout on the adapter's input.
    pub dropout: Option<Dropout>,
    /// The shared memory that a block of the device may use. It decides the tiles of the products
    /// with W.
    pub shared_per_block: usize,
}

impl PeerLayer {
    /// A layer without dropout on a device with as much shared memory as an A100.
    ///
    /// # Errors
    /// For sizes that the peers' kernels don't support.
    pub fn new(
        tokens: usize,
        in_features: usize,
        out_features: usize,
        rank: usize,
        scaling: f32,
    ) -> Result<Self> {
        for (name, size) in [
            ("tokens", tokens),
            ("in_features", in_features),
            ("out_features", out_features),
        ] {
            if size == 0 || !size.is_multiple_of(MULTIPLE) || i32::try_from(size).is_err() {
                return Err(format!(
                    "{name} = {size}: the peers' kernels take multiples of {MULTIPLE}"
                )
                .into());
            }
        }
        if !RANKS.contains(&rank) {
            return Err(format!("rank {rank}: the peers' kernels take {RANKS:?}").into());
        }
        Ok(Self {
            tokens,
            in_features,
            out_features,
            rank,
            scaling,
            adapters: 1,
            dropout: None,
            shared_per_block: 163 << 10,
        })
    }

    /// Any number of tokens, and so many adapters, for [`super::ServingPeer`] alone.
    pub fn serving(self, tokens: usize, adapters: usize) -> Self {
        Self {
            tokens,
            adapters,
            ..self
        }
    }

    /// Sets the dropout.
    pub fn with_dropout(self, dropout: Option<Dropout>) -> Self {
        Self { dropout, ..self }
    }

    /// Sets the shared memory that a block of the device may use.
    pub fn on_device_with(self, shared_per_block: usize) -> Self {
        Self {
            shared_per_block,
            ..self
        }
    }

    /// 1 / (1 - p)
    pub(super) fn keep_scale(&self) -> f32 {
        self.dropout.map_or(1.0, |dropout| dropout.keep_scale())
    }

    /// (rows, columns) of a tensor.
    pub fn shape(&self, buffer: Buffer) -> (usize, usize) {
        let &Self {
            tokens: m,
            in_features: k,
            out_features: n,
            rank: r,
            adapters: d,
            ..
        } = self;
        match buffer {
            Buffer::X
            | Buffer::Dx
            | Buffer::XHat
            | Buffer::Mask
            | Buffer::DxHat
            | Buffer::DxLora
            | Buffer::DxBase => (m, k),
            Buffer::Weight => (n, k),
            Buffer::LoraA | Buffer::DLoraA => (d * r, k),
            Buffer::LoraB | Buffer::DLoraB | Buffer::DLoraBSum => (d * n, r),
            Buffer::Y
            | Buffer::Dy
            | Buffer::YBase
            | Buffer::YLora
            | Buffer::YScaled
            | Buffer::DyScaled => (m, n),
            Buffer::S | Buffer::Ds | Buffer::DsSum | Buffer::SSum => (m, r),
            Buffer::Slots | Buffer::Order => (m, 1),
            Buffer::Starts => (d + 1, 1),
        }
    }

    /// The size of a tensor in bytes.
    pub fn bytes(&self, buffer: Buffer) -> usize {
        let (rows, columns) = self.shape(buffer);
        rows * columns * buffer.element_bytes()
    }
}

/// A tensor in device memory, in bf16 unless said otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Buffer {
    /// x (M, K), given.
    X,
    /// W (N, K), given.
    Weight,
    /// lora_A (D r, K), given.
    LoraA,
    /// lora_B (D N, r), given.
    LoraB,
    /// dy (M, N), given to backward.
    Dy,
    /// y (M, N), the result of forward.
    Y,
    /// dx (M, K), a result of backward.
    Dx,
    /// The gradient of lora_A (r, K), a result of backward.
    DLoraA,
    /// The gradient of lora_B (N, r), a result of backward.
    DLoraB,
    /// drop(x) · Aᵀ (M, r)
    S,
    /// drop(x) / (1 - p) (M, K)
    XHat,
    /// The dropout mask (M, K), a byte per element.
    Mask,
    /// x · Wᵀ (M, N)
    YBase,
    /// S · Bᵀ (M, N)
    YLora,
    /// s · S · Bᵀ (M, N)
    YScaled,
    /// s · dy (M, N)
    DyScaled,
    /// The gradient of S (M, r).
    Ds,
    /// The gradient of x_hat (M, K).
    DxHat,
    /// The adapter's part of dx (M, K).
    DxLora,
    /// dy · W (M, K)
    DxBase,
    /// The gradient of S (M, r), in f32.
    DsSum,
    /// The gradient of lora_B (N, r), in f32.
    DLoraBSum,
    /// x · Aᵀ (M, r), in f32.
    SSum,
    /// The adapter of each token (M), i32, given.
    Slots,
    /// The tokens sorted by adapter (M), i32, given.
    Order,
    /// Where each adapter's tokens begin in `Order`, and the end (D + 1), i32, given.
    Starts,
}

impl Buffer {
    /// The size of an element in bytes.
    pub const fn element_bytes(self) -> usize {
        match self {
            Buffer::Mask => 1,
            Buffer::DsSum
            | Buffer::DLoraBSum
            | Buffer::SSum
            | Buffer::Slots
            | Buffer::Order
            | Buffer::Starts => 4,
            _ => 2,
        }
    }
}
