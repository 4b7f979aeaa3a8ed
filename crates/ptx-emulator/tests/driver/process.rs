//! What keeps tests apart: a context or a process that no other test shares.

use std::process::Command;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};
use ptx_emulator::select::emulated;

/// Tells a process that it was started by [`run`], and which case it is to run.
pub const CASE: &str = "CASE";

pub fn own_context() -> Arc<CudaContext> {
    emulated().expect("the emulated driver");
    result::init().expect("the driver");
    let mut context = std::ptr::null_mut();
    // SAFETY: a new context, which is handed over at once.
    unsafe {
        sys::cuCtxCreate_v4(&mut context, std::ptr::null_mut(), 0, 0)
            .result()
            .expect("a context");
        CudaContext::from_raw_context(0, 0, context).expect("a context")
    }
}

/// This program again, with one test to run, a case for it and the given variables. None of the
/// emulator's own variables is passed on. Whether it succeeded, and what it printed.
pub fn run(test: &str, case: &str, variables: &[(&str, &str)]) -> (bool, String) {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(CASE, case);
    for (name, _) in std::env::vars_os() {
        let own = ["PTX_EMULATOR", "LORA_EMULATOR"];
        if own
            .iter()
            .any(|start| name.to_string_lossy().starts_with(start))
        {
            command.env_remove(name);
        }
    }
    let output = command
        .envs(variables.iter().copied())
        .output()
        .expect("a process");
    let text =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    (output.status.success(), text.concat())
}

/// The case that this process was started for.
pub fn case() -> Option<String> {
    std::env::var(CASE).ok()
}

/// If this process was started for one of these cases, runs it in a context of its own: true.
pub fn ran_case(cases: &[(&str, fn())]) -> bool {
    let Some(wanted) = case() else { return false };
    let found = cases.iter().find(|(name, _)| *name == wanted);
    let (_, body) = found.expect("a case");
    let _context = own_context();
    body();
    true
}

/// Runs a test's body in a process of its own; `test` is the test's whole name.
#[track_caller]
pub fn alone(test: &str, body: impl FnOnce()) {
    if case().is_some() {
        return body();
    }
    let (success, output) = run(test, "alone", &[]);
    assert!(success && output.contains("1 passed"), "{output}");
}
