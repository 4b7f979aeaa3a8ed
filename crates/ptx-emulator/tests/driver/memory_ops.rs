//! Streams that write numbers and wait for them. Waits hold up their stream only; each test that
//! needs to know what other threads do runs in a process of its own.

use std::ptr::null_mut;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::{alone, own_context, run};

const AT_LEAST: u32 = 0;
const EQUAL: u32 = 1;
const AND: u32 = 2;
const NOR: u32 = 3;

fn stream() -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuStreamCreate(&mut stream, 1) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    stream
}

/// Zeroed device memory of four numbers.
fn memory() -> u64 {
    // SAFETY: the fill has the memory's size.
    unsafe {
        let address = result::malloc_sync(16).expect("memory");
        assert_eq!(sys::cuMemsetD8_v2(address, 0, 16), Code::CUDA_SUCCESS);
        address
    }
}

fn number(address: u64) -> u32 {
    let mut value = [0];
    // SAFETY: the memory has the number.
    unsafe { result::memcpy_dtoh_sync(&mut value, address) }.expect("a copy");
    value[0]
}

fn set(address: u64, value: u32) {
    // SAFETY: the memory has the number.
    unsafe { result::memcpy_htod_sync(address, &[value]) }.expect("a copy");
}

fn wait(stream: sys::CUstream, address: u64, value: u32, flags: u32) -> Code {
    // SAFETY: the driver checks handles and addresses.
    unsafe { sys::cuStreamWaitValue32_v2(stream, address, value, flags) }
}

fn write(stream: sys::CUstream, address: u64, value: u32) -> Code {
    // SAFETY: the driver checks handles and addresses.
    unsafe { sys::cuStreamWriteValue32_v2(stream, address, value, 0) }
}

fn query(stream: sys::CUstream) -> Code {
    // SAFETY: the driver looks handles up.
    unsafe { sys::cuStreamQuery(stream) }
}

#[test]
fn a_wait_holds_up_its_own_stream_only() {
    let _context = own_context();
    let (waiting, other, flag) = (stream(), stream(), memory());
    let (result, seen) = (flag + 4, flag + 8);
    assert_eq!(wait(waiting, flag, 5, AT_LEAST), Code::CUDA_SUCCESS);
    assert_eq!(write(waiting, result, 7), Code::CUDA_SUCCESS);
    assert_eq!(query(waiting), Code::CUDA_ERROR_NOT_READY);
    assert_eq!(write(other, seen, 9), Code::CUDA_SUCCESS);
    assert_eq!((number(result), number(seen)), (0, 9));
    assert_eq!(write(other, flag, 4), Code::CUDA_SUCCESS);
    assert_eq!(
        query(waiting),
        Code::CUDA_ERROR_NOT_READY,
        "4 is too little"
    );
    assert_eq!(write(other, flag, 6), Code::CUDA_SUCCESS);
    assert_eq!(query(waiting), Code::CUDA_SUCCESS);
    assert_eq!(number(result), 7);
}

#[test]
fn what_follows_a_wait_follows_it_in_other_streams_too() {
    let _context = own_context();
    let (waiting, behind, flag) = (stream(), stream(), memory());
    assert_eq!(wait(waiting, flag, 1, EQUAL), Code::CUDA_SUCCESS);
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
    let event = result::event::create(flags).expect("an event");
    // SAFETY: the handles are live.
    unsafe {
        result::event::record(event, waiting).expect("a record");
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        result::stream::wait_event(behind, event, flags).expect("a wait");
        assert_eq!(sys::cuEventQuery(event), Code::CUDA_ERROR_NOT_READY);
    }
    assert_eq!(write(behind, flag + 4, 3), Code::CUDA_SUCCESS);
    assert_eq!(number(flag + 4), 0);
    // A synchronous copy of the host is what the first stream waits for.
    set(flag, 1);
    // SAFETY: the handle is live.
    assert_eq!(unsafe { sys::cuEventQuery(event) }, Code::CUDA_SUCCESS);
    assert_eq!(number(flag + 4), 3);
}

