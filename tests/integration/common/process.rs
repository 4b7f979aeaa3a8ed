//! Runs tests that change process-wide state in a process of their own.

use std::process::Command;

/// The environment variable that is set in the second process.
const ALONE: &str = "LORA_KERNELS_TEST_ALONE";

/// Whether this process was started by [`run_again`] for a single test.
pub fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// Runs the test with this path in a second process, whose environment `change` may set. Panics
/// with the test's output unless it passes there.
#[track_caller]
pub fn run_again(test: &str, change: impl FnOnce(&mut Command)) {
    // The harness names tests by their path without the crate.
    let (_program, test) = test.split_once("::").expect("a path");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", test, "--nocapture"])
        .env(ALONE, "1");
    change(&mut command);
    let output = command.output().expect("a second process");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let passed = output.status.success() && stdout.contains("1 passed");
    assert!(passed, "{test}, {}:\n{stdout}\n{stderr}", output.status);
}

/// Makes a test that runs in a process of its own: `alone!(test)` runs `test()` in a second
/// process.
macro_rules! alone {
    ($($test:ident),+ $(,)?) => {
        mod alone {
            $(#[test] fn $test() {
                if $crate::common::process::is_alone() {
                    super::$test();
                } else {
                    let test = concat!(module_path!(), "::", stringify!($test));
                    $crate::common::process::run_again(test, |_| ());
                }
            })+
        }
    };
}
