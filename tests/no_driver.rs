//! A machine without a CUDA driver, whatever this one has: a second run of this program, in which
//! every file that could be one is broken.

#[path = "common/scratch.rs"]
mod scratch;

use std::process::Command;

use lora_kernels::Error;

/// Set in the second run.
const SECOND_RUN: &str = "LORA_KERNELS_TEST_WITHOUT_DRIVER";

#[test]
fn no_driver_is_an_error_that_says_what_to_do() {
    if std::env::var_os(SECOND_RUN).is_some() {
        return assert_that_there_is_no_driver();
    }
    // The loader looks here before it looks where drivers are installed, and a file that is no
    // library ends its search.
    let folder = scratch::scratch().join("no_driver");
    std::fs::create_dir_all(&folder).unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(folder.join(name), "no library").unwrap();
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "no_driver_is_an_error_that_says_what_to_do",
            "--nocapture",
        ])
        .env("LD_LIBRARY_PATH", &folder)
        .env(SECOND_RUN, "1")
        .output()
        .unwrap();
    let (stdout, stderr) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    assert!(output.status.success(), "{stdout}\n{stderr}");
    assert!(
        stdout.contains("1 passed"),
        "the second run ran nothing:\n{stdout}"
    );
}

fn assert_that_there_is_no_driver() {
    let error = match lora_kernels::context(0) {
        Ok(_) => panic!("a context without a driver"),
        Err(error) => error,
    };
    assert!(matches!(error, Error::NoDriver), "{error:?}");
    let message = error.to_string();
    assert!(
        message.contains("libcuda") && message.contains("install the NVIDIA driver"),
        "{message}"
    );
}
