//! A forward of a batch, and what y, S and the mask must be, in f64 with bounds of the rounding
//! errors.

use lora_kernels::ForwardPlan;
use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::raw::{ForwardArgs, ForwardProjectionArgs, LoraArgs};
use lora_kernels::reference::Precision;

use super::batch::Batch;
use super::layer::{Adapter, Layer, Saved, round};
use super::matrix::{address, unwritten, upload};
use crate::common::device::{Number, gpu};

/// 2⁻²⁴, the rounding error of f32
const UNIT: f64 = 1.0 / (1 << 24) as f64;
/// Elements behind S and the mask, which must not change
const GUARD: usize = 16;
const MASK_BEFORE: u64 = 0x5A5A_5A5A_5A5A_5A5A;

/// Runs a forward, then a backward on what it saved, and checks every result of both. Returns
/// whether the table's word says after the forward that a slot was wrong.
#[track_caller]
pub fn check_both<T: Number, A: Number>(batch: &Batch) -> bool {
    let layer = Layer::<T, A>::new(batch);
    let saved = layer.run_forward();
    let wrong = layer.is_wrong();
    layer.check_saved(&saved);
    layer.check_outputs(&saved);
    layer.run_backward(&saved);
    layer.check_gradients(&saved);
    wrong
}

/// Runs a forward alone, and checks its results.
#[track_caller]
pub fn check_forward<T: Number, A: Number>(batch: &Batch) {
    let layer = Layer::<T, A>::new(batch);
    let saved = layer.run_forward();
    layer.check_saved(&saved);
    layer.check_outputs(&saved);
}

/// The bits of every y of a forward.
pub fn outputs<T: Number, A: Number>(batch: &Batch) -> Vec<u64> {
    let layer = Layer::<T, A>::new(batch);
    layer.run_forward();
    let bits = layer.y.iter().flat_map(|y| y.now());
    bits.map(|value| Into::<f64>::into(value).to_bits())
        .collect()
}

