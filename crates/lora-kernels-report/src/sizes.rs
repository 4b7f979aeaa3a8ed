//! The sizes of a layer.

use lora_kernels::{DType, Dropout, Problem};
use lora_kernels_report::document::Shape;

pub const SCALING: f32 = 2.0;
pub const DROPOUT: Dropout = Dropout {
    p: 0.1,
    seed: 42,
    offset: 0,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sizes {
    pub tokens: usize,
    pub in_features: usize,
    pub out_features: usize,
    pub rank: usize,
    pub dropout: bool,
}

impl Sizes {
    pub const fn new(tokens: usize, in_features: usize, out_features: usize, rank: usize) -> Self {
        Self {
            tokens,
            in_features,
            out_features,
            rank,
            dropout: false,
        }
    }

    pub fn with_dropout(self, dropout: bool) -> Self {
        Self { dropout, ..self }
    }

    pub fn problem(self, dtype: DType) -> lora_kernels::Result<Problem> {
        let Sizes {
            tokens,
            in_features,
            out_features,
            rank,
            dropout,
        } = self;
        Ok(Problem::new(tokens, in_features, out_features, rank, dtype)?.with_dropout(dropout))
    }

    pub fn shape(self, dtype: DType) -> Shape {
        Shape {
            tokens: self.tokens,
            in_features: self.in_features,
            out_features: self.out_features,
            rank: self.rank,
            dtype: dtype.to_string(),
            dropout: self.dropout,
        }
    }

    pub fn dropout(self) -> Option<Dropout> {
        self.dropout.then_some(DROPOUT)
    }
}
