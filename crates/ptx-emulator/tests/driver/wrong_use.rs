//! Wrong use of the driver gives the code that the CUDA documentation names, and never a crash.

use std::ffi::{CString, c_void};
use std::ptr::{null, null_mut, without_provenance_mut};
use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, cudaError_enum as Code};
use cudarc::driver::{CudaContext, sys};
use ptx_emulator::select::emulated;

const PTX: &str = include_str!("../fixtures/driver.ptx");
const CUBIN: &[u8] = include_bytes!("../fixtures/driver.cubin");

fn context() -> Arc<CudaContext> {
    emulated().expect("the emulated driver");
    let context = CudaContext::new(0).expect("a device");
    context.bind_to_thread().expect("a context");
    context
}

fn load(image: &[u8]) -> Result<sys::CUmodule, Code> {
    let mut module = null_mut();
    let image: Vec<u8> = image.iter().copied().chain([0]).collect();
    // SAFETY: the image is terminated, or carries its size.
    match unsafe { sys::cuModuleLoadData(&mut module, image.as_ptr().cast()) } {
        Code::CUDA_SUCCESS => Ok(module),
        code => Err(code),
    }
}

fn function(module: sys::CUmodule, name: &str) -> Result<sys::CUfunction, Code> {
    let (name, mut function) = (CString::new(name).expect("a name"), null_mut());
    // SAFETY: the pointers are valid for the call.
    match unsafe { sys::cuModuleGetFunction(&mut function, module, name.as_ptr()) } {
        Code::CUDA_SUCCESS => Ok(function),
        code => Err(code),
    }
}

fn kernel(name: &str) -> sys::CUfunction {
    function(load(PTX.as_bytes()).expect("a module"), name).expect("a kernel")
}

/// Launches with a block of `threads` and parameters that are all zero.
fn launch(
    function: sys::CUfunction,
    grid: u32,
    threads: u32,
    shared: u32,
    stream: sys::CUstream,
) -> Code {
    let mut zero = [0_u64; 8];
    let mut parameters = [(&raw mut zero).cast::<c_void>(); 8];
    // SAFETY: there are enough parameters, each large enough, for every kernel of the fixture.
    unsafe {
        sys::cuLaunchKernel(
            function,
            grid,
            1,
            1,
            threads,
            1,
            1,
            shared,
            stream,
            parameters.as_mut_ptr(),
            null_mut(),
        )
    }
}

fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuStreamCreate(&mut stream, 0) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    stream
}

