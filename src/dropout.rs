//! Dropout on the input of the adapters.

use crate::{Error, Result};

/// Dropout on the adapters' input: each element of x is zeroed with probability `p`, and the others
/// are divided by 1 - p. The base product uses x without dropout, as in PEFT.
///
/// The mask depends only on `seed`, `offset`, row and column (Philox4x32-10, see
/// [`crate::reference::philox`]), so it is the same on every run, device and tiling. Change
/// `offset` to draw a new one, for example to the training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability in [0, 1). It is rounded to a multiple of 2⁻¹⁶, and 1 / (1 - p) is computed from
    /// the rounded value.
    pub p: f32,
    /// The key of Philox.
    pub seed: u64,
    /// The high half of Philox's counter.
    pub offset: u64,
}

impl Dropout {
    /// An element is dropped if its 16 random bits are below this: `p` in units of 2⁻¹⁶, at
    /// most 65535.
    pub fn threshold(&self) -> u32 {
        ((f64::from(self.p) * 65536.0).round() as u32).min(65535)
    }

    /// 1 / (1 - p) for the rounded `p`.
    pub fn keep_scale(&self) -> f32 {
        65536.0 / (65536 - self.threshold()) as f32
    }

    pub(crate) fn check(&self) -> Result<()> {
        if self.p >= 0.0 && self.p < 1.0 {
            Ok(())
        } else {
            Err(Error::DropoutProbability { given: self.p })
        }
    }
}

/// Where backward gets the dropout mask from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum Mask {
    /// Forward stores it in `saved`, one bit per element of x.
    #[default]
    Stored = 0,
    /// Backward draws it again, which costs arithmetic instead of memory.
    Redrawn = 1,
}
