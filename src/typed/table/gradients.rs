//! Where the gradients of a table's adapters go.

use std::fmt;
use std::sync::Arc;

use cudarc::driver::{CudaSlice, CudaStream, CudaView, CudaViewMut, DevicePtr};

use super::{AdapterTable, check_slot, fits, memory, slots_of, table_bytes};
use crate::raw::{
    DevicePointer, GRADIENT_ENTRY_BYTES, RawTableGradients, driver_error, gradient_entry,
};
use crate::{Argument, DType, Element, Error, Problem, Result, Role};

/// The gradients of a table's adapters, in device memory: which of them a backward computes, and
/// where it writes them.
///
/// A slot has memory for the gradients of its adapter, or none: then the adapter is frozen, and
/// only dx depends on it. A backward overwrites the gradients of the adapters that its rows name,
/// or adds to them where the problem accumulates d_lora_A and d_lora_B. Adapters that no row names
/// keep what is there, so call [`GradientTable::zero`] before the first backward of a step.
///
/// All changes run in the order of the stream, as those of [`AdapterTable`] do, and so does reading
/// them there: a backward, whatever its stream, runs between what was enqueued before and after it.
///
/// ```no_run
/// # use half::bf16;
/// # use lora_kernels::{AdapterTable, GradientTable};
/// # fn of(table: &AdapterTable, slot: usize) -> Result<(), Box<dyn std::error::Error>> {
/// let stream = table.stream();
/// let mut gradients = GradientTable::new(stream, table.problem())?;
/// gradients.insert(table, slot)?;
/// // A backward takes `TableWithGradients { adapters: &table, gradients: &mut gradients }`.
/// if let Some(of_q) = gradients.get::<bf16>(slot, 0)? {
///     let (d_lora_a, d_lora_b) = (stream.clone_dtoh(&of_q.a)?, stream.clone_dtoh(&of_q.b)?);
/// }
/// # Ok(())
/// # }
/// ```
pub struct GradientTable {
    stream: Arc<CudaStream>,
    /// Whose projections have the largest ranks.
    problem: Problem,
    slots: Vec<Option<Vec<Part>>>,
    /// The version of the table of adapters whose ranks are those of the slots here.
    checked: Option<u64>,
    /// (slots, projections) of `RowGradients`
    entries: CudaSlice<u8>,
}

/// The gradients of one projection's part of an adapter. There are none for a rank of 0.
struct Part {
    rank: usize,
    /// dA and dB; `None` at addresses that somebody else owns.
    owned: Option<[CudaSlice<u8>; 2]>,
}

/// The gradients of one projection's part of an adapter, both dense. `V` is
/// [`CudaView`] or [`CudaViewMut`].
#[derive(Debug)]
#[non_exhaustive]
pub struct TableGradients<V> {
    /// dA, (rank, in_features)
    pub a: V,
    /// dB, (out_features, rank)
    pub b: V,
    /// The adapter's rank in this projection
    pub rank: usize,
}

/// The table of a backward, and where the gradients of its adapters go.
#[derive(Debug)]
pub struct TableWithGradients<'t> {
    /// The adapters
    pub adapters: &'t AdapterTable,
    /// Out: their gradients
    pub gradients: &'t mut GradientTable,
}

impl GradientTable {
    /// A table without gradients, for problems with the projections, types and slots of this one.
    ///
    /// # Errors
    /// [`Error::Optional`] if the problem has no table, [`Error::Driver`] if an allocation fails.
    pub fn new(stream: &Arc<CudaStream>, problem: &Problem) -> Result<Self> {
        let bytes = table_bytes(problem, GRADIENT_ENTRY_BYTES)?;
        let entries = stream.alloc_zeros(bytes);
        Ok(Self {
            entries: entries
                .map_err(|error| driver_error("allocating a table of gradients", error))?,
            stream: stream.clone(),
            problem: problem.clone(),
            slots: (0..slots_of(problem)?).map(|_| None).collect(),
            checked: None,
        })
    }