#[test]
fn handles_that_are_not_live_are_refused() {
    let _context = context();
    let live = stream();
    // SAFETY: the driver looks handles up and never follows them.
    unsafe {
        let wild = without_provenance_mut(0xdead_beef);
        assert_eq!(
            sys::cuStreamSynchronize(wild),
            Code::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            sys::cuEventRecord(wild.cast(), live),
            Code::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            sys::cuEventSynchronize(live.cast()),
            Code::CUDA_ERROR_INVALID_HANDLE,
            "a stream is no event"
        );
        let mut event = null_mut();
        assert_eq!(sys::cuEventCreate(&mut event, 0), Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuStreamWaitEvent(wild, event, 0),
            Code::CUDA_ERROR_INVALID_HANDLE,
            "also for an event that was never recorded"
        );
        assert_eq!(
            sys::cuModuleUnload(wild.cast()),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            launch(wild.cast(), 1, 1, 0, live),
            Code::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(
            launch(kernel("add"), 1, 1, 0, wild),
            Code::CUDA_ERROR_INVALID_HANDLE
        );
        assert_eq!(sys::cuStreamDestroy_v2(live), Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuStreamDestroy_v2(live),
            Code::CUDA_ERROR_INVALID_HANDLE,
            "destroyed twice"
        );
        assert_eq!(
            sys::cuGraphLaunch(wild.cast(), null_mut()),
            Code::CUDA_ERROR_INVALID_VALUE
        );
    }
}

#[test]
fn null_and_nonsense_arguments_are_refused() {
    let _context = context();
    let mut value = 0;
    // SAFETY: null is checked before use.
    unsafe {
        assert_eq!(
            sys::cuMemAlloc_v2(null_mut(), 16),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuStreamCreate(null_mut(), 0),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuModuleLoadData(&mut null_mut(), null()),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuDeviceGet(&mut value, 1),
            Code::CUDA_ERROR_INVALID_DEVICE
        );
        assert_eq!(sys::cuInit(1), Code::CUDA_ERROR_INVALID_VALUE);
        let none = std::mem::transmute::<u32, CUdevice_attribute>(148);
        assert_eq!(
            sys::cuDeviceGetAttribute(&mut value, none, 0),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuCtxSetCurrent(without_provenance_mut(0x1230)),
            Code::CUDA_ERROR_INVALID_CONTEXT
        );
    }
}

#[test]
fn memory_calls_are_held_to_allocations() {
    let _context = context();
    let (mut address, mut bytes) = (0, [0_u8; 64]);
    // SAFETY: host pointers are valid; device addresses are what is tested.
    unsafe {
        assert_eq!(
            sys::cuMemAlloc_v2(&mut address, 0),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemAlloc_v2(&mut address, 1 << 50),
            Code::CUDA_ERROR_OUT_OF_MEMORY
        );
        assert_eq!(sys::cuMemAlloc_v2(&mut address, 60), Code::CUDA_SUCCESS);
        let to = bytes.as_mut_ptr().cast();
        assert_eq!(
            sys::cuMemcpyDtoH_v2(to, address, 64),
            Code::CUDA_ERROR_INVALID_VALUE,
            "past the end"
        );
        assert_eq!(
            sys::cuMemcpyDtoH_v2(to, address - 1, 4),
            Code::CUDA_ERROR_INVALID_VALUE,
            "before the start"
        );
        assert_eq!(
            sys::cuMemcpyHtoD_v2(address, null(), 4),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuMemsetD32_v2(address + 2, 1, 1),
            Code::CUDA_ERROR_INVALID_VALUE,
            "misaligned"
        );
        assert_eq!(
            sys::cuMemFree_v2(address + 16),
            Code::CUDA_ERROR_INVALID_VALUE,
            "not the start"
        );
        assert_eq!(sys::cuMemFree_v2(address), Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuMemFree_v2(address),
            Code::CUDA_ERROR_INVALID_VALUE,
            "freed twice"
        );
        assert_eq!(
            sys::cuMemsetD8_v2(address, 0, 1),
            Code::CUDA_ERROR_INVALID_VALUE,
            "use after free"
        );
        assert_eq!(sys::cuMemFreeHost(to), Code::CUDA_ERROR_INVALID_VALUE);
        let code = sys::cuMemAllocManaged(&mut address, 64, 1);
        assert_eq!(code, Code::CUDA_ERROR_NOT_SUPPORTED);
    }
}

#[test]
fn calls_without_a_context_are_refused() {
    let _context = context();
    // A thread of its own has no current context.
    std::thread::spawn(|| {
        let mut address = 0;
        // SAFETY: the pointer is valid for the call.
        unsafe {
            assert_eq!(
                sys::cuMemAlloc_v2(&mut address, 16),
                Code::CUDA_ERROR_INVALID_CONTEXT
            );
            assert_eq!(sys::cuCtxSynchronize(), Code::CUDA_ERROR_INVALID_CONTEXT);
            assert_eq!(
                sys::cuCtxPopCurrent_v2(&mut null_mut()),
                Code::CUDA_ERROR_INVALID_CONTEXT
            );
        }
    })
    .join()
    .expect("the thread's assertions hold");
}

#[test]
fn images_that_can_not_run_are_refused() {
    let _context = context();
    // The header says that more follows than there is; what follows is not read as if it did.
    let whole = include_bytes!("../fixtures/driver.none.fatbin");
    for size in [1_u64 << 40, 1 << 31] {
        let mut endless = whole.to_vec();
        endless[8..16].copy_from_slice(&size.to_le_bytes());
        assert_eq!(load(&endless), Err(Code::CUDA_ERROR_INVALID_IMAGE));
        // Behind the 16 bytes of the first header, the size of what follows the second.
        endless[24..32].copy_from_slice(&size.to_le_bytes());
        assert_eq!(load(&endless), Err(Code::CUDA_ERROR_INVALID_IMAGE));
    }
    assert_eq!(load(CUBIN), Err(Code::CUDA_ERROR_NO_BINARY_FOR_GPU));
    assert_eq!(load(b"not ptx"), Err(Code::CUDA_ERROR_INVALID_PTX));
    assert_eq!(load(b""), Err(Code::CUDA_ERROR_INVALID_PTX));
    assert_eq!(
        load(&[0xff, 0xfe, 0xfd, 0xfc, 0xfb]),
        Err(Code::CUDA_ERROR_INVALID_IMAGE)
    );
    let newer = PTX.replace(".target sm_80", ".target sm_90");
    assert_eq!(load(newer.as_bytes()), Err(Code::CUDA_ERROR_INVALID_PTX));
    let shared = PTX.replace("4tile[512]", "4tile[49153]");
    assert_ne!(shared, PTX);
    assert_eq!(load(shared.as_bytes()), Err(Code::CUDA_ERROR_INVALID_PTX));
    let elsewhere = PTX.replace(".target sm_80", ".target sm_75a");
    assert_eq!(
        load(elsewhere.as_bytes()),
        Err(Code::CUDA_ERROR_INVALID_PTX)
    );
    let module = load(PTX.as_bytes()).expect("a module");
    assert_eq!(
        function(module, "subtract"),
        Err(Code::CUDA_ERROR_NOT_FOUND)
    );
}

#[test]
fn a_refused_module_says_why_in_the_log() {
    let _context = context();
    let text = PTX.replacen("add.f32", "add.frobnicate.f32", 1);
    let line = text
        .lines()
        .position(|line| line.contains("frobnicate"))
        .expect("replaced")
        + 1;
    let image = CString::new(text).expect("text");
    let mut log = [0_u8; 256];
    let mut keys = [
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
        sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
    ];
    let mut values = [
        log.as_mut_ptr().cast::<c_void>(),
        without_provenance_mut(log.len()),
    ];
    let mut module = null_mut();
    // SAFETY: the log has the size that the option tells.
    let code = unsafe {
        sys::cuModuleLoadDataEx(
            &mut module,
            image.as_ptr().cast(),
            2,
            keys.as_mut_ptr(),
            values.as_mut_ptr(),
        )
    };
    assert_eq!(code, Code::CUDA_ERROR_INVALID_PTX);
    let message = String::from_utf8_lossy(&log[..values[1].addr()]);
    assert!(
        message.contains("frobnicate") && message.contains(&format!("line {line}")),
        "{message}"
    );
}

#[test]
fn impossible_launches_are_refused() {
    let context = context();
    let (add, reverse) = (kernel("add"), kernel("reverse"));
    assert_eq!(
        launch(add, 1, 1025, 0, null_mut()),
        Code::CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch(add, 1, 0, 0, null_mut()),
        Code::CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch(add, 0, 32, 0, null_mut()),
        Code::CUDA_ERROR_INVALID_VALUE
    );
    assert_eq!(
        launch(reverse, 1, 256, 0, null_mut()),
        Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES
    );
    assert_eq!(
        launch(add, 1, 32, 48 * 1024 + 1, null_mut()),
        Code::CUDA_ERROR_INVALID_VALUE
    );
    // SAFETY: missing parameters are what is tested.
    unsafe {
        let code =
            sys::cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, null_mut(), null_mut(), null_mut());
        assert_eq!(code, Code::CUDA_ERROR_INVALID_VALUE);
        let mut null_parameter = [null_mut::<c_void>(); 4];
        let parameters = null_parameter.as_mut_ptr();
        let code =
            sys::cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, null_mut(), parameters, null_mut());
        assert_eq!(code, Code::CUDA_ERROR_INVALID_VALUE);
        // As one buffer, parameters have a size that can be checked: `add` takes 28 bytes, 32 with
        // a C structure's padding.
        let buffer = [0_u8; 64];
        for (size, expected) in [
            (27, Code::CUDA_ERROR_INVALID_VALUE),
            (28, Code::CUDA_SUCCESS),
            (32, Code::CUDA_SUCCESS),
            (36, Code::CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES),
        ] {
            let mut size: usize = size;
            let mut extra = [
                without_provenance_mut(1),
                buffer.as_ptr().cast_mut().cast(),
                without_provenance_mut(2),
                (&raw mut size).cast::<c_void>(),
                null_mut(),
            ];
            let code = sys::cuLaunchKernel(
                add,
                1,
                1,
                1,
                1,
                1,
                1,
                0,
                null_mut(),
                null_mut(),
                extra.as_mut_ptr(),
            );
            assert_eq!(code, expected, "{size} bytes");
        }
        // Two blocks of 1024 threads fit on each of 108 multiprocessors.
        let mut zero = [0_u64; 4];
        let mut parameters = [(&raw mut zero).cast::<c_void>(); 4];
        let mut cooperative = |grid| {
            sys::cuLaunchCooperativeKernel(
                add,
                grid,
                1,
                1,
                1024,
                1,
                1,
                0,
                null_mut(),
                parameters.as_mut_ptr(),
            )
        };
        assert_eq!(
            cooperative(217),
            Code::CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE
        );
        assert_eq!(cooperative(216), Code::CUDA_SUCCESS);
    }
    context
        .synchronize()
        .expect("a refused launch leaves the context working");
}

