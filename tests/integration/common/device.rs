//! The device that tests run on: the emulated one if there is no GPU.

use std::sync::{Arc, OnceLock};

use lora_kernels::cudarc::driver::CudaStream;
use lora_kernels::{Element, Kernels};
use lora_kernels_test_device::select;

/// An element type that the kernels, cudarc and the reference all support.
pub trait Number: Element + Into<f64> {}

impl<T: Element + Into<f64>> Number for T {}

pub struct Gpu {
    pub stream: Arc<CudaStream>,
    pub kernels: Arc<Kernels>,
}

/// The context shared by all tests of the program.
pub fn gpu() -> &'static Gpu {
    static GPU: OnceLock<Gpu> = OnceLock::new();
    GPU.get_or_init(|| {
        select().expect("a device, real or emulated");
        let context = lora_kernels::context(0).expect("the selected driver has a device");
        let kernels = Arc::new(Kernels::load(&context).expect("the kernels load"));
        Gpu {
            stream: context.default_stream(),
            kernels,
        }
    })
}
