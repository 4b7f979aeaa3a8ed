//! The memory of a batch's layer: its tensors, the table of its adapters, and what f64 makes of the
//! adapters' first product.

use lora_kernels::cudarc::driver::CudaSlice;
use lora_kernels::reference::KeepMask;
use lora_kernels::{DeviceProps, Dropout, Element, Problem, RawTable, Rows};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use super::batch::Batch;
use super::matrix::{Matrix, address, upload};
use crate::common::device::{Number, gpu};

const SCALING: [f32; 5] = [1.7, -0.6, 2.0, 0.9, -1.3];

/// One projection's part of an adapter, and of its gradients.
pub struct Adapter<A> {
    pub a: Matrix<A>,
    pub b: Matrix<A>,
    pub da: Matrix<A>,
    pub db: Matrix<A>,
    pub scaling: f32,
}

pub struct Layer<'b, T, A> {
    pub batch: &'b Batch,
    pub problem: Problem,
    pub x: Matrix<T>,
    pub weight: Vec<Matrix<T>>,
    pub bias: Vec<Matrix<T>>,
    pub y: Vec<Matrix<T>>,
    pub dy: Vec<Matrix<T>>,
    pub dx: Matrix<T>,
    /// By slot and projection; none of an empty slot.
    pub adapters: Vec<Vec<Adapter<A>>>,
    /// As calls are given it.
    pub dropout: Option<Dropout>,
    pub mask: Option<KeepMask>,
    keep_scale: f64,
    entries: CudaSlice<u8>,
    gradients: CudaSlice<u64>,
    wrong: CudaSlice<u32>,
    slots: Option<CudaSlice<i32>>,
    weights: Option<CudaSlice<f32>>,
    /// The seed and the offset, if they are read from memory.
    _seed: CudaSlice<u64>,
}

/// S and the mask, for a backward.
pub struct Saved<T> {
    pub s: CudaSlice<T>,
    /// The same on the host.
    pub s_values: Vec<T>,
    pub mask: Option<CudaSlice<u64>>,
}

pub fn round<T: Element + Into<f64>>(value: f64) -> f64 {
    T::from_f64(value).into()
}

/// Elements of rows that depend on the row's number in the whole layer, so that a part of a batch
/// has those of the batch.
fn of_rows(seed: u64, first_row: usize, columns: usize, magnitude: f64) -> impl FnMut() -> f64 {
    let mut random = SmallRng::seed_from_u64(seed);
    let mut count = 0;
    move || {
        if count % columns == 0 {
            let row = (first_row + count / columns) as u64;
            random = SmallRng::seed_from_u64(seed + 1000 * row);
        }
        count += 1;
        random.random_range(-magnitude..magnitude)
    }
}

