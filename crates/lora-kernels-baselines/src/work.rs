//! The work that a layer's formulas ask for, however it is computed.

use lora_kernels::{Problem, Role};

/// The work of one forward and one backward of a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LayerWork {
    /// Multiplications and additions of one pass's products with the weights.
    pub base_flops: u64,
    /// y.
    pub forward: PassWork,
    /// dx, dA and dB.
    pub backward: PassWork,
}

/// The work of one pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PassWork {
    /// Multiplications and additions, each product once.
    pub flops: u64,
    /// Bytes of all tensors that the caller gives and gets, each once.
    pub bytes: u64,
}

impl LayerWork {
    /// Computes the work of a layer with all its projections.
    pub fn of(problem: &Problem) -> Self {
        let (tokens, in_features) = (problem.tokens() as u64, problem.in_features() as u64);
        let bytes = |projection: usize, tensor: Role| {
            let (rows, columns) = problem.shape_of(projection, tensor);
            (rows * columns * problem.dtype_of(tensor).size()) as u64
        };
        let x = bytes(0, Role::X);
        let (mut base_flops, mut adapter_flops) = (0, 0);
        let (mut forward_bytes, mut backward_bytes) = (x, 2 * x);
        for (index, projection) in problem.projections().iter().enumerate() {
            let (out_features, rank) = (projection.out_features as u64, projection.rank as u64);
            base_flops += 2 * tokens * in_features * out_features;
            adapter_flops += 2 * tokens * rank * (in_features + out_features);
            let sum = |tensors: &[Role]| -> u64 {
                let tensors = tensors.iter();
                tensors.map(|&tensor| bytes(index, tensor)).sum()
            };
            let parameters = sum(&[Role::Weight, Role::LoraA, Role::LoraB]);
            forward_bytes += parameters + sum(&[Role::Y]);
            backward_bytes += parameters + sum(&[Role::DY, Role::DLoraA, Role::DLoraB]);
        }
        Self {
            base_flops,
            forward: PassWork {
                flops: base_flops + adapter_flops,
                bytes: forward_bytes,
            },
            // dy·B and T·A for dx, and as much again for dA and dB.
            backward: PassWork {
                flops: base_flops + 2 * adapter_flops,
                bytes: backward_bytes,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lora_kernels::{DType, Projection};

    #[test]
    fn every_product_and_every_tensor_counts_once() {
        let [m, k, n, r] = [3_u64, 5, 7, 2];
        let problem = Problem::new(3, 5, 7, 2, DType::BF16).unwrap();
        let work = LayerWork::of(&problem);
        assert_eq!(work.base_flops, 2 * m * n * k);
        assert_eq!(work.forward.flops, 2 * m * n * k + 2 * m * r * (n + k));
        assert_eq!(work.backward.flops, 2 * m * n * k + 4 * m * r * (n + k));
        let given = m * k + n * k + r * (k + n);
        assert_eq!(work.forward.bytes, 2 * (given + m * n));
        assert_eq!(
            work.backward.bytes,
            2 * (given + m * n + m * k + r * (k + n))
        );
    }

    #[test]
    fn projections_share_x_and_nothing_else() {
        let adapted = Projection {
            out_features: 7,
            rank: 2,
        };
        let both = Problem::sharing_x(3, 5, &[adapted, adapted], DType::F32).unwrap();
        let single = Problem::sharing_x(3, 5, &[adapted], DType::F32).unwrap();
        let (both, single) = (LayerWork::of(&both), LayerWork::of(&single));
        assert_eq!(both.forward.flops, 2 * single.forward.flops);
        let x = 4 * 3 * 5;
        assert_eq!(both.forward.bytes, 2 * single.forward.bytes - x);
        assert_eq!(both.backward.bytes, 2 * single.backward.bytes - 2 * x);
    }
}
