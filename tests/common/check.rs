//! Results of a run against the reference: every element within its bound, the whole close, the mask bit for bit.

use lora_kernels::DType;
use lora_kernels::reference::{self, Bounded, Intermediates, KeepMask};

use super::data::Placed;
use super::device::Number;
use super::layer::{BackwardRun, Case, ForwardRun, Layer};

/// The largest difference, 1 - 2<x,y> / (|x|² + |y|²), of a whole tensor: about half the squared relative error. An
/// output rounded once has around 4e-7 in bf16, 5e-9 in f16 and 1e-15 in f32; f32's sums of tens of thousands of terms
/// take it to 1e-11.
fn largest_difference(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1e-5,
        DType::F16 => 1e-7,
        DType::F32 => 1e-10,
    }
}

impl<T: Number> Layer<T> {
    pub fn reference(&self) -> reference::Layer<'_, T> {
        reference::Layer {
            x: self.x.view(),
            weight: self.weight.view(),
            bias: self.bias.as_ref().map(Placed::row),
            lora_a: self.lora_a.view(),
            lora_b: self.lora_b.view(),
            scaling: self.case.scaling,
            dropout: self.case.dropout,
        }
    }

    /// Runs forward and backward, compares everything with the reference, and gives what they wrote.
    pub fn check(&self) -> (ForwardRun<T>, BackwardRun<T>) {
        let forward = self.forward();
        self.check_forward(&forward);
        let backward = self.backward(&forward.saved);
        self.check_backward(&backward);
        (forward, backward)
    }

    pub fn check_forward(&self, run: &ForwardRun<T>) {
        let expected = reference::forward(&self.reference(), T::DTYPE, Intermediates::Rounded).expect("shapes fit");
        assert_close("y", &self.case, &run.y.rows(), &expected.y);
        self.check_saved(&run.saved, &expected.s);
    }

    pub fn check_backward(&self, run: &BackwardRun<T>) {
        let expected = reference::backward(&self.reference(), self.dy.view(), T::DTYPE, Intermediates::Rounded);
        let expected = expected.expect("shapes fit");
        assert_close("dx", &self.case, &run.dx.rows(), &expected.dx);
        assert_close("d_lora_A", &self.case, &run.d_lora_a.rows(), &expected.d_lora_a);
        assert_close("d_lora_B", &self.case, &run.d_lora_b.rows(), &expected.d_lora_b);
    }

    /// S with its padding, and the mask.
    fn check_saved(&self, saved: &[u8], expected: &Bounded) {
        let plan = self.case.forward_plan::<T>();
        let (layout, padded) = (plan.saved(), plan.problem().padded_rank());
        let bytes = &saved[layout.s.offset..][..layout.s.bytes];
        let s: Vec<T> = bytes
            .chunks_exact(size_of::<T>())
            .map(bytemuck::pod_read_unaligned)
            .collect();
        let rank = self.case.rank;
        let columns: Vec<T> = s.chunks_exact(padded).flat_map(|row| &row[..rank]).copied().collect();
        assert_close("S", &self.case, &columns, expected);
        for (row, line) in s.chunks_exact(padded).enumerate() {
            let zeros = line[rank..].iter().all(|value| value.to_f64() == 0.0);
            assert!(
                zeros,
                "S's padding in row {row} is {:?}: {:?}",
                &line[rank..],
                self.case
            );
        }

        let expected = self
            .case
            .dropout
            .map(|dropout| KeepMask::new(self.case.tokens, self.case.in_features, &dropout));
        let mask = layout.mask.map(|mask| &saved[mask.offset..][..mask.bytes]);
        assert_eq!(
            mask.is_some(),
            expected.is_some(),
            "a mask exactly with dropout: {:?}",
            self.case
        );
        if let (Some(mask), Some(expected)) = (mask, expected) {
            assert_eq!(layout.mask_row_bytes, expected.row_bytes());
            let wrong = mask
                .iter()
                .zip(expected.bytes())
                .position(|(given, expected)| given != expected);
            if let Some(byte) = wrong {
                let (row, group) = (byte / expected.row_bytes(), byte % expected.row_bytes());
                let (given, expected) = (mask[byte], expected.bytes()[byte]);
                panic!(
                    "mask of row {row}, columns from {}: {given:08b}, not {expected:08b}: {:?}",
                    8 * group,
                    self.case
                );
            }
        }
    }
}

fn assert_close<T: Number>(name: &str, case: &Case, given: &[T], expected: &Bounded) {
    let comparison = reference::compare(given, expected);
    assert!(comparison.is_within(), "{name} ({}): {comparison}\n{case:?}", T::DTYPE);
    let difference = reference::cosine_difference(given, &expected.value);
    let largest = largest_difference(T::DTYPE);
    assert!(
        difference < largest,
        "{name} ({}) differs by {difference:e} as a whole, {largest:e} is allowed\n{case:?}",
        T::DTYPE
    );
}

/// The bits of a matrix, row by row.
pub fn bits<T: Number>(matrix: &Placed<T>) -> Vec<u8> {
    bytemuck::cast_slice(&matrix.rows()).to_vec()
}
