//! What can go wrong. Every message names what was given, what is allowed and what to do.

mod argument;
mod hint;
mod kind;

use std::fmt;

pub use argument::Argument;
pub use hint::Hint;
pub use kind::ErrorKind;

use crate::{DType, DeviceProps, Problem, Role};

/// The result of every fallible function of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a problem, plan or call was refused. Nothing was launched or written when one is returned,
/// [`Error::Driver`] excepted.
///
/// `{:?}` is the text of `{}`, so that `main() -> Result<(), Error>` ends with something to read.
#[derive(thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A size of zero, tokens excepted, or beyond [`Problem::MAX_DIMENSION`].
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
    /// No projection, or more than can share x.
    #[error(
        "{given} projections: there must be between 1 and {}; split more over several calls",
        Problem::MAX_PROJECTIONS
    )]
    Projections {
        /// How many were given.
        given: usize,
    },
    /// No kernel of this crate does it.
    #[error("no kernel is built for {what}: docs/adding-a-kernel.md says how to add one")]
    NoKernel {
        /// Operation, element type and access.
        what: String,
    },
    /// Projections of which none has an adapter.
    #[error(
        "no projection has a rank: at least one must be adapted; without adapters, use a matrix product"
    )]
    NotAdapted,
    /// No adapter to merge, or more than one call merges.
    #[error(
        "{given} adapters: there must be between 1 and {}; merge more by several calls, or concatenate their ranks",
        crate::MergeProblem::MAX_ADAPTERS
    )]
    Adapters {
        /// How many were given.
        given: usize,
    },
    /// An adapter that a problem doesn't have.
    #[error("adapter {given}: the problem has {count}, counted from 0")]
    NoAdapter {
        /// The index given.
        given: usize,
        /// How many there are.
        count: usize,
    },
    /// A tensor that a problem doesn't have.
    #[error("{tensor} has no part in {problem}: {hint}")]
    NoPart {
        /// Which tensor.
        tensor: Role,
        /// What it has no part in.
        problem: &'static str,
        /// What has.
        hint: Hint,
    },
    /// A merge in place of a plan that has another layout for the result.
    #[error(
        "merging in place, but the plan was made for a weight with a row stride of {weight} elements and a merged one with {merged}: give both the same layout"
    )]
    InPlace {
        /// Row stride of the weight, in elements.
        weight: i64,
        /// Row stride of the merged weight, in elements.
        merged: i64,
    },
    /// A call that merges another number of adapters than its plan.
    #[error("{given} adapters were given, the plan was made for {planned}")]
    AdapterCount {
        /// How many were given.
        given: usize,
        /// How many the plan has.
        planned: usize,
    },
    /// A projection that a problem doesn't have.
    #[error("projection {given}: the problem has {count}, counted from 0")]
    NoProjection {
        /// The index given.
        given: usize,
        /// How many there are.
        count: usize,
    },
    /// A type that adapters of a problem can't have.
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
    /// A type that a role can't have beside those of the others.
    #[error("{what} is {given} and {other} {needed}: give both the same type")]
    Format {
        /// The role.
        what: &'static str,
        /// Its type.
        given: DType,
        /// The role whose type it must have.
        other: &'static str,
        /// The type of that one.
        needed: DType,
    },
    /// A tensor that is no output, and can't be accumulated into.
    #[error("{tensor} can't be accumulated into: only y, dx, d_lora_A and d_lora_B are outputs")]
    Accumulate {
        /// Which tensor.
        tensor: Role,
    },
    /// A row stride that makes rows overlap or offsets overflow.
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
    /// A layout with an impossible alignment.
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
    /// A dropout probability outside [0, 1).
    #[error("dropout probability {given}: it must be at least 0 and below 1")]
    DropoutProbability {
        /// The probability given.
        given: f32,
    },
    /// A scaling that is not finite.
    #[error(
        "scaling {given}: it must be finite (lora_alpha / rank, or lora_alpha / sqrt(rank) for rsLoRA)"
    )]
    Scaling {
        /// The scaling given.
        given: f32,
    },
    /// The device can't run what the plan would need.
    #[error("{what}: needed {needed}, the device has {available}")]
    Device {
        /// What is short.
        what: &'static str,
        /// What the kernels need.
        needed: String,
        /// What the device has.
        available: String,
    },
    /// A plan for another device than the one that the kernels were loaded on.
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
    /// A tensor map that the driver would refuse.
    #[error("a tensor map's {what} is {given}: it must be {allowed}")]
    TensorMap {
        /// What of it.
        what: &'static str,
        /// The value given.
        given: u64,
        /// What is allowed.
        allowed: &'static str,
    },
    /// A grid larger than a launch can have.
    #[error(
        "the problem ({problem}) needs {blocks} blocks or tiles in one launch, more than {limit}: split a layer's tokens, or the rows of a weight to merge, over several calls"
    )]
    Grid {
        /// The problem.
        problem: String,
        /// Blocks needed along one axis of the grid, or tiles that persistent blocks would take
        /// turns at.
        blocks: u64,
        /// The driver's limit, or the kernels'.
        limit: u64,
    },
    /// A matrix of another shape than the plan's problem has.
    #[error("{tensor} is {} x {}, the plan's problem has {} x {}", given.0, given.1, expected.0, expected.1)]
    Shape {
        /// Which tensor.
        tensor: Argument,
        /// (rows, columns) given.
        given: (usize, usize),
        /// (rows, columns) of the plan.
        expected: (usize, usize),
    },
    /// A matrix of another shape than the other arguments of a layer's call ask for.
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
    /// Some projections of a layer's call with a bias and some without.
    #[error(
        "projection {without} has no bias and others have: give all of them one (zeros where there is none) or none"
    )]
    SomeBiases {
        /// The first projection without.
        without: usize,
    },
    /// A backward that is not the backward of the forward whose `saved` it was given.
    #[error(
        "backward was given {what} {given}, the forward that saved had {forward}: give it the inputs of its own forward"
    )]
    OtherForward {
        /// What differs.
        what: String,
        /// What the backward was given.
        given: String,
        /// What the forward had.
        forward: String,
    },
    /// A matrix with another row stride than the plan was made for.
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
    /// A buffer too small for its matrix.
    #[error("{tensor} needs {needed} elements (rows at its stride), its buffer has {available}")]
    Bounds {
        /// Which tensor.
        tensor: Argument,
        /// Elements from the first to the last, both included.
        needed: usize,
        /// Elements in the buffer.
        available: usize,
    },
    /// An address less aligned than the plan was made for.
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
    /// Elements of another type than the plan's.
    #[error("{tensor} is {given}, the plan was made for {planned}")]
    PlannedDType {
        /// Which tensor.
        tensor: Argument,
        /// Type given.
        given: DType,
        /// Type of the plan.
        planned: DType,
    },
    /// An optional argument that disagrees with the problem.
    #[error("{what} was {}, but the plan was made {} it: {hint}", if *.given { "given" } else { "not given" }, if *.given { "without" } else { "with" })]
    Optional {
        /// Which argument.
        what: Argument,
        /// Whether the call has it.
        given: bool,
        /// What to change.
        hint: Hint,
    },
    /// A call with another number of projections than its plan.
    #[error("{given} projections were given, the plan was made for {planned}")]
    ProjectionCount {
        /// How many were given.
        given: usize,
        /// How many the plan has.
        planned: usize,
    },
    /// A `saved`, `workspace` or `report` buffer that is too small.
    #[error("the {buffer} buffer has {given} bytes, the plan needs {needed}")]
    Buffer {
        /// `saved`, `workspace` or `report`.
        buffer: Argument,
        /// Bytes given.
        given: usize,
        /// Bytes needed.
        needed: usize,
    },
    /// A `saved`, `workspace` or `report` buffer at a misaligned address.
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
    /// A null device pointer in a raw call.
    #[error("{what} is a null pointer")]
    Null {
        /// Which argument.
        what: Argument,
    },
    /// A stream or buffer of another CUDA context than the kernels were loaded into.
    #[error(
        "{what} belongs to another CUDA context than the one the kernels were loaded into: load the kernels in that context"
    )]
    Context {
        /// What was given.
        what: Argument,
    },
    /// No CUDA driver library on this machine.
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
        /// The call, or what it was for.
        what: String,
        /// CUresult.
        code: i32,
        /// The driver's own text.
        description: String,
        /// What to do, where that is known.
        hint: Option<Hint>,
    },
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Error {
    /// What to do about it, as far as the text says so in this crate's names. Bindings of another
    /// language phrase it in theirs, behind [`Error::fact`].
    pub fn hint(&self) -> Option<Hint> {
        match self {
            Error::NoPart { hint, .. } | Error::Optional { hint, .. } => Some(*hint),
            Error::PlannedStride { tensor, .. } | Error::Alignment { tensor, .. } => {
                Some(Hint::Layout(*tensor))
            }
            Error::OtherDevice { .. } => Some(Hint::DeviceOfKernels),
            Error::Driver { hint, .. } => *hint,
            _ => None,
        }
    }

    /// The text without the hint.
    pub fn fact(&self) -> String {
        let text = self.to_string();
        match self.hint() {
            Some(hint) => {
                let behind = behind(&Some(hint));
                text.strip_suffix(&behind).unwrap_or(&text).to_owned()
            }
            None => text,
        }
    }
}

