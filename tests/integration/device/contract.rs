//! The host's idea of the kernels against the kernels: parameter layouts and tile constants stand
//! twice, in Rust and in CUDA.

use lora_kernels::Kernels;

#[test]
fn host_and_kernels_agree_on_parameters_and_tiles() -> Result<(), Box<dyn std::error::Error>> {
    lora_kernels_test_device::select()?;
    let kernels = Kernels::load(&lora_kernels::context(0)?)?;
    assert_eq!(kernels.contract()?, Kernels::expected_contract());
    Ok(())
}
