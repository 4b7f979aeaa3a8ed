//! How launches run, as the environment says: checks, the order of turns, when asynchronous copies land.

use std::sync::OnceLock;

use super::Outcome;
use super::abi::report;
use super::code::Code;
use crate::exec::LaunchOptions;

static SETTINGS: OnceLock<LaunchOptions> = OnceLock::new();

/// Reads `LORA_EMULATOR_CHECKS`, `LORA_EMULATOR_SCHEDULE` and `LORA_EMULATOR_COPIES`, whose values are given.
pub(super) fn configure(checks: Option<String>, schedule: Option<String>, copies: Option<String>) -> Outcome {
    let mut options = LaunchOptions::default();
    let refuse = |what: String| {
        report(format_args!("{what}"));
        Err(Code::NO_DEVICE)
    };
    match checks.as_deref() {
        None | Some("on") => {}
        Some("off") => options.checks = false,
        Some(other) => return refuse(format!("LORA_EMULATOR_CHECKS={other} is none of on, off")),
    }
    if let Some(text) = schedule {
        match text.parse() {
            Ok(schedule) => options.schedule = schedule,
            Err(error) => return refuse(format!("LORA_EMULATOR_SCHEDULE: {error}")),
        }
    }
    match copies.as_deref() {
        None | Some("latest") => {}
        Some("earliest") => options.early_copies = true,
        Some(other) => return refuse(format!("LORA_EMULATOR_COPIES={other} is none of latest, earliest")),
    }
    // A second initialisation finds the first one's settings.
    let _ = SETTINGS.set(options);
    Ok(())
}

pub(super) fn options() -> LaunchOptions {
    SETTINGS.get().cloned().unwrap_or_default()
}