    /// Gives a slot gradients of its adapter's ranks, all zero, in the place of those that may be
    /// there.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::OtherTable`], [`Error::NoAdapterThere`] for an empty slot: then
    /// nothing was changed. [`Error::Driver`] if an allocation fails or the entry can't be written.
    pub fn insert(&mut self, adapters: &AdapterTable, slot: usize) -> Result<()> {
        check_slot(slot, self.slots())?;
        adapters.check_fits(&self.problem)?;
        let slots = self.slots();
        let ranks = adapters
            .ranks(slot)
            .ok_or(Error::NoAdapterThere { slot, slots })?;
        let (mut parts, mut raw) = (Vec::new(), Vec::new());
        for (projection, &rank) in ranks.iter().enumerate() {
            if rank == 0 {
                parts.push(Part { rank, owned: None });
                raw.push(None);
                continue;
            }
            let [a, b] = self
                .bytes(projection, rank)
                .map(|bytes| self.stream.alloc_zeros::<u8>(bytes));
            let failed = |error| driver_error("allocating an adapter's gradients", error);
            let owned = [a.map_err(failed)?, b.map_err(failed)?];
            raw.push(Some(RawTableGradients {
                a: owned[0].device_ptr(&self.stream).0,
                a_stride: self.problem.in_features() as i64,
                b: owned[1].device_ptr(&self.stream).0,
                b_stride: rank as i64,
                rank,
            }));
            let owned = Some(owned);
            parts.push(Part { rank, owned });
        }
        self.write(slot, &raw, parts)
    }

    /// Gives a slot gradients at device addresses, in the place of those that may be there. `parts`
    /// has an item for each projection, `None` for one whose gradients nobody wants.
    ///
    /// # Errors
    /// [`Error::NoSlot`], [`Error::ProjectionCount`], and those of [`gradient_entry`]: then nothing
    /// was changed. [`Error::Driver`] if the entry can't be written.
    ///
    /// # Safety
    /// The addresses are of the table's context, with the extents that rank and strides give them,
    /// and nothing else uses that memory in a backward. It stays valid until the slot has other
    /// gradients or none and all calls before that have run.
    pub unsafe fn replace_raw(
        &mut self,
        slot: usize,
        parts: &[Option<RawTableGradients>],
    ) -> Result<()> {
        check_slot(slot, self.slots())?;
        let (given, planned) = (parts.len(), self.problem.projections().len());
        if given != planned {
            return Err(Error::ProjectionCount { given, planned });
        }
        let held = parts.iter().map(|part| Part {
            rank: part.map_or(0, |part| part.rank),
            owned: None,
        });
        self.write(slot, parts, held.collect())
    }

    /// Takes the gradients from a slot: its adapter is frozen.
    ///
    /// # Errors
    /// [`Error::NoSlot`]; [`Error::Driver`] if the entry can't be written.
    pub fn remove(&mut self, slot: usize) -> Result<()> {
        check_slot(slot, self.slots())?;
        let none = vec![None; self.problem.projections().len()];
        self.write(slot, &none, Vec::new())?;
        self.slots[slot] = None;
        Ok(())
    }

    /// Sets all gradients to zero, but for those at addresses that somebody else owns.
    ///
    /// # Errors
    /// [`Error::Driver`] if it can't be enqueued.
    pub fn zero(&mut self) -> Result<()> {
        let parts = self.slots.iter_mut().flatten().flatten();
        for owned in parts.filter_map(|part| part.owned.as_mut()).flatten() {
            self.stream
                .memset_zeros(owned)
                .map_err(|error| driver_error("setting gradients to zero", error))?;
        }
        Ok(())
    }

