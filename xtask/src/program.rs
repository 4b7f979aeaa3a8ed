//! The command line as a user runs it: a program that looks for libcuda and doesn't know the
//! emulated GPU.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::client;
use crate::steps::{Failure, Session};

/// The variable that chooses the device of tests and commands.
const DEVICE: &str = "LORA_KERNELS_DEVICE";

/// `lora-kernels`, and where it finds a driver that isn't the machine's own.
pub struct Program {
    path: PathBuf,
    driver: Option<PathBuf>,
}

impl Program {
    /// Builds it together with its tests, which also build the emulated driver. That driver is used
    /// if it is asked for, or if no real device can run the kernels.
    pub fn build(session: &mut Session) -> Result<Self, Failure> {
        session.run(session.cargo("test --quiet --workspace --test commands --no-run"))?;
        let mut program = Self {
            path: session.target().join("debug/lora-kernels"),
            driver: None,
        };
        let setting = std::env::var(DEVICE).unwrap_or_default();
        let emulated = match setting.as_str() {
            "real" => false,
            "emulated" => true,
            "" | "auto" => !program.finds_a_device(session),
            other => return Err(format!("{DEVICE}={other} is none of auto, emulated, real").into()),
        };
        if emulated {
            program.driver = Some(client::driver_of_tests(session)?);
        }
        Ok(program)
    }

    /// The command, to run in the checkout.
    pub fn command(&self, session: &Session) -> Command {
        let mut command = Command::new(&self.path);
        command.current_dir(session.root());
        if let Some(driver) = &self.driver {
            command.env("LD_LIBRARY_PATH", driver);
        }
        command
    }

    fn finds_a_device(&self, session: &Session) -> bool {
        let mut doctor = self.command(session);
        doctor
            .arg("doctor")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        doctor.status().is_ok_and(|status| status.success())
    }
}
