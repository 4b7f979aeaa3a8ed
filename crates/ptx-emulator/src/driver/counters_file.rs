//! The file that `PTX_EMULATOR_COUNTERS` names. It is there from the first launch on, so that a
//! process that is killed loses a second's launches at most.

use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::Outcome;
use super::abi::{guard, report};
use super::code::Code;
use crate::settings::Found;

struct File {
    /// The variable that named it.
    variable: String,
    path: PathBuf,
    written: Option<Instant>,
}

static FILE: Mutex<Option<File>> = Mutex::new(None);

/// A launch that comes sooner after the last writing waits for a later one: the file has every
/// launch so far.
const INTERVAL: Duration = Duration::from_secs(1);

/// Takes the path, and has the file written at the end of the process, too.
pub(super) fn open(found: Found) -> Outcome {
    let Found { variable, value } = found;
    let message = format!("{variable}: no room to call anything at the end of the process");
    *FILE.lock().unwrap_or_else(PoisonError::into_inner) = Some(File {
        variable,
        path: value.into(),
        written: None,
    });
    // SAFETY: `at_exit` is a function without arguments, and this library is never unloaded.
    if unsafe { libc::atexit(at_exit) } != 0 {
        report(format_args!("{message}"));
        return Err(Code::NO_DEVICE);
    }
    Ok(())
}

extern "C" fn at_exit() {
    // A panic must not cross into C; one here is reported by `guard`.
    guard("the writing of counters", || {
        write(true);
        Ok(())
    });
}

/// Writes the counters as they are: at once, or if the last time was a while ago.
pub(super) fn write(now: bool) {
    let mut file = FILE.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(file) = file.as_mut() else {
        return;
    };
    if !now
        && file
            .written
            .is_some_and(|written| written.elapsed() < INTERVAL)
    {
        return;
    }
    let Ok(text) = super::counters::json() else {
        return;
    };
    if let Err(error) = replace(&file.path, &text) {
        report(format_args!(
            "{}={}: {error}",
            file.variable,
            file.path.display()
        ));
    }
    file.written = Some(Instant::now());
}

/// Whoever reads meanwhile, or after a crash, finds a whole document. What is no ordinary file,
/// such as a pipe, is written to.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    if std::fs::metadata(path).is_ok_and(|known| !known.is_file()) {
        return std::fs::write(path, text);
    }
    let mut partial = path.as_os_str().to_owned();
    partial.push(".partial");
    std::fs::write(&partial, text)?;
    std::fs::rename(&partial, path)
}