#[test]
fn each_condition_is_met_by_what_it_says() {
    let _context = own_context();
    let (own, flag) = (stream(), memory());
    // A condition, its number, one that does not meet it and one that does.
    let cases = [
        (AT_LEAST, 10, 9, 10),
        (AT_LEAST, 5, u32::MAX, 5),
        (AT_LEAST, u32::MAX, u32::MAX - 1, 3),
        (EQUAL, 10, 11, 10),
        (AND, 6, 9, 4),
        (NOR, 0xffff_fff0, 0xf, 0xe),
    ];
    for (condition, value, before, after) in cases {
        set(flag, before);
        assert_eq!(wait(own, flag, value, condition), Code::CUDA_SUCCESS);
        let case = format!("condition {condition} of {value}");
        assert_eq!(query(own), Code::CUDA_ERROR_NOT_READY, "{case}: {before}");
        set(flag, after);
        assert_eq!(query(own), Code::CUDA_SUCCESS, "{case}: {after}");
    }
}

#[test]
fn numbers_of_64_bits_and_batches_work() {
    let _context = own_context();
    let (own, other, flag) = (stream(), stream(), memory());
    // SAFETY: the driver checks what it is given; the operations live through the call.
    unsafe {
        assert_eq!(
            sys::cuStreamWaitValue64_v2(own, flag, 1 << 40, 1),
            Code::CUDA_SUCCESS
        );
        let mut operations: [sys::CUstreamBatchMemOpParams; 2] = std::mem::zeroed();
        let write = sys::CUstreamBatchMemOpType::CU_STREAM_MEM_OP_WRITE_VALUE_32;
        for (index, operation) in operations.iter_mut().enumerate() {
            operation.writeValue.operation = write;
            operation.writeValue.address = flag + 8 + 4 * index as u64;
            operation.writeValue.__bindgen_anon_1.value = 3 + index as u32;
        }
        let code = sys::cuStreamBatchMemOp_v2(own, 2, operations.as_mut_ptr(), 0);
        assert_eq!(code, Code::CUDA_SUCCESS);
        assert_eq!(number(flag + 8), 0);
        assert_eq!(
            sys::cuStreamWriteValue64_v2(other, flag, 1 << 40, 0),
            Code::CUDA_SUCCESS
        );
    }
    assert_eq!(query(own), Code::CUDA_SUCCESS);
    assert_eq!([number(flag + 8), number(flag + 12)], [3, 4]);
}

#[test]
fn another_thread_may_write_page_locked_memory() {
    let context = own_context();
    let own = stream();
    // SAFETY: the memory is page-locked, aligned, and lives to the end.
    let (flag, result) = unsafe {
        let flag = result::malloc_host(4, 0).expect("memory").cast::<u32>();
        (&*flag.cast::<std::sync::atomic::AtomicU32>(), memory())
    };
    let address = std::ptr::from_ref(flag).expose_provenance() as u64;
    assert_eq!(wait(own, address, 1, EQUAL), Code::CUDA_SUCCESS);
    assert_eq!(write(own, result, 8), Code::CUDA_SUCCESS);
    std::thread::scope(|scope| {
        scope.spawn(|| flag.store(1, std::sync::atomic::Ordering::Release));
        // SAFETY: the handle is live.
        assert_eq!(unsafe { sys::cuStreamSynchronize(own) }, Code::CUDA_SUCCESS);
    });
    assert_eq!(number(result), 8);
    drop(context);
}

#[test]
fn memory_is_freed_behind_what_its_stream_waits_for() {
    let _context = own_context();
    let (own, flag) = (stream(), memory());
    assert_eq!(wait(own, flag, 1, EQUAL), Code::CUDA_SUCCESS);
    // SAFETY: the memory has what is written, and is freed once.
    unsafe {
        let used = result::malloc_async(own, 4).expect("memory");
        assert_eq!(write(own, used, 2), Code::CUDA_SUCCESS);
        result::free_async(used, own).expect("freed in order");
        set(flag, 1);
        assert_eq!(query(own), Code::CUDA_SUCCESS);
        assert_eq!(sys::cuMemFree_v2(used), Code::CUDA_ERROR_INVALID_VALUE);
    }
}