#[test]
fn shared_memory_is_held_to_the_devices_limit() {
    let _context = context();
    let reverse = kernel("reverse_dynamic");
    let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    // SAFETY: the handle is live.
    unsafe {
        assert_eq!(
            sys::cuFuncSetAttribute(reverse, limit, 163 * 1024 + 1),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            sys::cuFuncSetAttribute(reverse, limit, -1),
            Code::CUDA_ERROR_INVALID_VALUE
        );
        assert_eq!(
            launch(reverse, 1, 32, 64 * 1024, null_mut()),
            Code::CUDA_ERROR_INVALID_VALUE,
            "not raised yet"
        );
        assert_eq!(
            sys::cuFuncSetAttribute(reverse, limit, 163 * 1024),
            Code::CUDA_SUCCESS
        );
        assert_eq!(
            launch(reverse, 1, 32, 64 * 1024, null_mut()),
            Code::CUDA_SUCCESS
        );
    }
}

#[test]
fn a_register_count_is_not_made_up() {
    let _context = context();
    let registers = CUfunction_attribute::CU_FUNC_ATTRIBUTE_NUM_REGS;
    // SAFETY: the pointers are valid for the call.
    let code = unsafe { sys::cuFuncGetAttribute(&mut 0, registers, kernel("add")) };
    assert_eq!(code, Code::CUDA_ERROR_NOT_SUPPORTED);
}

