//! The arguments of each call, generic over what represents memory.

use super::{ForwardRecord, Saved};
use crate::Dropout;

/// A device address, as `CUdeviceptr`.
pub type DevicePointer = u64;

/// The types that represent a tensor's memory in the arguments of a call.
pub trait Pointers {
    /// A matrix that is read: x, dy, the weight.
    type Matrix;
    /// A matrix that is written: y, dx, the merged weight.
    type MatrixMut;
    /// A bias.
    type Row;
    /// A matrix of an adapter.
    type Adapter;
    /// The gradient of an adapter's matrix.
    type AdapterMut;
    /// A buffer that is read: forward's saved data.
    type Bytes;
    /// A buffer that is written: saved, workspace, a merge's report.
    type BytesMut;
    /// What a backward knows of its forward.
    type Record;
    /// A table of adapters.
    type Table;
    /// A table of adapters, and where their gradients go.
    type TableWithGradients;
    /// i32 numbers that are read: the slots of rows.
    type Indices;
    /// f32 numbers that are read: the weights of rows.
    type Weights;
    /// Words that are zero between calls.
    type Flags;
}

/// Device addresses. Shapes, strides and alignments are those of the plan's problem.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Raw;

impl Pointers for Raw {
    type Matrix = DevicePointer;
    type MatrixMut = DevicePointer;
    type Row = DevicePointer;
    type Adapter = DevicePointer;
    type AdapterMut = DevicePointer;
    type Bytes = DevicePointer;
    type BytesMut = DevicePointer;
    type Record = Option<ForwardRecord>;
    type Table = RawTable;
    type TableWithGradients = RawTable;
    type Indices = DevicePointer;
    type Weights = DevicePointer;
    type Flags = DevicePointer;
}

/// The memory of a table of adapters.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RawTable {
    /// The entries, (slots, projections) of the problem
    pub entries: DevicePointer,
    /// Null, or an u32 that becomes 1 where a row names a slot that is empty or doesn't exist. Such
    /// a row has no adapter there.
    pub wrong: DevicePointer,
    /// Of a backward: where the gradients of each entry go, (slots, projections)
    pub gradients: DevicePointer,
}

/// The adapters that the rows of a call go through: a table of type `T`, slots of type `I` and
/// weights of type `W`, as [`Pointers`] names them.
#[derive(Debug, Clone, Copy)]
pub struct Rows<T, I, W> {
    /// The adapters
    pub table: T,
    /// (tokens, places in a list): the slots of each row's adapters; a negative one stands for none
    pub slots: I,
    /// (tokens, places in a list): what each row's deltas are multiplied by; `None` for 1
    pub weights: Option<W>,
}

/// [`Rows`] at device addresses.
pub type RawRows = Rows<RawTable, DevicePointer, DevicePointer>;

/// One adapter.
#[derive(Debug, Clone, Copy, Default)]
pub struct Lora<M> {
    /// A, (rank, in_features)
    pub a: M,
    /// B, (out_features, rank)
    pub b: M,
    /// lora_alpha / rank, or lora_alpha / √rank for rsLoRA
    pub scaling: f32,
}

/// The gradients of one adapter.
#[derive(Debug, Clone, Copy, Default)]
pub struct LoraGradients<M> {
    /// Out: dA, (rank, in_features)
    pub a: M,
    /// Out: dB, (out_features, rank)
    pub b: M,
}

/// Arguments of a forward: y = x·Wᵀ + bias + scaling·drop(x)·Aᵀ·Bᵀ for every projection.
#[derive(Debug, Clone, Copy)]
pub struct Forward<P: Pointers, L = Vec<ForwardProjection<P>>> {
    /// (tokens, in_features)
    pub x: P::Matrix,
    /// One item per projection of the problem
    pub projections: L,
    /// Present exactly if the problem has dropout
    pub dropout: Option<Dropout>,
    /// Out: S and the mask. Keep them for backward.
    pub saved: Saved<P::BytesMut>,
    /// At least `plan.workspace_bytes()` bytes of scratch memory; may be `None` if that is 0
    pub workspace: Option<P::BytesMut>,
    /// Present exactly if the problem has a table of adapters; no projection has a `lora` then
    pub rows: Option<Rows<P::Table, P::Indices, P::Weights>>,
    /// At least `plan.flags_bytes()` bytes, zero before the first call that is given them. Every
    /// call leaves them zero. Calls that may run at the same time need flags of their own. May be
    /// `None` if there are 0 bytes
    pub flags: Option<P::Flags>,
}

