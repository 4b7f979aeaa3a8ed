//! The type of each role's elements, how the weight is stored, and which adapter a row has.

use std::fmt;

use crate::{DType, Error, Result};

/// How the base weight is stored.
///
/// The kernels read dense weights only. Formats with block scales will be further variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum WeightFormat {
    /// One element of this type per weight.
    Dense(DType),
}

impl WeightFormat {
    /// Type of the elements in memory.
    pub const fn dtype(self) -> DType {
        match self {
            WeightFormat::Dense(dtype) => dtype,
        }
    }
}

impl fmt::Display for WeightFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WeightFormat::Dense(dtype) => write!(f, "dense {dtype}"),
        }
    }
}

/// Which adapter each row of x goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[non_exhaustive]
pub enum RowAdapters {
    /// All rows go through the projection's one adapter.
    #[default]
    One,
    /// Each row has a list of adapters, or none, from a table in device memory. Their deltas are
    /// summed, each multiplied by a weight of its own.
    Table {
        /// The slots of the table, from 1 on.
        slots: usize,
        /// The places in a row's list, from 1 to [`RowAdapters::MOST_PER_ROW`].
        per_row: usize,
    },
}

impl RowAdapters {
    /// The most adapters that a row can have.
    pub const MOST_PER_ROW: usize = 4;

    /// The places in a row's list.
    pub const fn per_row(self) -> usize {
        match self {
            RowAdapters::One => 1,
            RowAdapters::Table { per_row, .. } => per_row,
        }
    }

    /// Whether the adapters are those of a table.
    pub const fn is_table(self) -> bool {
        matches!(self, RowAdapters::Table { .. })
    }
}

/// The element type of each role of a layer.
///
/// ```
/// use lora_kernels::{DType, Formats, Problem, WeightFormat};
/// let mut formats = Formats::uniform(DType::BF16);
/// formats.adapters = DType::F32;
/// formats.gradients = DType::F32;
/// let problem = Problem::new(192, 384, 1536, 8, DType::BF16)?.with_formats(formats)?;
/// assert_eq!(problem.formats().weight, WeightFormat::Dense(DType::BF16));
/// # Ok::<(), lora_kernels::Error>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Formats {
    /// x, y, dy, dx, the bias, and what is kept between launches: S and T.
    pub activations: DType,
    /// The base weight. The kernels take a dense one in the type of the activations.
    pub weight: WeightFormat,
    /// lora_A and lora_B: the type of the activations, or f32, which is PEFT's default. An f32
    /// element is rounded to the type of the activations before it is used, as autocast does.
    pub adapters: DType,
    /// d_lora_A and d_lora_B. The kernels write them in the type of the adapters.
    pub gradients: DType,
}

impl Formats {
    /// Every role in one type, and a dense weight.
    pub const fn uniform(dtype: DType) -> Self {
        Self {
            activations: dtype,
            weight: WeightFormat::Dense(dtype),
            adapters: dtype,
            gradients: dtype,
        }
    }

    /// Whether the kernels exist for these types.
    pub(crate) fn check(&self) -> Result<()> {
        let activations = self.activations;
        check_adapters(self.adapters, activations)?;
        let of_weight = self.weight.dtype();
        if of_weight != activations {
            return Err(Error::Format {
                what: "the weight",
                given: of_weight,
                other: "the activations",
                needed: activations,
            });
        }
        if self.gradients != self.adapters {
            return Err(Error::Format {
                what: "the adapters' gradients",
                given: self.gradients,
                other: "the adapters",
                needed: self.adapters,
            });
        }
        Ok(())
    }
}

impl fmt::Display for Formats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            activations,
            weight,
            adapters,
            gradients,
        } = self;
        write!(
            f,
            "activations {activations}, weight {weight}, adapters {adapters}, gradients {gradients}"
        )
    }
}

/// Whether adapters of that type can be applied to tensors of the other.
pub(crate) fn check_adapters(given: DType, dtype: DType) -> Result<()> {
    if given == dtype || given == DType::F32 {
        Ok(())
    } else {
        Err(Error::AdapterDType { given, dtype })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_formats_with_kernels_are_accepted() {
        for activations in DType::ALL {
            for weight in DType::ALL {
                for adapters in DType::ALL {
                    for gradients in DType::ALL {
                        let formats = Formats {
                            activations,
                            weight: WeightFormat::Dense(weight),
                            adapters,
                            gradients,
                        };
                        let built = weight == activations
                            && gradients == adapters
                            && (adapters == activations || adapters == DType::F32);
                        assert_eq!(formats.check().is_ok(), built, "{formats:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn a_refusal_names_both_types() {
        let mut formats = Formats::uniform(DType::BF16);
        formats.weight = WeightFormat::Dense(DType::F32);
        let text = formats.check().unwrap_err().to_string();
        assert!(text.contains("the weight is f32"), "{text}");
        assert!(text.contains("bf16"), "{text}");

        let text = check_adapters(DType::F16, DType::F32)
            .unwrap_err()
            .to_string();
        assert!(!text.contains("f32 or f32"), "{text}");
    }
}
