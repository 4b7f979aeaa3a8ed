//! The emulated driver through cudarc, unmodified: what a program sees of it when it does
//! everything right.

use std::ffi::CString;
use std::sync::Arc;

use cudarc::driver::sys::{CUdevice_attribute, CUfunction_attribute, CUmemPool_attribute};
use cudarc::driver::{
    CudaContext, CudaModule, CudaStream, LaunchConfig, PushKernelArg, result, sys,
};
use cudarc::nvrtc::Ptx;
use ptx_emulator::select::{Selection, emulated};

const PTX: &str = include_str!("../fixtures/driver.ptx");
const PLAIN: &[u8] = include_bytes!("../fixtures/driver.none.fatbin");
const ZSTD: &[u8] = include_bytes!("../fixtures/driver.balance.fatbin");
const SIZE: &[u8] = include_bytes!("../fixtures/driver.size.fatbin");

fn context() -> Arc<CudaContext> {
    assert!(matches!(emulated(), Ok(Selection::Emulated { .. })));
    CudaContext::new(0).expect("a device")
}

fn module(context: &Arc<CudaContext>) -> Arc<CudaModule> {
    context.load_module(Ptx::from_src(PTX)).expect("a module")
}

fn one_block(threads: u32, shared_mem_bytes: u32) -> LaunchConfig {
    LaunchConfig {
        grid_dim: (1, 1, 1),
        block_dim: (threads, 1, 1),
        shared_mem_bytes,
    }
}

fn add_on(stream: &Arc<CudaStream>, module: &Arc<CudaModule>, n: usize) -> Vec<f32> {
    let a: Vec<f32> = (0..n).map(|i| i as f32).collect();
    let b: Vec<f32> = (0..n).map(|i| 0.5 * i as f32).collect();
    let (a, b) = (
        stream.clone_htod(&a).unwrap(),
        stream.clone_htod(&b).unwrap(),
    );
    let mut c = stream.alloc_zeros::<f32>(n).unwrap();
    let count = n as i32;
    let add = module.load_function("add").unwrap();
    let config = LaunchConfig {
        grid_dim: (n.div_ceil(96) as u32, 1, 1),
        block_dim: (96, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the parameters are the kernel's.
    unsafe {
        stream
            .launch_builder(&add)
            .arg(&a)
            .arg(&b)
            .arg(&mut c)
            .arg(&count)
            .launch(config)
    }
    .unwrap();
    stream.clone_dtoh(&c).unwrap()
}

#[test]
fn the_device_says_that_it_is_emulated() {
    let context = context();
    assert_eq!(CudaContext::device_count(), Ok(1));
    assert!(context.name().unwrap().starts_with("Emulated NVIDIA A100"));
    assert_eq!(context.compute_capability(), Ok((8, 0)));
    assert_eq!(
        context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT),
        Ok(108)
    );
    let opt_in = CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN;
    assert_eq!(context.attribute(opt_in), Ok(163 * 1024));
    assert_eq!(
        context.attribute(CUdevice_attribute::CU_DEVICE_ATTRIBUTE_WARP_SIZE),
        Ok(32)
    );
    assert!(context.has_async_alloc());
    assert_eq!(context.total_mem(), Ok(80 << 30));
}

#[test]
fn memory_is_copied_filled_and_freed() {
    let context = context();
    let stream = context.default_stream();
    let host: Vec<u32> = (0..1000).collect();
    let mut device = stream.clone_htod(&host).unwrap();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), host);
    let copy = stream.clone_dtod(&device.slice(100..200)).unwrap();
    assert_eq!(stream.clone_dtoh(&copy).unwrap(), host[100..200]);
    stream.memset_zeros(&mut device.slice_mut(10..20)).unwrap();
    let now = stream.clone_dtoh(&device).unwrap();
    assert_eq!((now[9], &now[10..20], now[20]), (9, &[0; 10][..], 20));
    context.bind_to_thread().unwrap();
    // SAFETY: plain allocations of this context, used within their size and freed once.
    unsafe {
        let address = result::malloc_sync(64).unwrap();
        assert_eq!(address % 256, 0);
        assert_eq!(
            sys::cuMemsetD32_v2(address, 0x0102_0304, 16).result(),
            Ok(())
        );
        let mut bytes = [0_u8; 64];
        result::memcpy_dtoh_sync(&mut bytes, address).unwrap();
        assert_eq!(bytes[..5], [4, 3, 2, 1, 4]);
        result::free_sync(address).unwrap();
        assert!(result::memcpy_dtoh_sync(&mut bytes, address).is_err());
        let mut pinned = context.alloc_pinned::<u16>(32).unwrap();
        pinned.as_mut_slice().unwrap().fill(7);
        let device = stream.clone_htod(&pinned).unwrap();
        assert_eq!(stream.clone_dtoh(&device).unwrap(), [7; 32]);
    }
}

