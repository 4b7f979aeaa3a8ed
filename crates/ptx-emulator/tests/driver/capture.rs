//! Stream capture: what it records is run by the graph, and what it can't hold ends it, as the CUDA
//! documentation says. Each test has a context of its own.

use std::ffi::{CString, c_void};
use std::ptr::null_mut;

use cudarc::driver::sys::{CUstreamCaptureMode, cudaError_enum as Code};
use cudarc::driver::{LaunchConfig, PushKernelArg, result, sys};
use cudarc::nvrtc::Ptx;

use super::process::{alone, own_context};

const PTX: &str = include_str!("../fixtures/driver.ptx");
const NON_BLOCKING: u32 = 1;

fn kernel(name: &str) -> sys::CUfunction {
    let (text, name) = (
        CString::new(PTX).expect("text"),
        CString::new(name).expect("a name"),
    );
    // SAFETY: the image is NUL-terminated text.
    unsafe {
        let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
        result::module::get_function(module, name).expect("a kernel")
    }
}

/// Launches one thread with parameters that are all zero.
fn launch(function: sys::CUfunction, stream: sys::CUstream) -> Code {
    let mut zero = [0_u64; 4];
    let mut parameters = [(&raw mut zero).cast::<c_void>(); 4];
    // SAFETY: there are enough parameters, each large enough, for the kernel used here.
    unsafe {
        sys::cuLaunchKernel(
            function,
            1,
            1,
            1,
            1,
            1,
            1,
            0,
            stream,
            parameters.as_mut_ptr(),
            null_mut(),
        )
    }
}

fn new_stream(flags: u32) -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuStreamCreate(&mut stream, flags) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    stream
}

/// A capture in global mode forbids other threads' calls, those of other tests among them.
#[test]
fn a_captured_graph_replays_its_work() {
    alone("capture::a_captured_graph_replays_its_work", replay);
}

fn replay() {
    let context = own_context();
    // A capture must not wait for events recorded before it, which cudarc's event tracking would
    // make it do.
    // SAFETY: the work of this test is ordered by its one stream.
    unsafe { context.disable_event_tracking() };
    let (stream, module) = (
        context.new_stream().unwrap(),
        context.load_module(Ptx::from_src(PTX)).unwrap(),
    );
    let mut device = stream.clone_htod(&(0..128).collect::<Vec<i32>>()).unwrap();
    let kernel = module.load_function("reverse").unwrap();
    let config = LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (128, 1, 1),
        shared_mem_bytes: 0,
    };
    stream.synchronize().unwrap();
    stream
        .begin_capture(CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_GLOBAL)
        .unwrap();
    assert_eq!(
        stream.capture_status(),
        Ok(sys::CUstreamCaptureStatus::CU_STREAM_CAPTURE_STATUS_ACTIVE)
    );
    // SAFETY: the parameters are the kernel's.
    unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&mut device)
            .launch(config)
    }
    .unwrap();
    let graph = stream
        .end_capture(sys::CUgraphInstantiate_flags(0))
        .unwrap()
        .expect("work was captured");
    assert_eq!(
        stream.clone_dtoh(&device).unwrap()[0],
        0,
        "captured work must not run"
    );
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap()[0], 127);
    graph.launch().unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap()[0], 0);
}

/// Begins a capture on a new stream.
fn capturing(flags: u32, mode: CUstreamCaptureMode) -> sys::CUstream {
    let stream = new_stream(flags);
    // SAFETY: the stream is live.
    unsafe { result::stream::begin_capture(stream, mode) }.expect("a capture");
    stream
}

const RELAXED: CUstreamCaptureMode = CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;

fn end(stream: sys::CUstream) -> Code {
    let mut graph = null_mut();
    // SAFETY: the pointers are valid for the call.
    unsafe { sys::cuStreamEndCapture(stream, &mut graph) }
}

#[test]
fn what_a_capture_can_not_hold_ends_it() {
    let _context = own_context();
    // SAFETY: the handles are live.
    unsafe {
        let stream = capturing(NON_BLOCKING, RELAXED);
        assert_eq!(
            sys::cuStreamSynchronize(stream),
            Code::CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED
        );
        assert_eq!(
            launch(kernel("add"), stream),
            Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED
        );
        assert_eq!(end(stream), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
        assert_eq!(
            launch(kernel("add"), stream),
            Code::CUDA_SUCCESS,
            "the stream works again"
        );
        assert_eq!(
            end(stream),
            Code::CUDA_ERROR_ILLEGAL_STATE,
            "nothing to end"
        );
    }
}

#[test]
fn a_capture_depends_on_nothing_outside_it() {
    let _context = own_context();
    // SAFETY: the handles are live.
    unsafe {
        let (outside, stream) = (new_stream(NON_BLOCKING), capturing(NON_BLOCKING, RELAXED));
        let mut event = null_mut();
        assert_eq!(sys::cuEventCreate(&mut event, 0), Code::CUDA_SUCCESS);
        assert_eq!(sys::cuEventRecord(event, outside), Code::CUDA_SUCCESS);
        assert_eq!(
            sys::cuStreamWaitEvent(stream, event, 0),
            Code::CUDA_ERROR_STREAM_CAPTURE_ISOLATION
        );
        assert_eq!(end(stream), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
    }
}

#[test]
fn a_forked_stream_must_join_before_the_end() {
    let _context = own_context();
    let add = kernel("add");
    // SAFETY: the handles are live.
    unsafe {
        let (mut fork, mut join) = (null_mut(), null_mut());
        assert_eq!(sys::cuEventCreate(&mut fork, 0), Code::CUDA_SUCCESS);
        assert_eq!(sys::cuEventCreate(&mut join, 0), Code::CUDA_SUCCESS);
        for joined in [false, true] {
            let (origin, other) = (capturing(NON_BLOCKING, RELAXED), new_stream(NON_BLOCKING));
            assert_eq!(sys::cuEventRecord(fork, origin), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuStreamWaitEvent(other, fork, 0), Code::CUDA_SUCCESS);
            assert_eq!(launch(add, other), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuEventRecord(join, other), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuEventQuery(join), Code::CUDA_ERROR_CAPTURED_EVENT);
            if joined {
                assert_eq!(sys::cuStreamWaitEvent(origin, join, 0), Code::CUDA_SUCCESS);
            }
            let expected = if joined {
                Code::CUDA_SUCCESS
            } else {
                Code::CUDA_ERROR_STREAM_CAPTURE_UNJOINED
            };
            assert_eq!(end(origin), expected);
        }
    }
}

#[test]
fn the_legacy_stream_can_not_be_used_beside_a_capturing_blocking_stream() {
    let _context = own_context();
    let add = kernel("add");
    assert_eq!(launch(add, null_mut()), Code::CUDA_SUCCESS);
    let beside = capturing(NON_BLOCKING, RELAXED);
    assert_eq!(
        launch(add, null_mut()),
        Code::CUDA_SUCCESS,
        "a non-blocking stream does not mind"
    );
    assert_eq!(end(beside), Code::CUDA_SUCCESS);
    let blocking = capturing(0, RELAXED);
    assert_eq!(
        launch(add, null_mut()),
        Code::CUDA_ERROR_STREAM_CAPTURE_IMPLICIT
    );
    assert_eq!(end(blocking), Code::CUDA_ERROR_STREAM_CAPTURE_INVALIDATED);
}
