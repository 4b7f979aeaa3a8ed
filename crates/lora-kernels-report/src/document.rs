//! What the measuring program tells `cargo xtask report`: raw counts, without goals.

use serde::{Deserialize, Serialize};

/// This crate, among those who compute a layer.
pub const OURS: &str = "lora-kernels";

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Document {
    pub variants: Vec<Kernel>,
    pub runs: Vec<Run>,
    pub plans: Vec<Plan>,
}

/// A kernel as the host knows it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Kernel {
    pub symbol: String,
    pub threads: u32,
    pub dynamic_shared: u32,
}

/// A layer's sizes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Shape {
    pub tokens: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub rank: usize,
    pub dtype: String,
    pub dropout: bool,
}

/// A forward or backward that was executed and counted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// [`OURS`] or a peer.
    pub who: String,
    pub shape: Shape,
    /// The plan was made for a device of this many multiprocessors; a peer's kernels are launched
    /// as on any device.
    pub multiprocessors: Option<u32>,
    /// `forward` or `backward`.
    pub pass: String,
    pub launches: Vec<Counted>,
    /// What the layer's formulas cost, each product once.
    pub algorithm_flops: u64,
    /// Of these, those of the product with the weight.
    pub base_flops: u64,
    /// Bytes of all tensors that the caller gives and gets.
    pub compulsory_bytes: u64,
}

/// The launches of one kernel. If not all blocks were run, the counts are those of the ones that
/// were, scaled.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Counted {
    pub symbol: String,
    pub launches: u64,
    pub blocks: u64,
    pub blocks_run: u64,
    pub mma_flops: f64,
    /// 32-byte sectors of global memory, and how few would have held as many bytes.
    pub sectors: f64,
    pub ideal_sectors: f64,
    /// Of ldmatrix and cp.async.
    pub tile_wavefronts: f64,
    pub tile_ideal_wavefronts: f64,
    /// Of other accesses to shared memory.
    pub other_wavefronts: f64,
    pub other_ideal_wavefronts: f64,
}

/// A forward or backward on a virtual device: what its plan says, and DRAM traffic under the model.
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
    /// Present for the product with the weight.
    pub product: Option<Product>,
}

/// The product with the weight alone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Product {
    /// Rows, columns and depth of a tile.
    pub tile: (u64, u64, u64),
    pub tiles: u64,
    /// Blocks that run at once.
    pub blocks: u64,
    pub multiprocessors: u64,
    pub raster: String,
    pub read: u64,
    pub written: u64,
    pub compulsory_read: u64,
    pub compulsory_written: u64,
}
