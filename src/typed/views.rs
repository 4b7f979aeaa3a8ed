//! Views of cudarc's slices, which represent memory in a call's arguments.

use std::marker::PhantomData;

use cudarc::driver::{CudaStream, CudaView, CudaViewMut, DevicePtr, DevicePtrMut, SyncOnDrop};

use super::flags::Flags;
use super::matrix::{DynMatMut, DynMatRef, MatMut, MatRef, ReadMatrix, WriteMatrix};
use super::table::{AdapterTable, TableWithGradients};
use crate::bind::{
    self, DevicePointer, ForwardRecord, Lora, LoraGradients, Pointers, Raw, RawTable, Saved,
};
use crate::raw::RowsArgs;
use crate::{Element, Problem};

/// Views with elements of type `T`, and `A` in the adapters.
#[derive(Debug)]
pub struct Typed<'a, T, A = T>(PhantomData<(&'a T, &'a A)>);

/// Views with element types that are known at run time only.
#[derive(Debug)]
pub struct Dynamic<'a>(PhantomData<&'a ()>);

impl<'a, T: 'a, A: 'a> Pointers for Typed<'a, T, A> {
    type Matrix = MatRef<'a, T>;
    type MatrixMut = MatMut<'a, T>;
    type Row = CudaView<'a, T>;
    type Adapter = MatRef<'a, A>;
    type AdapterMut = MatMut<'a, A>;
    type Bytes = CudaView<'a, u8>;
    type BytesMut = CudaViewMut<'a, u8>;
    type Record = ForwardRecord;
    type Table = &'a AdapterTable;
    type TableWithGradients = TableWithGradients<'a>;
    type Indices = CudaView<'a, i32>;
    type Weights = CudaView<'a, f32>;
    type Flags = &'a mut Flags;
}

impl<'a> Pointers for Dynamic<'a> {
    type Matrix = DynMatRef<'a>;
    type MatrixMut = DynMatMut<'a>;
    type Row = DynMatRef<'a>;
    type Adapter = DynMatRef<'a>;
    type AdapterMut = DynMatMut<'a>;
    type Bytes = CudaView<'a, u8>;
    type BytesMut = CudaViewMut<'a, u8>;
    type Record = ForwardRecord;
    type Table = &'a AdapterTable;
    type TableWithGradients = TableWithGradients<'a>;
    type Indices = CudaView<'a, i32>;
    type Weights = CudaView<'a, f32>;
    type Flags = &'a mut Flags;
}

/// The rows of a typed forward.
pub type RowsOfTable<'a> = bind::Rows<&'a AdapterTable, CudaView<'a, i32>, CudaView<'a, f32>>;

/// The rows of a typed backward.
pub type RowsWithGradients<'a> =
    bind::Rows<TableWithGradients<'a>, CudaView<'a, i32>, CudaView<'a, f32>>;

/// The views that [`crate::Kernels::forward`] and the other typed calls take: [`Typed`] or
/// [`Dynamic`].
pub trait Views<'a>:
    Pointers<
        Matrix: ReadMatrix,
        MatrixMut: WriteMatrix,
        Row: ReadMatrix,
        Adapter: ReadMatrix,
        AdapterMut: WriteMatrix,
        Bytes = CudaView<'a, u8>,
        BytesMut = CudaViewMut<'a, u8>,
        Record = ForwardRecord,
        Table = &'a AdapterTable,
        TableWithGradients = TableWithGradients<'a>,
        Indices = CudaView<'a, i32>,
        Weights = CudaView<'a, f32>,
        Flags = &'a mut Flags,
    >
{
}

impl<'a, T: Element, A: Element> Views<'a> for Typed<'a, T, A> {}
impl<'a> Views<'a> for Dynamic<'a> {}

/// The addresses of views for use on a stream. The guards record on the stream that the memory is
/// in use, and live until all kernels are enqueued.
pub(super) struct Addresses<'s> {
    stream: &'s CudaStream,
    guards: Vec<SyncOnDrop<'s>>,
}

impl<'s> Addresses<'s> {
    pub fn new(stream: &'s CudaStream) -> Self {
        let guards = Vec::new();
        Self { stream, guards }
    }

