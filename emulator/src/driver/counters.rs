//! Counters and sampling as a program sees them: two environment variables, three entry points beside the driver's, and a file
//! at the end of the process. All threads and contexts share the settings.

use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Outcome;
use super::abi::{Name, Out, guard, report};
use super::code::Code;
use super::running;
use super::state::{Driver, driver};
use crate::counters::{self, Counters};
use crate::exec::count::KernelCounters;
use crate::exec::{Blocks, LaunchOptions, LaunchReport};

struct Settings {
    count: bool,
    blocks: Blocks,
    /// Where the counters go at the end of the process.
    path: Option<PathBuf>,
    kernels: Vec<KernelCounters>,
}

static SETTINGS: Mutex<Settings> = Mutex::new(Settings {
    count: false,
    blocks: Blocks::All,
    path: None,
    kernels: Vec::new(),
});

fn settings() -> MutexGuard<'static, Settings> {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes `LORA_EMULATOR_COUNTERS` and `LORA_EMULATOR_BLOCKS`.
pub(super) fn configure(path: Option<String>, blocks: Option<String>) -> Outcome {
    let mut settings = settings();
    if let Some(text) = blocks {
        settings.blocks = text.parse().map_err(|error| {
            report(format_args!("LORA_EMULATOR_BLOCKS: {error}"));
            Code::NO_DEVICE
        })?;
    }
    if let Some(path) = path {
        settings.count = true;
        settings.path = Some(path.into());
        // SAFETY: `at_exit` is a function without arguments, and this library is never unloaded.
        if unsafe { libc::atexit(at_exit) } != 0 {
            report(format_args!(
                "LORA_EMULATOR_COUNTERS: no room to call anything at the end of the process"
            ));
            return Err(Code::NO_DEVICE);
        }
    }
    Ok(())
}

extern "C" fn at_exit() {
    // A panic must not cross into C; one here is reported by `guard`.
    guard("the writing of counters", || {
        let Some(path) = settings().path.clone() else {
            return Ok(());
        };
        let text = json()?;
        std::fs::write(&path, text).map_err(|error| {
            report(format_args!("LORA_EMULATOR_COUNTERS={}: {error}", path.display()));
            Code::UNKNOWN
        })
    });
}

/// How the next launch is run. A cooperative one waits for all of its blocks, so it can't be run in part.
pub(super) fn options(driver: &Driver, cooperative: bool) -> Outcome<LaunchOptions> {
    let settings = settings();
    if cooperative && !matches!(settings.blocks, Blocks::All | Blocks::None) {
        report(format_args!(
            "a cooperative launch can't run the blocks {} alone: all or none",
            settings.blocks
        ));
        return Err(Code::NOT_SUPPORTED);
    }
    Ok(LaunchOptions {
        blocks: settings.blocks.clone(),
        count: settings.count,
        ..running::options(driver.model.tensor_core)
    })
}

/// Keeps what a launch counted.
pub(super) fn record(done: &LaunchReport) {
    let Some(counters) = &done.counters else {
        return;
    };
    let mut settings = settings();
    let same = |known: &&mut KernelCounters| {
        (&known.kernel, known.grid, known.block, known.dynamic_shared)
            == (&counters.kernel, counters.grid, counters.block, counters.dynamic_shared)
    };
    match settings.kernels.iter_mut().find(same) {
        Some(known) => known.merge(counters),
        None => settings.kernels.push((**counters).clone()),
    }
}

fn json() -> Outcome<String> {
    let (device, kernels) = (driver()?.model.key.to_owned(), settings().kernels.clone());
    let counters = Counters {
        schema: counters::SCHEMA,
        device,
        kernels,
    };
    counters.to_json().map_err(|error| {
        report(format_args!("counters as JSON: {error}"));
        Code::UNKNOWN
    })
}

fn set(name: &str, value: &str) -> Outcome {
    let refuse = |what: &dyn std::fmt::Display| {
        report(format_args!("{name}={value}: {what}"));
        Err(Code::INVALID_VALUE)
    };
    match (name, value) {
        ("counters", "on") => settings().count = true,
        ("counters", "off") => settings().count = false,
        ("counters", _) => return refuse(&"on or off is wanted"),
        ("blocks", _) => match value.parse() {
            Ok(blocks) => settings().blocks = blocks,
            Err(error) => return refuse(&error),
        },
        _ if running::NAMES.contains(&name) => {
            if let Err(error) = running::set(name, value) {
                return refuse(&error);
            }
        }
        _ => {
            return refuse(&format_args!(
                "the settings are counters, blocks, {}",
                running::NAMES.join(", ")
            ));
        }
    }
    Ok(())
}

/// Changes a setting for later launches: `counters` to `on` or `off`; `blocks`, `checks`, `schedule`, `copies` and `numerics` to what the
/// variable of that name takes, `numerics` also to `device`.
#[unsafe(no_mangle)]
pub extern "C" fn lora_emulator_set(name: Name, value: Name) -> u32 {
    guard("lora_emulator_set", || set(name.get()?, value.get()?))
}

/// Forgets what was counted.
#[unsafe(no_mangle)]
pub extern "C" fn lora_emulator_counters_reset() -> u32 {
    guard("lora_emulator_counters_reset", || {
        settings().kernels.clear();
        Ok(())
    })
}

/// Stores the length of the counters' JSON in `length`, and the text itself in `text` if it has room for it.
#[unsafe(no_mangle)]
pub extern "C" fn lora_emulator_counters_json(text: Out<u8>, capacity: usize, length: Out<usize>) -> u32 {
    guard("lora_emulator_counters_json", || {
        let json = json()?;
        length.set(json.len())?;
        if capacity >= json.len() && !text.is_null() {
            text.set_all(json.as_bytes())?;
        }
        Ok(())
    })
}
