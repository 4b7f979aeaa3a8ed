//! What lora-kernels is compared with: cuBLAS where there is a GPU ([`cublas`]), and on any device
//! peers, written anew from their published structure. README.md says what each one does.
//!
//! A peer describes a forward or a backward as a list of [`Launch`]es. A list can be run on a
//! device ([`Device`], [`Memory`]), emulated or not, and its work and traffic can be told without
//! one.

pub mod cublas;

mod device;
mod elementwise;
mod image;
mod launch;
mod layer;
mod lorafusion;
mod matmul;
mod peft;
mod unsloth;

pub use device::{Device, Memory};
pub use image::fatbin;
pub use launch::{Argument, Launch, Stream, Tiled};
pub use layer::{Buffer, Layer};

/// What goes wrong in a bench is reported, not handled.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A way to compute an adapted linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// cuBLAS calls from a hand-written autograd function. It has no dropout.
    Unsloth,
    /// Modules of PyTorch, eager.
    Peft,
    /// Triton kernels around the low-rank bottleneck.
    LoraFusion,
}

impl Peer {
    /// All of them.
    pub const ALL: [Peer; 3] = [Peer::Unsloth, Peer::Peft, Peer::LoraFusion];

    /// As its authors spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Peer::Unsloth => "Unsloth",
            Peer::Peft => "PEFT",
            Peer::LoraFusion => "LoRAFusion",
        }
    }

    /// Whether it can compute this layer: Unsloth leaves layers with dropout to PEFT.
    pub fn takes(self, layer: &Layer) -> bool {
        self != Peer::Unsloth || layer.dropout.is_none()
    }

    /// The launches of y = x·Wᵀ + s·drop(x)·Aᵀ·Bᵀ.
    ///
    /// # Errors
    /// For a layer that this peer doesn't take.
    pub fn forward(self, layer: &Layer) -> Result<Vec<Launch>> {
        self.check(layer)?;
        Ok(match self {
            Peer::Unsloth => unsloth::forward(layer),
            Peer::Peft => peft::forward(layer),
            Peer::LoraFusion => lorafusion::forward(layer),
        })
    }

    /// The launches of dx, dA and dB, after those of [`Peer::forward`] on the same memory.
    ///
    /// # Errors
    /// For a layer that this peer doesn't take.
    pub fn backward(self, layer: &Layer) -> Result<Vec<Launch>> {
        self.check(layer)?;
        Ok(match self {
            Peer::Unsloth => unsloth::backward(layer),
            Peer::Peft => peft::backward(layer),
            Peer::LoraFusion => lorafusion::backward(layer),
        })
    }

    fn check(self, layer: &Layer) -> Result<()> {
        if self.takes(layer) {
            Ok(())
        } else {
            Err(format!(
                "{} has no dropout; compare a layer without it, or with PEFT",
                self.name()
            )
            .into())
        }
    }
}