#[test]
fn copies_on_the_host_may_overlap() {
    let context = context();
    context.bind_to_thread().unwrap();
    let mut bytes = [1_u8, 2, 3, 4, 5];
    let start = bytes.as_mut_ptr().expose_provenance() as u64;
    // SAFETY: both ranges lie in `bytes`.
    let code = unsafe { sys::cuMemcpy(start + 1, start, 4) };
    assert_eq!(code.result(), Ok(()));
    assert_eq!(bytes, [1, 1, 2, 3, 4]);
}

#[test]
fn a_kernel_runs_from_ptx_text() {
    let context = context();
    let sums = add_on(&context.default_stream(), &module(&context), 1000);
    assert!(sums.into_iter().eq((0..1000).map(|i| 1.5 * i as f32)));
}

#[test]
fn a_kernel_runs_from_a_fatbin() {
    let context = context();
    for fatbin in [PLAIN, ZSTD, SIZE] {
        let module = context
            .load_module(Ptx::from_binary(fatbin.to_vec()))
            .expect("a module");
        let sums = add_on(&context.default_stream(), &module, 100);
        assert_eq!(sums.last(), Some(&148.5));
    }
}

#[test]
fn static_and_dynamic_shared_memory_work() {
    let context = context();
    let (stream, module) = (context.default_stream(), module(&context));
    let values: Vec<i32> = (0..256).collect();
    let mut device = stream.clone_htod(&values).unwrap();
    let reverse = module.load_function("reverse").unwrap();
    assert_eq!(
        (reverse.shared_size_bytes(), reverse.max_threads_per_block()),
        (Ok(512), Ok(128))
    );
    let config = LaunchConfig {
        grid_dim: (2, 1, 1),
        block_dim: (128, 1, 1),
        shared_mem_bytes: 0,
    };
    // SAFETY: the parameters are the kernel's.
    unsafe {
        stream
            .launch_builder(&reverse)
            .arg(&mut device)
            .launch(config)
    }
    .unwrap();
    let expected: Vec<i32> = (0..128).rev().chain((128..256).rev()).collect();
    assert_eq!(stream.clone_dtoh(&device).unwrap(), expected);

    // 64 KiB is more than a launch gets without asking.
    let n = 16_384_i32;
    let reverse = module.load_function("reverse_dynamic").unwrap();
    let limit = CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
    reverse.set_attribute(limit, 4 * n).unwrap();
    let values: Vec<i32> = (0..n).collect();
    let mut device = stream.clone_htod(&values).unwrap();
    let config = one_block(256, 4 * n as u32);
    // SAFETY: the parameters are the kernel's.
    unsafe {
        stream
            .launch_builder(&reverse)
            .arg(&mut device)
            .arg(&n)
            .launch(config)
    }
    .unwrap();
    assert!(
        stream
            .clone_dtoh(&device)
            .unwrap()
            .into_iter()
            .eq((0..n).rev())
    );
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Mixed {
    a: i8,
    b: f64,
    c: [i16; 3],
}

// SAFETY: plain data, laid out as the C struct of the same name in the fixture.
unsafe impl cudarc::driver::DeviceRepr for Mixed {}

#[test]
fn parameters_of_every_size_arrive() {
    let context = context();
    let (stream, module) = (context.default_stream(), module(&context));
    let mut out = stream.alloc_zeros::<i64>(5).unwrap();
    let mixed = Mixed {
        a: -2,
        b: 3.0,
        c: [4, 5, 6],
    };
    let kernel = module.load_function("parameters").unwrap();
    // SAFETY: the parameters are the kernel's.
    unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&-1_i8)
            .arg(&mixed)
            .arg(&-7_i16)
            .arg(&mut out)
            .launch(one_block(1, 0))
    }
    .unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [-1, -2, 3, 654, -7]);
}

