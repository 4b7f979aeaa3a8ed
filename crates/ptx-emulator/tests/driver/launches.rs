//! `cuLaunchKernelEx` with its attributes, two-dimensional fills, both also captured in a graph,
//! and tensor maps. Each test has a context of its own.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::CUlaunchAttributeID as Id;
use cudarc::driver::sys::{CUstreamCaptureMode, cudaError_enum as Code};
use cudarc::driver::{result, sys};
use ptx_emulator::tensor_map::TensorMap;

use super::process::{case, own_context, run};

const PTX: &str = include_str!("../fixtures/driver.ptx");
const N: usize = 128;

/// The kernel that reverses each block's 128 values.
fn reverse() -> sys::CUfunction {
    let text = CString::new(PTX).expect("text");
    // SAFETY: the image is NUL-terminated text.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
        result::module::get_function(module, c"reverse".to_owned()).expect("a kernel")
    }
}

/// 0, 1, 2, ... on the device.
fn ascending() -> u64 {
    let values: Vec<i32> = (0..N as i32).collect();
    // SAFETY: the buffer has the size that is copied.
    unsafe {
        let address = result::malloc_sync(4 * N).expect("memory");
        result::memcpy_htod_sync(address, &values).expect("a copy");
        address
    }
}

fn read<T: Copy + Default>(address: u64, count: usize) -> Vec<T> {
    let mut values = vec![T::default(); count];
    // SAFETY: callers ask for no more than the buffer holds.
    unsafe { result::memcpy_dtoh_sync(&mut values, address) }.expect("a copy");
    values
}

fn first(address: u64) -> i32 {
    read(address, 1)[0]
}

fn new_stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuStreamCreate(&mut stream, 1) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    stream
}

/// An attribute whose value is one number.
fn attribute(id: Id, value: i32) -> sys::CUlaunchAttribute {
    // SAFETY: all-zero is a valid value of this C structure.
    let mut attribute: sys::CUlaunchAttribute = unsafe { std::mem::zeroed() };
    attribute.id = id;
    attribute.value.cooperative = value;
    attribute
}

fn cluster(x: u32, y: u32, z: u32) -> sys::CUlaunchAttribute {
    let mut attribute = attribute(Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION, 0);
    attribute.value.clusterDim.x = x;
    attribute.value.clusterDim.y = y;
    attribute.value.clusterDim.z = z;
    attribute
}

type LaunchEx = unsafe extern "C" fn(
    *const sys::CUlaunchConfig,
    sys::CUfunction,
    *mut *mut c_void,
    *mut *mut c_void,
) -> Code;

/// Launches `reverse` for one block.
fn launch_with(
    call: LaunchEx,
    stream: sys::CUstream,
    address: u64,
    attributes: &mut [sys::CUlaunchAttribute],
) -> Code {
    let mut parameter = address;
    let mut parameters = [(&raw mut parameter).cast::<c_void>()];
    // SAFETY: all-zero is a valid value of this C structure; what it points to outlives the call.
    unsafe {
        let mut config: sys::CUlaunchConfig = std::mem::zeroed();
        (config.gridDimX, config.gridDimY, config.gridDimZ) = (1, 1, 1);
        (config.blockDimX, config.blockDimY, config.blockDimZ) = (N as u32, 1, 1);
        config.hStream = stream;
        (config.attrs, config.numAttrs) = (attributes.as_mut_ptr(), attributes.len() as u32);
        call(&config, reverse(), parameters.as_mut_ptr(), null_mut())
    }
}

unsafe extern "C" fn launch_ex(
    config: *const sys::CUlaunchConfig,
    function: sys::CUfunction,
    parameters: *mut *mut c_void,
    extra: *mut *mut c_void,
) -> Code {
    // SAFETY: the caller's promise.
    unsafe { sys::cuLaunchKernelEx(config, function, parameters, extra) }
}

/// An entry point in its form for a default stream per thread.
fn per_thread(name: &str) -> *mut c_void {
    let name = CString::new(name).expect("a name");
    let mut address = null_mut();
    // SAFETY: the pointers are valid for the call; the status is not wanted.
    let code =
        unsafe { sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 12_040, 2, null_mut()) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    assert!(!address.is_null());
    address
}

