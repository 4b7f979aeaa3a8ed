//! Libraries and their kernels, which belong to no context.

use std::ffi::{CStr, CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::own_context;

const PTX: &str = include_str!("../fixtures/driver.ptx");
const FATBIN: &[u8] = include_bytes!("../fixtures/driver.size.fatbin");
const N: usize = 128;
const INVALID_HANDLE: Code = Code::CUDA_ERROR_INVALID_HANDLE;

fn load(image: *const c_void) -> sys::CUlibrary {
    let mut library = null_mut();
    // SAFETY: the image is whole, and there are no options.
    let code = unsafe {
        let none = null_mut();
        sys::cuLibraryLoadData(
            &mut library,
            image,
            none,
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            0,
        )
    };
    assert_eq!(code, Code::CUDA_SUCCESS);
    library
}

fn kernel(library: sys::CUlibrary, name: &CStr) -> Result<sys::CUkernel, Code> {
    let mut kernel = null_mut();
    // SAFETY: the pointers are valid for the call.
    match unsafe { sys::cuLibraryGetKernel(&mut kernel, library, name.as_ptr()) } {
        Code::CUDA_SUCCESS => Ok(kernel),
        code => Err(code),
    }
}

/// Launches `reverse` by a kernel in place of a function, and gives the buffer's first value.
fn reverse(kernel: sys::CUkernel) -> i32 {
    let values: Vec<i32> = (0..N as i32).collect();
    let mut found = vec![0; N];
    // SAFETY: the memory has what is copied, and the parameters are the kernel's.
    unsafe {
        let mut address = result::malloc_sync(4 * N).expect("memory");
        result::memcpy_htod_sync(address, &values).expect("a copy");
        let mut parameters = [(&raw mut address).cast::<c_void>()];
        let (parameters, none) = (parameters.as_mut_ptr(), null_mut());
        let (own, n) = (null_mut(), N as u32);
        let code = sys::cuLaunchKernel(kernel.cast(), 1, 1, 1, n, 1, 1, 0, own, parameters, none);
        assert_eq!(code, Code::CUDA_SUCCESS);
        result::memcpy_dtoh_sync(&mut found, address).expect("a copy");
    }
    found[0]
}

#[test]
fn a_kernel_is_launched_in_the_context_that_is_current() {
    let _first = own_context();
    let text = CString::new(PTX).expect("text");
    for image in [text.as_ptr().cast(), FATBIN.as_ptr().cast()] {
        let library = load(image);
        let reversed = kernel(library, c"reverse").expect("a kernel");
        assert_eq!(kernel(library, c"reverse"), Ok(reversed), "asked twice");
        assert_eq!(reverse(reversed), N as i32 - 1);
        let _second = own_context();
        assert_eq!(reverse(reversed), N as i32 - 1);
    }
}

/// `__fatBinC_Wrapper_t`, as nvcc puts it before the fatbin of a program.
#[repr(C)]
struct Wrapper {
    magic: u32,
    version: u32,
    data: *const c_void,
    file: *const c_void,
}

#[test]
fn the_wrapper_of_a_program_s_fatbin_is_taken() {
    let _context = own_context();
    let wrapper = Wrapper {
        magic: 0x4662_43b1,
        version: 1,
        data: FATBIN.as_ptr().cast(),
        file: null_mut(),
    };
    let library = load((&raw const wrapper).cast());
    let reversed = kernel(library, c"reverse").expect("a kernel");
    assert_eq!(reverse(reversed), N as i32 - 1);
    let empty = Wrapper {
        data: null_mut(),
        ..wrapper
    };
    let mut module = null_mut();
    // SAFETY: the wrapper points nowhere, which is found.
    let code = unsafe { sys::cuModuleLoadData(&mut module, (&raw const empty).cast()) };
    assert_eq!(code, Code::CUDA_ERROR_INVALID_IMAGE);
}

#[test]
fn each_context_has_variables_of_its_own() {
    let first = own_context();
    let library = load(FATBIN.as_ptr().cast());
    let global = || {
        let (mut address, mut bytes) = (0, 0);
        let name = c"accumulator".as_ptr();
        // SAFETY: the pointers are valid for the call.
        let code = unsafe { sys::cuLibraryGetGlobal(&mut address, &mut bytes, library, name) };
        assert_eq!((code, bytes), (Code::CUDA_SUCCESS, 4));
        address
    };
    let address = global();
    let second = own_context();
    assert_ne!(global(), address);
    first.bind_to_thread().expect("a context");
    assert_eq!(global(), address);
    let mut module = null_mut();
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        assert_eq!(
            sys::cuLibraryGetModule(&mut module, library),
            Code::CUDA_SUCCESS
        );
        let module_global = result::module::get_global(module, c"accumulator".to_owned());
        assert_eq!(module_global.map(|(found, _)| found), Ok(address));
        let refused = sys::cuModuleUnload(module);
        assert_eq!(refused, Code::CUDA_ERROR_INVALID_VALUE, "the library's");
    }
    drop(second);
}

