//! Tables of adapters in device memory.

mod fits;
mod gradients;
mod memory;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cudarc::driver::{CudaSlice, CudaStream, DevicePtr};

pub use gradients::{GradientTable, TableGradients, TableWithGradients};
use memory::Memory;

use super::row_lists::RowLists;
use crate::raw::{DevicePointer, TABLE_ENTRY_BYTES, driver_error, table_entry};
use crate::{Argument, Element, Error, Hint, Problem, Result, Role, RowAdapters};

/// Adapters in device memory, which the rows of a batch name by their slots.
///
/// The table owns the memory of its adapters. Adding, replacing or removing one writes a few words
/// of device memory in the order of the table's stream: nothing is launched, and nobody waits. A
/// typed call with the table runs after all that was done to it before, and before all that is done
/// to it afterwards, the freeing of an adapter that was replaced included.
///
/// A graph that was captured from raw calls stays valid when adapters come and go. But nobody knows
/// when it runs: order its launches with the table's stream, or an adapter could be freed while a
/// replay reads it.
///
/// ```no_run
/// use half::bf16;
/// use lora_kernels::{AdapterTable, DType, Problem, RowAdapters, TableLora};
/// let stream = lora_kernels::context(0)?.new_stream()?;
/// let (k, n, most_ranks) = (4096, 4096, 64);
/// let rows = RowAdapters::Table { slots: 1000, per_row: 1 };
/// let problem = Problem::new(3, k, n, most_ranks, DType::BF16)?.with_row_adapters(rows)?;
/// let mut table = AdapterTable::new(&stream, &problem)?;
/// let rank = 16;
/// let (a, b) = (stream.alloc_zeros::<bf16>(rank * k)?, stream.alloc_zeros::<bf16>(n * rank)?);
/// let slot = table.insert(vec![Some(TableLora { a, b, rank, scaling: 2.0 })])?;
/// // The first and the last token go through the adapter, the second through none.
/// let lists = table.lists(&[&[(slot, 1.0)], &[], &[(slot, 0.5)]])?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
pub struct AdapterTable {
    stream: Arc<CudaStream>,
    /// Whose projections have the largest ranks.
    problem: Problem,
    slots: Vec<Option<Registered>>,
    /// A number that no table has twice, and no two tables have.
    version: u64,
    /// (slots, projections) of `AdapterEntry`
    pub(crate) entries: CudaSlice<u8>,
    /// One word: whether a row named a slot that is empty or doesn't exist
    pub(crate) wrong: CudaSlice<u32>,
}

/// What a slot holds.
struct Registered {
    /// Of each projection; 0 if the adapter leaves it alone.
    ranks: Vec<usize>,
    memory: Vec<Memory>,
}

/// One projection's part of an adapter, for [`AdapterTable::insert`]. Both matrices are dense.
#[derive(Debug)]
pub struct TableLora<A> {
    /// A, (rank, in_features)
    pub a: CudaSlice<A>,
    /// B, (out_features, rank)
    pub b: CudaSlice<A>,
    /// From 1 to the rank of the projection in the table's problem
    pub rank: usize,
    /// lora_alpha / rank, or lora_alpha / √rank for rsLoRA
    pub scaling: f32,
}

/// One projection's part of an adapter at device addresses, for [`AdapterTable::replace_raw`].
#[derive(Debug, Clone, Copy)]
pub struct RawTableLora {
    /// A, (rank, in_features)
    pub a: DevicePointer,
    /// The elements from a row of A to the next
    pub a_stride: i64,
    /// B, (out_features, rank)
    pub b: DevicePointer,
    /// The elements from a row of B to the next
    pub b_stride: i64,
    /// From 1 to the rank of the projection in the table's problem
    pub rank: usize,
    /// lora_alpha / rank, or lora_alpha / √rank for rsLoRA
    pub scaling: f32,
}

impl AdapterTable {
    /// A table without adapters, for problems with the projections, types and slots of this one.
    /// The rank of a projection is the largest that an adapter may have there.
    ///
    /// # Errors
    /// [`Error::Optional`] if the problem has no table, [`Error::Driver`] if an allocation fails.
    pub fn new(stream: &Arc<CudaStream>, problem: &Problem) -> Result<Self> {
        let slots = slots_of(problem)?;
        let allocated = |error| driver_error("allocating a table of adapters", error);
        let bytes = table_bytes(problem, TABLE_ENTRY_BYTES)?;
        Ok(Self {
            entries: stream.alloc_zeros(bytes).map_err(allocated)?,
            wrong: stream.alloc_zeros(1).map_err(allocated)?,
            stream: stream.clone(),
            problem: problem.clone(),
            slots: (0..slots).map(|_| None).collect(),
            version: new_version(),
        })
    }

