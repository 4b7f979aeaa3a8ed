//! The device a command runs on.

use std::str::FromStr;
use std::sync::Arc;

use lora_kernels::cudarc::driver::CudaStream;
use lora_kernels::{Error, LoraLinear};

use crate::failure::Failure;

/// The value of `--device`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Gpu(usize),
    /// The CPU, which gives the same bits.
    Cpu,
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "cpu" => Ok(Choice::Cpu),
            number => number
                .parse()
                .map(Choice::Gpu)
                .map_err(|_| "a device is the number of a GPU, counted from 0, or cpu".into()),
        }
    }
}

/// A GPU with its kernels loaded.
pub struct Gpu {
    pub layer: LoraLinear,
}

impl Gpu {
    pub fn open(ordinal: usize) -> Result<Self, Failure> {
        let context = lora_kernels::context(ordinal)?;
        Ok(Self {
            layer: LoraLinear::new(&context.new_stream()?)?,
        })
    }

    /// The same kernels on a stream of its own, whose work overlaps that of this one.
    pub fn on_another_stream(&self) -> Result<Self, Failure> {
        let stream = self.stream().context().new_stream()?;
        Ok(Self {
            layer: self.layer.on_stream(&stream)?,
        })
    }

    pub fn stream(&self) -> &Arc<CudaStream> {
        self.layer.stream()
    }

    /// The name that the driver reports. The emulated GPU's name says that it is emulated.
    pub fn name(&self) -> Result<String, Failure> {
        Ok(self.stream().context().name()?)
    }
}

/// Adds a hint at `--device cpu` to a failure to open a GPU, for commands that have this option.
pub fn or_cpu(failure: Failure) -> Failure {
    match failure {
        Failure::Kernels(Error::NoDriver) => Failure::NoDevice(format!(
            "{}; --device cpu computes the same on the CPU",
            Error::NoDriver
        )),
        other => other,
    }
}
