//! Parameter structs and the values of their enums stand twice, in Rust and in CUDA.

use lora_kernels::Kernels;

#[test]
fn host_and_kernels_agree_on_parameters() -> Result<(), Box<dyn std::error::Error>> {
    lora_kernels_test_device::select()?;
    let kernels = Kernels::load(&lora_kernels::context(0)?)?;
    assert_eq!(kernels.layout_check()?, Kernels::expected_layout());
    Ok(())
}
