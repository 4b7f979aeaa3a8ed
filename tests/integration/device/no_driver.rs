//! Simulates a machine without a CUDA driver: the test runs again with every file broken that could
//! be a driver.

use lora_kernels::Error;

use crate::common::process;

#[test]
fn no_driver_is_an_error_that_says_what_to_do() {
    if process::is_alone() {
        return assert_that_there_is_no_driver();
    }
    // The loader searches this folder before those of installed drivers, and stops at a file that
    // is not a library.
    let folder = tempfile::tempdir().unwrap();
    for name in ["libcuda.so", "libcuda.so.1"] {
        std::fs::write(folder.path().join(name), "no library").unwrap();
    }
    let test = concat!(
        module_path!(),
        "::no_driver_is_an_error_that_says_what_to_do"
    );
    process::run_again(test, |command| {
        command.env("LD_LIBRARY_PATH", folder.path());
    });
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
