#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]
#![warn(missing_docs)]

pub mod bind;
mod device_element;
mod dropout;
mod dtype;
mod error;
mod formats;
#[cfg(feature = "cuda")]
pub mod layer;
mod layout;
mod merge;
pub mod plan;
mod problem;
#[cfg(feature = "cuda")]
pub mod raw;
pub mod reference;
mod role;
#[cfg(feature = "cuda")]
mod typed;

pub use bind::{ForwardRecord, RawTable, Rows, Saved};
#[cfg(feature = "cuda")]
pub use cudarc;
pub use device_element::DeviceElement;
pub use dropout::{Dropout, Mask};
pub use dtype::{DType, Element};
pub use error::{Argument, Error, ErrorKind, Hint, Result, Toolkit};
pub use formats::{Formats, RowAdapters, WeightFormat};
#[cfg(feature = "cuda")]
pub use layer::{LoraInputs, LoraLinear, LoraProjection};
pub use layout::{Layout, WeightLayout};
pub use merge::{MergeProblem, MergeReport};
pub use plan::{BackwardPlan, DeviceProps, ForwardPlan, MergePlan};
pub use problem::{Problem, Projection};
#[cfg(feature = "cuda")]
pub use raw::{Kernels, RawTableGradients, context};
pub use role::Role;
#[cfg(feature = "cuda")]
pub use typed::{
    AdapterTable, Backward, BackwardProjection, DynBackward, DynBackwardProjection, DynForward,
    DynForwardProjection, DynLora, DynLoraGradients, DynMatMut, DynMatRef, DynMerge, Dynamic,
    Flags, Forward, ForwardProjection, GradientTable, Lora, LoraGradients, MatMut, MatRef, Matrix,
    Merge, MergeWeight, RawTableLora, ReadMatrix, RowLists, RowsOfTable, RowsWithGradients,
    TableGradients, TableLora, TableWithGradients, Typed, Views, WriteMatrix,
};

/// The guide's examples, compiled and run with the tests.
#[cfg(all(doctest, feature = "cuda"))]
mod guide {
    #[doc = include_str!("../docs/linking.md")]
    struct Linking;
    #[doc = include_str!("../docs/merging.md")]
    struct Merging;
    #[doc = include_str!("../docs/serving.md")]
    struct Serving;
}
