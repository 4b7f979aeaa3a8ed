//! Status codes, the last error's text, and the wall that no panic passes.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CStr, CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::error::{Error, Result};
use crate::hint::text_in_c;

/// What became of a call. The numbers are fixed. From 100 on they are the C ABI's own; those below
/// are of the library's computations.
#[repr(i32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum lora_status {
    /// Done, or enqueued.
    Ok = 0,
    /// A size of zero or too large.
    Dimension = 1,
    /// No projection, or more than LORA_MAX_PROJECTIONS.
    Projections = 2,
    /// No projection has a rank.
    NotAdapted = 3,
    /// A projection that the problem doesn't have.
    NoProjection = 4,
    /// A type that the adapters can't have.
    AdapterDtype = 5,
    /// A tensor that can't be accumulated into.
    Accumulate = 6,
    /// A row stride that makes rows overlap or offsets overflow.
    Stride = 7,
    /// A layout with an impossible alignment.
    LayoutAlignment = 8,
    /// A dropout probability outside [0, 1).
    DropoutProbability = 9,
    /// A scaling that is not finite.
    Scaling = 10,
    /// The device lacks what the kernels need.
    Device = 11,
    /// A grid larger than a launch can have.
    Grid = 12,
    /// A matrix of another shape than the plan's.
    Shape = 13,
    /// A row stride other than the plan's.
    PlannedStride = 14,
    /// A buffer too small for its matrix.
    Bounds = 15,
    /// A device address less aligned than the plan was made for.
    Alignment = 16,
    /// Elements of another type than the plan's.
    PlannedDtype = 17,
    /// An optional argument that disagrees with the plan: given without being planned, or planned
    /// and not given.
    Optional = 18,
    /// Another number of projections than the plan's.
    ProjectionCount = 19,
    /// A saved, workspace or report buffer that is too small.
    Buffer = 20,
    /// A saved, workspace or report buffer at a misaligned address.
    BufferAlignment = 21,
    /// A device address of 0.
    Null = 22,
    /// A stream or buffer of another CUDA context.
    Context = 23,
    /// No CUDA driver on this machine.
    NoDriver = 24,
    /// The library was built without its kernels.
    KernelsNotBuilt = 25,
    /// A CUDA driver call failed: see lora_last_cuda_result().
    Driver = 26,
    /// No adapter to merge, or more than LORA_MAX_ADAPTERS.
    Adapters = 27,
    /// An adapter that the merge doesn't have.
    NoAdapter = 28,
    /// A tensor that the problem does not have.
    NoPart = 29,
    /// A merge in place of a plan that has another layout for the result.
    InPlace = 30,
    /// Another number of adapters than the plan's.
    AdapterCount = 31,
    /// No kernel of the library does it.
    NoKernel = 32,
    /// A type that a tensor can't have beside those of the others.
    Format = 33,
    /// A matrix of another shape than the other arguments ask for.
    Fit = 34,
    /// Some projections with a bias and some without.
    SomeBiases = 35,
    /// A backward that is not the one of its forward: other sizes, types, dropout or scalings.
    OtherForward = 36,
    /// A plan made for another device than the handle's.
    OtherDevice = 37,
    /// An output that shares memory with an input or another output.
    Overlap = 38,
    /// A device address at which a tensor or buffer would reach beyond the last address.
    AddressRange = 39,
    /// A dropout mask that can't begin there.
    MaskOrigin = 40,
    /// Dropout from device memory at an address, or with an offset, that can't be.
    DropoutWords = 41,
    /// Fewer or more adapters per row than a list has places.
    RowAdapters = 42,
    /// A rank that no adapter of the table can have.
    TableRank = 43,
    /// A row stride that no adapter of the table can have.
    TableStride = 44,
    /// An error of a kind that has no number of its own yet.
    Other = 99,
    /// A null pointer to host memory.
    NullArgument = 100,
    /// A struct_size that can't be right, or differs between the elements of an array.
    StructSize = 101,
    /// A struct larger than this library's, with something in what it doesn't know.
    UnknownFields = 102,
    /// A number that is none of an enum's.
    Enumeration = 103,
    /// A yes or no that is neither 1 nor 0.
    Flag = 104,
    /// Something other than 0 in a reserved field.
    Reserved = 105,
    /// More layouts than there are tensors.
    Layouts = 106,
    /// A negative device ordinal.
    Ordinal = 107,
    /// A device name that is not known.
    DeviceName = 108,
    /// saved given as one buffer and as two.
    SavedTwice = 109,
    /// A pointer that is no handle of the kind asked for: of another kind, freed, of another
    /// version or copy of the library, or none at all.
    Handle = 110,
    /// A bug in the library. No handle or plan was made; of a forward, backward or merge, a part
    /// may have been launched.
    Internal = 199,
}

