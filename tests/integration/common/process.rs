//! Tests in a process of their own, where they change what belongs to the whole process.

use std::process::Command;

/// Set in the second process.
const ALONE: &str = "LORA_KERNELS_TEST_ALONE";

/// Whether this process runs a single test, for [`run_again`].
pub fn is_alone() -> bool {
    std::env::var_os(ALONE).is_some()
}

/// Runs a test of this program, given by its path, in a second process that `change` may set
/// variables for. Panics with all that it printed unless it passes there.
#[track_caller]
pub fn run_again(test: &str, change: impl FnOnce(&mut Command)) {
    // The harness knows tests by their path without the name of the program.
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

/// Tests each in a process of its own: `alone!(test)` runs `test()` in a second process.
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
