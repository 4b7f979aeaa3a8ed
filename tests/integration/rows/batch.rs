//! A batch whose rows have adapters of their own: its memory, a backward of it, and what the
//! results must be, in f64 with bounds of the rounding errors.

use lora_kernels::cudarc::driver::{CudaSlice, DevicePtr};
use lora_kernels::raw::{BackwardArgs, BackwardProjectionArgs, LoraArgs, LoraGradientsArgs};
use lora_kernels::reference::{KeepMask, Precision};
use lora_kernels::{
    BackwardPlan, Dropout, Element, Layout, Mask, Problem, Projection, RawTable, Role, RowAdapters,
    Rows, WeightLayout,
};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::common::device::{Number, gpu};

/// One adapter: its rank in each projection.
pub type Ranks = Vec<usize>;

#[derive(Debug, Clone)]
pub struct Batch {
    pub tokens: usize,
    pub in_features: usize,
    /// (out_features, the largest rank)
    pub projections: Vec<(usize, usize)>,
    /// The table; `None` for an empty slot. Without rows, the one adapter.
    pub table: Vec<Option<Ranks>>,
    pub per_row: usize,
    /// (tokens, places); none where all rows go through one adapter
    pub slots: Option<Vec<i32>>,
    pub weights: Option<Vec<f32>>,
    pub dropout: bool,
    pub redrawn: bool,
    /// The row and the column of the whole layer's mask where this one begins.
    pub origin: (usize, usize),
    /// Whether the seed is read from memory.
    pub from_memory: bool,
    pub transposed: bool,
    pub input_gradient: bool,
    pub delta_only: bool,
    pub accumulate: bool,
    /// Rows lie off 16 bytes.
    pub odd: bool,
    /// The adapter whose matrices are NaN; no row without it may become so.
    pub poisoned: Option<usize>,
    /// A slot whose entries have this rank, which no table takes: it is none.
    pub wrong_rank: Option<(usize, i32)>,
    /// The number that plans are made for.
    pub multiprocessors: Option<u32>,
}

impl Batch {
    /// Rows with one of so many adapters each, at random, or none.
    pub fn random(tokens: usize, in_features: usize, out_features: usize, ranks: &[usize]) -> Self {
        let mut random = SmallRng::seed_from_u64(7 + tokens as u64);
        let slots = (0..tokens).map(|_| random.random_range(-1..ranks.len() as i32));
        Self {
            tokens,
            in_features,
            projections: vec![(out_features, *ranks.iter().max().unwrap())],
            table: ranks.iter().map(|&rank| Some(vec![rank])).collect(),
            per_row: 1,
            slots: Some(slots.collect()),
            weights: None,
            dropout: false,
            redrawn: false,
            origin: (0, 0),
            from_memory: false,
            transposed: false,
            input_gradient: true,
            delta_only: false,
            accumulate: false,
            odd: false,
            poisoned: None,
            wrong_rank: None,
            multiprocessors: None,
        }
    }

    /// All rows go through one adapter, of which only the part is computed.
    pub fn one(tokens: usize, in_features: usize, projections: &[(usize, usize)]) -> Self {
        let ranks: Vec<usize> = projections.iter().map(|&(_, rank)| rank).collect();
        Self {
            projections: projections.to_vec(),
            table: vec![Some(ranks)],
            slots: None,
            delta_only: true,
            ..Self::random(tokens, in_features, 8, &[1])
        }
    }

    fn layout(&self, columns: usize, size: usize) -> Layout {
        match self.odd {
            true => Layout {
                row_stride: columns as i64 + 3,
                alignment: size,
            },
            false => Layout {
                row_stride: columns as i64,
                alignment: 16,
            },
        }
    }

