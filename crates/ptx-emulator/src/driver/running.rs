//! How launches run: checks, the order of turns, when asynchronous copies land, how tensor cores
//! sum, when streams do their work. The environment says so when the driver starts; a program may
//! change it between launches.

use std::sync::{LazyLock, Mutex, MutexGuard, PoisonError};

use super::Outcome;
use super::counters::refuse;
use crate::device::Numerics;
use crate::exec::LaunchOptions;
use crate::settings;

/// When streams do their work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Streams {
    /// When it is given to them.
    Now,
    /// When the host waits for it.
    Latest,
    /// Kernels when the host waits for them, copies and fills as soon as their stream's order
    /// allows.
    LatestKernels,
}

/// What becomes of device memory that nothing has written when it is copied to the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unwritten {
    /// It is filled, and a finding where a kernel has had to do with the allocation.
    Report,
    /// It is filled with bytes that are no number.
    Fill,
    /// It is zero.
    Off,
}

struct Settings {
    streams: Streams,
    unwritten: Unwritten,
    options: LaunchOptions,
    /// In place of the virtual device's own.
    numerics: Option<Numerics>,
}

static SETTINGS: LazyLock<Mutex<Settings>> = LazyLock::new(|| {
    Mutex::new(Settings {
        streams: Streams::Now,
        unwritten: Unwritten::Report,
        options: LaunchOptions::default(),
        numerics: None,
    })
});

fn settings() -> MutexGuard<'static, Settings> {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The settings' names.
pub(super) const NAMES: [&str; 6] = [
    "checks",
    "schedule",
    "copies",
    "numerics",
    "streams",
    "unwritten",
];

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
        ("streams", "now") => settings.streams = Streams::Now,
        ("streams", "latest") => settings.streams = Streams::Latest,
        ("streams", "latest-kernels") => settings.streams = Streams::LatestKernels,
        ("streams", _) => return Err("this is none of now, latest, latest-kernels".to_owned()),
        ("unwritten", "report") => settings.unwritten = Unwritten::Report,
        ("unwritten", "fill") => settings.unwritten = Unwritten::Fill,
        ("unwritten", "off") => settings.unwritten = Unwritten::Off,
        ("unwritten", _) => return Err("this is none of report, fill, off".to_owned()),
        _ => return Err(format!("there is no setting {name}")),
    }
    Ok(())
}

/// What becomes of device memory that nothing has written.
pub(super) fn unwritten() -> Unwritten {
    settings().unwritten
}

/// When streams do their work.
pub(super) fn streams() -> Streams {
    settings().streams
}

/// How the next launch runs, on a device whose tensor cores sum as `numerics` says.
pub(super) fn options(numerics: Numerics) -> LaunchOptions {
    let settings = settings();
    LaunchOptions {
        numerics: settings.numerics.unwrap_or(numerics),
        ..settings.options.clone()
    }
}