#[test]
fn a_library_tells_its_kernels_and_what_they_take() {
    let _context = own_context();
    let library = load(FATBIN.as_ptr().cast());
    let mut count = 0;
    // SAFETY: the pointers are valid for the calls, and the room is as large as said.
    unsafe {
        let code = sys::cuLibraryGetKernelCount(&mut count, library);
        assert_eq!((code, count), (Code::CUDA_SUCCESS, 6));
        let mut kernels = [null_mut(); 6];
        let code = sys::cuLibraryEnumerateKernels(kernels.as_mut_ptr(), 6, library);
        assert_eq!(code, Code::CUDA_SUCCESS);
        let names = kernels.map(|kernel| {
            let mut name = std::ptr::null();
            assert_eq!(sys::cuKernelGetName(&mut name, kernel), Code::CUDA_SUCCESS);
            CStr::from_ptr(name).to_owned()
        });
        assert!(names.contains(&c"reverse_dynamic".to_owned()), "{names:?}");
        let add = kernel(library, c"add").expect("a kernel");
        let (mut offset, mut bytes) = (0, 0);
        let code = sys::cuKernelGetParamInfo(add, 3, &mut offset, &mut bytes);
        assert_eq!((code, offset, bytes), (Code::CUDA_SUCCESS, 24, 4));
        let code = sys::cuKernelGetParamInfo(add, 4, &mut offset, &mut bytes);
        assert_eq!(code, Code::CUDA_ERROR_INVALID_VALUE);
        let mut owner = null_mut();
        assert_eq!(sys::cuKernelGetLibrary(&mut owner, add), Code::CUDA_SUCCESS);
        assert_eq!(owner, library);
    }
}

#[test]
fn attributes_of_a_kernel_hold_in_every_context() {
    let _first = own_context();
    let library = load(FATBIN.as_ptr().cast());
    let dynamic = kernel(library, c"reverse_dynamic").expect("a kernel");
    let most = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    let of_function = || {
        let (mut function, mut value) = (null_mut(), 0);
        // SAFETY: the pointers are valid for the calls.
        unsafe {
            assert_eq!(
                sys::cuKernelGetFunction(&mut function, dynamic),
                Code::CUDA_SUCCESS
            );
            assert_eq!(
                sys::cuFuncGetAttribute(&mut value, most, function),
                Code::CUDA_SUCCESS
            );
        }
        value
    };
    assert_eq!(of_function(), 48 << 10);
    // SAFETY: the driver looks handles up.
    unsafe {
        assert_eq!(
            sys::cuKernelSetAttribute(most, 100 << 10, dynamic, 0),
            Code::CUDA_SUCCESS
        );
        let refused = sys::cuKernelSetAttribute(most, 1 << 20, dynamic, 0);
        assert_eq!(refused, Code::CUDA_ERROR_INVALID_VALUE);
        let refused = sys::cuKernelSetAttribute(most, 0, dynamic, 1);
        assert_eq!(refused, Code::CUDA_ERROR_INVALID_DEVICE);
    }
    assert_eq!(of_function(), 100 << 10);
    let _second = own_context();
    assert_eq!(of_function(), 100 << 10);
}

#[test]
fn libraries_that_are_none_are_refused() {
    let _context = own_context();
    let library = load(FATBIN.as_ptr().cast());
    let reverse = kernel(library, c"reverse").expect("a kernel");
    assert_eq!(kernel(library, c"missing"), Err(Code::CUDA_ERROR_NOT_FOUND));
    // SAFETY: the driver looks handles up; the image is NUL-terminated text.
    unsafe {
        assert_eq!(sys::cuLibraryUnload(library), Code::CUDA_SUCCESS);
        assert_eq!(sys::cuLibraryUnload(library), INVALID_HANDLE);
        assert_eq!(kernel(library, c"reverse"), Err(INVALID_HANDLE));
        let mut function = null_mut();
        assert_eq!(
            sys::cuKernelGetFunction(&mut function, reverse),
            INVALID_HANDLE
        );
        let none = null_mut();
        let code = sys::cuLaunchKernel(
            reverse.cast(),
            1,
            1,
            1,
            128,
            1,
            1,
            0,
            null_mut(),
            none,
            none,
        );
        assert_eq!(code, INVALID_HANDLE, "unloaded");
        let (mut library, text, none) = (
            null_mut(),
            c".version 8.0 .target sm_80 nonsense",
            null_mut(),
        );
        let image = text.as_ptr().cast();
        let code = sys::cuLibraryLoadData(
            &mut library,
            image,
            none,
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            0,
        );
        assert_eq!(code, Code::CUDA_ERROR_INVALID_PTX);
        let path = c"/no/such/library".as_ptr();
        let code = sys::cuLibraryLoadFromFile(
            &mut library,
            path,
            null_mut(),
            null_mut(),
            0,
            null_mut(),
            null_mut(),
            0,
        );
        assert_eq!(code, Code::CUDA_ERROR_FILE_NOT_FOUND);
    }
}
