//! How launches run: checks, the order of turns, when asynchronous copies land, how tensor cores
//! sum. The environment says so when the driver starts; a program may change it between launches.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::Outcome;
use super::counters::refuse;
use crate::device::Numerics;
use crate::exec::LaunchOptions;
use crate::settings;

struct Settings {
    options: LaunchOptions,
    /// In place of the virtual device's own.
    numerics: Option<Numerics>,
}

static SETTINGS: LazyLock<Mutex<Settings>> = LazyLock::new(|| {
    Mutex::new(Settings {
        options: LaunchOptions::default(),
        numerics: None,
    })
});

fn settings() -> MutexGuard<'static, Settings> {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The settings' names.
pub(super) const NAMES: [&str; 4] = ["checks", "schedule", "copies", "numerics"];

/// Takes each of [`NAMES`] that has a value in the environment.
pub(super) fn configure() -> Outcome {
    for name in NAMES {
        if let Some(found) = settings::find(name) {
            set(name, &found.value).map_err(|error| refuse(&found, &error))?;
        }
    }
    Ok(())
}

/// Changes one of [`NAMES`] for later launches.
///
/// # Errors
/// What is wrong with the value.
pub(super) fn set(name: &str, value: &str) -> Result<(), String> {
    let mut settings = settings();
    match (name, value) {
        ("checks", "on") => settings.options.checks = true,
        ("checks", "off") => settings.options.checks = false,
        ("checks", _) => return Err("this is none of on, off".to_owned()),
        ("schedule", _) => {
            settings.options.schedule = value.parse().map_err(|error| format!("{error}"))?
        }
        ("copies", "latest") => settings.options.early_copies = false,
        ("copies", "earliest") => settings.options.early_copies = true,
        ("copies", _) => return Err("this is none of latest, earliest".to_owned()),
        ("numerics", "device") => settings.numerics = None,
        ("numerics", "f32fma") => settings.numerics = Some(Numerics::F32Fma),
        ("numerics", "ampere") => settings.numerics = Some(Numerics::Ampere),
        ("numerics", "hopper") => settings.numerics = Some(Numerics::Hopper),
        ("numerics", _) => return Err("this is none of f32fma, ampere, hopper, device".to_owned()),
        _ => return Err(format!("there is no setting {name}")),
    }
    Ok(())
}

/// How the next launch runs, on a device whose tensor cores sum as `numerics` says.
pub(super) fn options(numerics: Numerics) -> LaunchOptions {
    let settings = settings();
    LaunchOptions {
        numerics: settings.numerics.unwrap_or(numerics),
        ..settings.options.clone()
    }
}
