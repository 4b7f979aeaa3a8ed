//! Checks of views before their addresses are taken. Binding checks the rest.

use cudarc::driver::{CudaView, DeviceSlice};

use super::flags::Flags;
use super::matrix::Matrix;
use super::order::Order;
use super::table::{AdapterTable, TableWithGradients};
use super::views::{RowsOfTable, RowsWithGradients};
use crate::bind::{Lora, LoraGradients, Saved, adapted, argument};
use crate::plan::SavedLayout;
use crate::{Argument, DType, Error, Problem, Result, Role, RowAdapters};

/// The checks of a call with a problem. They take its memory into the call's order.
pub(super) struct Checks<'c, 'a> {
    order: &'c mut Order<'a>,
    problem: &'c Problem,
}

/// Checks the number of projections.
pub(super) fn projections(problem: &Problem, given: usize) -> Result<()> {
    let planned = problem.projections().len();
    if given == planned {
        Ok(())
    } else {
        Err(Error::ProjectionCount { given, planned })
    }
}

/// Refuses a dropout whose seed is an address: borrows keep no memory alive for it.
pub(super) fn dropout(problem: &Problem) -> Result<()> {
    if problem.has_dropout() && problem.has_dropout_from_memory() {
        let given = "a call of borrowed matrices".to_owned();
        return Err(Error::DropoutWords { given });
    }
    Ok(())
}

impl<'c, 'a> Checks<'c, 'a> {
    pub fn new(order: &'c mut Order<'a>, problem: &'c Problem) -> Self {
        Self { order, problem }
    }

    pub fn matrix(&mut self, projection: usize, tensor: Role, given: &impl Matrix) -> Result<()> {
        let expected = Expected {
            dtype: self.problem.dtype_of(tensor),
            shape: self.problem.shape_of(projection, tensor),
            row_stride: self.problem.layout_of(projection, tensor).row_stride,
        };
        let what = || argument(self.problem, projection, tensor);
        matrix(self.order, what, expected, given)
    }

    /// A weight that isn't used may be any matrix.
    pub fn weight(&mut self, projection: usize, given: &impl Matrix) -> Result<()> {
        match self.problem.is_delta_only() {
            true => Ok(()),
            false => self.matrix(projection, Role::Weight, given),
        }
    }

    pub fn lora<M: Matrix>(&mut self, projection: usize, lora: Option<&Lora<M>>) -> Result<()> {
        adapted(self.problem, projection, Argument::Lora, lora.is_some())?;
        let Some(lora) = lora else { return Ok(()) };
        self.matrix(projection, Role::LoraA, &lora.a)?;
        self.matrix(projection, Role::LoraB, &lora.b)
    }

    pub fn gradients<M: Matrix>(
        &mut self,
        projection: usize,
        gradients: Option<&LoraGradients<M>>,
    ) -> Result<()> {
        let given = gradients.is_some();
        adapted(self.problem, projection, Argument::Gradients, given)?;
        let Some(gradients) = gradients else {
            return Ok(());
        };
        self.matrix(projection, Role::DLoraA, &gradients.a)?;
        self.matrix(projection, Role::DLoraB, &gradients.b)
    }

    pub fn saved<B: DeviceSlice<u8>>(
        &mut self,
        saved: &Saved<B>,
        layout: &SavedLayout,
    ) -> Result<()> {
        saved.each(layout, |what, buffer, needed| {
            bytes(self.order, what, buffer, needed)
        })
    }

    pub fn workspace<B: DeviceSlice<u8>>(
        &mut self,
        buffer: Option<&B>,
        needed: usize,
    ) -> Result<()> {
        bytes(self.order, Argument::Workspace, buffer, needed)
    }

    /// Checks that the table has its entries, and that every row has a list. Binding refuses rows
    /// that the problem doesn't have, and their absence.
    pub fn rows(&mut self, rows: Option<&RowsOfTable<'_>>) -> Result<()> {
        match rows {
            Some(rows) => self.lists(rows.table, &rows.slots, rows.weights.as_ref()),
            None => Ok(()),
        }
    }

    /// The same of a backward, and that the gradients are those of the table's adapters.
    pub fn rows_with_gradients(&mut self, rows: Option<&mut RowsWithGradients<'_>>) -> Result<()> {
        let Some(rows) = rows else { return Ok(()) };
        let TableWithGradients {
            adapters,
            gradients,
        } = &mut rows.table;
        self.lists(adapters, &rows.slots, rows.weights.as_ref())?;
        if !self.problem.row_adapters().is_table() {
            return Ok(());
        }
        gradients.check_fits(adapters, self.problem)?;
        let what = Argument::Gradients(None);
        self.order.admit(what, gradients.stream())
    }