    /// Puts an adapter into the first empty slot, and returns the slot. `parts` has an item for
    /// each projection, `None` for one that the adapter leaves alone.
    ///
    /// # Errors
    /// [`Error::TableFull`], and those of [`AdapterTable::replace`].
    pub fn insert<A: Element>(&mut self, parts: Vec<Option<TableLora<A>>>) -> Result<usize> {
        let slots = self.slots.len();
        let empty = self.slots.iter().position(Option::is_none);
        let slot = empty.ok_or(Error::TableFull { slots })?;
        self.replace(slot, parts)?;
        Ok(slot)
    }

    /// Puts an adapter into a slot, in the place of one that may be there.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::ProjectionCount`], [`Error::PlannedDType`],
    /// [`Error::TableRank`], [`Error::Bounds`] if a slice is too small, [`Error::Scaling`],
    /// [`Error::Context`] for memory of another context: then nothing was changed.
    /// [`Error::Driver`] if the entry can't be written.
    pub fn replace<A: Element>(
        &mut self,
        slot: usize,
        parts: Vec<Option<TableLora<A>>>,
    ) -> Result<()> {
        self.check_parts(slot, parts.len())?;
        let mut raw = Vec::with_capacity(parts.len());
        for (projection, part) in parts.iter().enumerate() {
            let Some(part) = part else {
                raw.push(None);
                continue;
            };
            self.check_part(projection, part)?;
            raw.push(Some(RawTableLora {
                a: part.a.device_ptr(&self.stream).0,
                a_stride: self.problem.in_features() as i64,
                b: part.b.device_ptr(&self.stream).0,
                b_stride: part.rank as i64,
                rank: part.rank,
                scaling: part.scaling,
            }));
        }
        let entries = self.entries_of(&raw)?;
        let mut memory = Vec::new();
        for part in parts.into_iter().flatten() {
            memory.push(Memory::new(&self.stream, part.a)?);
            memory.push(Memory::new(&self.stream, part.b)?);
        }
        self.write(slot, &entries, &raw, memory)
    }

    /// Puts an adapter at device addresses into a slot, in the place of one that may be there.
    ///
    /// # Errors
    /// As [`AdapterTable::replace`]; [`Error::Null`] or [`Error::Alignment`] for an address,
    /// [`Error::Stride`] for a stride, that no matrix can have.
    ///
    /// # Safety
    /// The addresses are of the table's context, with the extents that rank and strides give them.
    /// Their memory has been written in the order of the table's stream, and stays valid until the
    /// slot has another adapter or none and all calls before that have run.
    pub unsafe fn replace_raw(
        &mut self,
        slot: usize,
        parts: &[Option<RawTableLora>],
    ) -> Result<()> {
        self.check_parts(slot, parts.len())?;
        let entries = self.entries_of(parts)?;
        self.write(slot, &entries, parts, Vec::new())
    }