    pub fn problem<T: Number, A: Number>(&self) -> Problem {
        let projection = |&(out_features, rank): &(usize, usize)| Projection { out_features, rank };
        let projections: Vec<_> = self.projections.iter().map(projection).collect();
        let layout = match self.transposed {
            true => WeightLayout::InOut,
            false => WeightLayout::OutIn,
        };
        let mut problem = Problem::sharing_x(self.tokens, self.in_features, &projections, T::DTYPE)
            .and_then(|problem| problem.with_adapter_dtype(A::DTYPE))
            .expect("sizes in range")
            .with_dropout(self.dropout)
            .with_mask(if self.redrawn {
                Mask::Redrawn
            } else {
                Mask::Stored
            })
            .with_weight_layout(layout)
            .with_input_gradient(self.input_gradient)
            .with_delta_only(self.delta_only)
            .with_dropout_from_memory(self.from_memory)
            .with_mask_origin(self.origin.0 as u64, self.origin.1 as u64)
            .expect("an origin");
        if self.slots.is_some() {
            let table = RowAdapters::Table {
                slots: self.table.len(),
                per_row: self.per_row,
            };
            problem = problem.with_row_adapters(table).expect("a table");
        }
        for tensor in [Role::DX, Role::DLoraA, Role::DLoraB] {
            problem = problem
                .with_accumulate(tensor, self.accumulate)
                .expect("an output");
        }
        for projection in 0..self.projections.len() {
            for tensor in [Role::X, Role::DX, Role::DY, Role::Weight] {
                let columns = problem.shape_of(projection, tensor).1;
                let layout = self.layout(columns, size_of::<T>());
                problem = problem
                    .with_layout_of(projection, tensor, layout)
                    .expect("a layout");
            }
            for tensor in [Role::LoraA, Role::LoraB, Role::DLoraA, Role::DLoraB] {
                let (rows, columns) = problem.shape_of(projection, tensor);
                if rows > 0 && columns > 0 {
                    let layout = self.layout(columns, size_of::<A>());
                    problem = problem
                        .with_layout_of(projection, tensor, layout)
                        .expect("a layout");
                }
            }
        }
        problem
    }

    /// (first place, sum of weights) of a row in an adapter
    fn member(&self, row: usize, slot: usize) -> Option<(usize, f64)> {
        let Some(slots) = &self.slots else {
            return Some((0, 1.0));
        };
        if self.wrong_rank.is_some_and(|(wrong, _)| wrong == slot) {
            return None;
        }
        let places = row * self.per_row..(row + 1) * self.per_row;
        let weight = |at: usize| self.weights.as_ref().map_or(1.0, |weights| weights[at]);
        let named = places
            .enumerate()
            .filter(|&(_, at)| slots[at] == slot as i32 && weight(at) != 0.0);
        named.fold(None, |found, (place, at)| {
            let (first, sum) = found.unwrap_or((place, 0.0));
            Some((first, sum + f64::from(weight(at))))
        })
    }
}

const SCALING: [f32; 5] = [1.7, -0.6, 2.0, 0.9, -1.3];

/// A matrix on host and device.
struct Matrix<E> {
    values: Vec<E>,
    rows: usize,
    columns: usize,
    stride: usize,
    start: usize,
    device: CudaSlice<E>,
}

/// Elements around every matrix, which must not change.
const GUARD: usize = 64;

impl<E: Number> Matrix<E> {
    fn new(rows: usize, columns: usize, odd: bool, mut value: impl FnMut() -> f64) -> Self {
        let stride = columns + if odd { 3 } else { 0 };
        let start = GUARD + usize::from(odd);
        let mut values = vec![E::from_f64(f64::NAN); start + rows * stride + GUARD];
        for row in 0..rows {
            for column in 0..columns {
                values[start + row * stride + column] = E::from_f64(value());
            }
        }
        let device = gpu().stream.clone_htod(&values).expect("device memory");
        Self {
            values,
            rows,
            columns,
            stride,
            start,
            device,
        }
    }

    fn address(&self) -> u64 {
        self.device.device_ptr(&gpu().stream).0 + (self.start * size_of::<E>()) as u64
    }

    fn at(&self, row: usize, column: usize) -> f64 {
        self.values[self.start + row * self.stride + column].into()
    }