    /// The gradients of a slot's adapter in a projection, to be read on the table's stream. `None`
    /// where there are none, or where somebody else owns them.
    ///
    /// # Errors
    /// [`Error::PlannedDType`] unless `A` is the type of the gradients.
    pub fn get<A: Element>(
        &self,
        slot: usize,
        projection: usize,
    ) -> Result<Option<TableGradients<CudaView<'_, A>>>> {
        self.check_type::<A>()?;
        let parts = self.slots.get(slot).and_then(Option::as_ref);
        let part = parts.and_then(|parts| parts.get(projection));
        let Some(Part {
            rank,
            owned: Some([a, b]),
        }) = part
        else {
            return Ok(None);
        };
        // SAFETY: every bit pattern is an element, and memory of its own is aligned.
        let views = unsafe {
            let a = a.transmute(a.len() / size_of::<A>());
            a.zip(b.transmute(b.len() / size_of::<A>()))
        };
        Ok(views.map(|(a, b)| TableGradients { a, b, rank: *rank }))
    }

    /// [`GradientTable::get`] to write to, say to clip gradients in place.
    ///
    /// # Errors
    /// As [`GradientTable::get`].
    pub fn get_mut<A: Element>(
        &mut self,
        slot: usize,
        projection: usize,
    ) -> Result<Option<TableGradients<CudaViewMut<'_, A>>>> {
        self.check_type::<A>()?;
        let parts = self.slots.get_mut(slot).and_then(Option::as_mut);
        let part = parts.and_then(|parts| parts.get_mut(projection));
        let Some(Part {
            rank,
            owned: Some([a, b]),
        }) = part
        else {
            return Ok(None);
        };
        let (a_count, b_count) = (a.len() / size_of::<A>(), b.len() / size_of::<A>());
        // SAFETY: as in `get`.
        let views = unsafe { a.transmute_mut(a_count).zip(b.transmute_mut(b_count)) };
        Ok(views.map(|(a, b)| TableGradients { a, b, rank: *rank }))
    }

    /// The number of slots.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// The stream that the gradients belong to.
    pub fn stream(&self) -> &Arc<CudaStream> {
        &self.stream
    }

    /// The address of the entries, for [`RawTable::gradients`](crate::RawTable::gradients).
    pub fn raw(&self) -> DevicePointer {
        self.entries.device_ptr(&self.stream).0
    }

    pub(crate) fn entries(&self) -> &CudaSlice<u8> {
        &self.entries
    }

    /// Refuses a problem that the table wasn't made for, and adapters whose ranks aren't those of
    /// their gradients.
    pub(crate) fn check_fits(&mut self, adapters: &AdapterTable, problem: &Problem) -> Result<()> {
        fits::check_fits(&self.problem, problem)?;
        if self.checked == Some(adapters.version) {
            return Ok(());
        }
        for (slot, parts) in self.slots.iter().enumerate() {
            let (Some(parts), Some(ranks)) = (parts, adapters.ranks(slot)) else {
                continue;
            };
            for (projection, (part, &adapter)) in parts.iter().zip(ranks).enumerate() {
                let given = part.rank;
                // Without either nothing is written.
                if given > 0 && adapter > 0 && given != adapter {
                    return Err(Error::GradientRank {
                        slot,
                        projection,
                        given,
                        adapter,
                    });
                }
            }
        }
        self.checked = Some(adapters.version);
        Ok(())
    }

    fn check_type<A: Element>(&self) -> Result<()> {
        let planned = self.dtype();
        if A::DTYPE == planned {
            return Ok(());
        }
        Err(Error::PlannedDType {
            tensor: Argument::Gradients(None),
            given: A::DTYPE,
            planned,
        })
    }

    fn dtype(&self) -> DType {
        self.problem.dtype_of(Role::DLoraA)
    }

    /// The bytes of dA and dB.
    fn bytes(&self, projection: usize, rank: usize) -> [usize; 2] {
        let out_features = self.problem.projections()[projection].out_features;
        [self.problem.in_features(), out_features].map(|features| {
            features
                .saturating_mul(rank)
                .saturating_mul(self.dtype().size())
        })
    }

    fn write(
        &mut self,
        slot: usize,
        raw: &[Option<RawTableGradients>],
        parts: Vec<Part>,
    ) -> Result<()> {
        let mut entries = Vec::new();
        for (projection, part) in raw.iter().enumerate() {
            entries.extend(gradient_entry(&self.problem, projection, part.as_ref())?);
        }
        self.checked = None;
        memory::write(&self.stream, &mut self.entries, slot, &entries)?;
        // What was there is freed on the same stream, behind the calls that write to it.
        self.slots[slot] = Some(parts);
        Ok(())
    }
}

impl fmt::Debug for GradientTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held = self.slots.iter().flatten().count();
        f.debug_struct("GradientTable")
            .field("slots", &self.slots.len())
            .field("adapters", &held)
            .finish_non_exhaustive()
    }
}
