//! Loading kernels fails with a clear error in a build without nvcc (LORA_KERNELS_STUB=1), and
//! finds every kernel in a build with nvcc.

use lora_kernels::{Error, Kernels};

#[test]
fn kernels_load_exactly_if_they_were_built() {
    // The build script's rule: LORA_KERNELS_STUB must be 1, DOCS_RS may be anything.
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
