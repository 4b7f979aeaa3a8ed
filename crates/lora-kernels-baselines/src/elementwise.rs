//! Launches of the element-wise kernels in kernels/elementwise.cuh.

use lora_kernels::Dropout;

use super::launch::{Argument, Launch, Stream};
use super::{Buffer, PeerLayer};

const THREADS: u32 = 256;

/// Computes x_hat and the mask.
pub fn dropout(layer: &PeerLayer, dropout: &Dropout) -> Launch {
    let arguments = |chunks| {
        vec![
            Argument::Buffer(Buffer::X),
            Argument::Buffer(Buffer::XHat),
            Argument::Buffer(Buffer::Mask),
            chunks,
            Argument::I32(layer.in_features as i32),
            Argument::U64(dropout.seed),
            Argument::U64(dropout.offset),
            Argument::U32(dropout.threshold()),
            Argument::F32(dropout.keep_scale()),
        ]
    };
    launch(
        layer,
        "x_hat = drop(x) / (1 - p), mask",
        "peer_dropout",
        &[Buffer::X],
        &[Buffer::XHat, Buffer::Mask],
        arguments,
    )
}

/// Computes the adapter's part of dx from the gradient of x_hat.
pub fn dropout_backward(layer: &PeerLayer) -> Launch {
    let arguments = |chunks| {
        vec![
            Argument::Buffer(Buffer::DxHat),
            Argument::Buffer(Buffer::Mask),
            Argument::Buffer(Buffer::DxLora),
            chunks,
            Argument::F32(layer.keep_scale()),
        ]
    };
    launch(
        layer,
        "dx_lora = mask∘dx_hat / (1 - p)",
        "peer_dropout_backward",
        &[Buffer::DxHat, Buffer::Mask],
        &[Buffer::DxLora],
        arguments,
    )
}

/// out = s · from
pub fn scale(layer: &PeerLayer, does: &'static str, from: Buffer, out: Buffer) -> Launch {
    let arguments = |chunks| {
        vec![
            Argument::Buffer(from),
            Argument::Buffer(out),
            chunks,
            Argument::F32(layer.scaling),
        ]
    };
    launch(layer, does, "peer_scale", &[from], &[out], arguments)
}

/// out = first + second
pub fn add(
    layer: &PeerLayer,
    does: &'static str,
    [first, second]: [Buffer; 2],
    out: Buffer,
) -> Launch {
    let arguments = |chunks| {
        vec![
            Argument::Buffer(first),
            Argument::Buffer(second),
            Argument::Buffer(out),
            chunks,
        ]
    };
    launch(layer, does, "peer_add", &[first, second], &[out], arguments)
}

/// out = 0; out is f32
pub fn fill_zero(layer: &PeerLayer, does: &'static str, out: Buffer) -> Launch {
    let arguments = |chunks| vec![Argument::Buffer(out), chunks];
    launch(layer, does, "peer_fill_zero", &[], &[out], arguments)
}

/// out = from, rounded from f32 to bf16
pub fn cast(layer: &PeerLayer, does: &'static str, from: Buffer, out: Buffer) -> Launch {
    let arguments = |chunks| vec![Argument::Buffer(from), Argument::Buffer(out), chunks];
    launch(layer, does, "peer_cast", &[from], &[out], arguments)
}

/// A thread processes a chunk: 16 bytes of the first tensor. `arguments` is called with the number
/// of chunks.
fn launch(
    layer: &PeerLayer,
    does: &'static str,
    symbol: &str,
    reads: &[Buffer],
    writes: &[Buffer],
    arguments: impl Fn(Argument) -> Vec<Argument>,
) -> Launch {
    let bytes = |buffer: &Buffer| layer.bytes(*buffer) as u64;
    let read = reads.iter().map(|buffer| Stream {
        buffer: *buffer,
        read: bytes(buffer),
        written: 0,
    });
    let written = writes.iter().map(|buffer| Stream {
        buffer: *buffer,
        read: 0,
        written: bytes(buffer),
    });
    let streams: Vec<Stream> = read.chain(written).collect();
    let chunks = reads.iter().chain(writes).next().map_or(0, bytes) / 16;
    Launch {
        does,
        symbol: symbol.to_owned(),
        grid: chunks.div_ceil(u64::from(THREADS)) as u32,
        threads: THREADS,
        shared_bytes: 0,
        arguments: arguments(Argument::I64(chunks as i64)),
        mma_flops: 0,
        product: None,
        streams,
    }
}