impl<'b, T: Number, A: Number> Layer<'b, T, A> {
    pub fn new(batch: &'b Batch) -> Self {
        let mut random = SmallRng::seed_from_u64(99);
        let mut uniform = |magnitude: f64| random.random_range(-magnitude..magnitude);
        let (m, k, odd) = (batch.tokens, batch.in_features, batch.odd);
        let (row0, column0) = batch.origin;
        let (before, delta) = (batch.accumulate, batch.delta_only);
        // What is there before is added to, or else never read.
        let output = |seed: u64, columns: usize| {
            let mut values = of_rows(seed, row0, columns, 1.0);
            Matrix::<T>::new(m, columns, odd, || match before || delta {
                true => values(),
                false => f64::NAN,
            })
        };
        let (mut weight, mut bias, mut y, mut dy) = (vec![], vec![], vec![], vec![]);
        for (projection, &(n, _)) in batch.projections.iter().enumerate() {
            let seed = 10 * (1 + projection as u64);
            let (rows, columns) = if batch.transposed { (k, n) } else { (n, k) };
            weight.push(Matrix::new(rows, columns, odd, || match delta {
                true => f64::NAN,
                false => uniform(0.2),
            }));
            bias.push(Matrix::new(1, n, odd, || uniform(1.0)));
            y.push(output(seed, n));
            dy.push(Matrix::new(m, n, odd, of_rows(seed + 1, row0, n, 1.0)));
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
                let a = Matrix::new(rank, k, odd, || value(0.3));
                let b = Matrix::new(n, rank, odd, || value(0.3));
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
        let drawn = batch.dropout.then_some(Dropout {
            p: 0.3,
            seed: 11,
            offset: 5,
        });
        let mask =
            drawn.map(|dropout| KeepMask::of_shard(row0..row0 + m, column0..column0 + k, &dropout));
        let seed = upload(&[drawn.map_or(0, |drawn| drawn.seed), 5]);
        let dropout = drawn.map(|dropout| match batch.from_memory {
            false => dropout,
            true => Dropout {
                seed: address(&seed),
                offset: 0,
                ..dropout
            },
        });
        let (entries, gradients) = table::<T, A>(batch, &adapters);
        let slots = batch.slots.as_deref().filter(|slots| !slots.is_empty());
        Self {
            batch,
            problem: batch.problem::<T, A>(),
            x: Matrix::new(m, k, odd, of_rows(1, row0, k, 1.0)),
            weight,
            bias,
            y,
            dy,
            dx: output(2, k),
            adapters,
            dropout,
            mask,
            keep_scale: drawn.map_or(1.0, |dropout| f64::from(dropout.keep_scale())),
            entries,
            gradients,
            wrong: upload(&[0]),
            slots: slots.map(upload),
            weights: batch.weights.as_deref().map(upload),
            _seed: seed,
        }
    }

    /// The device that plans are made for.
    pub fn device(&self) -> DeviceProps {
        let props = *gpu().kernels.props();
        match self.batch.multiprocessors {
            Some(multiprocessors) => props.with_multiprocessors(multiprocessors),
            None => props,
        }
    }

    /// Whether all rows go through one adapter, without a table.
    pub fn one(&self) -> bool {
        self.batch.slots.is_none()
    }

    /// What dropout multiplies an element of x by.
    pub fn keeps(&self, row: usize, column: usize) -> f64 {
        match &self.mask {
            Some(mask) if !mask.keeps(self.batch.origin.0 + row, column) => 0.0,
            _ => self.keep_scale,
        }
    }

    /// The rows that go through an adapter: (row, (first place, sum of weights))
    pub fn members(&self, slot: usize) -> Vec<(usize, (usize, f64))> {
        let rows = 0..self.batch.tokens;
        rows.filter_map(|row| Some((row, self.batch.member(row, slot)?)))
            .collect()
    }

    /// The first column of S of a place in the rows' lists.
    pub fn column_of(&self, projection: usize, place: usize) -> usize {
        self.problem.rank_offset(projection)
            + place * self.problem.projections()[projection].padded_rank()
    }

    /// drop(x)·Aᵀ of a row, and the sum of the products' magnitudes.
    pub fn shrunk(&self, row: usize, part: &Adapter<A>, rank: usize) -> (f64, f64) {
        (0..self.batch.in_features).fold((0.0, 0.0), |(sum, most), c| {
            let product = self.x.at(row, c) * self.keeps(row, c) * round::<T>(part.a.at(rank, c));
            (sum + product, most + product.abs())
        })
    }

    pub fn rows(&self) -> Option<Rows<RawTable, u64, u64>> {
        (!self.one()).then(|| Rows {
            table: RawTable {
                entries: address(&self.entries),
                wrong: address(&self.wrong),
                gradients: address(&self.gradients),
            },
            slots: self.slots.as_ref().map_or(0, address),
            weights: self.weights.as_ref().map(address),
        })
    }

    /// Whether the table's word says that a slot was wrong.
    pub fn is_wrong(&self) -> bool {
        gpu().stream.clone_dtoh(&self.wrong).expect("reading back")[0] != 0
    }

    /// S and the mask as a forward leaves them, and NaN where nobody may read.
    pub fn saved(&self) -> Saved<T> {
        let columns = self.problem.padded_ranks();
        // No allocation is empty.
        let mut s = vec![T::from_f64(f64::NAN); self.batch.tokens * columns + 1];
        for (slot, parts) in self.adapters.iter().enumerate() {
            for (row, (place, _)) in self.members(slot) {
                for (projection, part) in parts.iter().enumerate() {
                    for r in 0..part.a.rows.next_multiple_of(16) {
                        let value = match r < part.a.rows {
                            true => self.shrunk(row, part, r).0,
                            false => 0.0,
                        };
                        s[row * columns + self.column_of(projection, place) + r] =
                            T::from_f64(value);
                    }
                }
            }
        }
        Saved {
            s: upload(&s),
            s_values: s,
            mask: self.mask.as_ref().map(|mask| upload(mask.words())),
        }
    }
}

/// The table's entries, and where the gradients go.
fn table<T: Number, A: Number>(
    batch: &Batch,
    adapters: &[Vec<Adapter<A>>],
) -> (CudaSlice<u8>, CudaSlice<u64>) {
    let (mut entries, mut gradients) = (Vec::<u8>::new(), Vec::<u64>::new());
    for (slot, parts) in adapters.iter().enumerate() {
        for projection in 0..batch.projections.len() {
            let Some(part) = parts.get(projection) else {
                entries.extend([0; 48]);
                gradients.extend([0; 4]);
                continue;
            };
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
    (upload(&entries), upload(&gradients))
}
