//! Late streams: an order that nothing asks for doesn't come about by chance. Each case runs in a
//! process of its own, which has the setting.

use std::ffi::CString;
use std::ptr::null_mut;

use cudarc::driver::sys::cudaError_enum as Code;
use cudarc::driver::{result, sys};

use super::process::{case, own_context, ran_case, run};

const PTX: &str = include_str!("../fixtures/driver.ptx");
const LEGACY: sys::CUstream = null_mut();
const NON_BLOCKING: u32 = 1;

fn per_thread() -> sys::CUstream {
    std::ptr::without_provenance_mut(2)
}

fn stream(flags: u32) -> sys::CUstream {
    let mut stream = null_mut();
    // SAFETY: the pointer is valid for the call.
    let code = unsafe { sys::cuStreamCreate(&mut stream, flags) };
    assert_eq!(code, Code::CUDA_SUCCESS);
    stream
}

fn memory() -> u64 {
    // SAFETY: there is a context, and the memory has one byte.
    unsafe {
        let address = result::malloc_sync(1).expect("memory");
        result::memcpy_htod_sync(address, &[0_u8]).expect("a copy");
        address
    }
}

fn fill(address: u64, value: u8, stream: sys::CUstream) {
    // SAFETY: the memory has one byte.
    unsafe { result::memset_d8_async(address, value, 1, stream) }.expect("a fill");
}

/// The byte at an address, as a stream sees it.
fn read(address: u64, stream: sys::CUstream) -> u8 {
    let mut byte = [0];
    // SAFETY: the memory has one byte, and the copy is over when the stream is.
    unsafe {
        result::memcpy_dtoh_async(&mut byte, address, stream).expect("a copy");
        result::stream::synchronize(stream).expect("the stream does well");
    }
    byte[0]
}

fn wait(later: sys::CUstream, earlier: sys::CUstream) {
    let flags = sys::CUevent_flags::CU_EVENT_DISABLE_TIMING;
    let event = result::event::create(flags).expect("an event");
    // SAFETY: the handles are live.
    unsafe {
        result::event::record(event, earlier).expect("a record");
        let flags = sys::CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT;
        result::stream::wait_event(later, event, flags).expect("a wait");
        result::event::destroy(event).expect("an event");
    }
}

fn events_order() {
    let (address, a, b) = (memory(), stream(NON_BLOCKING), stream(NON_BLOCKING));
    fill(address, 1, a);
    fill(address, 2, b);
    assert_eq!(read(address, b), 2, "b waits for nothing");
    assert_eq!(
        read(address, a),
        1,
        "a's fill came later, though it was given first"
    );
    fill(address, 3, a);
    wait(b, a);
    assert_eq!(read(address, b), 3, "b waits for a");
    // A recorded point doesn't move: what a is given afterwards is not waited for.
    fill(address, 4, a);
    assert_eq!(read(address, b), 3, "b waits for what a had been given");
}

fn the_legacy_stream_orders_blocking_streams() {
    let address = memory();
    let apart = stream(NON_BLOCKING);
    fill(address, 1, apart);
    assert_eq!(read(address, LEGACY), 0, "a non-blocking stream is apart");
    assert_eq!(read(address, apart), 1);

    let blocking = stream(0);
    fill(address, 2, blocking);
    assert_eq!(read(address, LEGACY), 2, "the legacy stream waits for it");
    fill(address, 3, LEGACY);
    assert_eq!(read(address, blocking), 3, "it waits for the legacy stream");
    fill(address, 4, blocking);
    assert_eq!(
        read(address, per_thread()),
        3,
        "two blocking streams are apart"
    );
}

fn an_event_wait_of_the_legacy_stream_orders_the_streams_of_threads() {
    let context = own_context();
    let address = memory();
    let apart = stream(NON_BLOCKING) as usize;
    std::thread::scope(|scope| {
        scope
            .spawn(|| {
                context.bind_to_thread().expect("a context");
                fill(address, 1, per_thread());
                let apart = std::ptr::with_exposed_provenance_mut(apart);
                wait(apart, LEGACY);
                assert_eq!(read(address, apart), 1, "an event of it has all threads");
                fill(address, 2, apart);
                wait(LEGACY, apart);
            })
            .join()
            .expect("the thread does well");
    });
    assert_eq!(read(address, per_thread()), 2, "this thread waits for it");
}

fn what_was_freed_is_gone() {
    let (a, b) = (stream(NON_BLOCKING), stream(NON_BLOCKING));
    // SAFETY: the memory is not used after the second free; the first is the wrong use under test.
    unsafe {
        let ordered = result::malloc_async(a, 1).expect("memory");
        fill(ordered, 1, a);
        wait(b, a);
        result::free_async(ordered, b).expect("a free");
        result::stream::synchronize(a).expect("the fill came before");
        let freed = result::malloc_async(a, 1).expect("memory");
        fill(freed, 1, a);
        result::free_async(freed, b).expect("a free");
        let late = result::stream::synchronize(a).expect_err("the fill came after");
        assert_eq!(late.0, Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    }
}

fn an_unloaded_kernel_faults() {
    let text = CString::new(PTX).expect("text");
    // SAFETY: the image is NUL-terminated text, and the kernel takes one address of 128 values.
    unsafe {
        let mut values = result::malloc_sync(512).expect("memory");
        result::memset_d8_sync(values, 0, 512).expect("a fill");
        let module = result::module::load_data(text.as_ptr().cast()).expect("a module");
        let kernel = result::module::get_function(module, c"reverse".to_owned()).expect("a kernel");
        let (grid, block) = ((1, 1, 1), (128, 1, 1));
        let mut parameters = [(&raw mut values).cast()];
        result::launch_kernel(kernel, grid, block, 0, LEGACY, &mut parameters).expect("a launch");
        result::module::unload(module).expect("a module");
        let late = result::ctx::synchronize().expect_err("the kernel is gone");
        assert_eq!(late.0, Code::CUDA_ERROR_ILLEGAL_ADDRESS);
    }
}

const CASES: [(&str, fn()); 5] = [
    ("events", events_order),
    ("legacy", the_legacy_stream_orders_blocking_streams),
    (
        "threads",
        an_event_wait_of_the_legacy_stream_orders_the_streams_of_threads,
    ),
    ("freed", what_was_freed_is_gone),
    ("unloaded", an_unloaded_kernel_faults),
];

#[test]
fn late_streams_keep_every_order_that_is_asked_for_and_no_other() {
    if ran_case(&CASES) {
        return;
    }
    let test = "late_streams::late_streams_keep_every_order_that_is_asked_for_and_no_other";
    for (name, _) in CASES {
        let (success, output) = run(test, name, &[("PTX_EMULATOR_STREAMS", "latest")]);
        assert!(success && output.contains("1 passed"), "{name}: {output}");
    }
}

#[test]
fn copies_may_come_early() {
    if case().is_some() {
        let _context = own_context();
        let (address, a) = (memory(), stream(NON_BLOCKING));
        fill(address, 1, a);
        assert_eq!(read(address, LEGACY), 1, "the fill is done");
        return;
    }
    let variables = [("PTX_EMULATOR_STREAMS", "latest-kernels")];
    let (success, output) = run("late_streams::copies_may_come_early", "early", &variables);
    assert!(success && output.contains("1 passed"), "{output}");
}
