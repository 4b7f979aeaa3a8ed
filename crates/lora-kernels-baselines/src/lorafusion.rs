//! LoRAFusion's launches with its default settings. The fused kernels are in
//! kernels/lorafusion.cuh.

use super::elementwise;
use super::launch::{Argument, Launch, Stream};
use super::matmul::{Matmul, Shape, Stored, TileShape};
use super::{Buffer, PeerLayer};

pub fn forward(layer: &PeerLayer) -> Vec<Launch> {
    let dropout = layer
        .dropout
        .iter()
        .map(|dropout| elementwise::dropout(layer, dropout));
    let shrink = Matmul {
        does: "S = x_hat·Aᵀ",
        shape: Shape::Narrow,
        stored: Stored::Nt,
        a: adapter_input(layer),
        b: Buffer::LoraA,
        c: Buffer::S,
        alpha: 1.0,
        add: false,
    };
    let fused = fused_product(
        layer,
        Fused {
            does: "y = S·(s·B)ᵀ + x·Wᵀ",
            name: "forward",
            operands: [Buffer::X, Buffer::Weight, Buffer::S, Buffer::LoraB],
            mask: None,
            out: Buffer::Y,
            sizes: [layer.tokens, layer.out_features, layer.in_features],
            product: [layer.tokens, layer.out_features, layer.in_features],
            factor: layer.scaling,
        },
    );
    dropout.chain([shrink.launch(layer), fused]).collect()
}

pub fn backward(layer: &PeerLayer) -> Vec<Launch> {
    let mask = if layer.dropout.is_some() {
        Argument::Buffer(Buffer::Mask)
    } else {
        Argument::Null
    };
    let grad_a = Matmul {
        does: "dA = dSᵀ·x_hat",
        shape: Shape::Flat,
        stored: Stored::Tn,
        a: Buffer::Ds,
        b: adapter_input(layer),
        c: Buffer::DLoraA,
        alpha: 1.0,
        add: false,
    };
    let grad_x = Fused {
        does: "dx = mask∘(dS·A) / (1 - p) + dy·W",
        name: "grad_x",
        operands: [Buffer::Dy, Buffer::Weight, Buffer::Ds, Buffer::LoraA],
        mask: Some(mask),
        out: Buffer::Dx,
        sizes: [layer.tokens, layer.out_features, layer.in_features],
        product: [layer.tokens, layer.in_features, layer.out_features],
        factor: layer.keep_scale(),
    };
    vec![
        elementwise::fill_zero(layer, "dB = 0", Buffer::DLoraBSum),
        elementwise::fill_zero(layer, "dS = 0", Buffer::DsSum),
        grad_b(layer),
        elementwise::cast(layer, "dB to bf16", Buffer::DLoraBSum, Buffer::DLoraB),
        elementwise::cast(layer, "dS to bf16", Buffer::DsSum, Buffer::Ds),
        grad_a.launch(layer),
        fused_product(layer, grad_x),
    ]
}

fn adapter_input(layer: &PeerLayer) -> Buffer {
    if layer.dropout.is_some() {
        Buffer::XHat
    } else {
        Buffer::X
    }
}

/// A product with W whose accumulators start from a product of depth r.
struct Fused {
    does: &'static str,
    name: &'static str,
    /// The operands of the product with W, then those of the product of depth r.
    operands: [Buffer; 4],
    mask: Option<Argument>,
    out: Buffer,
    /// (m, n, k) of the layer, the kernel's arguments.
    sizes: [usize; 3],
    /// (rows, columns, depth) of the product with W.
    product: [usize; 3],
    factor: f32,
}

fn fused_product(layer: &PeerLayer, fused: Fused) -> Launch {
    let [m, n, k] = fused.product;
    let tile = TileShape::base(layer, n);
    let buffers = fused.operands.map(Argument::Buffer);
    let mut arguments: Vec<Argument> = buffers.into_iter().chain(fused.mask).collect();
    arguments.push(Argument::Buffer(fused.out));
    arguments.extend(fused.sizes.map(|size| Argument::I32(size as i32)));
    arguments.extend([
        Argument::I32(layer.rank as i32),
        Argument::F32(fused.factor),
    ]);
    let mask = match fused.mask {
        Some(Argument::Buffer(buffer)) => Some(buffer),
        _ => None,
    };
    let streamed = fused.operands[2..].iter().copied().chain(mask);
    Launch {
        does: fused.does,
        symbol: format!("peer_lorafusion_{}__{}", fused.name, tile.name()),
        grid: tile.blocks(m, n),
        threads: 32 * tile.warps as u32,
        shared_bytes: tile.shared_bytes() as u32,
        arguments,
        mma_flops: 2 * (m * n * (k + layer.rank)) as u64,
        product: Some(tile.tiled(m, n, k)),
        streams: streamed
            .map(|buffer| Stream {
                buffer,
                read: layer.bytes(buffer) as u64,
                written: 0,
            })
            .collect(),
    }
}

/// Computes dB and dS with one block per 128x128 tile of dy.
fn grad_b(layer: &PeerLayer) -> Launch {
    const TILE: usize = 128;
    let &PeerLayer {
        tokens: m,
        out_features: n,
        rank: r,
        ..
    } = layer;
    let read = |buffer| Stream {
        buffer,
        read: layer.bytes(buffer) as u64,
        written: 0,
    };
    let added_to = |buffer| Stream {
        written: layer.bytes(buffer) as u64,
        ..read(buffer)
    };
    Launch {
        does: "dB += s·dyᵀ·S, dS += s·dy·B, atomically",
        symbol: format!("peer_lorafusion_grad_b__r{r}"),
        grid: (m / TILE * (n / TILE)) as u32,
        threads: 256,
        shared_bytes: (2 * (TILE * TILE + 2 * TILE * r)) as u32,
        arguments: vec![
            Argument::Buffer(Buffer::Dy),
            Argument::Buffer(Buffer::LoraB),
            Argument::Buffer(Buffer::S),
            Argument::Buffer(Buffer::DLoraBSum),
            Argument::Buffer(Buffer::DsSum),
            Argument::I32(m as i32),
            Argument::I32(n as i32),
            Argument::F32(layer.scaling),
        ],
        mma_flops: 4 * (m * n * r) as u64,
        product: None,
        streams: vec![
            read(Buffer::Dy),
            read(Buffer::LoraB),
            read(Buffer::S),
            added_to(Buffer::DLoraBSum),
            added_to(Buffer::DsSum),
        ],
    }
}
