//! A kernel's fault: the call's error code, and a context that stays broken. Each test has a
//! context of its own.

use std::sync::Arc;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{CudaContext, DriverError, LaunchConfig, PushKernelArg};
use cudarc::nvrtc::Ptx;

use super::process::own_context;

const PTX: &str = include_str!("../fixtures/driver.ptx");

fn run(
    context: &Arc<CudaContext>,
    kernel: &str,
    words: usize,
    offset: usize,
) -> Result<Vec<i32>, DriverError> {
    let stream = context.default_stream();
    let module = context.load_module(Ptx::from_src(PTX))?;
    let mut memory = stream.alloc_zeros::<u8>(4 * words + offset)?;
    let mut view = memory.slice_mut(offset..);
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (4, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: both kernels used here take one pointer; what they do with it is what is tested.
    unsafe {
        stream
            .launch_builder(&module.load_function(kernel)?)
            .arg(&mut view)
            .launch(config)
    }?;
    stream.synchronize()?;
    let bytes = stream.clone_dtoh(&view)?;
    Ok(bytes
        .chunks_exact(4)
        .map(|word| i32::from_le_bytes(word.try_into().expect("four bytes")))
        .collect())
}

#[test]
fn a_stray_store_is_an_illegal_address_and_breaks_the_context() {
    let (broken, other) = (own_context(), own_context());
    let fault = Err(DriverError(Code::CUDA_ERROR_ILLEGAL_ADDRESS));
    assert_eq!(run(&broken, "stray", 4, 0), fault);
    // Nothing works in this context any more, and everything in the other.
    assert_eq!(run(&broken, "globals", 4, 0), fault);
    assert_eq!(
        broken.synchronize().map_err(|error| error.0),
        Err(Code::CUDA_ERROR_ILLEGAL_ADDRESS)
    );
    assert_eq!(run(&other, "globals", 4, 0), Ok(vec![10, 8, 11, 8]));
}

#[test]
fn a_misaligned_store_has_its_own_code() {
    let error = run(&own_context(), "globals", 5, 2).map_err(|error| error.0);
    assert_eq!(error, Err(Code::CUDA_ERROR_MISALIGNED_ADDRESS));
}
