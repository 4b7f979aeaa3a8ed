//! The roles of a layer's tensors.

use std::fmt;

/// The role of a tensor in a layer. Shapes are row-major with M = tokens, K = in_features, N =
/// out_features and r = rank. Projections share x and dx; each has its own tensors of the other
/// roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Role {
    /// Input, (M, K).
    X = 0,
    /// Base weight W, (N, K), or (K, N) with [`WeightLayout::InOut`](crate::WeightLayout::InOut).
    Weight = 1,
    /// lora_A, (r, K).
    LoraA = 2,
    /// lora_B, (N, r).
    LoraB = 3,
    /// Output, (M, N).
    Y = 4,
    /// Gradient of the output, (M, N).
    DY = 5,
    /// Gradient of the input, (M, K).
    DX = 6,
    /// Gradient of lora_A, (r, K).
    DLoraA = 7,
    /// Gradient of lora_B, (N, r).
    DLoraB = 8,
    /// Bias, (N), a single row.
    Bias = 9,
    /// Merged weight W + Σ scaling·B·A, in the shape of the weight.
    Merged = 10,
}

impl Role {
    /// All roles, in the order of their numbers.
    pub const ALL: [Role; 11] = [
        Role::X,
        Role::Weight,
        Role::LoraA,
        Role::LoraB,
        Role::Y,
        Role::DY,
        Role::DX,
        Role::DLoraA,
        Role::DLoraB,
        Role::Bias,
        Role::Merged,
    ];

    /// The name in error messages. It is PEFT's name if PEFT has one.
    pub const fn name(self) -> &'static str {
        match self {
            Role::X => "x",
            Role::Weight => "weight",
            Role::LoraA => "lora_A",
            Role::LoraB => "lora_B",
            Role::Y => "y",
            Role::DY => "dy",
            Role::DX => "dx",
            Role::DLoraA => "d_lora_A",
            Role::DLoraB => "d_lora_B",
            Role::Bias => "bias",
            Role::Merged => "merged",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
