//! A machine without a CUDA driver. This program selects no device, so nothing has loaded the emulated driver.

use lora_kernels::Error;
use lora_kernels::cudarc::driver::sys;

#[test]
fn no_driver_is_an_error_that_says_what_to_do() {
    // SAFETY: loads and closes the driver library, whose initialisers any CUDA program runs.
    let present = unsafe { sys::is_culib_present() };
    match lora_kernels::context(0) {
        Err(error @ Error::NoDriver) => {
            assert!(!present);
            let message = error.to_string();
            assert!(
                message.contains("libcuda") && message.contains("install the NVIDIA driver"),
                "{message}"
            );
        }
        // A real driver, perhaps one without a device.
        Ok(_) | Err(Error::Driver { .. }) => assert!(present),
        Err(error) => panic!("{error}"),
    }
}
