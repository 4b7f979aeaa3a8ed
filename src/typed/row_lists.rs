//! The lists of rows on the host.

/// The lists of rows, as [`crate::Rows`] has them on the device: for every row a number of places,
/// each with a slot and a weight. [`crate::AdapterTable::lists`] makes them.
#[derive(Debug, Clone, PartialEq)]
pub struct RowLists {
    per_row: usize,
    slots: Vec<i32>,
    weights: Vec<f32>,
}

impl RowLists {
    pub(super) fn new(per_row: usize) -> Self {
        Self {
            per_row,
            slots: Vec::new(),
            weights: Vec::new(),
        }
    }

    /// Appends rows with a list, which has been checked.
    pub(super) fn push(&mut self, rows: usize, list: &[(usize, f32)]) {
        for _ in 0..rows {
            let places = (0..self.per_row).map(|place| list.get(place));
            for (slot, weight) in places.map(|named| match named {
                // Slots fit 31 bits.
                Some(&(slot, weight)) => (slot as i32, weight),
                None => (-1, 0.0),
            }) {
                self.slots.push(slot);
                self.weights.push(weight);
            }
        }
    }

    /// The number of rows.
    pub fn rows(&self) -> usize {
        self.slots.len() / self.per_row
    }

    /// (rows, places): the slots; -1 where a list has no more.
    pub fn slots(&self) -> &[i32] {
        &self.slots
    }

    /// (rows, places): the weights.
    pub fn weights(&self) -> &[f32] {
        &self.weights
    }
}