    fn lists(
        &mut self,
        table: &AdapterTable,
        slots: &CudaView<'_, i32>,
        weights: Option<&CudaView<'_, f32>>,
    ) -> Result<()> {
        let RowAdapters::Table { per_row, .. } = self.problem.row_adapters() else {
            return Ok(());
        };
        table.check_fits(self.problem)?;
        // So it has an entry for each slot and projection.
        self.order.admit(Argument::Table, table.stream())?;
        // A problem has checked that tokens fit 31 bits.
        let places = self.problem.tokens() * per_row;
        places_of_rows(self.order, slots, weights, places)
    }

    /// Checks that the flags are large enough. None are needed for 0 bytes.
    pub fn flags(&mut self, flags: Option<&Flags>, needed: usize) -> Result<()> {
        let given = flags.map_or(0, Flags::bytes);
        if given < needed {
            return Err(Error::Buffer {
                buffer: Argument::Flags,
                given,
                needed,
            });
        }
        match flags {
            Some(flags) => self.order.admit(Argument::Flags, flags.words().stream()),
            None => Ok(()),
        }
    }
}

fn places_of_rows(
    order: &mut Order<'_>,
    slots: &CudaView<'_, i32>,
    weights: Option<&CudaView<'_, f32>>,
    places: usize,
) -> Result<()> {
    elements(order, Argument::RowSlots, slots, places)?;
    match weights {
        Some(weights) => elements(order, Argument::RowWeights, weights, places),
        None => Ok(()),
    }
}

/// Checks that a slice has at least this many elements.
fn elements<T>(
    order: &mut Order<'_>,
    what: Argument,
    slice: &CudaView<'_, T>,
    needed: usize,
) -> Result<()> {
    let available = slice.len();
    if available < needed {
        return Err(Error::Bounds {
            tensor: what,
            needed,
            available,
        });
    }
    order.admit(what, slice.stream())
}

/// A matrix as the plan expects it.
pub(super) struct Expected {
    pub dtype: DType,
    /// (rows, columns)
    pub shape: (usize, usize),
    pub row_stride: i64,
}

/// Checks that a matrix has the planned type, shape and stride, and enough memory in the kernels'
/// context. `name` is called only for a message.
pub(super) fn matrix(
    order: &mut Order<'_>,
    name: impl Fn() -> Argument,
    expected: Expected,
    given: &impl Matrix,
) -> Result<()> {
    if given.dtype() != expected.dtype {
        return Err(Error::PlannedDType {
            tensor: name(),
            given: given.dtype(),
            planned: expected.dtype,
        });
    }
    let geometry = given.geometry();
    if (geometry.rows, geometry.columns) != expected.shape {
        return Err(Error::Shape {
            tensor: name(),
            given: (geometry.rows, geometry.columns),
            expected: expected.shape,
        });
    }
    let planned = expected.row_stride;
    // The stride of a single row has no meaning.
    if geometry.rows > 1 && geometry.row_stride != planned {
        return Err(Error::PlannedStride {
            tensor: name(),
            given: geometry.row_stride,
            planned,
        });
    }
    // The problem has checked that the stride is positive and that all rows fit into 63 bits.
    let needed = match geometry.rows {
        0 => 0,
        rows => (rows - 1) * planned as usize + geometry.columns,
    };
    let available = given.elements();
    if needed > available {
        return Err(Error::Bounds {
            tensor: name(),
            needed,
            available,
        });
    }
    length(name(), given)?;
    order.admit(name(), given.home())
}

/// Refuses a slice whose bytes overflow: cudarc allocates fewer for it. A part of such a slice
/// can't be told from a part of another one.
pub(crate) fn length(what: Argument, matrix: &impl Matrix) -> Result<()> {
    let (given, element) = (matrix.elements(), matrix.dtype().size());
    if given > isize::MAX as usize / element {
        return Err(Error::Length {
            what,
            given,
            element,
        });
    }
    Ok(())
}

/// Checks that a buffer has `needed` bytes. None is needed for 0 bytes.
pub(super) fn bytes<B: DeviceSlice<u8>>(
    order: &mut Order<'_>,
    what: Argument,
    buffer: Option<&B>,
    needed: usize,
) -> Result<()> {
    let given = buffer.map_or(0, DeviceSlice::len);
    if given < needed {
        return Err(Error::Buffer {
            buffer: what,
            given,
            needed,
        });
    }
    match buffer {
        Some(buffer) => order.admit(what, buffer.stream()),
        None => Ok(()),
    }
}