    fn vectorised(&self) -> bool {
        ((self.start | self.stride) * size_of::<E>()).is_multiple_of(16)
    }

    /// Compares the device's values with what they must be: (value, bound of its error) without
    /// rounding, or `None` where nothing may change.
    fn check(&self, name: &str, expected: impl Fn(usize, usize) -> Option<(f64, f64)>) {
        let now = gpu().stream.clone_dtoh(&self.device).expect("reading back");
        for (index, value) in now.iter().enumerate() {
            let place = index.checked_sub(self.start).filter(|_| self.stride > 0);
            let place = place.map(|at| (at / self.stride, at % self.stride));
            let inside = place.filter(|&(row, column)| row < self.rows && column < self.columns);
            match inside.and_then(|(row, column)| expected(row, column)) {
                None => assert!(
                    bytemuck::bytes_of(value) == bytemuck::bytes_of(&self.values[index]),
                    "{name}: {value:?} was written at {inside:?}, index {index}"
                ),
                Some((right, error)) => {
                    let given: f64 = (*value).into();
                    let bound = error + Precision::of(E::DTYPE).rounding_error(right.abs() + error);
                    assert!(
                        (given - right).abs() <= bound || given.is_nan() && right.is_nan(),
                        "{name} at {inside:?}: {given}, not {right}, bound {bound}"
                    );
                }
            }
        }
    }
}

/// One projection's part of an adapter, and of its gradients.
struct Adapter<A> {
    a: Matrix<A>,
    b: Matrix<A>,
    da: Matrix<A>,
    db: Matrix<A>,
    scaling: f32,
}

fn round<T: Element + Into<f64>>(value: f64) -> f64 {
    T::from_f64(value).into()
}

fn upload<E: lora_kernels::cudarc::driver::DeviceRepr + Copy>(values: &[E]) -> CudaSlice<E> {
    gpu().stream.clone_htod(values).expect("device memory")
}

fn address<E>(slice: &CudaSlice<E>) -> u64 {
    slice.device_ptr(&gpu().stream).0
}

/// An unwritten buffer
fn unwritten(bytes: usize) -> CudaSlice<u8> {
    // SAFETY: only kernels use it.
    unsafe { gpu().stream.alloc::<u8>(bytes.max(1)) }.expect("device memory")
}