#[test]
fn one_buffer_can_hold_all_parameters() {
    let context = context();
    let (stream, module) = (context.default_stream(), module(&context));
    context.bind_to_thread().unwrap();
    let mut out = stream.alloc_zeros::<i32>(4).unwrap();
    let (address, _sync) = cudarc::driver::DevicePtrMut::device_ptr_mut(&mut out, &stream);
    let mut size = size_of_val(&address);
    let mut extra = [
        std::ptr::without_provenance_mut(1),
        (&raw const address).cast_mut().cast(),
        std::ptr::without_provenance_mut(2),
        (&raw mut size).cast(),
        std::ptr::null_mut(),
    ];
    let kernel = module.load_function("globals").unwrap();
    // SAFETY: the buffer holds the kernel's one parameter.
    let code = unsafe {
        sys::cuLaunchKernel(
            kernel.cu_function(),
            1,
            1,
            1,
            4,
            1,
            1,
            0,
            stream.cu_stream(),
            std::ptr::null_mut(),
            extra.as_mut_ptr(),
        )
    };
    assert_eq!(code.result(), Ok(()));
    drop(_sync);
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [10, 8, 11, 8]);
}

#[test]
fn module_variables_can_be_read_and_written() {
    let context = context();
    let (stream, module) = (context.default_stream(), module(&context));
    context.bind_to_thread().unwrap();
    let mut out = stream.alloc_zeros::<i32>(4).unwrap();
    let (mut address, mut bytes) = (0, 0);
    let name = CString::new("accumulator").unwrap();
    // SAFETY: a module of its own, whose variable has four bytes.
    unsafe {
        let handle = result::module::load_data(CString::new(PTX).unwrap().as_ptr().cast()).unwrap();
        assert_eq!(
            sys::cuModuleGetGlobal_v2(&mut address, &mut bytes, handle, name.as_ptr()).result(),
            Ok(())
        );
        assert_eq!(bytes, 4);
        let mut value = [0_i32];
        result::memcpy_dtoh_sync(&mut value, address).unwrap();
        assert_eq!(value, [7]);
        result::module::unload(handle).unwrap();
    }
    let mut view = module.get_global("accumulator", &stream).unwrap();
    // SAFETY: the variable is an `int`.
    let mut accumulator = unsafe { view.transmute_mut::<i32>(1) }.unwrap();
    stream.memcpy_htod(&[100], &mut accumulator).unwrap();
    let kernel = module.load_function("globals").unwrap();
    // SAFETY: the parameters are the kernel's.
    unsafe {
        stream
            .launch_builder(&kernel)
            .arg(&mut out)
            .launch(one_block(4, 0))
    }
    .unwrap();
    assert_eq!(stream.clone_dtoh(&out).unwrap(), [103, 101, 104, 101]);
}

#[test]
fn streams_and_events_order_work() {
    let context = context();
    let module = module(&context);
    let (first, second) = (context.new_stream().unwrap(), context.new_stream().unwrap());
    let start = first
        .record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
        .unwrap();
    assert_eq!(add_on(&first, &module, 10)[9], 13.5);
    let end = first
        .record_event(Some(sys::CUevent_flags::CU_EVENT_DEFAULT))
        .unwrap();
    second.wait(&end).unwrap();
    assert_eq!(add_on(&second, &module, 10)[9], 13.5);
    assert!(end.is_complete());
    end.synchronize().unwrap();
    // The host's wall clock, so nothing more can be said of it.
    assert!(start.elapsed_ms(&end).unwrap() >= 0.0);
    second.synchronize().unwrap();
    context.synchronize().unwrap();
}

#[test]
fn threads_share_a_context() {
    let context = context();
    let module = module(&context);
    std::thread::scope(|scope| {
        for n in 1..5 {
            let (stream, module) = (context.new_stream().unwrap(), &module);
            scope.spawn(move || assert_eq!(add_on(&stream, module, 100 * n).len(), 100 * n));
        }
    });
}

#[test]
fn occupancy_follows_threads_and_shared_memory() {
    let context = context();
    let module = module(&context);
    let add = module.load_function("add").unwrap();
    let blocks = |threads, shared| {
        add.occupancy_max_active_blocks_per_multiprocessor(threads, shared, None)
            .unwrap()
    };
    assert_eq!((blocks(1024, 0), blocks(256, 0), blocks(32, 0)), (2, 8, 32));
    assert_eq!(blocks(32, 40 * 1024), 4);
    assert_eq!(add.ptx_version(), Ok(90));
    assert_eq!(add.binary_version(), Ok(80));
}