    fn keep(&mut self, (pointer, guard): (u64, SyncOnDrop<'s>)) -> DevicePointer {
        self.guards.push(guard);
        pointer
    }

    pub fn read(&mut self, matrix: &'s impl ReadMatrix) -> DevicePointer {
        self.keep(matrix.pointer(self.stream))
    }

    pub fn write(&mut self, matrix: &'s mut impl WriteMatrix) -> DevicePointer {
        self.keep(matrix.pointer_mut(self.stream))
    }

    pub fn bytes(&mut self, buffer: &'s CudaView<'_, u8>) -> DevicePointer {
        self.keep(buffer.device_ptr(self.stream))
    }

    pub fn bytes_mut(&mut self, buffer: &'s mut CudaViewMut<'_, u8>) -> DevicePointer {
        self.keep(buffer.device_ptr_mut(self.stream))
    }

    pub fn rows(&mut self, rows: &'s RowsOfTable<'_>) -> RowsArgs {
        let table = self.table(rows.table);
        self.lists(table, &rows.slots, rows.weights.as_ref())
    }

    pub fn rows_with_gradients(&mut self, rows: &'s RowsWithGradients<'_>) -> RowsArgs {
        let mut table = self.table(rows.table.adapters);
        table.gradients = self.keep(rows.table.gradients.entries().device_ptr(self.stream));
        self.lists(table, &rows.slots, rows.weights.as_ref())
    }

    fn table(&mut self, table: &'s AdapterTable) -> RawTable {
        RawTable {
            entries: self.keep(table.entries.device_ptr(self.stream)),
            wrong: self.keep(table.wrong.device_ptr(self.stream)),
            gradients: 0,
        }
    }

    fn lists(
        &mut self,
        table: RawTable,
        slots: &'s CudaView<'_, i32>,
        weights: Option<&'s CudaView<'_, f32>>,
    ) -> RowsArgs {
        RowsArgs {
            table,
            slots: self.keep(slots.device_ptr(self.stream)),
            weights: weights.map(|weights| self.keep(weights.device_ptr(self.stream))),
        }
    }

    pub fn flags(&mut self, flags: &'s mut Flags) -> DevicePointer {
        self.keep(flags.words.device_ptr_mut(self.stream))
    }

    pub fn lora<M: ReadMatrix>(&mut self, lora: &'s Lora<M>) -> Lora<DevicePointer> {
        Lora {
            a: self.read(&lora.a),
            b: self.read(&lora.b),
            scaling: lora.scaling,
        }
    }

    pub fn gradients<M: WriteMatrix>(
        &mut self,
        gradients: &'s mut LoraGradients<M>,
    ) -> LoraGradients<DevicePointer> {
        LoraGradients {
            a: self.write(&mut gradients.a),
            b: self.write(&mut gradients.b),
        }
    }

    pub fn saved(&mut self, saved: &'s Saved<CudaView<'_, u8>>) -> Saved<DevicePointer> {
        saved.as_ref().map(|buffer| self.bytes(buffer))
    }

    pub fn saved_mut(&mut self, saved: &'s mut Saved<CudaViewMut<'_, u8>>) -> Saved<DevicePointer> {
        saved.as_mut().map(|buffer| self.bytes_mut(buffer))
    }

    /// Null for a weight that isn't used, and wasn't checked.
    fn weight(&mut self, matrix: &'s impl ReadMatrix, problem: &Problem) -> DevicePointer {
        match problem.is_delta_only() {
            true => 0,
            false => self.read(matrix),
        }
    }

    pub fn forward_projection<'a, V: Views<'a>>(
        &mut self,
        projection: &'s mut bind::ForwardProjection<V>,
        problem: &Problem,
    ) -> bind::ForwardProjection<Raw> {
        bind::ForwardProjection {
            weight: self.weight(&projection.weight, problem),
            bias: projection.bias.as_ref().map(|bias| self.read(bias)),
            lora: projection.lora.as_ref().map(|lora| self.lora(lora)),
            y: self.write(&mut projection.y),
        }
    }

    pub fn backward_projection<'a, V: Views<'a>>(
        &mut self,
        projection: &'s mut bind::BackwardProjection<V>,
        problem: &Problem,
    ) -> bind::BackwardProjection<Raw> {
        bind::BackwardProjection {
            dy: self.read(&projection.dy),
            weight: self.weight(&projection.weight, problem),
            lora: projection.lora.as_ref().map(|lora| self.lora(lora)),
            gradients: projection
                .gradients
                .as_mut()
                .map(|gradients| self.gradients(gradients)),
        }
    }
}