    /// Empties a slot.
    ///
    /// # Errors
    /// [`Error::NoSlot`]; [`Error::Driver`] if the entry can't be written.
    pub fn remove(&mut self, slot: usize) -> Result<()> {
        check_slot(slot, self.slots())?;
        let zeros = vec![0; self.problem.projections().len() * TABLE_ENTRY_BYTES];
        self.write_entries(slot, &zeros)?;
        self.drop_slot(slot)
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The ranks of a slot's adapter, 0 for projections that it leaves alone; `None` if the slot is
    /// empty or doesn't exist.
    pub fn ranks(&self, slot: usize) -> Option<&[usize]> {
        let registered = self.slots.get(slot)?.as_ref()?;
        Some(&registered.ranks)
    }

    /// The lists of rows, each of (slot, weight), for a copy to the device.
    ///
    /// # Errors
    /// [`Error::EmptySlot`] or [`Error::RowList`], naming the row.
    pub fn lists(&self, rows: &[&[(usize, f32)]]) -> Result<RowLists> {
        self.segments(rows.iter().map(|&list| (1, list)))
    }

    /// The lists of rows that follow each other in segments: so many rows with one list.
    ///
    /// # Errors
    /// As [`AdapterTable::lists`].
    pub fn segments<'l>(
        &self,
        segments: impl IntoIterator<Item = (usize, &'l [(usize, f32)])>,
    ) -> Result<RowLists> {
        let places = self.problem.row_adapters().per_row();
        let mut lists = RowLists::new(places);
        for (rows, list) in segments {
            let row = lists.rows();
            if list.len() > places {
                return Err(Error::RowList {
                    row,
                    given: list.len(),
                    places,
                });
            }
            if let Some(&(slot, _)) = list.iter().find(|&&(slot, _)| self.ranks(slot).is_none()) {
                return Err(Error::EmptySlot {
                    row,
                    slot,
                    slots: self.slots.len(),
                });
            }
            lists.push(rows, list);
        }
        Ok(lists)
    }

    /// Whether a row of a call since the last time named a slot that was empty or doesn't exist. It
    /// waits for the table's stream.
    ///
    /// # Errors
    /// [`Error::Driver`] if the word can't be read.
    pub fn take_wrong(&mut self) -> Result<bool> {
        let failed = |error| driver_error("reading a table's word", error);
        let word = self.stream.clone_dtoh(&self.wrong).map_err(failed)?;
        self.stream.memset_zeros(&mut self.wrong).map_err(failed)?;
        Ok(word.contains(&1))
    }

    /// The stream that the table's memory belongs to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The problem that the table was made for.
    pub fn problem(&self) -> &Problem {
        &self.problem
    }

    /// The memory of the table, for raw calls.
    pub fn raw(&self) -> crate::RawTable {
        crate::RawTable {
            entries: self.entries.device_ptr(&self.stream).0,
            wrong: self.wrong.device_ptr(&self.stream).0,
            gradients: 0,
        }
    }

    fn check_parts(&self, slot: usize, given: usize) -> Result<()> {
        check_slot(slot, self.slots())?;
        let planned = self.problem.projections().len();
        if given == planned {
            Ok(())
        } else {
            Err(Error::ProjectionCount { given, planned })
        }
    }

    /// What `table_entry` can't check.
    fn check_part<A: Element>(&self, projection: usize, part: &TableLora<A>) -> Result<()> {
        let out_features = self.problem.projections()[projection].out_features;
        for (role, slice, rows, columns) in [
            (Role::LoraA, &part.a, part.rank, self.problem.in_features()),
            (Role::LoraB, &part.b, out_features, part.rank),
        ] {
            let what = Argument::Tensor(role, Some(projection));
            let planned = self.problem.adapter_dtype();
            if A::DTYPE != planned {
                return Err(Error::PlannedDType {
                    tensor: what,
                    given: A::DTYPE,
                    planned,
                });
            }
            let needed = rows.saturating_mul(columns);
            if slice.len() < needed {
                return Err(Error::Bounds {
                    tensor: what,
                    needed,
                    available: slice.len(),
                });
            }
            if slice.context().cu_ctx() != self.stream.context().cu_ctx() {
                return Err(Error::Context { what });
            }
        }
        Ok(())
    }

    fn entries_of(&self, parts: &[Option<RawTableLora>]) -> Result<Vec<u8>> {
        let mut entries = Vec::new();
        for (projection, part) in parts.iter().enumerate() {
            entries.extend(table_entry(&self.problem, projection, part.as_ref())?);
        }
        Ok(entries)
    }

    /// Writes a slot's entries, and lets go what it held before.
    fn write(
        &mut self,
        slot: usize,
        entries: &[u8],
        parts: &[Option<RawTableLora>],
        memory: Vec<Memory>,
    ) -> Result<()> {
        self.write_entries(slot, entries)?;
        let ranks = parts.iter().map(|part| part.map_or(0, |part| part.rank));
        let registered = Registered {
            ranks: ranks.collect(),
            memory,
        };
        let dropped = self.drop_slot(slot);
        self.slots[slot] = Some(registered);
        dropped
    }

    fn write_entries(&mut self, slot: usize, entries: &[u8]) -> Result<()> {
        self.version = new_version();
        memory::write(&self.stream, &mut self.entries, slot, entries)
    }

    /// Frees what a slot holds after all calls that may read it.
    fn drop_slot(&mut self, slot: usize) -> Result<()> {
        let held = self.slots[slot].take();
        memory::release(held.into_iter().flat_map(|held| held.memory), &self.stream)
    }
}

/// The slots of a problem's table.
fn slots_of(problem: &Problem) -> Result<usize> {
    match problem.row_adapters() {
        RowAdapters::Table { slots, .. } => Ok(slots),
        RowAdapters::One => Err(Error::Optional {
            what: Argument::Table,
            given: true,
            hint: Hint::RowAdapters,
        }),
    }
}

/// The bytes of a table with entries of this size.
fn table_bytes(problem: &Problem, entry: usize) -> Result<usize> {
    Ok(slots_of(problem)?
        .saturating_mul(problem.projections().len())
        .saturating_mul(entry))
}

fn check_slot(slot: usize, slots: usize) -> Result<()> {
    if slot < slots {
        Ok(())
    } else {
        Err(Error::NoSlot { given: slot, slots })
    }
}

fn new_version() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

impl Drop for AdapterTable {
    fn drop(&mut self) {
        let slots = self.slots.iter_mut().filter_map(Option::take);
        // What can't be ordered isn't freed.
        let _ = memory::release(slots.flat_map(|held| held.memory), &self.stream);
    }
}

impl fmt::Debug for AdapterTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.slots.iter().flatten().count();
        f.debug_struct("AdapterTable")
            .field("slots", &self.slots.len())
            .field("adapters", &held)
            .finish_non_exhaustive()
    }
}
