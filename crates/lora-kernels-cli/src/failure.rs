//! Why a command ends early, and with which exit status.

use lora_kernels::cudarc::driver::DriverError;

/// One line each.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It ran, and the result is no good.
    #[error("{0}")]
    Wrong(String),
    /// Arguments, or files that don't fit each other.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Files(#[from] lora_kernels_adapters::Error),
    #[error(transparent)]
    Kernels(#[from] lora_kernels::Error),
    #[error("the device failed: {0}")]
    Device(#[from] DriverError),
    /// What is missing of a device.
    #[error("{0}")]
    NoDevice(String),
    #[error("can't print: {0}")]
    Print(std::io::Error),
    #[error("interrupted; nothing was written")]
    Interrupted,
}

impl Failure {
    /// As the help says.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Wrong(_) => 1,
            Failure::Refused(_) | Failure::Files(_) => 2,
            Failure::Kernels(error) if !is_of_a_device(error) => 2,
            Failure::Kernels(_) | Failure::Device(_) | Failure::NoDevice(_) => 3,
            Failure::Print(_) => 4,
            Failure::Interrupted => 130,
        }
    }
}

/// Whether it is the device or its driver that can't, and not an argument that is wrong.
fn is_of_a_device(error: &lora_kernels::Error) -> bool {
    use lora_kernels::Error;
    matches!(
        error,
        Error::Device { .. }
            | Error::Context { .. }
            | Error::NoDriver
            | Error::KernelsNotBuilt
            | Error::Driver { .. }
    )
}
