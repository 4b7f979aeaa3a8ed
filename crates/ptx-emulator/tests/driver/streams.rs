//! Streams: callbacks, attributes, and the forms of calls whose default stream is the thread's own.

use std::ffi::{CStr, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::{alone, own_context};

fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuStreamCreate(&mut stream, 1) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    stream
}

/// Adds the code that it is called with, and 1, to a number.
unsafe extern "C" fn note(_stream: sys::CUstream, code: sys::CUresult, number: *mut c_void) {
    // SAFETY: the argument is a number that outlives the stream's work.
    unsafe { *number.cast::<u32>() += 1 + code as u32 };
}

#[test]
fn a_callback_comes_behind_the_work_before_it() {
    let _context = own_context();
    let (own, mut called) = (stream(), 0_u32);
    let argument = (&raw mut called).cast();
    // SAFETY: the callback's argument is what it expects; the handles are live.
    unsafe {
        let code = sys::cuStreamAddCallback(own, Some(note), argument, 0);
        assert_eq!(code, Code::CUDA_SUCCESS);
        assert_eq!(sys::cuStreamSynchronize(own), Code::CUDA_SUCCESS);
        assert_eq!(called, 1);
        let code = sys::cuStreamAddCallback(own, Some(note), argument, 1);
        assert_eq!(code, Code::CUDA_ERROR_INVALID_VALUE, "no such flag");
        let code = sys::cuStreamAddCallback(own, None, argument, 0);
        assert_eq!(code, Code::CUDA_ERROR_INVALID_VALUE);
    }
    assert_eq!(called, 1);
}

#[test]
fn attributes_are_kept_and_copied() {
    let _context = own_context();
    let (own, other) = (stream(), stream());
    let priority = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_PRIORITY;
    let cluster = sys::CUlaunchAttributeID_enum::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
    // SAFETY: all-zero is a valid value of this C union; pointers are valid for the calls.
    unsafe {
        let mut value: sys::CUlaunchAttributeValue = std::mem::zeroed();
        value.priority = -3;
        assert_eq!(
            sys::cuStreamSetAttribute(own, priority, &value),
            Code::CUDA_SUCCESS
        );
        assert_eq!(sys::cuStreamCopyAttributes(other, own), Code::CUDA_SUCCESS);
        value.priority = 0;
        assert_eq!(
            sys::cuStreamGetAttribute(other, priority, &mut value),
            Code::CUDA_SUCCESS
        );
        assert_eq!(value.priority, -3);
        let mut told = 0;
        assert_eq!(
            sys::cuStreamGetPriority(other, &mut told),
            Code::CUDA_SUCCESS
        );
        assert_eq!(told, -3);
        value.priority = 7;
        let invalid = Code::CUDA_ERROR_INVALID_VALUE;
        assert_eq!(
            sys::cuStreamSetAttribute(own, priority, &value),
            invalid,
            "none such"
        );
        assert_eq!(
            sys::cuStreamSetAttribute(own, cluster, &value),
            invalid,
            "of kernels"
        );
    }
}

/// Work of the per-thread default stream may be captured nowhere, and waits for no legacy stream:
/// both forms of a copy give the same bytes, but only one is refused while a blocking stream
/// captures.
#[test]
fn a_thread_s_own_default_stream_has_forms_of_its_own() {
    alone(
        "streams::a_thread_s_own_default_stream_has_forms_of_its_own",
        || {
            let _context = own_context();
            type Copy = unsafe extern "C" fn(u64, *const c_void, usize, sys::CUstream) -> u32;
            let form = |name: &CStr, flags: u64| {
                let (mut address, mut status) = (
                    null_mut(),
                    sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS,
                );
                // SAFETY: the pointers are valid for the call; the entry point has this type.
                unsafe {
                    let code = sys::cuGetProcAddress_v2(
                        name.as_ptr(),
                        &mut address,
                        13_000,
                        flags,
                        &mut status,
                    );
                    assert_eq!(code, Code::CUDA_SUCCESS);
                    std::mem::transmute::<*mut c_void, Copy>(address)
                }
            };
            let name = c"cuMemcpyHtoDAsync";
            let (legacy, own) = (form(name, 1), form(name, 2));
            let mut capturing = null_mut();
            // SAFETY: the memory has what is copied; the handles are live.
            unsafe {
                let address = result::malloc_sync(4).expect("memory");
                assert_eq!(sys::cuStreamCreate(&mut capturing, 0), Code::CUDA_SUCCESS);
                let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
                result::stream::begin_capture(capturing, mode).expect("a capture");
                let values = [1_u8, 2, 3, 4];
                let from = values.as_ptr().cast();
                assert_eq!(own(address, from, 4, null_mut()), 0);
                let implicit = Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT as u32;
                assert_eq!(legacy(address, from, 4, null_mut()), implicit);
            }
        },
    );
}

/// The runtime of NVIDIA asks for private tables, which are not here.
#[test]
fn private_tables_are_refused() {
    let _context = own_context();
    let mut table = std::ptr::dangling();
    let id = sys::CUuuid { bytes: [1; 16] };
    // SAFETY: the pointers are valid for the call.
    let code = unsafe { sys::cuGetExportTable(&mut table, &id) };
    assert_eq!(
        (code, table.is_null()),
        (Code::CUDA_ERROR_INVALID_VALUE, true)
    );
}