impl lora_status {
    const ALL: &'static [(Self, &'static CStr)] = &[
        (Self::Ok, c"LORA_STATUS_OK"),
        (Self::Dimension, c"LORA_STATUS_DIMENSION"),
        (Self::Projections, c"LORA_STATUS_PROJECTIONS"),
        (Self::NotAdapted, c"LORA_STATUS_NOT_ADAPTED"),
        (Self::NoProjection, c"LORA_STATUS_NO_PROJECTION"),
        (Self::AdapterDtype, c"LORA_STATUS_ADAPTER_DTYPE"),
        (Self::Accumulate, c"LORA_STATUS_ACCUMULATE"),
        (Self::Stride, c"LORA_STATUS_STRIDE"),
        (Self::LayoutAlignment, c"LORA_STATUS_LAYOUT_ALIGNMENT"),
        (Self::DropoutProbability, c"LORA_STATUS_DROPOUT_PROBABILITY"),
        (Self::Scaling, c"LORA_STATUS_SCALING"),
        (Self::Device, c"LORA_STATUS_DEVICE"),
        (Self::Grid, c"LORA_STATUS_GRID"),
        (Self::Shape, c"LORA_STATUS_SHAPE"),
        (Self::PlannedStride, c"LORA_STATUS_PLANNED_STRIDE"),
        (Self::Bounds, c"LORA_STATUS_BOUNDS"),
        (Self::Alignment, c"LORA_STATUS_ALIGNMENT"),
        (Self::PlannedDtype, c"LORA_STATUS_PLANNED_DTYPE"),
        (Self::Optional, c"LORA_STATUS_OPTIONAL"),
        (Self::ProjectionCount, c"LORA_STATUS_PROJECTION_COUNT"),
        (Self::Buffer, c"LORA_STATUS_BUFFER"),
        (Self::BufferAlignment, c"LORA_STATUS_BUFFER_ALIGNMENT"),
        (Self::Null, c"LORA_STATUS_NULL"),
        (Self::Context, c"LORA_STATUS_CONTEXT"),
        (Self::NoDriver, c"LORA_STATUS_NO_DRIVER"),
        (Self::KernelsNotBuilt, c"LORA_STATUS_KERNELS_NOT_BUILT"),
        (Self::Driver, c"LORA_STATUS_DRIVER"),
        (Self::Adapters, c"LORA_STATUS_ADAPTERS"),
        (Self::NoAdapter, c"LORA_STATUS_NO_ADAPTER"),
        (Self::NoPart, c"LORA_STATUS_NO_PART"),
        (Self::InPlace, c"LORA_STATUS_IN_PLACE"),
        (Self::AdapterCount, c"LORA_STATUS_ADAPTER_COUNT"),
        (Self::NoKernel, c"LORA_STATUS_NO_KERNEL"),
        (Self::Format, c"LORA_STATUS_FORMAT"),
        (Self::Fit, c"LORA_STATUS_FIT"),
        (Self::SomeBiases, c"LORA_STATUS_SOME_BIASES"),
        (Self::OtherForward, c"LORA_STATUS_OTHER_FORWARD"),
        (Self::OtherDevice, c"LORA_STATUS_OTHER_DEVICE"),
        (Self::Overlap, c"LORA_STATUS_OVERLAP"),
        (Self::AddressRange, c"LORA_STATUS_ADDRESS_RANGE"),
        (Self::MaskOrigin, c"LORA_STATUS_MASK_ORIGIN"),
        (Self::DropoutWords, c"LORA_STATUS_DROPOUT_WORDS"),
        (Self::RowAdapters, c"LORA_STATUS_ROW_ADAPTERS"),
        (Self::TableRank, c"LORA_STATUS_TABLE_RANK"),
        (Self::TableStride, c"LORA_STATUS_TABLE_STRIDE"),
        (Self::Other, c"LORA_STATUS_OTHER"),
        (Self::NullArgument, c"LORA_STATUS_NULL_ARGUMENT"),
        (Self::StructSize, c"LORA_STATUS_STRUCT_SIZE"),
        (Self::UnknownFields, c"LORA_STATUS_UNKNOWN_FIELDS"),
        (Self::Enumeration, c"LORA_STATUS_ENUMERATION"),
        (Self::Flag, c"LORA_STATUS_FLAG"),
        (Self::Reserved, c"LORA_STATUS_RESERVED"),
        (Self::Layouts, c"LORA_STATUS_LAYOUTS"),
        (Self::Ordinal, c"LORA_STATUS_ORDINAL"),
        (Self::DeviceName, c"LORA_STATUS_DEVICE_NAME"),
        (Self::SavedTwice, c"LORA_STATUS_SAVED_TWICE"),
        (Self::Handle, c"LORA_STATUS_HANDLE"),
        (Self::Internal, c"LORA_STATUS_INTERNAL"),
    ];

    fn of(error: &Error) -> Self {
        match error {
            Error::Core(error) => Self::of_core(error),
            Error::NullArgument { .. } => Self::NullArgument,
            Error::StructSize { .. } | Error::ElementSize { .. } => Self::StructSize,
            Error::UnknownFields { .. } => Self::UnknownFields,
            Error::Enumeration { .. } => Self::Enumeration,
            Error::Flag { .. } => Self::Flag,
            Error::Reserved { .. } => Self::Reserved,
            Error::Negative { status, .. } => *status,
            Error::Layouts { .. } => Self::Layouts,
            Error::SavedTwice => Self::SavedTwice,
            Error::Handle { .. } => Self::Handle,
            Error::Ordinal { .. } => Self::Ordinal,
            Error::DeviceName { .. } => Self::DeviceName,
            Error::Internal { .. } => Self::Internal,
        }
    }

    /// The wildcard is for errors of a newer core: clippy refuses it for one that exists.
    #[deny(
        clippy::wildcard_enum_match_arm,
        clippy::match_wildcard_for_single_variants
    )]
    fn of_core(error: &kernels::Error) -> Self {
        use kernels::Error as Core;
        match error {
            Core::Dimension { .. } => Self::Dimension,
            Core::Projections { .. } => Self::Projections,
            Core::NotAdapted => Self::NotAdapted,
            Core::NoProjection { .. } => Self::NoProjection,
            Core::AdapterDType { .. } => Self::AdapterDtype,
            Core::Accumulate { .. } => Self::Accumulate,
            Core::Stride { .. } => Self::Stride,
            Core::LayoutAlignment { .. } => Self::LayoutAlignment,
            Core::DropoutProbability { .. } => Self::DropoutProbability,
            Core::Scaling { .. } => Self::Scaling,
            Core::Device { .. } => Self::Device,
            Core::Grid { .. } => Self::Grid,
            Core::Shape { .. } => Self::Shape,
            Core::PlannedStride { .. } => Self::PlannedStride,
            Core::Bounds { .. } => Self::Bounds,
            Core::Alignment { .. } => Self::Alignment,
            Core::PlannedDType { .. } => Self::PlannedDtype,
            Core::Optional { .. } => Self::Optional,
            Core::ProjectionCount { .. } => Self::ProjectionCount,
            Core::Buffer { .. } => Self::Buffer,
            Core::BufferAlignment { .. } => Self::BufferAlignment,
            Core::Null { .. } => Self::Null,
            Core::Context { .. } => Self::Context,
            Core::NoDriver => Self::NoDriver,
            Core::KernelsNotBuilt => Self::KernelsNotBuilt,
            Core::Driver { .. } => Self::Driver,
            Core::Adapters { .. } => Self::Adapters,
            Core::NoAdapter { .. } => Self::NoAdapter,
            Core::NoPart { .. } => Self::NoPart,
            Core::InPlace { .. } => Self::InPlace,
            Core::AdapterCount { .. } => Self::AdapterCount,
            Core::NoKernel { .. } => Self::NoKernel,
            Core::Format { .. } => Self::Format,
            Core::Fit { .. } => Self::Fit,
            Core::SomeBiases { .. } => Self::SomeBiases,
            Core::OtherForward { .. } => Self::OtherForward,
            Core::OtherDevice { .. } => Self::OtherDevice,
            Core::Overlap { .. } => Self::Overlap,
            Core::AddressRange { .. } => Self::AddressRange,
            Core::MaskOrigin { .. } => Self::MaskOrigin,
            Core::DropoutWords { .. } => Self::DropoutWords,
            Core::RowAdapters { .. } => Self::RowAdapters,
            Core::TableRank { .. } => Self::TableRank,
            Core::TableStride { .. } => Self::TableStride,
            // No function of the ABI encodes one, or takes slices or a stream of the safe layer.
            Core::TensorMap { .. } | Core::Capturing { .. } | Core::Length { .. } => Self::Other,
            // The ABI has entries of tables, not tables.
            Core::NoSlot { .. }
            | Core::TableFull { .. }
            | Core::EmptySlot { .. }
            | Core::RowList { .. }
            | Core::NoAdapterThere { .. }
            | Core::GradientRank { .. }
            | Core::OtherTable { .. } => Self::Other,
            _ => Self::Other,
        }
    }
}

