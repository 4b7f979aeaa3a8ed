//! Memory of the program that it registers, pitched memory, and what a pointer's attributes tell.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::own_context;

#[test]
fn memory_of_the_program_is_registered_once() {
    let _context = own_context();
    let mut bytes = vec![0_u8; 8192];
    let start: *mut c_void = bytes.as_mut_ptr().cast();
    // SAFETY: the memory lives to the end of the test, where it is no longer registered.
    unsafe {
        assert_eq!(
            sys::cuMemHostRegister_v2(start, 4096, 1),
            Code::CUDA_SUCCESS
        );
        let again = sys::cuMemHostRegister_v2(start.byte_add(4095), 10, 0);
        assert_eq!(again, Code::CUDA_ERROR_HOST_MEMORY_ALREADY_REGISTERED);
        let mut flags = 0;
        assert_eq!(
            sys::cuMemHostGetFlags(&mut flags, start),
            Code::CUDA_SUCCESS
        );
        assert_eq!(flags, 1);
        let freed = sys::cuMemFreeHost(start);
        assert_eq!(freed, Code::CUDA_ERROR_INVALID_VALUE, "not the driver's");
        assert_eq!(sys::cuMemHostUnregister(start), Code::CUDA_SUCCESS);
        let again = sys::cuMemHostUnregister(start);
        assert_eq!(again, Code::CUDA_ERROR_HOST_MEMORY_NOT_REGISTERED);
        let none = sys::cuMemHostRegister_v2(start, 0, 0);
        assert_eq!(none, Code::CUDA_ERROR_INVALID_VALUE, "no bytes");
    }
}

#[test]
fn rows_of_pitched_memory_begin_at_multiples() {
    let _context = own_context();
    let (mut address, mut pitch) = (0, 0);
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    // SAFETY: the pointers are valid for the calls.
    unsafe {
        let code = sys::cuMemAllocPitch_v2(&mut address, &mut pitch, 513, 3, 4);
        assert_eq!((code, pitch), (Code::CUDA_SUCCESS, 1024));
        assert_eq!(
            sys::cuMemsetD2D8_v2(address, pitch, 1, 513, 3),
            Code::CUDA_SUCCESS
        );
        let code = sys::cuMemAllocPitch_v2(&mut address, &mut pitch, 513, 3, 5);
        assert_eq!(code, invalid, "elements of 5 bytes");
        let code = sys::cuMemAllocPitch_v2(&mut address, &mut pitch, usize::MAX, 3, 4);
        assert_eq!(code, invalid);
    }
}

#[test]
fn several_attributes_of_a_pointer_are_told_at_once() {
    let _context = own_context();
    let wanted = [
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE,
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_RANGE_SIZE,
        sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL,
    ];
    let (mut kind, mut size, mut ordinal) = (9_u32, 9_u64, 9_i32);
    let mut tell = |address: u64| {
        let mut values = [
            (&raw mut kind).cast::<c_void>(),
            (&raw mut size).cast(),
            (&raw mut ordinal).cast(),
        ];
        // SAFETY: each value has the room of its attribute.
        let code = unsafe {
            let attributes = wanted.as_ptr().cast_mut();
            sys::cuPointerGetAttributes(3, attributes, values.as_mut_ptr(), address)
        };
        assert_eq!(code, Code::CUDA_SUCCESS);
        (kind, size, ordinal)
    };
    // SAFETY: there is a context.
    let address = unsafe { result::malloc_sync(100) }.expect("memory");
    assert_eq!(tell(address + 5), (2, 100, 0));
    let own = [0_u8; 4];
    let unknown = own.as_ptr().expose_provenance() as u64;
    assert_eq!(tell(unknown), (0, 0, -2), "of the program alone");
}

unsafe extern "C" fn count_up(counter: *mut c_void) {
    // SAFETY: the object's pointer is a number that outlives it.
    unsafe { *counter.cast::<u32>() += 1 };
}

#[test]
fn a_user_object_ends_with_its_last_reference() {
    let _context = own_context();
    let mut ended = 0_u32;
    let pointer = (&raw mut ended).cast();
    let (mut object, mut graph) = (null_mut(), null_mut());
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    // SAFETY: pointers are valid for the calls; the number outlives the object.
    unsafe {
        assert_eq!(sys::cuGraphCreate(&mut graph, 0), Code::CUDA_SUCCESS);
        let code = sys::cuUserObjectCreate(&mut object, pointer, Some(count_up), 1, 0);
        assert_eq!(code, invalid, "the flag is required");
        let code = sys::cuUserObjectCreate(&mut object, pointer, Some(count_up), 1, 1);
        assert_eq!(code, Code::CUDA_SUCCESS);
        assert_eq!(sys::cuUserObjectRetain(object, 2), Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuUserObjectRelease(object, 4),
            invalid,
            "more than there are"
        );
        assert_eq!(sys::cuUserObjectRelease(object, 2), Code::CUDA_SUCCESS);
        // The graph takes the last reference over.
        assert_eq!(
            sys::cuGraphRetainUserObject(graph, object, 1, 1),
            Code::CUDA_SUCCESS
        );
        let code = sys::cuGraphRetainUserObject(graph, object, 1, 1);
        assert_eq!(code, invalid, "there is none left to take over");
    }
    assert_eq!(ended, 0);
    // SAFETY: the driver looks handles up.
    assert_eq!(unsafe { sys::cuGraphDestroy(graph) }, Code::CUDA_SUCCESS);
    assert_eq!(ended, 1);
    // SAFETY: as above.
    let code = unsafe { sys::cuUserObjectRetain(object, 1) };
    assert_eq!(code, invalid, "gone");
}
