//! A backward of a batch, and what the gradients must be, in f64 with bounds of the rounding
//! errors.

use lora_kernels::BackwardPlan;
use lora_kernels::raw::{BackwardArgs, BackwardProjectionArgs, LoraArgs, LoraGradientsArgs};
use lora_kernels::reference::Precision;

use super::batch::Batch;
use super::layer::{Layer, Saved, round};
use super::matrix::{address, unwritten};
use crate::common::device::{Number, gpu};

/// Runs a backward and checks every result. Returns whether the table's word says that a slot was
/// wrong.
#[track_caller]
pub fn check<T: Number, A: Number>(batch: &Batch) -> bool {
    let layer = Layer::<T, A>::new(batch);
    let saved = layer.saved();
    layer.run_backward(&saved);
    layer.check_gradients(&saved);
    layer.is_wrong()
}

impl<T: Number, A: Number> Layer<'_, T, A> {
    pub fn run_backward(&self, saved: &Saved<T>) {
        let (batch, device) = (self.batch, self.device());
        let plan = BackwardPlan::new(&self.problem, &device).expect("a plan");
        let bound = BackwardPlan::workspace_bound(&self.problem, batch.tokens, &device);
        assert!(plan.workspace_bytes() <= bound.expect("a bound"), "{plan}");
        let workspace = unwritten(plan.workspace_bytes());
        let projections: Vec<_> = (0..batch.projections.len())
            .map(|i| {
                let part = self.adapters[0].get(i);
                let part = part.filter(|part| self.one() && part.a.rows > 0);
                BackwardProjectionArgs {
                    dy: self.dy[i].address(),
                    weight: match batch.delta_only {
                        true => 0,
                        false => self.weight[i].address(),
                    },
                    lora: part.map(|part| LoraArgs {
                        a: part.a.address(),
                        b: part.b.address(),
                        scaling: part.scaling,
                    }),
                    gradients: part.map(|part| LoraGradientsArgs {
                        a: part.da.address(),
                        b: part.db.address(),
                    }),
                }
            })
            .collect();
        let mask = saved.mask.as_ref().filter(|_| !batch.redrawn);
        let args = BackwardArgs {
            x: self.x.address(),
            projections: &projections,
            dropout: self.dropout,
            saved: lora_kernels::Saved::Split {
                s: address(&saved.s),
                mask: mask.map(address),
            },
            record: None,
            dx: batch.input_gradient.then(|| self.dx.address()),
            workspace: Some(address(&workspace)),
            rows: self.rows(),
        };
        // SAFETY: all memory is alive until the results are read.
        unsafe {
            gpu()
                .kernels
                .backward_raw(&plan, &args, gpu().stream.cu_stream())
        }
        .expect("a backward");
        gpu().stream.synchronize().expect("the backward ran");
    }

    /// Compares all gradients with those of f64 from this S.
    #[track_caller]
    pub fn check_gradients(&self, saved: &Saved<T>) {
        let batch = self.batch;
        let (m, k, delta) = (batch.tokens, batch.in_features, batch.delta_only);
        let columns = self.problem.padded_ranks();
        let u = Precision::of(T::DTYPE).rounding_error(1.0);
        let f32_error = f64::powi(2.0, -23);
        let mut dx_sum = vec![(0.0, 0.0); m * k];
        for (slot, parts) in self.adapters.iter().enumerate() {
            let members = self.members(slot);
            for (projection, part) in parts.iter().enumerate() {
                let (n, rank) = (part.b.rows, part.a.rows);
                let scaling = f64::from(part.scaling);
                // (T, bound of its error) of a member
                let t: Vec<Vec<(f64, f64)>> = members
                    .iter()
                    .map(|&(row, (_, weight))| {
                        (0..rank)
                            .map(|r| {
                                let product = |c| {
                                    self.dy[projection].at(row, c) * round::<T>(part.b.at(c, r))
                                };
                                let sum: f64 = (0..n).map(product).sum();
                                let most: f64 = (0..n).map(|c| product(c).abs()).sum();
                                let value = scaling * weight * sum;
                                let error =
                                    (n + 4) as f64 * f32_error * (scaling * weight).abs() * most;
                                (value, error + u * (value.abs() + error))
                            })
                            .collect()
                    })
                    .collect();
                let name = format!("adapter {slot}, projection {projection}");
                let idle = members.is_empty() && !self.one();
                let added = |sum: f64, error: f64, most: f64, before: f64| {
                    let depth = (members.len() + 8) as f64 * f32_error;
                    let before = if batch.accumulate { before } else { 0.0 };
                    Some((sum + before, error + depth * (most + before.abs())))
                };
                part.da.check(&format!("dA of {name}"), |r, c| {
                    if idle {
                        return None;
                    }
                    let (mut sum, mut error, mut most) = (0.0, 0.0, 0.0);
                    for (&(row, _), t) in members.iter().zip(&t) {
                        let factor = self.x.at(row, c) * self.keeps(row, c);
                        sum += t[r].0 * factor;
                        error += t[r].1 * factor.abs();
                        most += (t[r].0 * factor).abs();
                    }
                    added(sum, error, most, part.da.at(r, c))
                });
                part.db.check(&format!("dB of {name}"), |c, r| {
                    if idle {
                        return None;
                    }
                    let (mut sum, mut most) = (0.0, 0.0);
                    for &(row, (place, weight)) in &members {
                        let at = row * columns + self.column_of(projection, place) + r;
                        let s: f64 = saved.s_values[at].into();
                        let value = scaling * weight * s * self.dy[projection].at(row, c);
                        sum += value;
                        most += value.abs();
                    }
                    let rounded = if batch.weights.is_some() || batch.per_row > 1 {
                        u * most
                    } else {
                        0.0
                    };
                    added(sum, rounded, most, part.db.at(c, r))
                });
                for (&(row, _), t) in members.iter().zip(&t) {
                    for c in 0..k {
                        let (sum, error) = &mut dx_sum[row * k + c];
                        for (r, t) in t.iter().enumerate() {
                            let a = round::<T>(part.a.at(r, c)) * self.keeps(row, c);
                            *sum += t.0 * a;
                            *error += (t.1 + 64.0 * f32_error * t.0.abs()) * a.abs();
                        }
                    }
                }
            }
        }
        self.dx.check("dx", |row, c| {
            if !batch.input_gradient {
                return None;
            }
            let (mut sum, mut error) = dx_sum[row * k + c];
            for (projection, &(n, _)) in batch.projections.iter().enumerate().filter(|_| !delta) {
                for d in 0..n {
                    let (row_of_w, column) = if batch.transposed { (c, d) } else { (d, c) };
                    let weight = self.weight[projection].at(row_of_w, column);
                    let value = self.dy[projection].at(row, d) * weight;
                    sum += value;
                    error += (n + 64) as f64 * f32_error * value.abs();
                }
            }
            if batch.accumulate || delta {
                sum += self.dx.at(row, c);
                error += f32_error * self.dx.at(row, c).abs();
            }
            Some((sum, error))
        });
    }
}
