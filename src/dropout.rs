//! Dropout on the input of the adapters.

use crate::{Error, Result};

/// Dropout on the adapter's input: each element of x is zeroed with probability `p`, the others
/// divided by 1 - p. The base product sees x undropped, as in PEFT.
///
/// The mask is a function of `seed`, `offset`, row and column alone (Philox4x32-10, see
/// [`crate::reference::philox`]): the same on every run, device and tiling. Draw a new one by
/// changing `offset`, say to the training step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// Probability in [0, 1). Rounded to a multiple of 2⁻¹⁶, and 1 / (1 - p) is taken of the
    /// rounded value.
    pub p: f32,
    /// Philox key.
    pub seed: u64,
    /// High half of the Philox counter.
    pub offset: u64,
}

impl Dropout {
    /// An element is dropped where its 16 random bits are below this: `p` in units of 2⁻¹⁶, at
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

/// Where the backward finds which elements of x the dropout has kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[repr(u32)]
pub enum Mask {
    /// In `saved`, one bit per element of x, where forward has stored it.
    #[default]
    Stored = 0,
    /// Nowhere: it is drawn again, for arithmetic instead of memory.
    Redrawn = 1,
}