thread_local! {
    static LAST_ERROR: RefCell<Option<CString>> = const { RefCell::new(None) };
    static LAST_CUDA_RESULT: Cell<i32> = const { Cell::new(0) };
}

/// What C learns of an error.
struct Report {
    status: lora_status,
    cuda_result: i32,
    text: CString,
}

impl Report {
    fn of(error: &Error) -> Self {
        let cuda_result = match error {
            Error::Core(kernels::Error::Driver { code, .. }) => *code,
            _ => 0,
        };
        Self {
            status: lora_status::of(error),
            cuda_result,
            text: CString::new(text_in_c(error).replace('\0', "\u{FFFD}")).unwrap_or_default(),
        }
    }

    /// Makes it the thread's last error.
    fn store(self) -> lora_status {
        // Both fail only in a thread that is ending, which can't ask any more.
        let _ = LAST_CUDA_RESULT.try_with(|last| last.set(self.cuda_result));
        let _ = LAST_ERROR.try_with(|last| *last.borrow_mut() = Some(self.text));
        self.status
    }
}

/// Runs what a function of the ABI does. Its error, or panic, becomes a status and the thread's
/// last error.
pub fn run(call: impl FnOnce() -> Result<()>) -> lora_status {
    match attempt(call) {
        Ok(()) => lora_status::Ok,
        Err(status) => status,
    }
}