/// Runs a backward and checks every result. Returns whether the table's word says that a slot was
/// wrong.
#[track_caller]
pub fn check<T: Number, A: Number>(batch: &Batch) -> bool {
    let problem = batch.problem::<T, A>();
    let props = *gpu().kernels.props();
    let device = match batch.multiprocessors {
        Some(multiprocessors) => props.with_multiprocessors(multiprocessors),
        None => props,
    };
    let plan = BackwardPlan::new(&problem, &device).expect("a plan");
    let bound = BackwardPlan::workspace_bound(&problem, batch.tokens, &device).expect("a bound");
    assert!(plan.workspace_bytes() <= bound, "{plan}");
    let mut random = SmallRng::seed_from_u64(99);
    let mut uniform = |magnitude: f64| random.random_range(-magnitude..magnitude);
    let (m, k, odd) = (batch.tokens, batch.in_features, batch.odd);
    let x = Matrix::<T>::new(m, k, odd, || uniform(1.0));
    let before = batch.accumulate;
    let delta = batch.delta_only;
    let dx = Matrix::<T>::new(m, k, odd, || match before || delta {
        true => uniform(1.0),
        false => f64::NAN,
    });
    let (mut dy, mut weight) = (Vec::new(), Vec::new());
    for &(n, _) in &batch.projections {
        dy.push(Matrix::<T>::new(m, n, odd, || uniform(1.0)));
        let (rows, columns) = if batch.transposed { (k, n) } else { (n, k) };
        weight.push(Matrix::<T>::new(rows, columns, odd, || match delta {
            true => f64::NAN,
            false => uniform(0.2),
        }));
    }
    let mut adapters = Vec::new();
    for (slot, ranks) in batch.table.iter().enumerate() {
        let mut parts = Vec::new();
        for (&rank, &(n, _)) in ranks.iter().flatten().zip(&batch.projections) {
            let poisoned = batch.poisoned == Some(slot);
            let mut value = |magnitude| match poisoned {
                true => f64::NAN,
                false => uniform(magnitude),
            };
            let a = Matrix::<A>::new(rank, k, odd, || value(0.3));
            let b = Matrix::<A>::new(n, rank, odd, || value(0.3));
            let mut gradient = || match before {
                true => uniform(1.0),
                false => f64::NAN,
            };
            parts.push(Adapter {
                a,
                b,
                da: Matrix::new(rank, k, odd, &mut gradient),
                db: Matrix::new(n, rank, odd, &mut gradient),
                scaling: SCALING[(slot + parts.len()) % SCALING.len()],
            });
        }
        adapters.push(parts);
    }

    let dropout = batch.dropout.then_some(Dropout {
        p: 0.3,
        seed: 11,
        offset: 5,
    });
    let (row0, column0) = batch.origin;
    let mask =
        dropout.map(|dropout| KeepMask::of_shard(row0..row0 + m, column0..column0 + k, &dropout));
    let seed_words = dropout.map(|dropout| upload(&[dropout.seed, dropout.offset]));
    let keep_scale = dropout.map_or(1.0, |dropout| f64::from(dropout.keep_scale()));
    let keeps = |row: usize, column: usize| match &mask {
        Some(mask) if !mask.keeps(row0 + row, column) => 0.0,
        _ => keep_scale,
    };

    // S as a forward leaves it, and NaN where nobody may read.
    let columns = problem.padded_ranks();
    let mut s = vec![T::from_f64(f64::NAN); m * columns];
    let place_of = |projection: usize, place: usize| {
        problem.rank_offset(projection) + place * problem.projections()[projection].padded_rank()
    };
    for row in 0..m {
        for (slot, parts) in adapters.iter().enumerate() {
            let Some((place, _)) = batch.member(row, slot) else {
                continue;
            };
            for (projection, part) in parts.iter().enumerate() {
                for r in 0..part.a.rows.next_multiple_of(16) {
                    let sum: f64 = match r < part.a.rows {
                        true => (0..k)
                            .map(|c| x.at(row, c) * keeps(row, c) * round::<T>(part.a.at(r, c)))
                            .sum(),
                        false => 0.0,
                    };
                    s[row * columns + place_of(projection, place) + r] = T::from_f64(sum);
                }
            }
        }
    }
    let s_values = s.clone();
    s.push(T::from_f64(f64::NAN)); // no allocation is empty
    let saved_s = upload(&s);
    let words = mask.as_ref().map(|mask| upload(mask.words()));
    let workspace = unwritten(plan.workspace_bytes());

    // The table
    let (mut entries, mut gradients) = (Vec::<u8>::new(), Vec::<u64>::new());
    for (slot, parts) in adapters.iter().enumerate() {
        for projection in 0..batch.projections.len() {
            let Some(part) = parts.get(projection) else {
                entries.extend([0; 48]);
                gradients.extend([0; 4]);
                continue;
            };
            assert!(batch.table[slot].is_some());
            for address in [part.a.address(), part.b.address()] {
                entries.extend(address.to_ne_bytes());
            }
            for stride in [part.a.stride, part.b.stride] {
                entries.extend((stride as i64).to_ne_bytes());
            }
            let rank = match batch.wrong_rank {
                Some((wrong, rank)) if wrong == slot => rank,
                _ => part.a.rows as i32,
            };
            entries.extend(rank.to_ne_bytes());
            entries.extend(part.scaling.to_ne_bytes());
            let same = T::DTYPE == A::DTYPE;
            let flags = 1
                | (2 * u32::from(same && part.a.vectorised()))
                | (4 * u32::from(same && part.b.vectorised()));
            entries.extend(flags.to_ne_bytes());
            entries.extend([0; 4]);
            gradients.extend([part.da.address(), part.db.address()]);
            gradients.extend([part.da.stride, part.db.stride].map(|stride| stride as u64));
        }
    }
    let (entries, gradients) = (upload(&entries), upload(&gradients));
    let wrong = upload(&[0u32]);
    let slots = batch
        .slots
        .as_ref()
        .filter(|slots| !slots.is_empty())
        .map(|slots| upload(slots));
    let weights = batch.weights.as_ref().map(|weights| upload(weights));
    let one = batch.slots.is_none();

    let projections: Vec<_> = (0..batch.projections.len())
        .map(|i| {
            let part = adapters[0].get(i).filter(|part| one && part.a.rows > 0);
            BackwardProjectionArgs {
                dy: dy[i].address(),
                weight: if delta { 0 } else { weight[i].address() },
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
    let args = BackwardArgs {
        x: x.address(),
        projections: &projections,
        dropout: match (dropout, &seed_words) {
            (Some(dropout), Some(words)) if batch.from_memory => Some(Dropout {
                seed: address(words),
                offset: 0,
                ..dropout
            }),
            (dropout, _) => dropout,
        },
        saved: lora_kernels::Saved::Split {
            s: address(&saved_s),
            mask: words.as_ref().filter(|_| !batch.redrawn).map(address),
        },
        record: None,
        dx: batch.input_gradient.then(|| dx.address()),
        workspace: Some(address(&workspace)),
        rows: (!one).then(|| Rows {
            table: RawTable {
                entries: address(&entries),
                wrong: address(&wrong),
                gradients: address(&gradients),
            },
            slots: slots.as_ref().map_or(0, address),
            weights: weights.as_ref().map(address),
        }),
    };
    // SAFETY: all memory is alive until the results are read.
    unsafe {
        gpu()
            .kernels
            .backward_raw(&plan, &args, gpu().stream.cu_stream())
    }
    .expect("a backward");

    // f64
    let u = Precision::of(T::DTYPE).rounding_error(1.0);
    let f32_error = f64::powi(2.0, -23);
    let mut dx_sum = vec![(0.0, 0.0); m * k];
    for (slot, parts) in adapters.iter().enumerate() {
        let members: Vec<_> = (0..m)
            .filter_map(|row| Some((row, batch.member(row, slot)?)))
            .collect();
        for (projection, part) in parts.iter().enumerate() {
            let (n, rank) = (part.b.rows, part.a.rows);
            let scaling = f64::from(part.scaling);
            // (T, bound of its error) of a member
            let t: Vec<Vec<(f64, f64)>> = members
                .iter()
                .map(|&(row, (_, weight))| {
                    (0..rank)
                        .map(|r| {
                            let product =
                                |c| dy[projection].at(row, c) * round::<T>(part.b.at(c, r));
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
            let idle = members.is_empty() && !one;
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
                    let factor = x.at(row, c) * keeps(row, c);
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
                    let at = row * columns + place_of(projection, place) + r;
                    let s: f64 = s_values[at].into();
                    let value = scaling * weight * s * dy[projection].at(row, c);
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
                        let a = round::<T>(part.a.at(r, c)) * keeps(row, c);
                        *sum += t.0 * a;
                        *error += (t.1 + 64.0 * f32_error * t.0.abs()) * a.abs();
                    }
                }
            }
        }
    }
    dx.check("dx", |row, c| {
        if !batch.input_gradient {
            return None;
        }
        let (mut sum, mut error) = dx_sum[row * k + c];
        for (projection, &(n, _)) in batch.projections.iter().enumerate().filter(|_| !delta) {
            for d in 0..n {
                let (row_of_w, column) = if batch.transposed { (c, d) } else { (d, c) };
                let value = dy[projection].at(row, d) * weight[projection].at(row_of_w, column);
                sum += value;
                error += (n + 64) as f64 * f32_error * value.abs();
            }
        }
        if batch.accumulate || delta {
            sum += dx.at(row, c);
            error += f32_error * dx.at(row, c).abs();
        }
        Some((sum, error))
    });
    gpu().stream.clone_dtoh(&wrong).expect("reading back")[0] != 0
}
