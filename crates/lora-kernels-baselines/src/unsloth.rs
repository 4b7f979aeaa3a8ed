//! Unsloth's `matmul_lora` and `LoRA_W`: cuBLAS calls that work in place. S is not kept but
//! computed again, and dy·B is computed twice.

use super::launch::Launch;
use super::matmul::{Matmul, Shape, Stored};
use super::{Buffer, PeerLayer};

const PLAIN: Matmul = Matmul {
    does: "",
    shape: Shape::Base,
    stored: Stored::Nt,
    a: Buffer::X,
    b: Buffer::Weight,
    c: Buffer::Y,
    alpha: 1.0,
    add: false,
};

pub fn forward(layer: &PeerLayer) -> Vec<Launch> {
    let products = [
        Matmul {
            does: "y = x·Wᵀ",
            ..PLAIN
        },
        shrink(),
        Matmul {
            does: "y += s·S·Bᵀ",
            shape: Shape::Expand,
            a: Buffer::S,
            b: Buffer::LoraB,
            alpha: layer.scaling,
            add: true,
            ..PLAIN
        },
    ];
    products.map(|product| product.launch(layer)).to_vec()
}

pub fn backward(layer: &PeerLayer) -> Vec<Launch> {
    let ds = Matmul {
        does: "dS = dy·B",
        shape: Shape::Narrow,
        stored: Stored::Nn,
        a: Buffer::Dy,
        b: Buffer::LoraB,
        c: Buffer::Ds,
        ..PLAIN
    };
    let products = [
        ds,
        Matmul {
            does: "dA = s·dSᵀ·x",
            shape: Shape::Flat,
            stored: Stored::Tn,
            a: Buffer::Ds,
            b: Buffer::X,
            c: Buffer::DLoraA,
            alpha: layer.scaling,
            ..PLAIN
        },
        shrink(),
        Matmul {
            does: "dB = s·dyᵀ·S",
            shape: Shape::Narrow,
            stored: Stored::Tn,
            a: Buffer::Dy,
            b: Buffer::S,
            c: Buffer::DLoraB,
            alpha: layer.scaling,
            ..PLAIN
        },
        Matmul {
            does: "dx = dy·W",
            stored: Stored::Nn,
            a: Buffer::Dy,
            b: Buffer::Weight,
            c: Buffer::Dx,
            ..PLAIN
        },
        ds,
        Matmul {
            does: "dx += s·dS·A",
            shape: Shape::Expand,
            stored: Stored::Nn,
            a: Buffer::Ds,
            b: Buffer::LoraA,
            c: Buffer::Dx,
            alpha: layer.scaling,
            add: true,
        },
    ];
    products.map(|product| product.launch(layer)).to_vec()
}

fn shrink() -> Matmul {
    Matmul {
        does: "S = x·Aᵀ",
        shape: Shape::Narrow,
        b: Buffer::LoraA,
        c: Buffer::S,
        ..PLAIN
    }
}
