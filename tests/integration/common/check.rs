//! Compares the results of a run with the reference: every element with its bound, whole tensors
//! with a measure, and the mask bit for bit.

use lora_kernels::reference::{self, Adapter, Bounded, Intermediates, KeepMask, View};
use lora_kernels::{DType, Role};

use super::data::Placed;
use super::device::Number;
use super::layer::{BackwardRun, ForwardRun, LayerCase, Lora, TestLayer};

/// The largest allowed difference of a whole tensor, 1 - 2<x,y> / (|x|² + |y|²), which is about
/// half the squared relative error. An output that is rounded once has about 4e-7 in bf16, 5e-9 in
/// f16 and 1e-15 in f32. Sums of tens of thousands of terms in f32 raise it to 1e-11.
fn largest_difference(dtype: DType) -> f64 {
    match dtype {
        DType::BF16 => 1e-5,
        DType::F16 => 1e-7,
        DType::F32 => 1e-10,
    }
}

/// The smallest number of elements for this measure: in a tiny tensor, a single element that is
/// rounded the other way exceeds it.
const ENOUGH: usize = 64;

impl<T: Number, A: Number> TestLayer<T, A> {
    pub fn reference(&self) -> reference::Layer<'_, T, A> {
        let projections = self.projections.iter().zip(&self.case.projections);
        let projections = projections.map(|(projection, sizes)| reference::Projection {
            weight: if self.case.transposed {
                projection.weight.view().transposed()
            } else {
                projection.weight.view()
            },
            bias: projection.bias.as_ref().map(Placed::row),
            adapter: projection.lora.as_ref().map(|Lora { a, b }| Adapter {
                a: a.view(),
                b: b.view(),
                scaling: sizes.scaling,
            }),
        });
        reference::Layer {
            x: self.x.view(),
            projections: projections.collect(),
            dropout: self.case.dropout,
        }
    }

    pub fn expected_forward(&self, intermediates: Intermediates) -> reference::Forward {
        reference::forward(&self.reference(), intermediates).expect("shapes fit")
    }

    pub fn expected_backward(&self, intermediates: Intermediates) -> reference::Backward {
        let dy: Vec<View<'_, T>> = self
            .projections
            .iter()
            .map(|projection| projection.dy.view())
            .collect();
        reference::backward(&self.reference(), &dy, intermediates).expect("shapes fit")
    }

    /// Runs forward and backward, compares all results with the reference, and returns them.
    pub fn check(&self) -> (ForwardRun<T>, BackwardRun<T, A>) {
        let forward = self.forward();
        self.check_forward(&forward);
        let backward = self.backward(&forward.saved);
        self.check_backward(&backward);
        (forward, backward)
    }

    pub fn check_forward(&self, run: &ForwardRun<T>) {
        let expected = self.expected_forward(Intermediates::Rounded);
        for (i, (given, expected)) in run.y.iter().zip(&expected.y).enumerate() {
            self.assert_close(Role::Y, i, given, expected, &self.projections[i].y);
        }
        if self.case.inference {
            assert!(run.saved.is_empty(), "inference saves nothing");
            return;
        }
        self.check_s(&run.saved, &expected.s);
        self.check_mask(&run.saved);
    }

    pub fn check_backward(&self, run: &BackwardRun<T, A>) {
        let expected = self.expected_backward(Intermediates::Rounded);
        assert_eq!(run.dx.is_some(), self.case.input_gradient);
        if let (Some(given), Some(previous)) = (&run.dx, &self.dx) {
            self.assert_close(Role::DX, 0, given, &expected.dx, previous);
        }
        for (i, (given, expected)) in run.gradients.iter().zip(&expected.adapters).enumerate() {
            assert_eq!(given.is_some(), expected.is_some());
            let previous = self.projections[i].gradients.as_ref();
            if let (Some(given), Some(expected), Some(previous)) = (given, expected, previous) {
                self.assert_close(Role::DLoraA, i, &given.a, &expected.d_lora_a, &previous.a);
                self.assert_close(Role::DLoraB, i, &given.b, &expected.d_lora_b, &previous.b);
            }
        }
    }

    /// Checks S of each adapted projection in its columns, and the padding.
    fn check_s(&self, saved: &[u8], expected: &[Option<Bounded>]) {
        let plan = self.forward_plan();
        let (region, problem) = (plan.saved().s, plan.problem());
        let elements = saved[region.offset..][..region.bytes].chunks_exact(size_of::<T>());
        let s: Vec<T> = elements.map(bytemuck::pod_read_unaligned).collect();
        let padded = problem.padded_ranks();
        let adapted = expected.iter().enumerate();
        for (i, expected) in adapted.filter_map(|(i, expected)| Some((i, expected.as_ref()?))) {
            let (first, rank) = (problem.rank_offset(i), expected.cols);
            let columns: Vec<T> = s
                .chunks_exact(padded)
                .flat_map(|row| &row[first..first + rank])
                .copied()
                .collect();
            self.assert_values_close(&format!("S {i}"), &columns, expected);
            for (row, line) in s.chunks_exact(padded).enumerate() {
                let padding = &line[first + rank..first + rank.next_multiple_of(16)];
                let zeros = padding.iter().all(|value| value.to_f64() == 0.0);
                assert!(
                    zeros,
                    "S's padding in row {row} is {padding:?}: {:?}",
                    self.case
                );
            }
        }
    }

    fn check_mask(&self, saved: &[u8]) {
        let LayerCase {
            tokens,
            in_features,
            ..
        } = self.case;
        let stored = self.case.dropout.filter(|_| !self.case.redrawn);
        let expected = stored.map(|dropout| KeepMask::new(tokens, in_features, &dropout));
        let mask = self.forward_plan().saved().mask;
        let mask = mask.map(|mask| &saved[mask.offset..][..mask.bytes]);
        assert_eq!(
            mask.is_some(),
            expected.is_some(),
            "a mask is kept: {:?}",
            self.case
        );
        if let (Some(mask), Some(expected)) = (mask, expected) {
            let words: Vec<u64> = mask
                .chunks_exact(8)
                .map(bytemuck::pod_read_unaligned)
                .collect();
            assert_eq!(words.len(), expected.words().len(), "{:?}", self.case);
            let pairs = words.iter().zip(expected.words());
            for (word, (given, expected)) in pairs.enumerate() {
                let (row, columns) = (word % tokens, word / tokens * 64);
                assert_eq!(
                    given, expected,
                    "mask of row {row}, columns from {columns}, {given:016x} is not {expected:016x}: {:?}",
                    self.case
                );
            }
        }
    }

    fn assert_close<E: Number>(
        &self,
        tensor: Role,
        projection: usize,
        given: &Placed<E>,
        expected: &Bounded,
        previous: &Placed<E>,
    ) {
        let sum;
        let expected = if self.case.accumulate.contains(&tensor) {
            sum = expected.added_to(previous.view());
            &sum
        } else {
            expected
        };
        self.assert_values_close(&format!("{tensor} {projection}"), &given.rows(), expected);
    }

    fn assert_values_close<E: Number>(&self, name: &str, given: &[E], expected: &Bounded) {
        let (types, case) = (format!("{} over {}", A::DTYPE, T::DTYPE), &self.case);
        let comparison = reference::compare(given, expected);
        assert!(
            comparison.is_within(),
            "{name} ({types}): {comparison}\n{case:?}"
        );
        let difference = reference::cosine_difference(given, &expected.value);
        let largest = largest_difference(T::DTYPE);
        assert!(
            difference < largest || given.len() < ENOUGH,
            "{name} ({types}) differs by {difference:e} as a whole, {largest:e} is allowed\n{case:?}"
        );
    }
}

/// The bits of a matrix, row by row.
pub fn bits<T: Number>(matrix: &Placed<T>) -> Vec<u8> {
    bytemuck::cast_slice(&matrix.rows()).to_vec()
}