/// One projection of [`Forward`].
#[derive(Debug, Clone, Copy, Default)]
pub struct ForwardProjection<P: Pointers> {
    /// W, (out_features, in_features), or transposed as the problem says. Not used where only the
    /// adapters' part is computed: it may be null then, or any matrix
    pub weight: P::Matrix,
    /// (out_features), present exactly if the problem has a bias
    pub bias: Option<P::Row>,
    /// Present exactly if the projection has a rank
    pub lora: Option<Lora<P::Adapter>>,
    /// Out: (tokens, out_features)
    pub y: P::MatrixMut,
}

/// Arguments of a backward: with T = scaling·dy·B of every projection, dx = Σ dy·W +
/// mask∘(Σ T·A)/(1-p), dA = Tᵀ·drop(x), dB = scaling·dyᵀ·(drop(x)·Aᵀ).
#[derive(Debug, Clone, Copy)]
pub struct Backward<P: Pointers, L = Vec<BackwardProjection<P>>> {
    /// (tokens, in_features), as in the forward
    pub x: P::Matrix,
    /// One item per projection of the problem
    pub projections: L,
    /// As in the forward
    pub dropout: Option<Dropout>,
    /// The data that the forward saved
    pub saved: Saved<P::Bytes>,
    /// The record that the forward returned. A backward that doesn't fit it is refused.
    pub record: P::Record,
    /// Out: (tokens, in_features), present exactly if the problem has an input gradient
    pub dx: Option<P::MatrixMut>,
    /// At least `plan.workspace_bytes()` bytes of scratch memory; may be `None` if that is 0
    pub workspace: Option<P::BytesMut>,
    /// Present exactly if the problem has a table of adapters; no projection has a `lora` or
    /// gradients then
    pub rows: Option<Rows<P::TableWithGradients, P::Indices, P::Weights>>,
}

/// One projection of [`Backward`].
#[derive(Debug, Clone, Copy, Default)]
pub struct BackwardProjection<P: Pointers> {
    /// (tokens, out_features)
    pub dy: P::Matrix,
    /// W, (out_features, in_features), or transposed as the problem says. Not used where only the
    /// adapters' part is computed: it may be null then, or any matrix
    pub weight: P::Matrix,
    /// Present exactly if the projection has a rank
    pub lora: Option<Lora<P::Adapter>>,
    /// Present exactly if the projection has a rank
    pub gradients: Option<LoraGradients<P::AdapterMut>>,
}

/// Arguments of a merge: merged = W + Σ scaling·B·A.
#[derive(Debug, Clone, Copy)]
pub struct Merge<P: Pointers, L = Vec<Lora<<P as Pointers>::Adapter>>> {
    /// W, and where to write the merged weight
    pub weight: MergeWeight<P::Matrix, P::MatrixMut>,
    /// As many as the problem has. `scaling` times the adapter's own weight among several; negative
    /// to take it out.
    pub adapters: L,
    /// Out: at least [`crate::MergeReport::BYTES`] bytes at a multiple of
    /// [`crate::plan::BUFFER_ALIGNMENT`], exactly if the problem has a report
    pub report: Option<P::BytesMut>,
    /// At least `plan.workspace_bytes()` bytes of scratch at a multiple of
    /// [`crate::plan::BUFFER_ALIGNMENT`]; may be `None` where that is 0
    pub workspace: Option<P::BytesMut>,
}

/// The weight of [`Merge`]: (out_features, in_features), or transposed as the problem says.
#[derive(Debug, Clone, Copy)]
pub enum MergeWeight<R, W> {
    /// Out: overwritten
    InPlace(W),
    /// Kept
    Apart {
        /// The base weight
        weight: R,
        /// Out: the merged weight. A safe merge that refuses leaves it unchanged.
        merged: W,
    },
}
