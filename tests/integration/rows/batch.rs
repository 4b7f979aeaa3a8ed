//! What a batch is whose rows have adapters of their own.

use lora_kernels::{Layout, Mask, Problem, Projection, Role, RowAdapters, WeightLayout};
use rand::{Rng, SeedableRng, rngs::SmallRng};

use crate::common::device::Number;

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
    pub batch_invariant: bool,
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
            batch_invariant: false,
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
            .with_bias(!self.delta_only)
            .with_batch_invariance(self.batch_invariant)
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
        for tensor in [Role::Y, Role::DX, Role::DLoraA, Role::DLoraB] {
            problem = problem
                .with_accumulate(tensor, self.accumulate)
                .expect("an output");
        }
        for projection in 0..self.projections.len() {
            for tensor in [
                Role::X,
                Role::DX,
                Role::DY,
                Role::Y,
                Role::Weight,
                Role::Bias,
            ] {
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
    pub fn member(&self, row: usize, slot: usize) -> Option<(usize, f64)> {
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
