//! Tables of adapters in device memory.

use std::any::Any;
use std::fmt;
use std::sync::Arc;

use bytemuck::{Zeroable, bytes_of};
use cudarc::driver::{CudaSlice, CudaStream, DevicePtr, DriverError};

use super::row_lists::RowLists;
use crate::bind::params::{AdapterEntry, entry_flags};
use crate::raw::{DevicePointer, driver_error};
use crate::{
    Argument, DType, Element, Error, Hint, Problem, Projection, Result, Role, RowAdapters,
};

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
    in_features: usize,
    /// With the largest ranks.
    projections: Vec<Projection>,
    dtype: DType,
    adapter_dtype: DType,
    per_row: usize,
    slots: Vec<Option<Registered>>,
    /// (slots, projections) of `AdapterEntry`
    pub(super) entries: CudaSlice<u8>,
    /// One word: whether a row named a slot that is empty or doesn't exist
    pub(super) wrong: CudaSlice<u32>,
}

/// What a slot holds.
struct Registered {
    /// Of each projection; 0 if the adapter leaves it alone.
    ranks: Vec<usize>,
    memory: Vec<Memory>,
}

/// Memory of an adapter.
struct Memory {
    /// On which it is freed.
    home: Arc<CudaStream>,
    /// Dropped after `home` waits.
    _slices: Box<dyn Any + Send>,
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
        let RowAdapters::Table { slots, per_row } = problem.row_adapters() else {
            return Err(Error::Optional {
                what: Argument::Table,
                given: true,
                hint: Hint::RowAdapters,
            });
        };
        let projections = problem.projections().to_vec();
        let bytes = slots
            .saturating_mul(projections.len())
            .saturating_mul(size_of::<AdapterEntry>());
        let allocated = |error| driver_error("allocating a table of adapters", error);
        Ok(Self {
            entries: stream.alloc_zeros(bytes).map_err(allocated)?,
            wrong: stream.alloc_zeros(1).map_err(allocated)?,
            stream: stream.clone(),
            in_features: problem.in_features(),
            projections,
            dtype: problem.dtype(),
            adapter_dtype: problem.adapter_dtype(),
            per_row,
            slots: (0..slots).map(|_| None).collect(),
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
            self.check_part(projection, part.rank, part.scaling)?;
            let out_features = self.projections[projection].out_features;
            for (role, slice, rows, columns) in [
                (Role::LoraA, &part.a, part.rank, self.in_features),
                (Role::LoraB, &part.b, out_features, part.rank),
            ] {
                let what = Argument::Tensor(role, Some(projection));
                self.check_slice(what, slice, rows.saturating_mul(columns))?;
            }
            raw.push(Some(RawTableLora {
                a: part.a.device_ptr(&self.stream).0,
                a_stride: self.in_features as i64,
                b: part.b.device_ptr(&self.stream).0,
                b_stride: part.rank as i64,
                rank: part.rank,
                scaling: part.scaling,
            }));
        }
        let failed = |error| driver_error("ordering an adapter's memory", error);
        let mut memory = Vec::new();
        for part in parts.into_iter().flatten() {
            for home in [part.a.stream(), part.b.stream()] {
                self.stream.join(home).map_err(failed)?;
            }
            for (home, slice) in [
                (part.a.stream().clone(), part.a),
                (part.b.stream().clone(), part.b),
            ] {
                let _slices: Box<dyn Any + Send> = Box::new(slice);
                memory.push(Memory { home, _slices });
            }
        }
        self.write(slot, &raw, memory)
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
        for (projection, part) in parts.iter().enumerate() {
            let Some(part) = part else { continue };
            self.check_part(projection, part.rank, part.scaling)?;
            for (role, address, stride, columns) in [
                (Role::LoraA, part.a, part.a_stride, self.in_features),
                (Role::LoraB, part.b, part.b_stride, part.rank),
            ] {
                let what = Argument::Tensor(role, Some(projection));
                let size = self.adapter_dtype.size();
                if address == 0 {
                    return Err(Error::Null { what });
                }
                if address % size as u64 != 0 {
                    return Err(Error::Alignment {
                        tensor: what,
                        given: 1 << address.trailing_zeros(),
                        planned: size,
                    });
                }
                if stride < columns as i64 {
                    return Err(Error::TableStride {
                        tensor: what,
                        given: stride,
                        columns,
                    });
                }
            }
        }
        self.write(slot, parts, Vec::new())
    }

