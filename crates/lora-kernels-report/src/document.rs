//! The document that the counting program gives to `cargo xtask report`: raw counts, without goals.

use serde::{Deserialize, Serialize};

/// The name of lora-kernels beside the peers.
pub const OURS: &str = "lora-kernels";
/// The layer in launches of CUTLASS's GEMM for sm_90: three of a forward, five of a backward.
pub const CUTLASS: &str = "CUTLASS, launch by launch";
/// The product with the weight alone.
pub const CUTLASS_PLAIN: &str = "CUTLASS, plain product";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub variants: Vec<Kernel>,
    pub runs: Vec<Run>,
    pub plans: Vec<Plan>,
}

/// What CUTLASS's kernels do; printed on its own.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Cutlass {
    pub kernels: Vec<PeerKernel>,
    pub runs: Vec<Run>,
}

/// A kernel in the host's terms.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    pub symbol: String,
    pub threads: u32,
    pub dynamic_shared: u32,
}

/// A kernel of a peer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerKernel {
    pub symbol: String,
    pub threads: u32,
    pub dynamic_shared: u32,
    pub stages: u32,
}

/// The sizes of a layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub tokens: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub rank: usize,
    pub dtype: String,
    pub dropout: bool,
}

/// A forward or backward that was run and counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`OURS`] or a peer.
    pub who: String,
    pub shape: Shape,
    /// The number of multiprocessors that the plan was made for. Peers' launches don't depend on
    /// it.
    pub multiprocessors: Option<u32>,
    /// `forward` or `backward`.
    pub pass: String,
    pub launches: Vec<Counted>,
    /// The operations of the layer's formulas, each product counted once.
    pub algorithm_flops: u64,
    /// The part of `algorithm_flops` for the product with the weight.
    pub base_flops: u64,
    /// The bytes of all tensors that the caller passes in or gets back.
    pub compulsory_bytes: u64,
}

/// The launches of one kernel. If only some blocks ran, their counts are scaled up to all blocks.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    pub symbol: String,
    pub launches: u64,
    pub blocks: u64,
    pub blocks_run: u64,
    pub mma_flops: f64,
    /// 32-byte sectors of global memory that were accessed, and the smallest number that would have
    /// held as many bytes.
    pub sectors: f64,
    pub ideal_sectors: f64,
    /// What multicast brought to blocks, each block's by itself; in `sectors` it is once.
    pub multicast_sectors: f64,
    /// Wavefronts of ldmatrix and cp.async.
    pub tile_wavefronts: f64,
    pub tile_ideal_wavefronts: f64,
    /// The part of `mma_flops` that is wgmma's, and the wavefronts of the operands that it reads.
    pub wgmma_flops: f64,
    pub wgmma_wavefronts: f64,
    /// Wavefronts of bulk copies.
    pub bulk_wavefronts: f64,
    /// Wavefronts of all accesses to shared memory but ldmatrix and cp.async.
    pub other_wavefronts: f64,
    pub other_ideal_wavefronts: f64,
}

/// A forward or backward on a virtual device: its plan, and its modelled DRAM traffic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Plan {
    /// [`OURS`] or a peer.
    pub who: String,
    pub device: String,
    pub shape: Shape,
    pub pass: String,
    pub launches: Vec<Planned>,
    pub compulsory_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Planned {
    pub symbol: String,
    pub read: u64,
    pub written: u64,
    /// Present if the launch computes the product with the weight.
    pub product: Option<Product>,
}

/// The product with the weight alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// (rows, columns, depth) of a tile.
    pub tile: (u64, u64, u64),
    pub tiles: u64,
    /// The number of blocks that run at once.
    pub blocks: u64,
    pub multiprocessors: u64,
    pub raster: String,
    pub read: u64,
    pub written: u64,
    pub compulsory_read: u64,
    pub compulsory_written: u64,
}
