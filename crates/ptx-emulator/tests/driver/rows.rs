//! Copies of rows and of layers of rows, between all kinds of memory.

use std::ffi::c_void;
use std::ptr::null_mut;

use cudarc::driver::sys::CUmemorytype;
use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::own_context;

const INVALID: Code = Code::CUDA_ERROR_INVALID_VALUE;

/// One end of a copy.
#[derive(Clone, Copy)]
struct End {
    kind: CUmemorytype,
    address: u64,
    x: usize,
    y: usize,
    pitch: usize,
}

const HOST: CUmemorytype = CUmemorytype::CU_MEMORYTYPE_HOST;
const DEVICE: CUmemorytype = CUmemorytype::CU_MEMORYTYPE_DEVICE;
const UNIFIED: CUmemorytype = CUmemorytype::CU_MEMORYTYPE_UNIFIED;

impl End {
    fn host_pointer(&self) -> *mut c_void {
        std::ptr::with_exposed_provenance_mut(self.address as usize)
    }
}

fn copy_of(from: End, to: End, width: usize, height: usize) -> sys::CUDA_MEMCPY2D {
    let device = |end: End| if end.kind == HOST { 0 } else { end.address };
    let host = |end: End| {
        if end.kind == HOST {
            end.host_pointer()
        } else {
            null_mut()
        }
    };
    sys::CUDA_MEMCPY2D {
        srcXInBytes: from.x,
        srcY: from.y,
        srcMemoryType: from.kind,
        srcHost: host(from),
        srcDevice: device(from),
        srcArray: null_mut(),
        srcPitch: from.pitch,
        dstXInBytes: to.x,
        dstY: to.y,
        dstMemoryType: to.kind,
        dstHost: host(to),
        dstDevice: device(to),
        dstArray: null_mut(),
        dstPitch: to.pitch,
        WidthInBytes: width,
        Height: height,
    }
}

fn copy(from: End, to: End, width: usize, height: usize) -> Code {
    // SAFETY: each test's ends have the bytes that it copies, or the driver refuses them.
    unsafe { sys::cuMemcpy2D_v2(&copy_of(from, to, width, height)) }
}

fn bytes(count: usize) -> Vec<u8> {
    (0..count).map(|index| index as u8).collect()
}

fn address(bytes: &mut [u8]) -> u64 {
    bytes.as_mut_ptr().expose_provenance() as u64
}

fn device(bytes: &[u8]) -> u64 {
    // SAFETY: the memory has the bytes.
    unsafe {
        let address = result::malloc_sync(bytes.len()).expect("memory");
        result::memcpy_htod_sync(address, bytes).expect("a copy");
        address
    }
}

fn read(address: u64, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    // SAFETY: the memory has the bytes.
    unsafe { result::memcpy_dtoh_sync(&mut bytes, address) }.expect("a copy");
    bytes
}

#[test]
fn rows_go_between_all_kinds_of_memory() {
    let _context = own_context();
    // Three rows of four bytes, from (2, 1) of rows of 10 bytes to (1, 2) of rows of 7.
    let source = bytes(50);
    let mut expected = vec![0xee_u8; 42];
    for row in 0..3 {
        for x in 0..4 {
            expected[(row + 2) * 7 + 1 + x] = source[(row + 1) * 10 + 2 + x];
        }
    }
    for from_kind in [HOST, DEVICE, UNIFIED] {
        for to_kind in [HOST, DEVICE, UNIFIED] {
            let mut host_source = source.clone();
            let mut host_target = vec![0xee_u8; 42];
            let target = device(&host_target);
            let from = match from_kind {
                HOST => address(&mut host_source),
                _ => device(&source),
            };
            let to = if to_kind == HOST {
                address(&mut host_target)
            } else {
                target
            };
            let from = End {
                kind: from_kind,
                address: from,
                x: 2,
                y: 1,
                pitch: 10,
            };
            let to = End {
                kind: to_kind,
                address: to,
                x: 1,
                y: 2,
                pitch: 7,
            };
            assert_eq!(copy(from, to, 4, 3), Code::CUDA_SUCCESS);
            let found = if to_kind == HOST {
                host_target
            } else {
                read(target, 42)
            };
            assert_eq!(found, expected, "{from_kind:?} to {to_kind:?}");
        }
    }
}