    /// Empties a slot.
    ///
    /// # Errors
    /// [`Error::NoSlot`]; [`Error::Driver`] if the entry can't be written.
    pub fn remove(&mut self, slot: usize) -> Result<()> {
        self.check_slot(slot)?;
        let entries = vec![AdapterEntry::zeroed(); self.projections.len()];
        self.write_entries(slot, &entries)?;
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
        let mut lists = RowLists::new(self.per_row);
        for (rows, list) in segments {
            let row = lists.rows();
            if list.len() > self.per_row {
                return Err(Error::RowList {
                    row,
                    given: list.len(),
                    places: self.per_row,
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

    /// The memory of the table, for raw calls.
    pub fn raw(&self) -> crate::RawTable {
        crate::RawTable {
            entries: self.entries.device_ptr(&self.stream).0,
            wrong: self.wrong.device_ptr(&self.stream).0,
            gradients: 0,
        }
    }

    /// Refuses a problem that the table wasn't made for.
    pub(super) fn check_fits(&self, problem: &Problem) -> Result<()> {
        let differ = |what, table: &dyn fmt::Display, problem: &dyn fmt::Display| {
            Err(Error::OtherTable {
                what,
                table: table.to_string(),
                problem: problem.to_string(),
            })
        };
        if let RowAdapters::Table { slots, per_row } = problem.row_adapters() {
            if slots != self.slots.len() {
                return differ("slots", &self.slots.len(), &slots);
            }
            // The lists that the table makes have so many places for each row.
            if per_row != self.per_row {
                return differ("adapters per row", &self.per_row, &per_row);
            }
        }
        if problem.in_features() != self.in_features {
            return differ("in_features", &self.in_features, &problem.in_features());
        }
        if problem.projections() != self.projections {
            let shown = |projections: &[Projection]| {
                let all: Vec<_> = projections
                    .iter()
                    .map(|Projection { out_features, rank }| {
                        format!("{out_features} (rank {rank})")
                    })
                    .collect();
                all.join(", ")
            };
            let (table, given) = (shown(&self.projections), shown(problem.projections()));
            return differ("out_features and ranks", &table, &given);
        }
        if problem.dtype() != self.dtype {
            return differ("the type", &self.dtype, &problem.dtype());
        }
        if problem.adapter_dtype() != self.adapter_dtype {
            let (table, given) = (self.adapter_dtype, problem.adapter_dtype());
            return differ("the adapters' type", &table, &given);
        }
        Ok(())
    }

    fn check_slot(&self, slot: usize) -> Result<()> {
        let slots = self.slots.len();
        if slot < slots {
            Ok(())
        } else {
            Err(Error::NoSlot { given: slot, slots })
        }
    }

    fn check_parts(&self, slot: usize, given: usize) -> Result<()> {
        self.check_slot(slot)?;
        let planned = self.projections.len();
        if given == planned {
            Ok(())
        } else {
            Err(Error::ProjectionCount { given, planned })
        }
    }

    fn check_part(&self, projection: usize, rank: usize, scaling: f32) -> Result<()> {
        crate::bind::check_scaling(scaling)?;
        let most = self.projections[projection].rank;
        if (1..=most).contains(&rank) {
            Ok(())
        } else {
            Err(Error::TableRank {
                projection,
                given: rank,
                most,
            })
        }
    }

    fn check_slice<A: Element>(
        &self,
        what: Argument,
        slice: &CudaSlice<A>,
        needed: usize,
    ) -> Result<()> {
        if A::DTYPE != self.adapter_dtype {
            return Err(Error::PlannedDType {
                tensor: what,
                given: A::DTYPE,
                planned: self.adapter_dtype,
            });
        }
        if slice.len() < needed {
            return Err(Error::Bounds {
                tensor: what,
                needed,
                available: slice.len(),
            });
        }
        if slice.context().cu_ctx() == self.stream.context().cu_ctx() {
            Ok(())
        } else {
            Err(Error::Context { what })
        }
    }

    /// Writes a slot's entries, and lets go what it held before.
    fn write(
        &mut self,
        slot: usize,
        parts: &[Option<RawTableLora>],
        memory: Vec<Memory>,
    ) -> Result<()> {
        let entries: Vec<_> = parts.iter().map(|part| self.entry(part.as_ref())).collect();
        self.write_entries(slot, &entries)?;
        let ranks = parts.iter().map(|part| part.map_or(0, |part| part.rank));
        let registered = Registered {
            ranks: ranks.collect(),
            memory,
        };
        let dropped = self.drop_slot(slot);
        self.slots[slot] = Some(registered);
        dropped
    }

    fn entry(&self, part: Option<&RawTableLora>) -> AdapterEntry {
        let Some(part) = part else {
            return AdapterEntry {
                flags: entry_flags::PRESENT,
                ..Zeroable::zeroed()
            };
        };
        let size = self.adapter_dtype.size() as u64;
        let vectorised = |address: u64, stride: i64, flag| {
            let aligned = (address | (stride as u64).wrapping_mul(size)).is_multiple_of(16);
            match aligned && self.adapter_dtype == self.dtype {
                true => flag,
                false => 0,
            }
        };
        AdapterEntry {
            lora_a: part.a,
            lora_b: part.b,
            a_stride: part.a_stride,
            b_stride: part.b_stride,
            rank: part.rank as i32,
            scaling: part.scaling,
            flags: entry_flags::PRESENT
                | vectorised(part.a, part.a_stride, entry_flags::A_VECTORISED)
                | vectorised(part.b, part.b_stride, entry_flags::B_VECTORISED),
            pad: 0,
        }
    }

    fn write_entries(&mut self, slot: usize, entries: &[AdapterEntry]) -> Result<()> {
        let bytes: Vec<u8> = entries.iter().flat_map(bytes_of).copied().collect();
        let start = slot * bytes.len();
        let mut to = self.entries.slice_mut(start..start + bytes.len());
        self.stream
            .memcpy_htod(&bytes, &mut to)
            .map_err(|error| driver_error("writing an entry of a table", error))
    }

    /// Frees what a slot holds after all calls that may read it.
    fn drop_slot(&mut self, slot: usize) -> Result<()> {
        match self.slots[slot].take() {
            Some(held) => held
                .release(&self.stream)
                .map_err(|error| driver_error("ordering the end of an adapter's memory", error)),
            None => Ok(()),
        }
    }
}

impl Registered {
    /// Lets the memory go, behind all that `stream` has been given. If that can't be ordered, the
    /// memory is never freed.
    fn release(self, stream: &CudaStream) -> std::result::Result<(), DriverError> {
        let mut result = Ok(());
        for memory in self.memory {
            match memory.home.join(stream) {
                Ok(()) => drop(memory),
                Err(error) => {
                    std::mem::forget(memory);
                    result = Err(error);
                }
            }
        }
        result
    }
}

impl Drop for AdapterTable {
    fn drop(&mut self) {
        for held in self.slots.iter_mut().filter_map(Option::take) {
            // What can't be ordered isn't freed.
            let _ = held.release(&self.stream);
        }
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