/// As [`run`], for functions that return something else than a status.
pub fn attempt<T>(call: impl FnOnce() -> Result<T>) -> std::result::Result<T, lora_status> {
    // A panic leaves nothing half done behind that others see: handles and plans don't change once
    // they are made. The error's text is made inside too, because that runs other crates' code.
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        call().map_err(|error| Report::of(&error))
    }));
    let outcome = outcome.unwrap_or_else(|payload| {
        let message = message(&*payload);
        Err(Report::of(&Error::Internal { message }))
    });
    outcome.map_err(Report::store)
}

fn message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().copied();
    text.or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("a panic without a message")
        .to_owned()
}

/// What went wrong in the last call of this thread that failed, in a sentence; empty if none has.
///
/// The text is the library's, not to be freed. It is valid until this thread calls a function of
/// the library that fails, or ends: copy it to keep it longer, or to give it to another thread. A
/// call that succeeds leaves it as it is.
#[unsafe(no_mangle)]
pub extern "C" fn lora_last_error() -> *const c_char {
    let text = LAST_ERROR.try_with(|last| last.borrow().as_ref().map(|text| text.as_ptr()));
    text.ok().flatten().unwrap_or(c"".as_ptr())
}

/// The CUresult of the last call of this thread that failed, if its status was LORA_STATUS_DRIVER;
/// else 0.
#[unsafe(no_mangle)]
pub extern "C" fn lora_last_cuda_result() -> i32 {
    LAST_CUDA_RESULT.try_with(Cell::get).unwrap_or(0)
}

/// The name of a lora_status, such as "LORA_STATUS_STRIDE"; "unknown" for a number that is none.
/// Always valid.
#[unsafe(no_mangle)]
pub extern "C" fn lora_status_name(status: i32) -> *const c_char {
    let mut all = lora_status::ALL.iter();
    let found = all.find(|(number, _)| *number as i32 == status);
    found.map_or(c"unknown", |(_, name)| name).as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_of_the_header_has_its_name() {
        let header = include_str!("../include/lora_kernels.h");
        let lines = header
            .lines()
            .filter_map(|line| line.trim().strip_suffix(','));
        let statuses: Vec<_> = lines
            .filter_map(|line| line.split_once(" = "))
            .filter(|(name, _)| name.starts_with("LORA_STATUS_"))
            .collect();
        assert_eq!(statuses.len(), lora_status::ALL.len());
        for (name, number) in statuses {
            let status = number.parse().expect("a number");
            // SAFETY: always a string.
            let given = unsafe { CStr::from_ptr(lora_status_name(status)) };
            assert_eq!(given.to_str(), Ok(name), "{number}");
        }
    }

    #[test]
    fn a_panic_becomes_a_status_and_a_text() {
        let status = run(|| panic!("number {}", 7));
        assert_eq!(status, lora_status::Internal);
        // SAFETY: always a string.
        let text = unsafe { CStr::from_ptr(lora_last_error()) }.to_string_lossy();
        assert!(
            text.contains("number 7") && text.contains("bug in the library"),
            "{text}"
        );
    }
}
