//! The reasons why a command fails, and their exit statuses.

use std::path::Path;

use lora_kernels::cudarc::driver::DriverError;
use lora_kernels_adapters::OpenedFiles;

use crate::signals;

/// Each message is one line.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command ran, and its result is wrong.
    #[error("{0}")]
    Wrong(String),
    /// Arguments are wrong, or files don't fit each other.
    #[error("{0}")]
    Refused(String),
    #[error("{error}{hint}", error = .0, hint = way_out(.0))]
    Files(#[from] lora_kernels_adapters::Error),
    #[error(transparent)]
    Kernels(#[from] lora_kernels::Error),
    #[error("the device failed: {0}")]
    Device(#[from] DriverError),
    /// There is no usable device. The text says what is missing.
    #[error("{0}")]
    NoDevice(String),
    /// The result was written without files that it should have, as the user allowed.
    #[error("{output} is complete but for files that can't be read: {files}")]
    Incomplete {
        output: String,
        /// With the reasons.
        files: String,
    },
    #[error("can't print: {0}")]
    Print(std::io::Error),
    /// By this signal.
    #[error("{}; nothing was written", interruption(*.0))]
    Interrupted(i32),
}

impl Failure {
    /// A file or folder that the system doesn't let read.
    pub fn unread(path: &Path, error: std::io::Error) -> Self {
        Self::Refused(format!("can't read {}: {error}", path.display()))
    }

    /// A file or folder that the system doesn't let write.
    pub fn unwritten(path: &Path, error: std::io::Error) -> Self {
        Self::Refused(format!("can't write {}: {error}", path.display()))
    }

    /// The change of a file that was read, if there was one: a failure before the output has its
    /// name may come of it.
    pub fn or_change(self, opened: &OpenedFiles) -> Self {
        use lora_kernels_adapters::Error;
        let may_come_of_it = matches!(self.status(), 1 | 2)
            && !matches!(self, Failure::Files(Error::NotPlaced { .. }));
        match opened.check_unchanged() {
            Err(change @ Error::Changed { .. }) if may_come_of_it => change.into(),
            _ => self,
        }
    }

    /// The exit status that the help documents.
    pub fn status(&self) -> u8 {
        match self {
            Failure::Wrong(_) => 1,
            Failure::Files(lora_kernels_adapters::Error::Placed { .. }) | Failure::Print(_) => 4,
            Failure::Refused(_) | Failure::Files(_) => 2,
            Failure::Kernels(error) if !is_of_a_device(error) => 2,
            Failure::Kernels(_) | Failure::Device(_) | Failure::NoDevice(_) => 3,
            Failure::Incomplete { .. } => 5,
            Failure::Interrupted(signal) => signals::status(*signal),
        }
    }
}

fn interruption(signal: i32) -> String {
    match signal_hook::low_level::signal_name(signal) {
        Some("SIGINT") | None => "interrupted".into(),
        Some(name) => format!("ended by {name}"),
    }
}

/// The option that helps.
fn way_out(error: &lora_kernels_adapters::Error) -> String {
    use lora_kernels_adapters::Error;
    match error {
        Error::Unresolved { replacements, .. } if !replacements.is_empty() => {
            let options: Vec<String> = replacements
                .iter()
                .map(|replacement| format!("--map {replacement}"))
                .collect();
            format!("; if it is meant, state {}", options.join(" or "))
        }
        Error::Unresolved { .. } => {
            " (--map FROM=TO states what leading parts of names become, --skip leaves modules out)"
                .into()
        }
        Error::Changed { .. } => "; run it again when nothing changes it any more".into(),
        Error::Component { .. } => " (--component NAME merges the named one alone)".into(),
        _ => String::new(),
    }
}

/// Whether the device or its driver caused the error, rather than an argument.
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
