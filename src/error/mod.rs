//! Errors. Every message names what was given, what is allowed, and what to do.

mod argument;
mod hint;
mod kind;
mod text;

pub use argument::Argument;
pub use hint::{Hint, Toolkit};
pub use kind::ErrorKind;
use text::{adapter_types, apart, behind, least, whose_stream};

use crate::{DType, DeviceProps, Problem, Role};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a problem, plan or call was refused. When an error is returned, nothing was launched or
/// written, except with [`Error::Driver`].
///
/// `{:?}` prints the same text as `{}`, so that `main() -> Result<(), Error>` prints a readable
/// message.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size is zero, unless it is the number of tokens, or exceeds [`Problem::MAX_DIMENSION`].
    #[error(
        "{name} is {given}: it must be between {} and {}",
        least(name),
        Problem::MAX_DIMENSION
    )]
    Dimension {
        /// Which size.
        name: &'static str,
        /// The size given.
        given: usize,
    },
    /// There is no projection, or more than can share x.
    #[error(
        "{given} projections: there must be between 1 and {}; split more over several calls",
        Problem::MAX_PROJECTIONS
    )]
    Projections {
        /// How many were given.
        given: usize,
    },
    /// A row's list has no place for an adapter, or more than there can be.
    #[error(
        "{given} adapters per row: there must be between 1 and {}; merge more into one beforehand",
        crate::RowAdapters::MOST_PER_ROW
    )]
    RowAdapters {
        /// How many were given.
        given: usize,
    },
    /// The table has no such slot.
    #[error("slot {given}: the table has {slots}, counted from 0")]
    NoSlot {
        /// The slot given.
        given: usize,
        /// How many there are.
        slots: usize,
    },
    /// Every slot of the table has an adapter.
    #[error("all {slots} slots of the table have adapters: remove one, or make a larger table")]
    TableFull {
        /// How many there are.
        slots: usize,
    },
    /// An adapter's rank is not one that the table takes.
    #[error(
        "rank {given} in projection {projection}: it must be between 1 and {most}, the rank that the table's problem has there"
    )]
    TableRank {
        /// The projection.
        projection: usize,
        /// The rank given.
        given: usize,
        /// The largest one.
        most: usize,
    },
    /// The rows of an adapter's matrix would overlap.
    #[error("{tensor} has a row stride of {given} elements: its rows have {columns}")]
    TableStride {
        /// The matrix.
        tensor: Argument,
        /// The stride given.
        given: i64,
        /// The columns.
        columns: usize,
    },
    /// A row names a slot without an adapter.
    #[error(
        "row {row} names slot {slot}, which has no adapter (the table has {slots} slots): insert one there first"
    )]
    EmptySlot {
        /// The row.
        row: usize,
        /// The slot that it names.
        slot: usize,
        /// How many there are.
        slots: usize,
    },
    /// Gradients are wanted of a slot without an adapter.
    #[error("slot {slot} has no adapter (the table has {slots} slots): insert one there first")]
    NoAdapterThere {
        /// The slot.
        slot: usize,
        /// How many there are.
        slots: usize,
    },
    /// An adapter's gradients have another rank than the adapter.
    #[error(
        "the gradients of slot {slot} have rank {given} in projection {projection}, its adapter has {adapter}: insert gradients for the adapter that is there now"
    )]
    GradientRank {
        /// The slot.
        slot: usize,
        /// The projection.
        projection: usize,
        /// The rank of the gradients.
        given: usize,
        /// The adapter's rank.
        adapter: usize,
    },
    /// A row names more adapters than its list has places.
    #[error(
        "row {row} names {given} adapters: a list has {places} places (RowAdapters::Table), at most {}",
        crate::RowAdapters::MOST_PER_ROW
    )]
    RowList {
        /// The row.
        row: usize,
        /// How many it names.
        given: usize,
        /// How many it may.
        places: usize,
    },
    /// The table of a call was made for other problems.
    #[error("{what} of the table: {table}, but of the plan's problem: {problem}")]
    OtherTable {
        /// What differs.
        what: &'static str,
        /// The table's.
        table: String,
        /// The problem's.
        problem: String,
    },
    /// No kernel of this crate computes this.
    #[error("no kernel is built for {what}: docs/adding-a-kernel.md says how to add one")]
    NoKernel {
        /// Operation, element type and access.
        what: String,
    },
    /// None of the projections has an adapter.
    #[error(
        "no projection has a rank: at least one must be adapted; without adapters, use a matrix product"
    )]
    NotAdapted,
    /// There is no adapter to merge, or more than a call can merge.
    #[error(
        "{given} adapters: there must be between 1 and {}; merge more by several calls, or concatenate their ranks",
        crate::MergeProblem::MAX_ADAPTERS
    )]
    Adapters {
        /// How many were given.
        given: usize,
    },
    /// The problem doesn't have this adapter.
    #[error("adapter {given}: the problem has {count}, counted from 0")]
    NoAdapter {
        /// The index given.
        given: usize,
        /// How many there are.
        count: usize,
    },
    /// The problem doesn't have this tensor.
    #[error("{tensor} has no part in {problem}: {hint}")]
    NoPart {
        /// Which tensor.
        tensor: Role,
        /// The problem that lacks it.
        problem: &'static str,
        /// What has.
        hint: Hint,
    },
    /// The plan of a merge in place has another layout for the result than for the weight.
    #[error(
        "merging in place, but the plan was made for a weight with a row stride of {weight} elements and a merged one with {merged}: give both the same layout"
    )]
    InPlace {
        /// Row stride of the weight, in elements.
        weight: i64,
        /// Row stride of the merged weight, in elements.
        merged: i64,
    },
    /// The call merges another number of adapters than its plan.
    #[error("{given} adapters were given, the plan was made for {planned}")]
    AdapterCount {
        /// How many were given.
        given: usize,
        /// How many the plan has.
        planned: usize,
    },
    /// The problem doesn't have this projection.
    #[error("projection {given}: the problem has {count}, counted from 0")]
    NoProjection {
        /// The index given.
        given: usize,
        /// How many there are.
        count: usize,
    },
    /// The adapters can't have this type.
    #[error(
        "adapters in {given} over tensors in {dtype}: they must be in {}",
        adapter_types(*dtype)
    )]
    AdapterDType {
        /// The type given.
        given: DType,
        /// The type of the other tensors.
        dtype: DType,
    },
    /// A role has a type that doesn't fit those of the other roles.
    #[error("{what} is {given} and {other} {needed}: give both the same type")]
    Format {
        /// The role.
        what: &'static str,
        /// Its type.
        given: DType,
        /// The role whose type it must have.
        other: &'static str,
        /// The type of that role.
        needed: DType,
    },
    /// The tensor is not an output, so it can't be accumulated into.
    #[error("{tensor} can't be accumulated into: only y, dx, d_lora_A and d_lora_B are outputs")]
    Accumulate {
        /// Which tensor.
        tensor: Role,
    },
    /// The row stride makes rows overlap or offsets overflow.
    #[error(
        "{tensor} has {columns} columns and a row stride of {given} elements: the stride must be at least the number of columns, and all rows together below 2^63 bytes"
    )]
    Stride {
        /// Which tensor.
        tensor: Role,
        /// The stride given, in elements.
        given: i64,
        /// The tensor's columns.
        columns: usize,
    },
    /// The alignment of a layout is impossible.
    #[error(
        "{tensor} is said to be aligned to {given} bytes: the alignment must be a power of two and at least an element's {element} bytes"
    )]
    LayoutAlignment {
        /// Which tensor.
        tensor: Role,
        /// The alignment given, in bytes.
        given: usize,
        /// Bytes of an element.
        element: usize,
    },
    /// The dropout probability is outside of [0, 1).
    #[error("dropout probability {given}: it must be at least 0 and below 1")]
    DropoutProbability {
        /// The probability given.
        given: f32,
    },
    /// A dropout mask can't begin there.
    #[error("a dropout mask's first {what} is {given}: it must be {allowed}")]
    MaskOrigin {
        /// Row or column.
        what: &'static str,
        /// Where it would begin.
        given: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// The dropout's words in device memory can't be read so.
    #[error("dropout from device memory with {given}: {}", Hint::DropoutWords)]
    DropoutWords {
        /// What was given.
        given: String,
    },
    /// The scaling is not finite.
    #[error(
        "scaling {given}: it must be finite (lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA)"
    )]
    Scaling {
        /// The scaling given.
        given: f32,
    },
    /// The device lacks something that the plan needs.
    #[error("{what}: needed {needed}, the device has {available}")]
    Device {
        /// What the device lacks.
        what: &'static str,
        /// What the kernels need.
        needed: String,
        /// What the device has.
        available: String,
    },
    /// The plan was made for another device than the one that the kernels were loaded on.
    #[error(
        "the plan was made for a device with {planned}, the kernels were loaded on one with {found}: {}",
        Hint::DeviceOfKernels
    )]
    OtherDevice {
        /// The plan's device.
        planned: DeviceProps,
        /// The kernels' device.
        found: DeviceProps,
    },
    /// The driver would refuse this tensor map.
    #[error("a tensor map's {what} is {given}: it must be {allowed}")]
    TensorMap {
        /// The field of the tensor map.
        what: &'static str,
        /// The value given.
        given: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A launch would need too large a grid.
    #[error(
        "the problem ({problem}) needs {blocks} blocks or tiles in one launch, more than {limit}: split a layer's tokens, or the rows of a weight to merge, over several calls"
    )]
    Grid {
        /// The problem.
        problem: String,
        /// The number of blocks needed, or of tiles for persistent blocks.
        blocks: u64,
        /// The limit of the driver or of the kernels.
        limit: u64,
    },
    /// The shape of a matrix differs from the plan's.
    #[error("{tensor} is {} x {}, the plan's problem has {} x {}", given.0, given.1, expected.0, expected.1)]
    Shape {
        /// Which tensor.
        tensor: Argument,
        /// (rows, columns) given.
        given: (usize, usize),
        /// (rows, columns) of the plan.
        expected: (usize, usize),
    },
    /// The shape of a matrix doesn't fit the other arguments of a layer's call.
    #[error("{tensor} is {} x {}, it must be {} x {}: {because}", given.0, given.1, expected.0, expected.1)]
    Fit {
        /// Which tensor.
        tensor: Argument,
        /// (rows, columns) given.
        given: (usize, usize),
        /// (rows, columns) that fit.
        expected: (usize, usize),
        /// Why.
        because: &'static str,
    },
    /// Some projections of a layer's call have a bias, and some don't.
    #[error(
        "projection {without} has no bias and others have: give all of them one (zeros where there is none) or none"
    )]
    SomeBiases {
        /// The first projection without a bias.
        without: usize,
    },
    /// The backward doesn't fit the forward that returned its `saved`.
    #[error(
        "backward was given {what} {given}, the forward that saved had {forward}: give it the inputs of its own forward"
    )]
    OtherForward {
        /// What differs.
        what: String,
        /// The backward's value.
        given: String,
        /// The forward's value.
        forward: String,
    },
    /// The row stride of a matrix differs from the plan's.
    #[error(
        "{tensor} has a row stride of {given} elements, the plan was made for {planned}: {}",
        Hint::Layout(*tensor)
    )]
    PlannedStride {
        /// Which tensor.
        tensor: Argument,
        /// The stride given, in elements.
        given: i64,
        /// The plan's stride, in elements.
        planned: i64,
    },
    /// The buffer of a matrix is too small.
    #[error("{tensor} needs {needed} elements (rows at its stride), its buffer has {available}")]
    Bounds {
        /// Which tensor.
        tensor: Argument,
        /// Elements from the first to the last, both included.
        needed: usize,
        /// Elements in the buffer.
        available: usize,
    },
    /// An address is less aligned than planned.
    #[error(
        "{tensor} starts at an address that is a multiple of {given} bytes only, the plan was made for {planned}: {}",
        Hint::Layout(*tensor)
    )]
    Alignment {
        /// Which tensor.
        tensor: Argument,
        /// Largest power of two that divides the address.
        given: usize,
        /// The plan's alignment.
        planned: usize,
    },
    /// The element type differs from the plan's.
    #[error("{tensor} is {given}, the plan was made for {planned}")]
    PlannedDType {
        /// Which tensor.
        tensor: Argument,
        /// The type given.
        given: DType,
        /// The plan's type.
        planned: DType,
    },
    /// An optional argument is given although the problem has none, or the other way round.
    #[error("{what} was {}, but the plan was made {} it: {hint}", if *.given { "given" } else { "not given" }, if *.given { "without" } else { "with" })]
    Optional {
        /// Which argument.
        what: Argument,
        /// Whether the call has the argument.
        given: bool,
        /// What to change.
        hint: Hint,
    },
    /// The call has another number of projections than its plan.
    #[error("{given} projections were given, the plan was made for {planned}")]
    ProjectionCount {
        /// How many were given.
        given: usize,
        /// How many the plan has.
        planned: usize,
    },
    /// The `saved`, `workspace` or `report` buffer is too small.
    #[error("the {buffer} buffer has {given} bytes, the plan needs {needed}")]
    Buffer {
        /// `saved`, `workspace` or `report`.
        buffer: Argument,
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// The address of the `saved`, `workspace` or `report` buffer is misaligned.
    #[error(
        "the {buffer} buffer starts at an address that is a multiple of {given} bytes only: it must be a multiple of {}",
        crate::plan::BUFFER_ALIGNMENT
    )]
    BufferAlignment {
        /// `saved`, `workspace` or `report`.
        buffer: Argument,
        /// Largest power of two that divides the address.
        given: usize,
    },
    /// A device pointer of a raw call is null.
    #[error("{what} is a null pointer")]
    Null {
        /// Which argument.
        what: Argument,
    },
    /// An output shares memory with an input or another output.
    #[error("{output} shares memory with {other}: {}", apart(output, other))]
    Overlap {
        /// An argument that is written.
        output: Argument,
        /// The argument that shares a byte with it.
        other: Argument,
    },
    /// The memory of an argument would reach beyond the last address.
    #[error(
        "{what} is at address {address:#x}, where its {bytes} bytes would reach beyond the last address: give the address of device memory of that size"
    )]
    AddressRange {
        /// Which argument.
        what: Argument,
        /// The address given.
        address: u64,
        /// The bytes that the plan's problem needs there, from the first to the last.
        bytes: u64,
    },
    /// A stream or buffer belongs to another CUDA context than the kernels.
    #[error(
        "{what} belongs to another CUDA context than the one the kernels were loaded into: load the kernels in that context"
    )]
    Context {
        /// What was given.
        what: Argument,
    },
    /// The call's stream, or the one that memory belongs to, is being captured into a CUDA graph. A
    /// graph could be launched when that memory is freed already.
    #[error(
        "{what} {} being captured into a CUDA graph, which can't keep a safe call's memory alive: end the capture before, or capture raw calls (lora_kernels::raw)",
        whose_stream(what)
    )]
    Capturing {
        /// What was given.
        what: Argument,
    },
    /// The length of a slice is wrong: its elements would have more bytes than an address space.
    /// cudarc then allocates fewer.
    #[error(
        "{what} lies in a slice of {given} elements of {element} bytes, more than 2^63 bytes: no memory is that long"
    )]
    Length {
        /// What was given.
        what: Argument,
        /// Elements of the slice.
        given: usize,
        /// Bytes of an element.
        element: usize,
    },
    /// There is no CUDA driver library on this machine.
    #[error(
        "no CUDA driver: libcuda could not be loaded; install the NVIDIA driver, or put its libcuda.so.1 on the loader's path"
    )]
    NoDriver,
    /// The crate was built without its kernels.
    #[error(
        "this build has no kernels (LORA_KERNELS_STUB or DOCS_RS was set when it was compiled): build again with nvcc and without that variable"
    )]
    KernelsNotBuilt,
    /// A CUDA driver call failed.
    #[error("{what} failed: {code} ({description}){}", behind(hint))]
    Driver {
        /// The call or its purpose.
        what: String,
        /// The CUresult.
        code: i32,
        /// The driver's text.
        description: String,
        /// What to do, if it is known.
        hint: Option<Hint>,
    },
}