impl<T: Number, A: Number> Layer<'_, T, A> {
    pub fn run_forward(&self) -> Saved<T> {
        let (batch, device) = (self.batch, self.device());
        let plan = ForwardPlan::new(&self.problem, &device).expect("a plan");
        let bound = ForwardPlan::workspace_bound(&self.problem, batch.tokens, &device);
        assert!(plan.workspace_bytes() <= bound.expect("a bound"), "{plan}");
        let bound = ForwardPlan::flags_bound(&self.problem, batch.tokens, &device);
        assert!(plan.flags_bytes() <= bound.expect("a bound"), "{plan}");
        let s_count = batch.tokens * self.problem.padded_ranks();
        let s = upload(&vec![T::from_f64(f64::NAN); s_count + GUARD]);
        let mask_words = plan.saved().mask.map(|mask| mask.bytes / size_of::<u64>());
        let mask = mask_words.map(|words| upload(&vec![MASK_BEFORE; words + GUARD]));
        let workspace = unwritten(plan.workspace_bytes());
        let flags = upload(&vec![0u8; plan.flags_bytes().max(1)]);
        let projections: Vec<_> = (0..batch.projections.len())
            .map(|i| {
                let part = self.adapters[0].get(i);
                let part = part.filter(|part| self.one() && part.a.rows > 0);
                ForwardProjectionArgs {
                    weight: match batch.delta_only {
                        true => 0,
                        false => self.weight[i].address(),
                    },
                    bias: (!batch.delta_only).then(|| self.bias[i].address()),
                    lora: part.map(|part| LoraArgs {
                        a: part.a.address(),
                        b: part.b.address(),
                        scaling: part.scaling,
                    }),
                    y: self.y[i].address(),
                }
            })
            .collect();
        let args = ForwardArgs {
            x: self.x.address(),
            projections: &projections,
            dropout: self.dropout,
            saved: lora_kernels::Saved::Split {
                s: address(&s),
                mask: mask.as_ref().map(address),
            },
            workspace: Some(address(&workspace)),
            rows: self.rows(),
            flags: Some(address(&flags)),
        };
        let stream = &gpu().stream;
        // SAFETY: all memory is alive until the results are read.
        unsafe { gpu().kernels.forward_raw(&plan, &args, stream.cu_stream()) }.expect("a forward");
        let flags = stream.clone_dtoh(&flags).expect("reading back");
        assert!(flags.iter().all(|&byte| byte == 0), "flags stay set");
        let s_values = stream.clone_dtoh(&s).expect("reading back");
        let behind = &s_values[s_count..];
        let untouched = |value: &T| (*value).into().is_nan();
        assert!(behind.iter().all(untouched), "written behind S: {behind:?}");
        Saved { s, s_values, mask }
    }

    /// Compares S and the mask with those of f64, wherever a backward may read them.
    #[track_caller]
    pub fn check_saved(&self, saved: &Saved<T>) {
        let columns = self.problem.padded_ranks();
        let depth = 1.5 * (self.batch.in_features + 8) as f64 * UNIT;
        let mut adapted = vec![false; self.batch.tokens];
        for (slot, parts) in self.adapters.iter().enumerate() {
            for (row, (place, _)) in self.members(slot) {
                for (projection, part) in parts.iter().enumerate() {
                    let name = format!("S of row {row}, adapter {slot}, projection {projection}");
                    let first = row * columns + self.column_of(projection, place);
                    adapted[row] |= part.a.rows > 0;
                    for r in 0..part.a.rows.next_multiple_of(16) {
                        let given: f64 = saved.s_values[first + r].into();
                        let (right, most) = match r < part.a.rows {
                            true => self.shrunk(row, part, r),
                            false => (0.0, 0.0),
                        };
                        let error = depth * most;
                        let rounding = Precision::of(T::DTYPE).rounding_error(right.abs() + error);
                        assert!(
                            (given - right).abs() <= error + rounding
                                || given.is_nan() && right.is_nan(),
                            "{name}, rank {r}: {given}, not {right}, bound {error} + {rounding}"
                        );
                    }
                }
            }
        }
        if let Some(words) = &saved.mask {
            self.check_mask(words, &adapted);
        }
    }

    fn check_mask(&self, words: &CudaSlice<u64>, adapted: &[bool]) {
        let mask = self.mask.as_ref().expect("dropout");
        let given = gpu().stream.clone_dtoh(words).expect("reading back");
        let (given, behind) = given.split_at(mask.words().len());
        assert!(
            behind.iter().all(|&word| word == MASK_BEFORE),
            "{behind:x?}"
        );
        for (at, (given, right)) in given.iter().zip(mask.words()).enumerate() {
            let row = at % self.batch.tokens;
            assert!(
                given == right || !adapted[row],
                "row {row} of the mask, word {}: {given:x}, not {right:x}",
                at / self.batch.tokens
            );
        }
    }

    /// Compares y with f64's from this S. It is rounded once.
    #[track_caller]
    pub fn check_outputs(&self, saved: &Saved<T>) {
        let batch = self.batch;
        let (k, columns) = (batch.in_features, self.problem.padded_ranks());
        // (first column of S, scaling times weight, part) of each adapter of a row
        let of_row = |row: usize, projection: usize| -> Vec<(usize, f64, &Adapter<A>)> {
            let all = self.adapters.iter().enumerate();
            all.filter_map(|(slot, parts)| {
                let part = parts.get(projection)?;
                let (place, weight) = batch.member(row, slot)?;
                let first = row * columns + self.column_of(projection, place);
                Some((first, f64::from(part.scaling) * weight, part))
            })
            .collect()
        };
        for (projection, y) in self.y.iter().enumerate() {
            let lists: Vec<_> = (0..batch.tokens)
                .map(|row| of_row(row, projection))
                .collect();
            y.check(&format!("y of projection {projection}"), |row, column| {
                let (mut sum, mut most, mut terms) = (0.0, 0.0, 8);
                let mut add = |value: f64| {
                    sum += value;
                    most += value.abs();
                };
                if !batch.delta_only {
                    terms += k;
                    for c in 0..k {
                        let (at, of) = if batch.transposed {
                            (c, column)
                        } else {
                            (column, c)
                        };
                        add(self.x.at(row, c) * self.weight[projection].at(at, of));
                    }
                    add(self.bias[projection].at(0, column));
                }
                if batch.accumulate || batch.delta_only {
                    add(y.at(row, column));
                }
                for &(first, factor, part) in &lists[row] {
                    terms += part.a.rows;
                    for r in 0..part.a.rows {
                        let s: f64 = saved.s_values[first + r].into();
                        add(factor * s * round::<T>(part.b.at(column, r)));
                    }
                }
                Some((sum, 1.5 * terms as f64 * UNIT * most))
            });
        }
    }
}