#[test]
fn a_wait_that_nobody_can_end_is_a_deadlock() {
    let test = "memory_ops::a_wait_that_nobody_can_end_is_a_deadlock";
    if super::process::case().is_some() {
        let _context = own_context();
        let (own, flag) = (stream(), memory());
        assert_eq!(wait(own, flag, 77, EQUAL), Code::CUDA_SUCCESS);
        // SAFETY: the handle is live.
        let code = unsafe { sys::cuStreamSynchronize(own) };
        assert_eq!(code, Code::CUDA_ERROR_LAUNCH_FAILED);
        return;
    }
    let (success, output) = run(test, "alone", &[("RUST_TEST_THREADS", "1")]);
    assert!(success, "{output}");
    assert!(
        output.contains("deadlock: a stream waits for the number at"),
        "{output}"
    );
    assert!(output.contains("which is 0, to be equal to 77"), "{output}");
}

#[test]
fn a_captured_wait_waits_with_its_graph() {
    alone("memory_ops::a_captured_wait_waits_with_its_graph", || {
        let _context = own_context();
        let (own, other, flag) = (stream(), stream(), memory());
        let (mut graph, mut executable) = (null_mut(), null_mut());
        // SAFETY: handles are live, pointers valid for the calls.
        unsafe {
            let mode = sys::CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_RELAXED;
            result::stream::begin_capture(own, mode).expect("a capture");
            assert_eq!(wait(own, flag, 2, EQUAL), Code::CUDA_SUCCESS);
            assert_eq!(write(own, flag + 4, 6), Code::CUDA_SUCCESS);
            assert_eq!(sys::cuStreamEndCapture(own, &mut graph), Code::CUDA_SUCCESS);
            let code = sys::cuGraphInstantiateWithFlags(&mut executable, graph, 0);
            assert_eq!(code, Code::CUDA_SUCCESS);
            assert_eq!(sys::cuGraphLaunch(executable, own), Code::CUDA_SUCCESS);
        }
        assert_eq!(number(flag + 4), 0);
        assert_eq!(write(other, flag, 2), Code::CUDA_SUCCESS);
        assert_eq!(number(flag + 4), 6);
    });
}

#[test]
fn senseless_operations_are_refused() {
    let _context = own_context();
    let (own, flag) = (stream(), memory());
    let invalid = Code::CUDA_ERROR_INVALID_VALUE;
    assert_eq!(wait(own, flag + 2, 0, EQUAL), invalid, "not aligned");
    assert_eq!(wait(own, flag + 16, 0, EQUAL), invalid, "past the end");
    assert_eq!(wait(own, 0, 0, EQUAL), invalid);
    assert_eq!(wait(own, flag, 0, 4), invalid, "no such condition");
    assert_eq!(
        wait(own, flag, 0, 1 << 30),
        Code::CUDA_ERROR_NOT_SUPPORTED,
        "a flush"
    );
    let wild = std::ptr::without_provenance_mut(0xdead_bee0);
    assert_eq!(wait(wild, flag, 0, EQUAL), Code::CUDA_ERROR_INVALID_HANDLE);
    // SAFETY: the driver checks what it is given.
    unsafe {
        assert_eq!(
            sys::cuStreamWriteValue32_v2(own, flag, 0, 1),
            invalid,
            "a flag of version 1"
        );
        assert_eq!(
            sys::cuStreamWaitValue64_v2(own, flag + 4, 0, 0),
            invalid,
            "not aligned"
        );
        assert_eq!(sys::cuStreamBatchMemOp_v2(own, 1, null_mut(), 0), invalid);
        let mut operations: [sys::CUstreamBatchMemOpParams; 1] = std::mem::zeroed();
        let code = sys::cuStreamBatchMemOp_v2(own, 1, operations.as_mut_ptr(), 0);
        assert_eq!(code, invalid, "no such operation");
        let code = sys::cuStreamBatchMemOp_v2(own, 256, operations.as_mut_ptr(), 0);
        assert_eq!(code, invalid, "too many");
    }
    assert_eq!(
        query(own),
        Code::CUDA_SUCCESS,
        "nothing was given to the stream"
    );
}