/// A hint as it stands behind the fact.
fn behind(hint: &Option<Hint>) -> String {
    hint.map_or(String::new(), |hint| format!(": {hint}"))
}

/// The smallest size that a dimension may have.
fn least(name: &str) -> usize {
    if name == "tokens" { 0 } else { 1 }
}

/// What adapters over tensors of a type may be in.
fn adapter_types(dtype: DType) -> &'static str {
    match dtype {
        DType::F16 => "f16 or f32",
        DType::BF16 => "bf16 or f32",
        DType::F32 => "f32",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_hints() -> Vec<Error> {
        let tensor = Argument::Tensor(Role::Y, Some(2));
        vec![
            Error::PlannedStride {
                tensor,
                given: 5,
                planned: 4,
            },
            Error::Alignment {
                tensor,
                given: 2,
                planned: 16,
            },
            Error::Optional {
                what: Argument::Dropout,
                given: true,
                hint: Hint::Dropout,
            },
            Error::NoPart {
                tensor: Role::Merged,
                problem: "a layer",
                hint: Hint::MergeProblem,
            },
            Error::OtherDevice {
                planned: DeviceProps::a100(),
                found: DeviceProps::h100(),
            },
            Error::Driver {
                what: "launching".into(),
                code: 201,
                description: "invalid device context".into(),
                hint: Some(Hint::NoCurrentContext),
            },
        ]
    }

    #[test]
    fn a_text_is_its_fact_and_its_hint() {
        for error in with_hints() {
            let hint = error.hint().expect("a hint");
            let (text, fact) = (error.to_string(), error.fact());
            assert_eq!(text, format!("{fact}: {hint}"));
            assert!(!fact.contains("::"), "{fact}");
        }
        assert_eq!(Error::NoDriver.fact(), Error::NoDriver.to_string());
    }

    #[test]
    fn an_error_out_of_main_is_readable() {
        let error = Error::NoDriver;
        assert_eq!(format!("{error:?}"), error.to_string());
    }

    #[test]
    fn a_tensor_of_several_projections_is_laid_out_by_projection() {
        let text = Hint::Layout(Argument::Tensor(Role::Y, Some(2))).to_string();
        assert!(text.contains("with_layout_of(2, "), "{text}");
        let text = Hint::Layout(Argument::Tensor(Role::Y, None)).to_string();
        assert!(text.contains("with_layout("), "{text}");
        let text = Hint::Layout(Argument::Adapter(Role::LoraA, 1)).to_string();
        assert!(text.contains("with_adapter_layout(1, "), "{text}");
    }
}
