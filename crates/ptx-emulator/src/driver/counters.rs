//! Counters, sampling and the DRAM model as a program sees them: environment variables and three
//! entry points beside the driver's. All threads and contexts share the settings.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::Outcome;
use super::abi::{Name, Out, guard, report};
use super::code::Code;
use super::dram::{self, Dram};
use super::state::{Driver, driver};
use super::{counters_file, running};
use crate::counters::{self, Counters};
use crate::exec::count::KernelCounters;
use crate::exec::{Blocks, LaunchOptions};
use crate::settings::{self, Found};

struct Settings {
    count: bool,
    blocks: Blocks,
    dram: Dram,
    kernels: Vec<KernelCounters>,
}

static SETTINGS: Mutex<Settings> = Mutex::new(Settings {
    count: false,
    blocks: Blocks::All,
    dram: Dram::OFF,
    kernels: Vec::new(),
});

fn settings() -> MutexGuard<'static, Settings> {
    SETTINGS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes what the environment says about counters, sampling and the DRAM model.
pub(super) fn configure() -> Outcome {
    for name in ["blocks"].into_iter().chain(dram::NAMES) {
        if let Some(found) = settings::find(name) {
            change(name, &found.value).map_err(|error| refuse(&found, &error))?;
        }
    }
    if let Some(found) = settings::find("counters") {
        settings().count = true;
        counters_file::open(found)?;
    }
    Ok(())
}

/// A variable's value that means nothing: the reason on stderr, and `cuInit` fails.
pub(super) fn refuse(found: &Found, error: &str) -> Code {
    let Found { variable, value } = found;
    report(format_args!("{variable}={value}: {error}"));
    Code::NO_DEVICE
}

/// How the next launch is run. A cooperative one waits for all of its blocks, so it can't be run in
/// part.
pub(super) fn options(driver: &Driver, cooperative: bool) -> Outcome<LaunchOptions> {
    let mut settings = settings();
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
        dram: settings.dram.model(&driver.model),
        cooperative,
        ..running::options(driver.model.tensor_core)
    })
}

/// Keeps what a launch counted.
pub(super) fn record(counters: &KernelCounters) {
    let mut settings = settings();
    let same = |known: &&mut KernelCounters| {
        (&known.kernel, known.grid, known.block, known.dynamic_shared)
            == (
                &counters.kernel,
                counters.grid,
                counters.block,
                counters.dynamic_shared,
            )
    };
    match settings.kernels.iter_mut().find(same) {
        Some(known) => known.merge(counters),
        None => settings.kernels.push(counters.clone()),
    }
    drop(settings);
    counters_file::write(counters.faulted > 0);
}

/// The document as it is now.
pub(super) fn json() -> Outcome<String> {
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

fn change(name: &str, value: &str) -> Result<(), String> {
    let mut settings = settings();
    match (name, value) {
        ("counters", "on") => settings.count = true,
        ("counters", "off") => settings.count = false,
        ("counters", _) => return Err("on or off is wanted".to_owned()),
        ("blocks", _) => settings.blocks = value.parse().map_err(|error| format!("{error}"))?,
        _ if dram::NAMES.contains(&name) => settings.dram.set(name, value)?,
        _ if running::NAMES.contains(&name) => running::set(name, value)?,
        _ => {
            let names = [&["counters", "blocks"][..], &dram::NAMES, &running::NAMES].concat();
            return Err(format!("the settings are {}", names.join(", ")));
        }
    }
    Ok(())
}

/// Changes a setting for later launches: `counters` to `on` or `off`, any other to what the
/// variable of that name takes. `numerics` also takes `device`, and `dram` takes `flush`.
#[unsafe(no_mangle)]
pub extern "C" fn ptx_emulator_set(name: Name, value: Name) -> u32 {
    guard("ptx_emulator_set", || {
        let (name, value) = (name.get()?, value.get()?);
        // What was given before runs under the settings of before.
        if let Ok(driver) = driver() {
            driver.idle();
        }
        change(name, value).map_err(|error| {
            report(format_args!("{name}={value}: {error}"));
            Code::INVALID_VALUE
        })
    })
}

/// Forgets what was counted.
#[unsafe(no_mangle)]
pub extern "C" fn ptx_emulator_counters_reset() -> u32 {
    guard("ptx_emulator_counters_reset", || {
        settings().kernels.clear();
        Ok(())
    })
}

/// Stores the length of the counters' JSON in `length`, and the text itself in `text` if it has
/// room for it.
#[unsafe(no_mangle)]
pub extern "C" fn ptx_emulator_counters_json(
    text: Out<u8>,
    capacity: usize,
    length: Out<usize>,
) -> u32 {
    guard("ptx_emulator_counters_json", || {
        let json = json()?;
        length.set(json.len())?;
        if capacity >= json.len() && !text.is_null() {
            text.set_all(json.as_bytes())?;
        }
        Ok(())
    })
}