const CAPTURE: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

/// Captures what `work` enqueues, and gives the graph, ready to be launched.
fn captured(work: impl FnOnce(sys::CUstream)) -> sys::CUgraphExec {
    let (stream, mut graph, mut executable) = (new_stream(), null_mut(), null_mut());
    // SAFETY: the handles are live and the pointers valid for the calls.
    unsafe {
        result::stream::begin_capture(stream, CAPTURE).expect("a capture");
        work(stream);
        assert_eq!(
            sys::cuStreamEndCapture(stream, &mut graph),
            Code::CUDA_SUCCESS
        );
        let code = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
        assert_eq!(code, Code::CUDA_SUCCESS);
    }
    executable
}

fn replay(executable: sys::CUgraphExec) {
    // SAFETY: the handle is live.
    let code = unsafe { sys::cuGraphLaunch(executable, null_mut()) };
    assert_eq!(code, Code::CUDA_SUCCESS);
}

/// What a launch with programmatic dependent launch has: permission to start early, and a cluster
/// of one block.
fn usual() -> [sys::CUlaunchAttribute; 3] {
    [
        attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, 1),
        cluster(1, 1, 1),
        attribute(Id::CU_LAUNCH_ATTRIBUTE_COOPERATIVE, 1),
    ]
}

#[test]
fn an_extended_launch_takes_its_attributes() {
    let _context = own_context();
    let address = ascending();
    for count in 0..=3 {
        let code = launch_with(launch_ex, null_mut(), address, &mut usual()[..count]);
        assert_eq!(code, Code::CUDA_SUCCESS, "{count} attributes");
        let expected = if count % 2 == 0 { N as i32 - 1 } else { 0 };
        assert_eq!(first(address), expected, "{count} attributes");
    }
}

#[test]
fn what_an_extended_launch_can_not_do_is_refused() {
    let _context = own_context();
    let address = ascending();
    for (refused, expected) in [
        (cluster(2, 1, 1), Code::CUDA_ERROR_NOT_SUPPORTED),
        (cluster(1, 1, 2), Code::CUDA_ERROR_NOT_SUPPORTED),
        (cluster(1, 0, 1), Code::CUDA_ERROR_INVALID_VALUE),
        (
            attribute(Id::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_EVENT, 1),
            Code::CUDA_ERROR_NOT_SUPPORTED,
        ),
    ] {
        let code = launch_with(launch_ex, null_mut(), address, &mut [refused]);
        assert_eq!(code, expected);
    }
    assert_eq!(first(address), 0, "nothing ran");
}

#[test]
fn an_extended_launch_is_captured() {
    let _context = own_context();
    let address = ascending();
    let graph = captured(|stream| {
        for count in [3, 0, 1] {
            let code = launch_with(launch_ex, stream, address, &mut usual()[..count]);
            assert_eq!(code, Code::CUDA_SUCCESS);
        }
    });
    assert_eq!(first(address), 0, "captured work must not run");
    replay(graph);
    assert_eq!(first(address), N as i32 - 1);
    replay(graph);
    assert_eq!(first(address), 0);
}

