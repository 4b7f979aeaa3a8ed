//! The implementations that lora-kernels is compared with: cuBLAS on a GPU ([`cublas`]), and peers
//! on any device, reimplemented from their published structure. README.md describes each of them.
//!
//! A peer describes a forward or a backward as a list of [`Launch`]es. A list can run on a device
//! ([`PeerDevice`], [`Memory`]), emulated or not. Its work and traffic are known without a device.

pub mod cublas;

mod device;
mod elementwise;
mod image;
mod launch;
mod layer;
mod lorafusion;
mod matmul;
mod peft;
mod serving;
mod unsloth;
mod work;

pub use device::{Memory, PeerDevice};
pub use image::fatbin;
pub use launch::{Argument, Launch, Stream, Tiled};
pub use layer::{Buffer, PeerLayer};
pub use serving::ServingPeer;
pub use work::{LayerWork, PassWork};

/// Errors are only reported, so one type for all of them is enough.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// A way to compute an adapted linear layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A hand-written autograd function that calls cuBLAS. It has no dropout.
    Unsloth,
    /// PyTorch modules in eager mode.
    Peft,
    /// Triton kernels around the low-rank bottleneck.
    LoraFusion,
}

impl Peer {
    /// All peers.
    pub const ALL: [Peer; 3] = [Peer::Unsloth, Peer::Peft, Peer::LoraFusion];

    /// The name as its authors spell it.
    pub const fn name(self) -> &'static str {
        match self {
            Peer::Unsloth => "Unsloth",
            Peer::Peft => "PEFT",
            Peer::LoraFusion => "LoRAFusion",
        }
    }

    /// Whether the peer can compute this layer. Unsloth leaves layers with dropout to PEFT.
    pub fn takes(self, layer: &PeerLayer) -> bool {
        self != Peer::Unsloth || layer.dropout.is_none()
    }

    /// The launches of y = x·Wᵀ + s·drop(x)·Aᵀ·Bᵀ.
    ///
    /// # Errors
    /// For a layer that this peer doesn't take.
    pub fn forward(self, layer: &PeerLayer) -> Result<Vec<Launch>> {
        self.check(layer)?;
        Ok(match self {
            Peer::Unsloth => unsloth::forward(layer),
            Peer::Peft => peft::forward(layer),
            Peer::LoraFusion => lorafusion::forward(layer),
        })
    }

    /// The launches of dx, dA and dB. They run after those of [`Peer::forward`], on the same
    /// memory.
    ///
    /// # Errors
    /// For a layer that this peer doesn't take.
    pub fn backward(self, layer: &PeerLayer) -> Result<Vec<Launch>> {
        self.check(layer)?;
        Ok(match self {
            Peer::Unsloth => unsloth::backward(layer),
            Peer::Peft => peft::backward(layer),
            Peer::LoraFusion => lorafusion::backward(layer),
        })
    }

    fn check(self, layer: &PeerLayer) -> Result<()> {
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
