#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod adapter;
pub mod base;
mod config;
mod error;
mod header;
mod hub;
mod opened;
pub mod output;
mod read;
pub mod regular;
pub mod shown;
mod stamp;
mod steps;
mod tensor;
mod tensor_file;
mod write;

pub use adapter::{Adapter, Format, Kind, LeftOut, Module, Saved, ScalingSource, Tokens, Unknown};
pub use base::BaseModel;
pub use config::{Bias, PeftConfig, TrainableTokens};
pub use error::{Error, Result};
pub use lora_kernels::DType;
pub use opened::{OpenedFiles, unnoted};
pub use read::{ReadOptions, Scaling};
pub use safetensors::Dtype;
pub use stamp::Stamp;
pub use tensor::{Chunks, Tensor};
pub use tensor_file::{Metadata, TensorFile};
pub use write::PeftWriter;
