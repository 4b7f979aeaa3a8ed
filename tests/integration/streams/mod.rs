//! What safe programs may do with streams, contexts, threads and captures. The emulated GPU's
//! streams are late here: work is done when the host waits for it, and memory is freed as soon as
//! its stream's order allows. So a missing wait is a wrong number or a fault in every run.

#![forbid(unsafe_code)]

mod calls;
mod captures;
mod kept_errors;
mod table;

use std::process::Command;

use crate::common::process::{is_alone, run_again};

/// Runs a test twice, each time in a process of its own: with all work late, and with kernels late
/// but copies early.
#[track_caller]
fn run_late(test: &str, body: fn()) {
    if is_alone() {
        return body();
    }
    for streams in ["latest", "latest-kernels"] {
        run_again(test, |command: &mut Command| {
            command
                .env(lora_kernels_test_device::VARIABLE, "emulated")
                .env("PTX_EMULATOR_STREAMS", streams);
        });
    }
}

macro_rules! late {
    ($($test:ident),+ $(,)?) => {
        mod late {
            $(#[test] fn $test() {
                let test = concat!(module_path!(), "::", stringify!($test));
                $crate::streams::run_late(test, super::$test);
            })+
        }
    };
}
use late;