unsafe extern "C" fn shared_of(threads: i32) -> usize {
    usize::try_from(threads).unwrap_or(0) * 160
}

#[test]
fn the_best_block_fills_a_multiprocessor() {
    let context = context();
    context.bind_to_thread().unwrap();
    let text = CString::new(PTX).unwrap();
    // SAFETY: the image is NUL-terminated text.
    let function = unsafe {
        let module = result::module::load_data(text.as_ptr().cast()).unwrap();
        result::module::get_function(module, c"reverse_dynamic".to_owned()).unwrap()
    };
    let best = |shared_of, shared, limit| {
        let (mut grid, mut block) = (0, 0);
        // SAFETY: the pointers are valid for the call, and the function is live.
        let code = unsafe {
            sys::cuOccupancyMaxPotentialBlockSize(
                &mut grid, &mut block, function, shared_of, shared, limit,
            )
        };
        code.result()
            .map(|()| (grid, block))
            .map_err(|error| error.0)
    };
    assert_eq!(best(None, 0, 0), Ok((216, 1024)));
    assert_eq!(
        best(None, 0, 100),
        Ok((108 * 32, 64)),
        "16 blocks of 100 threads are fewer"
    );
    assert_eq!(best(None, 40 << 10, 256), Ok((108 * 4, 256)));
    // Four blocks of 256 threads take all shared memory; larger ones fit worse or not at all.
    assert_eq!(best(Some(shared_of), 0, 0), Ok((108 * 4, 256)));
    assert_eq!(
        best(None, 0, -1),
        Err(sys::cudaError_enum::CUDA_ERROR_INVALID_VALUE)
    );
}

/// The figure is ptxas', from the fatbin's cubin for sm_80. PTX alone has none.
#[test]
fn registers_are_known_where_a_cubin_came_along() {
    let context = context();
    let fatbin = context.load_module(Ptx::from_binary(SIZE.to_vec()));
    let registers = |module: &Arc<CudaModule>| {
        let kernel = module.load_function("parameters").unwrap();
        kernel.num_regs().map_err(|error| error.0)
    };
    assert_eq!(registers(&fatbin.unwrap()), Ok(14));
    let unknown = sys::cudaError_enum::CUDA_ERROR_NOT_SUPPORTED;
    assert_eq!(registers(&module(&context)), Err(unknown));
}

#[test]
fn pools_count_what_is_taken() {
    let context = context();
    let stream = context.new_stream().unwrap();
    context.bind_to_thread().unwrap();
    let attribute = |pool, attribute| {
        let mut value = 0_u64;
        // SAFETY: these attributes are 64-bit numbers.
        unsafe { result::mem_pool::get_attribute(pool, attribute, (&raw mut value).cast()) }
            .unwrap();
        value
    };
    // SAFETY: the properties are zero where they are not set; the pool's memory is freed before the
    // pool.
    unsafe {
        let mut properties: sys::CUmemPoolProps = std::mem::zeroed();
        properties.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        properties.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        let pool = result::mem_pool::create(&properties).unwrap();
        let address = result::mem_pool::alloc_async(pool, 1000, stream.cu_stream()).unwrap();
        assert_eq!(
            attribute(pool, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT),
            1000
        );
        result::free_async(address, stream.cu_stream()).unwrap();
        assert_eq!(
            attribute(pool, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_CURRENT),
            0
        );
        assert_eq!(
            attribute(pool, CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH),
            1000
        );
        result::mem_pool::destroy(pool).unwrap();
    }
}

#[test]
fn entry_points_are_found_by_name() {
    let context = context();
    context.bind_to_thread().unwrap();
    let find = |name: &str| {
        let name = CString::new(name).unwrap();
        let mut address = std::ptr::null_mut();
        let mut status = sys::CUdriverProcAddressQueryResult::CU_GET_PROC_ADDRESS_SUCCESS;
        // SAFETY: all three pointers are valid for the call.
        let code = unsafe {
            sys::cuGetProcAddress_v2(name.as_ptr(), &mut address, 13_000, 0, &mut status)
        };
        (code.result().is_ok(), address.is_null())
    };
    assert_eq!(find("cuMemAlloc"), (true, false));
    assert_eq!(find("cuInit"), (true, false));
    // Not an error of the call: the null address tells.
    assert_eq!(find("cuTexRefCreate"), (true, true));
}
