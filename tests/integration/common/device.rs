//! The device that tests run on: the emulated one if there is no GPU.

use std::ffi::{c_int, c_uint, c_void};
use std::sync::{Arc, OnceLock};

use lora_kernels::cudarc::driver::sys::{self, CUcontext, CUdevice, CUresult};
use lora_kernels::cudarc::driver::{CudaContext, CudaStream};
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

/// A second context on the same device.
pub fn second_context() -> Arc<CudaContext> {
    type Create = unsafe extern "C" fn(*mut CUcontext, c_uint, CUdevice) -> CUresult;
    let home = gpu().kernels.context();
    let (mut address, mut context): (*mut c_void, CUcontext) =
        (std::ptr::null_mut(), std::ptr::null_mut());
    // The bindings declare another cuCtxCreate for each version of the headers. Every driver still
    // has the one of CUDA 3.2. SAFETY: the arguments are as the driver API describes them, and
    // cuCtxCreate of version 3.2 has this signature. The new context belongs to nobody else.
    unsafe {
        let status = std::ptr::null_mut();
        sys::cuGetProcAddress_v2(
            c"cuCtxCreate".as_ptr(),
            &mut address,
            3020 as c_int,
            0,
            status,
        )
        .result()
        .expect("the driver creates contexts");
        assert!(!address.is_null());
        let create = std::mem::transmute::<*mut c_void, Create>(address);
        create(&mut context, 0, home.cu_device())
            .result()
            .expect("a second context");
        CudaContext::from_raw_context(home.ordinal(), home.cu_device(), context)
            .expect("a second context")
    }
}