#[test]
fn clusters_are_refused() {
    let _context = context();
    let mut zero = [0_u64; 4];
    let mut parameters = [(&raw mut zero).cast::<c_void>(); 4];
    let mut launch = |cluster: [u32; 3]| {
        // SAFETY: all-zero is a valid value of these C structures; the attribute outlives the call.
        unsafe {
            let mut attribute: sys::CUlaunchAttribute = std::mem::zeroed();
            attribute.id = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
            attribute.value.clusterDim.x = cluster[0];
            attribute.value.clusterDim.y = cluster[1];
            attribute.value.clusterDim.z = cluster[2];
            let mut config: sys::CUlaunchConfig = std::mem::zeroed();
            (config.gridDimX, config.gridDimY, config.gridDimZ) = (4, 1, 1);
            (config.blockDimX, config.blockDimY, config.blockDimZ) = (32, 1, 1);
            (config.attrs, config.numAttrs) = (&mut attribute, 1);
            sys::cuLaunchKernelEx(&config, kernel("add"), parameters.as_mut_ptr(), null_mut())
        }
    };
    assert_eq!(launch([2, 1, 1]), Code::CUDA_ERROR_NOT_SUPPORTED);
    assert_eq!(launch([0, 1, 1]), Code::CUDA_ERROR_INVALID_VALUE);
    assert_eq!(launch([1, 1, 1]), Code::CUDA_SUCCESS);
}
