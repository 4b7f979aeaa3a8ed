//! The layers whose time is modelled.

use lora_kernels::{DType, Problem, Projection};

/// Layers that share x, in bf16.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub tokens: usize,
    pub in_features: usize,
    /// Of each projection.
    pub out_features: &'static [usize],
    /// Of each adapter.
    pub rank: usize,
}

impl Case {
    pub const DTYPE: DType = DType::BF16;

    pub const fn new(
        tokens: usize,
        in_features: usize,
        out_features: &'static [usize],
        rank: usize,
    ) -> Self {
        Self {
            tokens,
            in_features,
            out_features,
            rank,
        }
    }

    /// `8192x4096x4096 r16`, `4096x4096x(4096+1024+1024) r16`
    pub fn name(&self) -> String {
        let widths: Vec<String> = self.out_features.iter().map(usize::to_string).collect();
        let widths = match widths.as_slice() {
            [one] => one.clone(),
            several => format!("({})", several.join("+")),
        };
        format!(
            "{}x{}x{widths} r{}",
            self.tokens, self.in_features, self.rank
        )
    }

    /// Each projection alone.
    pub fn each(&self) -> impl Iterator<Item = Case> {
        let of = move |out_features| Case {
            out_features,
            ..*self
        };
        self.out_features.chunks(1).map(of)
    }

    pub fn problem(&self, dropout: bool) -> lora_kernels::Result<Problem> {
        let rank = self.rank;
        let projections: Vec<Projection> = self
            .out_features
            .iter()
            .map(|&out_features| Projection { out_features, rank })
            .collect();
        let problem = Problem::sharing_x(self.tokens, self.in_features, &projections, Self::DTYPE)?;
        Ok(problem.with_dropout(dropout))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_every_width() {
        assert_eq!(Case::new(1, 2, &[3], 4).name(), "1x2x3 r4");
        assert_eq!(Case::new(1, 2, &[3, 5], 4).name(), "1x2x(3+5) r4");
    }
}
