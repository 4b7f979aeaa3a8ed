//! A build without nvcc (LORA_KERNELS_STUB=1) says so when kernels are loaded; a build with it has
//! them all.

use lora_kernels::{Error, Kernels};

#[test]
fn kernels_load_exactly_if_they_were_built() {
    // As the build script takes them: LORA_KERNELS_STUB says yes with 1 alone, DOCS_RS with
    // anything.
    let built = option_env!("LORA_KERNELS_STUB") != Some("1") && option_env!("DOCS_RS").is_none();
    lora_kernels_test_device::select().expect("a device, real or emulated");
    let context = lora_kernels::context(0).expect("the selected driver has a device");
    match Kernels::load(&context) {
        Ok(_) => assert!(built, "kernels from a build that has none"),
        Err(error @ Error::KernelsNotBuilt) => {
            assert!(!built, "{error}");
            assert!(
                error.to_string().contains("build again with nvcc"),
                "{error}"
            );
        }
        Err(error) => panic!("{error}"),
    }
}