#[test]
fn an_asynchronous_copy_takes_its_turn() {
    let context = own_context();
    let (from, to) = (device(&bytes(8)), device(&[0; 8]));
    let own = context.new_stream().expect("a stream");
    let end = |address| End {
        kind: DEVICE,
        address,
        x: 0,
        y: 0,
        pitch: 4,
    };
    let given = copy_of(end(from), end(to), 3, 2);
    // SAFETY: the memory has the bytes; the driver looks the stream up.
    let code = unsafe { sys::cuMemcpy2DAsync_v2(&given, own.cu_stream()) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    own.synchronize().expect("the stream does well");
    assert_eq!(read(to, 8), [0, 1, 2, 0, 4, 5, 6, 0]);
    // SAFETY: as above; the stream is none.
    let code =
        unsafe { sys::cuMemcpy2DAsync_v2(&given, std::ptr::without_provenance_mut(0xdead_bee0)) };
    assert_eq!(code, Code::CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: as above.
    let code = unsafe { sys::cuMemcpy2DUnaligned_v2(&given) };
    assert_eq!(code, Code::CUDA_SUCCESS);
}

#[test]
fn layers_of_rows_are_copied() {
    let _context = own_context();
    let mut source = bytes(60);
    let to = device(&[0; 8]);
    let mut given = sys::CUDA_MEMCPY3D {
        srcXInBytes: 1,
        srcY: 2,
        srcZ: 1,
        srcLOD: 0,
        srcMemoryType: HOST,
        srcHost: source.as_mut_ptr().cast(),
        srcDevice: 0,
        srcArray: null_mut(),
        reserved0: null_mut(),
        srcPitch: 5,
        srcHeight: 4,
        dstXInBytes: 0,
        dstY: 0,
        dstZ: 0,
        dstLOD: 0,
        dstMemoryType: DEVICE,
        dstHost: null_mut(),
        dstDevice: to,
        dstArray: null_mut(),
        reserved1: null_mut(),
        dstPitch: 2,
        dstHeight: 2,
        WidthInBytes: 2,
        Height: 2,
        Depth: 2,
    };
    // SAFETY: both ends have what is copied.
    assert_eq!(unsafe { sys::cuMemcpy3D_v2(&given) }, Code::CUDA_SUCCESS);
    assert_eq!(read(to, 8), [31, 32, 36, 37, 51, 52, 56, 57]);
    given.srcHeight = 3;
    // SAFETY: as above.
    let code = unsafe { sys::cuMemcpy3D_v2(&given) };
    assert_eq!(code, INVALID, "rows past their layer");
}

#[test]
fn nothing_is_copied_unless_all_can_be() {
    let _context = own_context();
    let (from, to) = (device(&bytes(32)), device(&[0; 16]));
    let end = |address, pitch| End {
        kind: DEVICE,
        address,
        x: 0,
        y: 0,
        pitch,
    };
    assert_eq!(
        copy(end(from, 8), end(to, 8), 8, 3),
        INVALID,
        "past the end"
    );
    assert_eq!(read(to, 16), [0; 16]);
    assert_eq!(
        copy(end(from, 8), end(to, 4), 8, 2),
        INVALID,
        "a pitch below the width"
    );
    assert_eq!(
        copy(end(from, 0), end(to, 8), 8, 2),
        INVALID,
        "rows on top of each other"
    );
    assert_eq!(copy(end(from, 8), end(0, 8), 8, 2), INVALID, "null");
    assert_eq!(
        copy(end(from, 8), end(to, usize::MAX), 8, 2),
        INVALID,
        "a pitch beyond all"
    );
    let null_row = End {
        kind: HOST,
        y: 1,
        ..end(0, 8)
    };
    assert_eq!(copy(end(from, 8), null_row, 8, 2), INVALID, "a row of null");
    let array = End {
        kind: CUmemorytype::CU_MEMORYTYPE_ARRAY,
        ..end(from, 8)
    };
    assert_eq!(
        copy(array, end(to, 8), 8, 2),
        Code::CUDA_ERROR_NOT_SUPPORTED
    );
    assert_eq!(
        copy(end(from, 8), end(to, 8), 0, 2),
        Code::CUDA_SUCCESS,
        "no bytes"
    );
    assert_eq!(read(to, 16), [0; 16]);
    assert_eq!(
        copy(end(from, 0), end(to, 0), 16, 1),
        Code::CUDA_SUCCESS,
        "a single row"
    );
    assert_eq!(read(to, 16), bytes(16));
}