#[test]
fn a_launch_has_a_form_for_a_default_stream_per_thread() {
    let _context = own_context();
    let address = ascending();
    // SAFETY: the entry point of this name has this signature.
    let call =
        unsafe { std::mem::transmute::<*mut c_void, LaunchEx>(per_thread("cuLaunchKernelEx")) };
    // A blocking stream that captures keeps the legacy stream from being used, and no other.
    let (mut blocking, mut graph) = (null_mut(), null_mut());
    // SAFETY: the handles are live and the pointers valid for the calls.
    unsafe {
        assert_eq!(sys::cuStreamCreate(&mut blocking, 0), Code::CUDA_SUCCESS);
        result::stream::begin_capture(blocking, CAPTURE).expect("a capture");
        assert_eq!(
            launch_with(call, null_mut(), address, &mut []),
            Code::CUDA_SUCCESS
        );
        assert_eq!(
            launch_with(launch_ex, null_mut(), address, &mut []),
            Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
        );
        let code = sys::cuStreamEndCapture(blocking, &mut graph);
        assert_eq!(code, Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
    assert_eq!(first(address), N as i32 - 1);
}

#[test]
fn rows_of_every_element_size_are_filled() {
    let _context = own_context();
    let address = ascending();
    let graph = captured(|stream| {
        // SAFETY: the rows lie within the buffer of 512 bytes.
        unsafe {
            let codes = [
                sys::cuMemsetD8Async(address, 0, 4 * N, stream),
                sys::cuMemsetD2D8Async(address, 16, 0x11, 3, 2, stream),
                sys::cuMemsetD2D16Async(address + 4, 16, 0x2233, 1, 2, stream),
                sys::cuMemsetD2D32Async(address + 8, 16, 0x4455_6677, 2, 2, stream),
            ];
            assert_eq!(codes, [Code::CUDA_SUCCESS; 4]);
        }
    });
    assert_eq!(first(address), 0, "the first value as it was");
    assert_eq!(read::<i32>(address, 2)[1], 1, "captured work must not run");
    replay(graph);
    let row = [0x0011_1111, 0x0000_2233, 0x4455_6677, 0x4455_6677];
    assert_eq!(
        read::<u32>(address, 10),
        [&row[..], &row[..], &[0, 0]].concat()
    );
}

#[test]
fn rows_that_overlap_or_are_misaligned_are_refused() {
    let _context = own_context();
    let address = ascending();
    // SAFETY: what is not refused lies within the buffer.
    unsafe {
        let refused = Code::CUDA_ERROR_INVALID_VALUE;
        assert_eq!(sys::cuMemsetD2D8_v2(address, 7, 1, 8, 2), refused);
        assert_eq!(sys::cuMemsetD2D32_v2(address, 18, 1, 4, 2), refused);
        assert_eq!(sys::cuMemsetD2D16_v2(address + 1, 16, 1, 4, 2), refused);
        assert_eq!(
            sys::cuMemsetD2D32_v2(address, 16, 1, usize::MAX, 2),
            refused
        );
        assert_eq!(sys::cuMemsetD2D32_v2(address, 256, 1, 4, 4), refused);
        // The pitch of one row is not used.
        assert_eq!(
            sys::cuMemsetD2D8_v2(address, 0, 1, 8, 1),
            Code::CUDA_SUCCESS
        );
    }
}

/// `CUtensorMap`, with room to be misaligned.
#[repr(C, align(64))]
struct Room([u64; 32]);

#[test]
fn a_tensor_map_is_encoded_by_the_host() {
    let _context = own_context();
    let mut room = Room([0; 32]);
    let (dims, strides) = ([1024_u64, 4096], [2048_u64]);
    let (box_dims, steps) = ([64_u32, 64], [1_u32, 1]);
    let mut encode = |word: usize, address: usize, dims: *const u64| {
        let map = room.0[word..].as_mut_ptr().cast::<sys::CUtensorMap>();
        // SAFETY: there is room for a map after the word, and the lists have as many numbers as the
        // rank asks.
        let code = unsafe {
            sys::cuTensorMapEncodeTiled(
                map,
                sys::CUtensorMapDataType::CU_TENSOR_MAP_DATA_TYPE_FLOAT16,
                2,
                std::ptr::without_provenance_mut(address),
                dims,
                strides.as_ptr(),
                box_dims.as_ptr(),
                steps.as_ptr(),
                sys::CUtensorMapInterleave::CU_TENSOR_MAP_INTERLEAVE_NONE,
                sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
                sys::CUtensorMapL2promotion::CU_TENSOR_MAP_L2_PROMOTION_L2_128B,
                sys::CUtensorMapFloatOOBfill::CU_TENSOR_MAP_FLOAT_OOB_FILL_NONE,
            )
        };
        (code, room.0[word..word + 16].try_into().expect("16 words"))
    };
    let (code, words) = encode(0, 0x7000_0000, dims.as_ptr());
    assert_eq!(code, Code::CUDA_SUCCESS);
    let expected = TensorMap {
        data_type: 6,
        address: 0x7000_0000,
        dims: dims.to_vec(),
        strides: strides.to_vec(),
        box_dims: box_dims.to_vec(),
        element_strides: steps.to_vec(),
        interleave: 0,
        swizzle: 3,
        l2_promotion: 2,
        fill: 0,
    };
    assert_eq!(TensorMap::decode(&words), Some(expected.clone()));

    let refused = Code::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(
        encode(1, 0x7000_0000, dims.as_ptr()).0,
        refused,
        "a map at 8 bytes"
    );
    assert_eq!(
        encode(0, 0x7000_0008, dims.as_ptr()).0,
        refused,
        "a tensor at 8 bytes"
    );
    assert_eq!(
        encode(0, 0x7000_0000, std::ptr::null()).0,
        refused,
        "no sizes"
    );

    let map = room.0.as_mut_ptr().cast::<sys::CUtensorMap>();
    let replace = |address| {
        // SAFETY: the map is one that the driver made.
        unsafe { sys::cuTensorMapReplaceAddress(map, std::ptr::without_provenance_mut(address)) }
    };
    assert_eq!(replace(0x8000_0000), Code::CUDA_SUCCESS);
    assert_eq!(replace(0x8000_0004), refused);
    let words: [u64; 16] = room.0[..16].try_into().expect("16 words");
    let moved = TensorMap {
        address: 0x8000_0000,
        ..expected
    };
    assert_eq!(TensorMap::decode(&words), Some(moved));
}

/// On a device with clusters: 132 multiprocessors that each hold 16 blocks of 128 threads.
#[test]
fn clusters_that_fit_can_be_asked_for() {
    if case().is_none() {
        let test = "launches::clusters_that_fit_can_be_asked_for";
        let (success, output) = run(test, "h100", &[("PTX_EMULATOR_DEVICE", "h100")]);
        return assert!(success, "{output}");
    }
    let _context = own_context();
    let function = reverse();
    // SAFETY: all-zero is a valid value of these C structures; pointers are valid for the calls.
    unsafe {
        let mut attribute: sys::CUlaunchAttribute = std::mem::zeroed();
        attribute.id = Id::CU_LAUNCH_ATTRIBUTE_CLUSTER_DIMENSION;
        let mut config: sys::CUlaunchConfig = std::mem::zeroed();
        (config.gridDimX, config.gridDimY, config.gridDimZ) = (48, 1, 1);
        (config.blockDimX, config.blockDimY, config.blockDimZ) = (N as u32, 1, 1);
        (config.attrs, config.numAttrs) = (&raw mut attribute, 1);
        let mut active = |blocks| {
            attribute.value.clusterDim.x = blocks;
            attribute.value.clusterDim.y = 1;
            attribute.value.clusterDim.z = 1;
            let mut clusters = 0;
            let code = sys::cuOccupancyMaxActiveClusters(&mut clusters, function, &config);
            code.result().map(|()| clusters).map_err(|error| error.0)
        };
        assert_eq!(active(1), Ok(132 * 16));
        assert_eq!(active(8), Ok(132 * 2));
        assert_eq!(
            active(5),
            Err(Code::CUDA_ERROR_INVALID_VALUE),
            "48 blocks are no fives"
        );
        assert_eq!(active(16), Err(Code::CUDA_ERROR_INVALID_CLUSTER_SIZE));
        let (mut largest, allowed) = (
            0,
            sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_NON_PORTABLE_CLUSTER_SIZE_ALLOWED,
        );
        let mut size = || {
            let code = sys::cuOccupancyMaxPotentialClusterSize(&mut largest, function, &config);
            assert_eq!(code, Code::CUDA_SUCCESS);
            largest
        };
        assert_eq!(size(), 8);
        assert_eq!(
            sys::cuFuncSetAttribute(function, allowed, 1),
            Code::CUDA_SUCCESS
        );
        assert_eq!(size(), 16);
    }
}
