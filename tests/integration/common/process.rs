//! Runs tests that change process-wide state in a process of their own.

use std::process::Command;

use lora_kernels_test_device::ALONE;

/// The environment variable that chooses the emulated device.
pub const DEVICE: &str = "PTX_EMULATOR_DEVICE";

/// Whether this process was started by [`run_again`] for a single test.
pub fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// Runs the test with this path in a second process, whose environment `change` may set. Panics
/// with the test's output unless it passes there, else returns it.
#[track_caller]
pub fn run_again(test: &str, change: impl FnOnce(&mut Command)) -> String {
    // The harness names tests by their path without the crate.
    let (_program, test) = test.split_once("::").expect("a path");
    run_all_again(&[test], change)
}

/// The same for several tests in one process, by their paths without the crate. Those that change
/// process-wide state must not be among them.
#[track_caller]
pub fn run_all_again(tests: &[&str], change: impl FnOnce(&mut Command)) -> String {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command
        .args(["--exact", "--nocapture"])
        .args(tests)
        .env(ALONE, "1");
    change(&mut command);
    let output = command.output().expect("a second process");
    let [stdout, stderr] =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let all = format!("{} passed", tests.len());
    let passed = output.status.success() && stdout.contains(&all);
    let said = format!("{stdout}\n{stderr}");
    assert!(passed, "{tests:?}, {}:\n{said}", output.status);
    said
}

/// Makes a second process one on a virtual device, whatever this machine has.
pub fn on_device(command: &mut Command, key: &str) {
    command
        .env(lora_kernels_test_device::VARIABLE, "emulated")
        .env(DEVICE, key);
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
