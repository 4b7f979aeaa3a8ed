//! PEFT's `Linear` in eager PyTorch. Every module and operator launches its own kernels, in forward
//! and in autograd's backward.

use super::elementwise;
use super::launch::Launch;
use super::matmul::{Matmul, Shape, Stored};
use super::{Buffer, PeerLayer};

pub fn forward(layer: &PeerLayer) -> Vec<Launch> {
    let mut launches = vec![matmul("base = x·Wᵀ", Shape::Base, Stored::Nt, BASE).launch(layer)];
    if let Some(dropout) = &layer.dropout {
        launches.push(elementwise::dropout(layer, dropout));
    }
    let s = [adapter_input(layer), Buffer::LoraA, Buffer::S];
    let expand = [Buffer::S, Buffer::LoraB, Buffer::YLora];
    launches.extend([
        matmul("S = x_hat·Aᵀ", Shape::Narrow, Stored::Nt, s).launch(layer),
        matmul("lora = S·Bᵀ", Shape::Expand, Stored::Nt, expand).launch(layer),
        elementwise::scale(layer, "scaled = s·lora", Buffer::YLora, Buffer::YScaled),
        elementwise::add(
            layer,
            "y = base + scaled",
            [Buffer::YBase, Buffer::YScaled],
            Buffer::Y,
        ),
    ]);
    launches
}

pub fn backward(layer: &PeerLayer) -> Vec<Launch> {
    let ds = [Buffer::DyScaled, Buffer::LoraB, Buffer::Ds];
    let db = [Buffer::DyScaled, Buffer::S, Buffer::DLoraB];
    // Without dropout, the last product gives the adapter's part of dx directly.
    let dx_hat = if layer.dropout.is_some() {
        Buffer::DxHat
    } else {
        Buffer::DxLora
    };
    let expand = [Buffer::Ds, Buffer::LoraA, dx_hat];
    let da = [Buffer::Ds, adapter_input(layer), Buffer::DLoraA];
    let mut launches = vec![
        elementwise::scale(layer, "dy_scaled = s·dy", Buffer::Dy, Buffer::DyScaled),
        matmul("dS = dy_scaled·B", Shape::Narrow, Stored::Nn, ds).launch(layer),
        matmul("dB = dy_scaledᵀ·S", Shape::Narrow, Stored::Tn, db).launch(layer),
        matmul("dx_hat = dS·A", Shape::Expand, Stored::Nn, expand).launch(layer),
        matmul("dA = dSᵀ·x_hat", Shape::Flat, Stored::Tn, da).launch(layer),
    ];
    if layer.dropout.is_some() {
        launches.push(elementwise::dropout_backward(layer));
    }
    let base = [Buffer::Dy, Buffer::Weight, Buffer::DxBase];
    launches.extend([
        matmul("dx_base = dy·W", Shape::Base, Stored::Nn, base).launch(layer),
        elementwise::add(
            layer,
            "dx = dx_lora + dx_base",
            [Buffer::DxLora, Buffer::DxBase],
            Buffer::Dx,
        ),
    ]);
    launches
}

const BASE: [Buffer; 3] = [Buffer::X, Buffer::Weight, Buffer::YBase];

fn adapter_input(layer: &PeerLayer) -> Buffer {
    if layer.dropout.is_some() {
        Buffer::XHat
    } else {
        Buffer::X
    }
}

fn matmul(does: &'static str, shape: Shape, stored: Stored, [a, b, c]: [Buffer; 3]) -> Matmul {
    Matmul {
        does,
        shape,
        stored,
        a,
        b,
        c,
        alpha: 1.0,
        add: false,
    }
}
