//! How servers compute the adapters of a batch whose tokens go through different ones, beside the
//! product with W. The kernels are in kernels/serving.cuh.

use super::elementwise;
use super::launch::{Argument, Launch, Stream};
use super::{Buffer, PeerLayer};

const THREADS: u32 = 128;

/// A way to compute the adapters of a batch. Every token goes through one adapter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServingPeer {
    /// Triton kernels, grouped by adapter, with the depth of the shrink in 64 splits.
    Vllm,
    /// BGMV: a block for each rank and token.
    Punica,
}

impl ServingPeer {
    /// All of them.
    pub const ALL: [ServingPeer; 2] = [ServingPeer::Vllm, ServingPeer::Punica];

    /// The name as its authors spell it.
    pub const fn name(self) -> &'static str {
        match self {
            ServingPeer::Vllm => "vLLM",
            ServingPeer::Punica => "Punica",
        }
    }

    /// The launches of y += s·x·Aᵀ·Bᵀ, after those of y = x·Wᵀ.
    pub fn adapters(self, layer: &PeerLayer) -> Vec<Launch> {
        let zero = elementwise::fill_zero(layer, "S = 0", Buffer::SSum);
        let [shrink, expand] = match self {
            ServingPeer::Vllm => vllm(layer),
            ServingPeer::Punica => punica(layer),
        };
        vec![zero, shrink, expand]
    }

    /// [`Buffer::Order`] and [`Buffer::Starts`] of tokens with these adapters; a negative one is
    /// none.
    pub fn sorted(slots: &[i32], adapters: usize) -> (Vec<i32>, Vec<i32>) {
        let mut order: Vec<i32> = (0..slots.len() as i32).collect();
        order.sort_by_key(|&token| slots[token as usize]);
        let before = |slot: i32| slots.iter().filter(|&&other| other < slot).count() as i32;
        let starts = (0..=adapters as i32).map(before).collect();
        (order, starts)
    }
}

fn punica(layer: &PeerLayer) -> [Launch; 2] {
    let &PeerLayer {
        tokens,
        in_features,
        out_features,
        rank,
        scaling,
        ..
    } = layer;
    let rows = THREADS as usize * 8 / rank;
    [
        launch(
            layer,
            "S += s·x·Aᵀ, a block per rank and token",
            "peer_bgmv_shrink".to_owned(),
            rank * tokens,
            [
                buffers(&[Buffer::X, Buffer::LoraA, Buffer::Slots, Buffer::SSum]),
                sizes(&[in_features, rank]),
                vec![Argument::F32(scaling)],
            ]
            .concat(),
            &[Buffer::SSum],
        ),
        launch(
            layer,
            "y += S·Bᵀ",
            format!("peer_bgmv_expand__r{rank}"),
            out_features.div_ceil(rows) * tokens,
            [
                buffers(&[Buffer::SSum, Buffer::LoraB, Buffer::Slots, Buffer::Y]),
                sizes(&[out_features]),
            ]
            .concat(),
            &[Buffer::Y],
        ),
    ]
}

/// The blocks are of all adapters and of all tokens for each, because the host doesn't know how
/// many tokens an adapter has. Those without tokens leave.
fn vllm(layer: &PeerLayer) -> [Launch; 2] {
    const SPLITS: usize = 64;
    let &PeerLayer {
        tokens,
        in_features,
        out_features,
        rank,
        scaling,
        adapters,
        ..
    } = layer;
    let shrink = SPLITS * tokens.div_ceil(32) * rank.div_ceil(16) * adapters;
    let expand = tokens.div_ceil(64) * (out_features / 128) * adapters;
    [
        launch(
            layer,
            "S += s·x·Aᵀ, atomically",
            "peer_vllm_shrink".to_owned(),
            shrink,
            [
                buffers(&[
                    Buffer::X,
                    Buffer::LoraA,
                    Buffer::Order,
                    Buffer::Starts,
                    Buffer::SSum,
                ]),
                sizes(&[tokens, in_features, rank]),
                vec![Argument::F32(scaling)],
            ]
            .concat(),
            &[Buffer::SSum],
        ),
        launch(
            layer,
            "y += S·Bᵀ",
            "peer_vllm_expand".to_owned(),
            expand,
            [
                buffers(&[
                    Buffer::SSum,
                    Buffer::LoraB,
                    Buffer::Order,
                    Buffer::Starts,
                    Buffer::Y,
                ]),
                sizes(&[tokens, out_features, rank]),
            ]
            .concat(),
            &[Buffer::Y],
        ),
    ]
}

fn buffers(buffers: &[Buffer]) -> Vec<Argument> {
    buffers.iter().copied().map(Argument::Buffer).collect()
}

fn sizes(sizes: &[usize]) -> Vec<Argument> {
    sizes
        .iter()
        .map(|&size| Argument::I32(size as i32))
        .collect()
}

/// Every buffer is read once, and those of `written` are written, too. `mma_flops` are the
/// formula's, whatever a tile computes beside it.
fn launch(
    layer: &PeerLayer,
    does: &'static str,
    symbol: String,
    grid: usize,
    arguments: Vec<Argument>,
    written: &[Buffer],
) -> Launch {
    let stream = |argument: &Argument| match argument {
        &Argument::Buffer(buffer) => {
            let bytes = layer.bytes(buffer) as u64;
            Some(Stream {
                buffer,
                read: bytes,
                written: if written.contains(&buffer) { bytes } else { 0 },
            })
        }
        _ => None,
    };
    let width = match written {
        [Buffer::Y] => layer.out_features,
        _ => layer.in_features,
    };
    Launch {
        does,
        symbol,
        grid: grid as u32,
        threads: THREADS,
        shared_bytes: 0,
        streams: arguments.iter().filter_map(stream).collect(),
        arguments,
        mma_flops: 2 * (layer.tokens * width * layer.rank) as u64,
        product: None,
    }
}
