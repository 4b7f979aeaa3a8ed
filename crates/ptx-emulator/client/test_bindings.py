"""NVIDIA's Python bindings on the emulated CUDA driver, unchanged: `cargo xtask client` installs them and runs this.

The kernels are those of tests/fixtures/driver.cu.
"""

import array
import ctypes
import pathlib
import struct
import threading
import unittest

from cuda.bindings import driver as cuda

FIXTURES = pathlib.Path(__file__).parent.parent / "tests" / "fixtures"
PTX = (FIXTURES / "driver.ptx").read_bytes()
FATBINS = ["driver.none.fatbin", "driver.speed.fatbin", "driver.balance.fatbin", "driver.size.fatbin"]

Result = cuda.CUresult
WILD = 0xDEADBEE0


def ok(returned):
    """The values of a call that must have succeeded: none, one or a tuple."""
    code, *values = returned
    if code != Result.CUDA_SUCCESS:
        raise AssertionError(f"the call failed: {code!r}")
    return None if not values else values[0] if len(values) == 1 else tuple(values)


def ints(values):
    return array.array("i", values)


def floats(values):
    return array.array("f", values)


def upload(values):
    """Host values in device memory of their own."""
    data = values.tobytes()
    address = ok(cuda.cuMemAlloc(len(data)))
    ok(cuda.cuMemcpyHtoD(address, data, len(data)))
    return address


def download(address, like):
    data = bytearray(len(like) * like.itemsize)
    ok(cuda.cuMemcpyDtoH(data, address, len(data)))
    return array.array(like.typecode, bytes(data))


def launch(function, grid, block, arguments, kinds, shared=0, stream=0):
    return cuda.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, (arguments, kinds), 0)


ADD = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class OnDevice(unittest.TestCase):
    """A test with a context of its own, so that a fault in one is felt by no other."""

    def setUp(self):
        ok(cuda.cuInit(0))
        self.device = ok(cuda.cuDeviceGet(0))
        self.context = ok(cuda.cuCtxCreate(None, 0, self.device))

    def tearDown(self):
        ok(cuda.cuCtxDestroy(self.context))

    def fails(self, code, returned):
        self.assertEqual(returned[0], getattr(Result, f"CUDA_ERROR_{code}"))

    def kernel(self, name, image=PTX):
        return ok(cuda.cuModuleGetFunction(ok(cuda.cuModuleLoadData(image)), name.encode()))

    def add(self, function, count, stream=0):
        """Runs the kernel `add` on new data and checks every sum."""
        a, b = upload(floats(range(count))), upload(floats(0.5 * i for i in range(count)))
        c = upload(floats([0] * count))
        arguments = (int(a), int(b), int(c), count)
        ok(launch(function, (count + 127) // 128, 128, arguments, ADD, stream=stream))
        ok(cuda.cuStreamSynchronize(stream))
        self.assertEqual(download(c, floats([0] * count)), floats(1.5 * i for i in range(count)))
        for address in (a, b, c):
            ok(cuda.cuMemFree(address))


class Devices(OnDevice):
    def test_the_device_describes_itself(self):
        self.assertEqual(ok(cuda.cuDeviceGetCount()), 1)
        self.assertEqual(ok(cuda.cuDriverGetVersion()), 13000)
        name = ok(cuda.cuDeviceGetName(128, self.device))
        self.assertTrue(name.startswith(b"Emulated NVIDIA A100"), name)
        self.assertEqual(ok(cuda.cuDeviceTotalMem(self.device)), 80 << 30)
        self.assertEqual(ok(cuda.cuDeviceComputeCapability(self.device)), (8, 0))
        self.assertTrue(bytes(ok(cuda.cuDeviceGetUuid(self.device)).bytes).startswith(b"emulated"))
        self.assertEqual(ok(cuda.cuDeviceCanAccessPeer(self.device, self.device)), 0)

    def test_attributes_are_those_of_the_model(self):
        names = {
            "MAX_THREADS_PER_BLOCK": 1024,
            "MULTIPROCESSOR_COUNT": 108,
            "WARP_SIZE": 32,
            "MAX_SHARED_MEMORY_PER_BLOCK": 48 << 10,
            "MAX_SHARED_MEMORY_PER_BLOCK_OPTIN": 163 << 10,
            "COMPUTE_CAPABILITY_MAJOR": 8,
            "COMPUTE_CAPABILITY_MINOR": 0,
            "L2_CACHE_SIZE": 40 << 20,
            "MEMORY_POOLS_SUPPORTED": 1,
            "MANAGED_MEMORY": 0,
        }
        for name, value in names.items():
            attribute = getattr(cuda.CUdevice_attribute, f"CU_DEVICE_ATTRIBUTE_{name}")
            self.assertEqual(ok(cuda.cuDeviceGetAttribute(attribute, self.device)), value, name)

    def test_every_attribute_of_the_header_can_be_asked(self):
        for attribute in cuda.CUdevice_attribute:
            if attribute.name != "CU_DEVICE_ATTRIBUTE_MAX":
                ok(cuda.cuDeviceGetAttribute(attribute, self.device))

    def test_there_is_no_second_device(self):
        self.fails("INVALID_DEVICE", cuda.cuDeviceGet(1))
        self.fails("INVALID_DEVICE", cuda.cuDeviceGet(-1))
        self.fails("INVALID_DEVICE", cuda.cuDeviceGetName(64, cuda.CUdevice(7)))
        self.fails("INVALID_DEVICE", cuda.cuCtxCreate(None, 0, cuda.CUdevice(7)))

    def test_errors_have_names(self):
        self.assertEqual(ok(cuda.cuGetErrorName(Result.CUDA_ERROR_ILLEGAL_ADDRESS)), b"CUDA_ERROR_ILLEGAL_ADDRESS")
        self.assertEqual(ok(cuda.cuGetErrorString(Result.CUDA_SUCCESS)), b"no error")

    def test_addresses_of_entry_points_are_found_by_name_and_version(self):
        flags = cuda.CUdriverProcAddress_flags.CU_GET_PROC_ADDRESS_DEFAULT
        status = cuda.CUdriverProcAddressQueryResult
        found = cuda.cuGetProcAddress(b"cuDriverGetVersion", 13000, flags)
        address, state = ok(found)
        self.assertEqual(state, status.CU_GET_PROC_ADDRESS_SUCCESS)
        version = ctypes.c_int()
        self.assertEqual(ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_int))(address)(version), 0)
        self.assertEqual(version.value, 13000)
        address, state = ok(cuda.cuGetProcAddress(b"cuLaunchKernelEx", 11050, flags))
        self.assertFalse(address)
        self.assertEqual(state, status.CU_GET_PROC_ADDRESS_VERSION_NOT_SUFFICIENT)
        address, state = ok(cuda.cuGetProcAddress(b"cuNoSuchThing", 13000, flags))
        self.assertFalse(address)
        self.assertEqual(state, status.CU_GET_PROC_ADDRESS_SYMBOL_NOT_FOUND)
        self.fails("INVALID_VALUE", cuda.cuGetProcAddress(b"cuInit", 99000, flags))


class Contexts(OnDevice):
    def test_the_primary_context_is_one_for_all(self):
        first = ok(cuda.cuDevicePrimaryCtxRetain(self.device))
        second = ok(cuda.cuDevicePrimaryCtxRetain(self.device))
        self.assertEqual(int(first), int(second))
        self.assertEqual(ok(cuda.cuDevicePrimaryCtxGetState(self.device))[1], 1)
        ok(cuda.cuCtxPushCurrent(first))
        self.add(self.kernel("add"), 300)
        self.assertEqual(int(ok(cuda.cuCtxPopCurrent())), int(first))
        ok(cuda.cuDevicePrimaryCtxRelease(self.device))
        ok(cuda.cuDevicePrimaryCtxRelease(self.device))
        self.fails("INVALID_CONTEXT", cuda.cuDevicePrimaryCtxRelease(self.device))

    def test_contexts_are_a_stack(self):
        inner = ok(cuda.cuCtxCreate(None, 0, self.device))
        self.assertEqual(int(ok(cuda.cuCtxGetCurrent())), int(inner))
        self.assertEqual(int(ok(cuda.cuCtxGetDevice())), 0)
        ok(cuda.cuCtxDestroy(inner))
        self.assertEqual(int(ok(cuda.cuCtxGetCurrent())), int(self.context))
        self.fails("INVALID_CONTEXT", cuda.cuCtxDestroy(inner))
        self.fails("INVALID_CONTEXT", cuda.cuCtxSetCurrent(inner))
        self.fails("INVALID_CONTEXT", cuda.cuCtxPushCurrent(cuda.CUcontext(WILD)))

    def test_a_thread_without_a_context_is_refused(self):
        codes = []
        thread = threading.Thread(target=lambda: codes.append(cuda.cuMemAlloc(64)))
        thread.start()
        thread.join()
        self.fails("INVALID_CONTEXT", codes[0])

    def test_what_belonged_to_a_destroyed_context_is_gone(self):
        doomed = ok(cuda.cuCtxCreate(None, 0, self.device))
        address = ok(cuda.cuMemAlloc(64))
        stream, event = ok(cuda.cuStreamCreate(0)), ok(cuda.cuEventCreate(0))
        module = ok(cuda.cuModuleLoadData(PTX))
        function = ok(cuda.cuModuleGetFunction(module, b"reverse"))
        codes = []

        def elsewhere():
            ok(cuda.cuCtxSetCurrent(doomed))
            ready.set()
            destroyed.wait(60)
            codes.append(cuda.cuMemAlloc(64))

        ready, destroyed = threading.Event(), threading.Event()
        thread = threading.Thread(target=elsewhere)
        thread.start()
        ready.wait(60)
        ok(cuda.cuCtxDestroy(doomed))
        destroyed.set()
        thread.join()
        self.fails("CONTEXT_IS_DESTROYED", codes[0])
        self.fails("INVALID_HANDLE", cuda.cuStreamSynchronize(stream))
        self.fails("INVALID_HANDLE", cuda.cuStreamDestroy(stream))
        self.fails("INVALID_HANDLE", cuda.cuEventSynchronize(event))
        self.fails("INVALID_HANDLE", launch(function, 1, 1, (0,), (ctypes.c_void_p,)))
        self.fails("INVALID_VALUE", cuda.cuModuleGetFunction(module, b"reverse"))
        self.fails("INVALID_VALUE", cuda.cuMemFree(address))


class Memory(OnDevice):
    def test_copies_and_fills(self):
        values = ints(range(1000))
        address = upload(values)
        self.assertEqual(download(address, values), values)
        ok(cuda.cuMemsetD32(int(address) + 40, 7, 10))
        ok(cuda.cuMemsetD16(int(address) + 80, 0x0102, 2))
        ok(cuda.cuMemsetD8(int(address) + 84, 0xFF, 4))
        values[10:22] = ints([7] * 10 + [0x01020102, -1])
        self.assertEqual(download(address, values), values)
        other = ok(cuda.cuMemAlloc(4000))
        ok(cuda.cuMemcpyDtoD(other, address, 4000))
        self.assertEqual(download(other, values), values)
        ok(cuda.cuMemcpy(cuda.CUdeviceptr(int(other)), cuda.CUdeviceptr(int(address) + 2000), 2000))
        self.assertEqual(download(other, values)[:500], values[500:])
        base, size = ok(cuda.cuMemGetAddressRange(int(address) + 100))
        self.assertEqual((int(base), size), (int(address), 4000))
        kind = cuda.CUpointer_attribute.CU_POINTER_ATTRIBUTE_MEMORY_TYPE
        self.assertEqual(ok(cuda.cuPointerGetAttribute(kind, address)), cuda.CUmemorytype.CU_MEMORYTYPE_DEVICE)

    def test_stream_ordered_work(self):
        stream = ok(cuda.cuStreamCreate(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
        free, total = ok(cuda.cuMemGetInfo())
        address = ok(cuda.cuMemAllocAsync(4096, stream))
        self.assertEqual(ok(cuda.cuMemGetInfo()), (free - 4096, total))
        pinned = ok(cuda.cuMemHostAlloc(4096, 0))
        host = (ctypes.c_int * 1024).from_address(pinned)
        host[:] = range(1024)
        ok(cuda.cuMemcpyHtoDAsync(address, pinned, 4096, stream))
        ok(cuda.cuMemsetD32Async(address, 5, 8, stream))
        ok(cuda.cuMemsetD8Async(address, 0, 4, stream))
        ok(cuda.cuMemcpyDtoHAsync(pinned, address, 4096, stream))
        ok(cuda.cuStreamSynchronize(stream))
        self.assertEqual(host[:], [0] + [5] * 7 + list(range(8, 1024)))
        ok(cuda.cuMemFreeAsync(address, stream))
        ok(cuda.cuMemFreeHost(pinned))
        ok(cuda.cuStreamDestroy(stream))
        self.assertEqual(ok(cuda.cuMemGetInfo()), (free, total))

    def test_wrong_addresses_and_sizes_are_refused(self):
        host = bytearray(64)
        self.fails("INVALID_VALUE", cuda.cuMemAlloc(0))
        self.fails("OUT_OF_MEMORY", cuda.cuMemAlloc(1 << 50))
        address = ok(cuda.cuMemAlloc(60))
        start = int(address)
        self.fails("INVALID_VALUE", cuda.cuMemcpyDtoH(host, address, 64))
        self.fails("INVALID_VALUE", cuda.cuMemcpyHtoD(start - 1, host, 4))
        self.fails("INVALID_VALUE", cuda.cuMemsetD32(start + 2, 0, 1))
        self.fails("INVALID_VALUE", cuda.cuMemFree(start + 4))
        self.fails("INVALID_VALUE", cuda.cuMemFree(cuda.CUdeviceptr(WILD)))
        self.fails("INVALID_HANDLE", cuda.cuMemcpyHtoDAsync(address, host, 4, cuda.CUstream(WILD)))
        ok(cuda.cuMemFree(address))
        self.fails("INVALID_VALUE", cuda.cuMemFree(address))
        self.fails("INVALID_VALUE", cuda.cuMemcpyDtoH(host, address, 4))
        self.fails("INVALID_VALUE", cuda.cuMemsetD8(address, 0, 4))
        stream = ok(cuda.cuStreamCreate(0))
        self.fails("INVALID_VALUE", cuda.cuMemFreeAsync(address, stream))
        self.fails("INVALID_VALUE", cuda.cuMemFreeHost(ctypes.addressof(ctypes.c_int())))
        self.fails("NOT_FOUND", cuda.cuMemGetAddressRange(address))


class StreamsAndEvents(OnDevice):
    def test_events_order_streams(self):
        first = ok(cuda.cuStreamCreate(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
        second = ok(cuda.cuStreamCreateWithPriority(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING, -1))
        start, end = ok(cuda.cuEventCreate(0)), ok(cuda.cuEventCreate(0))
        function = self.kernel("add")
        ok(cuda.cuEventRecord(start, first))
        self.add(function, 1000, first)
        ok(cuda.cuEventRecord(end, first))
        ok(cuda.cuStreamWaitEvent(second, end, 0))
        self.add(function, 1000, second)
        ok(cuda.cuEventSynchronize(end))
        ok(cuda.cuEventQuery(end))
        ok(cuda.cuStreamQuery(second))
        self.assertGreaterEqual(ok(cuda.cuEventElapsedTime(start, end)), 0)
        self.assertEqual(ok(cuda.cuStreamGetPriority(second)), -1)
        self.assertEqual(int(ok(cuda.cuStreamGetCtx(first))), int(self.context))
        ok(cuda.cuCtxSynchronize())
        for event in (start, end):
            ok(cuda.cuEventDestroy(event))
        for stream in (first, second):
            ok(cuda.cuStreamDestroy(stream))

    def test_wrong_use_is_refused(self):
        stream, event = ok(cuda.cuStreamCreate(0)), ok(cuda.cuEventCreate(0))
        untimed = ok(cuda.cuEventCreate(cuda.CUevent_flags.CU_EVENT_DISABLE_TIMING))
        self.fails("INVALID_HANDLE", cuda.cuEventElapsedTime(event, event))
        ok(cuda.cuEventRecord(untimed, stream))
        self.fails("INVALID_HANDLE", cuda.cuEventElapsedTime(untimed, untimed))
        self.fails("INVALID_HANDLE", cuda.cuEventRecord(cuda.CUevent(WILD), stream))
        self.fails("INVALID_HANDLE", cuda.cuStreamWaitEvent(cuda.CUstream(WILD), event, 0))
        self.fails("INVALID_HANDLE", cuda.cuStreamSynchronize(cuda.CUstream(int(event))))
        self.fails("INVALID_VALUE", cuda.cuStreamCreate(0x80))
        ok(cuda.cuEventDestroy(event))
        self.fails("INVALID_HANDLE", cuda.cuEventDestroy(event))
        ok(cuda.cuStreamDestroy(stream))
        self.fails("INVALID_HANDLE", cuda.cuStreamDestroy(stream))
        self.fails("INVALID_HANDLE", cuda.cuStreamQuery(stream))


class Modules(OnDevice):
    def test_ptx_and_fatbins_of_every_compression_run(self):
        self.add(self.kernel("add"), 1000)
        for name in FATBINS:
            with self.subTest(name):
                self.add(self.kernel("add", (FIXTURES / name).read_bytes()), 200)
                self.add(ok(cuda.cuModuleGetFunction(ok(cuda.cuModuleLoad(str(FIXTURES / name).encode())), b"add")), 50)

    def test_functions_and_variables(self):
        module = ok(cuda.cuModuleLoadData(PTX))
        address, size = ok(cuda.cuModuleGetGlobal(module, b"accumulator"))
        self.assertEqual((size, download(address, ints([0]))[0]), (4, 7))
        ok(cuda.cuMemcpyHtoD(address, ints([100]).tobytes(), 4))
        out = upload(ints([0] * 4))
        function = ok(cuda.cuModuleGetFunction(module, b"globals"))
        ok(launch(function, 1, 4, (int(out),), (ctypes.c_void_p,)))
        self.assertEqual(download(out, ints([0] * 4)), ints([103, 101, 104, 101]))
        count = ok(cuda.cuModuleGetFunctionCount(module))
        names = {ok(cuda.cuFuncGetName(f)) for f in ok(cuda.cuModuleEnumerateFunctions(count, module))}
        self.assertEqual(names, {b"add", b"reverse", b"reverse_dynamic", b"parameters", b"globals", b"stray"})
        self.assertEqual(int(ok(cuda.cuFuncGetModule(function))), int(module))
        self.assertEqual(ok(cuda.cuFuncGetParamInfo(self.kernel("add"), 3)), (24, 4))
        most = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_THREADS_PER_BLOCK
        self.assertEqual(ok(cuda.cuFuncGetAttribute(most, self.kernel("reverse"))), 128)
        blocks = cuda.cuOccupancyMaxActiveBlocksPerMultiprocessor
        self.assertEqual(ok(blocks(self.kernel("add"), 256, 0)), 8)

    def test_a_refusal_is_explained_in_the_log(self):
        log = bytearray(400)
        options = [
            cuda.CUjit_option.CU_JIT_ERROR_LOG_BUFFER,
            cuda.CUjit_option.CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ]
        text = PTX.replace(b"add.f32", b"add.frobnicate.f32", 1)
        self.fails("INVALID_PTX", cuda.cuModuleLoadDataEx(text, 2, options, [log, len(log)]))
        self.assertIn(b"frobnicate", log)

    def test_what_is_no_module_is_refused(self):
        self.fails("INVALID_PTX", cuda.cuModuleLoadData(b"no ptx"))
        self.fails("INVALID_PTX", cuda.cuModuleLoadData(PTX[: len(PTX) // 2]))
        self.fails("NO_BINARY_FOR_GPU", cuda.cuModuleLoadData((FIXTURES / "driver.cubin").read_bytes()))
        self.fails("FILE_NOT_FOUND", cuda.cuModuleLoad(b"no/such/file"))
        module = ok(cuda.cuModuleLoadData(PTX))
        self.fails("NOT_FOUND", cuda.cuModuleGetFunction(module, b"subtract"))
        self.fails("NOT_FOUND", cuda.cuModuleGetGlobal(module, b"subtract"))
        ok(cuda.cuModuleUnload(module))
        self.fails("INVALID_VALUE", cuda.cuModuleUnload(module))
        self.fails("INVALID_VALUE", cuda.cuModuleGetFunction(cuda.CUmodule(WILD), b"add"))


class Launches(OnDevice):
    def reversed_by(self, start):
        """Reverses 128 values with a launch that `start` makes."""
        values = ints(range(128))
        address = upload(values)
        ok(start(address))
        self.assertEqual(download(address, values), ints(reversed(values)))

    def test_every_way_to_launch(self):
        function, stream = self.kernel("reverse"), ok(cuda.cuStreamCreate(0))
        kinds = (ctypes.c_void_p,)
        self.reversed_by(lambda address: launch(function, 1, 128, (int(address),), kinds, stream=stream))

        config = cuda.CUlaunchConfig()
        config.gridDimX = config.gridDimY = config.gridDimZ = 1
        config.blockDimX, config.blockDimY, config.blockDimZ = 128, 1, 1
        config.hStream = stream
        self.reversed_by(lambda address: cuda.cuLaunchKernelEx(config, function, ((int(address),), kinds), 0))

        attribute = cuda.CUlaunchAttribute()
        attribute.id = cuda.CUlaunchAttributeID.CU_LAUNCH_ATTRIBUTE_COOPERATIVE
        attribute.value.cooperative = 1
        config.attrs, config.numAttrs = [attribute], 1
        self.reversed_by(lambda address: cuda.cuLaunchKernelEx(config, function, ((int(address),), kinds), 0))

        def cooperative(address):
            return cuda.cuLaunchCooperativeKernel(function, 1, 1, 1, 128, 1, 1, 0, stream, ((int(address),), kinds))

        self.reversed_by(cooperative)

        def pointers(address):
            value = ctypes.c_void_p(int(address))
            array_of_pointers = (ctypes.c_void_p * 1)(ctypes.addressof(value))
            return cuda.cuLaunchKernel(function, 1, 1, 1, 128, 1, 1, 0, stream, ctypes.addressof(array_of_pointers), 0)

        self.reversed_by(pointers)
        self.reversed_by(lambda address: self.launch_buffer(function, 128, struct.pack("P", int(address))))

    def launch_buffer(self, function, threads, data):
        """A launch whose parameters are one buffer."""
        buffer, size = ctypes.create_string_buffer(data, len(data)), ctypes.c_size_t(len(data))
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), None)
        return cuda.cuLaunchKernel(function, 1, 1, 1, threads, 1, 1, 0, 0, 0, ctypes.addressof(extra))

    def test_parameters_of_every_size_arrive(self):
        # struct Mixed { char a; double b; short c[3]; }
        out = upload(array.array("q", [0] * 5))
        data = struct.pack("b7xb7xd3h2xh6xP", -1, -2, 3.0, 4, 5, 6, -7, int(out))
        ok(self.launch_buffer(self.kernel("parameters"), 1, data))
        self.assertEqual(download(out, array.array("q", [0] * 5)).tolist(), [-1, -2, 3, 654, -7])

    def test_a_wrong_number_of_parameters_is_refused_where_it_can_be_seen(self):
        add = self.kernel("add")
        none = cuda.cuLaunchKernel(add, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0)
        self.fails("INVALID_VALUE", none)
        self.fails("INVALID_VALUE", self.launch_buffer(add, 1, bytes(24)))
        self.fails("LAUNCH_OUT_OF_RESOURCES", self.launch_buffer(add, 1, bytes(64)))
        ok(cuda.cuCtxSynchronize())

    def test_impossible_shapes_are_refused(self):
        add, reverse, dynamic = self.kernel("add"), self.kernel("reverse"), self.kernel("reverse_dynamic")
        null = ((0, 0, 0, 0), ADD)
        for grid, block in ((0, 32), (1, 0), (1, 1025), (1 << 31, 32)):
            self.fails("INVALID_VALUE", launch(add, grid, block, *null))
        self.fails("INVALID_VALUE", cuda.cuLaunchKernel(add, 1, 65536, 1, 1, 1, 1, 0, 0, null, 0))
        self.fails("INVALID_VALUE", cuda.cuLaunchKernel(add, 1, 1, 1, 1, 1, 65, 0, 0, null, 0))
        self.fails("LAUNCH_OUT_OF_RESOURCES", launch(reverse, 1, 256, (0,), (ctypes.c_void_p,)))
        self.fails("INVALID_VALUE", launch(add, 1, 32, *null, shared=(48 << 10) + 1))
        most = cuda.CUfunction_attribute.CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
        self.fails("INVALID_VALUE", cuda.cuFuncSetAttribute(dynamic, most, (163 << 10) + 1))
        ok(cuda.cuFuncSetAttribute(dynamic, most, 163 << 10))
        ok(launch(dynamic, 1, 32, (0, 0), (ctypes.c_void_p, ctypes.c_int), shared=163 << 10))
        cooperative = cuda.cuLaunchCooperativeKernel(add, 217, 1, 1, 1024, 1, 1, 0, 0, null)
        self.fails("COOPERATIVE_LAUNCH_TOO_LARGE", cooperative)
        self.fails("INVALID_HANDLE", launch(cuda.CUfunction(WILD), 1, 1, *null))
        self.fails("INVALID_HANDLE", launch(add, 1, 1, *null, stream=cuda.CUstream(WILD)))
        self.add(add, 100)

    def test_a_fault_fails_its_context_and_no_other(self):
        broken = ok(cuda.cuCtxCreate(None, 0, self.device))
        stray = self.kernel("stray")
        # Allocated last, so that nothing lies where the kernel strays to.
        address = ok(cuda.cuMemAlloc(64))
        self.fails("ILLEGAL_ADDRESS", launch(stray, 1, 1, (int(address),), (ctypes.c_void_p,)))
        self.fails("ILLEGAL_ADDRESS", cuda.cuCtxSynchronize())
        self.fails("ILLEGAL_ADDRESS", cuda.cuMemAlloc(64))
        ok(cuda.cuCtxDestroy(broken))
        self.add(self.kernel("add"), 100)

    def test_a_freed_buffer_faults(self):
        doomed = ok(cuda.cuCtxCreate(None, 0, self.device))
        address = ok(cuda.cuMemAlloc(512))
        ok(cuda.cuMemFree(address))
        self.fails("ILLEGAL_ADDRESS", launch(self.kernel("reverse"), 1, 128, (int(address),), (ctypes.c_void_p,)))
        ok(cuda.cuCtxDestroy(doomed))

    def test_a_misaligned_buffer_faults(self):
        doomed = ok(cuda.cuCtxCreate(None, 0, self.device))
        address = int(ok(cuda.cuMemAlloc(1024))) + 2
        self.fails("MISALIGNED_ADDRESS", launch(self.kernel("reverse"), 1, 128, (address,), (ctypes.c_void_p,)))
        ok(cuda.cuCtxDestroy(doomed))


class Graphs(OnDevice):
    COUNT = 256

    def setUp(self):
        super().setUp()
        self.stream = ok(cuda.cuStreamCreate(cuda.CUstream_flags.CU_STREAM_NON_BLOCKING))
        self.function = self.kernel("add")
        self.zeros = floats([0] * self.COUNT)
        self.a, self.b, self.c = (upload(self.zeros) for _ in range(3))
        self.host = ok(cuda.cuMemHostAlloc(4 * self.COUNT, 0))

    def arguments(self, a, b, c):
        return ((int(a), int(b), int(c), self.COUNT), ADD)

    def capture(self, work):
        ok(cuda.cuStreamBeginCapture(self.stream, cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        work()
        return ok(cuda.cuStreamEndCapture(self.stream))

    def sums(self):
        """Copies a host buffer up and adds another buffer to it."""
        ok(cuda.cuMemcpyHtoDAsync(self.a, self.host, 4 * self.COUNT, self.stream))
        ok(cuda.cuMemsetD32Async(self.c, 0, self.COUNT, self.stream))
        grid = self.COUNT // 128
        ok(launch(self.function, grid, 128, *self.arguments(self.a, self.b, self.c), stream=self.stream))

    def fill_host(self, factor):
        values = floats(factor * i for i in range(self.COUNT))
        (ctypes.c_float * self.COUNT).from_address(self.host)[:] = values.tolist()
        return values

    def test_a_replay_reads_its_inputs_anew(self):
        before = self.fill_host(1)
        graph = self.capture(self.sums)
        self.assertEqual(download(self.c, self.zeros), self.zeros, "captured work must not run")
        run = ok(cuda.cuGraphInstantiate(graph, 0))
        ok(cuda.cuGraphDestroy(graph))
        ok(cuda.cuGraphUpload(run, self.stream))
        for factor, offset in ((1, 0.0), (2, 0.0), (3, 1.0)):
            values = self.fill_host(factor)
            ok(cuda.cuMemcpyHtoD(self.b, floats([offset] * self.COUNT).tobytes(), 4 * self.COUNT))
            ok(cuda.cuGraphLaunch(run, self.stream))
            ok(cuda.cuStreamSynchronize(self.stream))
            self.assertEqual(download(self.c, self.zeros), floats(value + offset for value in values))
        self.assertNotEqual(values, before)
        ok(cuda.cuGraphExecDestroy(run))
        self.fails("INVALID_VALUE", cuda.cuGraphLaunch(run, self.stream))
        self.fails("INVALID_VALUE", cuda.cuGraphExecDestroy(run))

    def kernel_node(self, graph):
        _, count = ok(cuda.cuGraphGetNodes(graph))
        nodes, count = ok(cuda.cuGraphGetNodes(graph, count))
        types = [ok(cuda.cuGraphNodeGetType(node)) for node in nodes]
        kinds = cuda.CUgraphNodeType
        self.assertEqual(
            types,
            [kinds.CU_GRAPH_NODE_TYPE_MEMCPY, kinds.CU_GRAPH_NODE_TYPE_MEMSET, kinds.CU_GRAPH_NODE_TYPE_KERNEL],
        )
        return nodes[2]

    def test_a_kernel_nodes_parameters_change_in_the_executable_graph(self):
        values = self.fill_host(1)
        graph = self.capture(self.sums)
        run = ok(cuda.cuGraphInstantiate(graph, 0))
        node = self.kernel_node(graph)
        params = ok(cuda.cuGraphKernelNodeGetParams(node))
        self.assertEqual((int(params.func), params.gridDimX, params.blockDimX), (int(self.function), 2, 128))

        other = upload(floats([10] * self.COUNT))
        changed = cuda.CUDA_KERNEL_NODE_PARAMS()
        changed.func = self.function
        changed.gridDimX, changed.gridDimY, changed.gridDimZ = 2, 1, 1
        changed.blockDimX, changed.blockDimY, changed.blockDimZ = 128, 1, 1
        changed.kernelParams = self.arguments(self.a, other, self.c)
        ok(cuda.cuGraphExecKernelNodeSetParams(run, node, changed))
        ok(cuda.cuGraphLaunch(run, self.stream))
        self.assertEqual(download(self.c, self.zeros), floats(value + 10 for value in values))

        fresh = ok(cuda.cuGraphInstantiate(graph, 0))
        ok(cuda.cuGraphLaunch(fresh, self.stream))
        self.assertEqual(download(self.c, self.zeros), values, "the graph itself did not change")

        ok(cuda.cuGraphKernelNodeSetParams(node, changed))
        fresh = ok(cuda.cuGraphInstantiate(graph, 0))
        ok(cuda.cuGraphLaunch(fresh, self.stream))
        self.assertEqual(download(self.c, self.zeros), floats(value + 10 for value in values))

        changed.blockDimX = 2048
        self.fails("INVALID_VALUE", cuda.cuGraphExecKernelNodeSetParams(run, node, changed))
        changed.blockDimX = 128
        self.fails("INVALID_VALUE", cuda.cuGraphExecKernelNodeSetParams(run, cuda.CUgraphNode(WILD), changed))
        self.fails("INVALID_VALUE", cuda.cuGraphExecKernelNodeSetParams(cuda.CUgraphExec(WILD), node, changed))
        ok(cuda.cuGraphDestroy(graph))
        self.fails("INVALID_VALUE", cuda.cuGraphNodeGetType(node))
        self.fails("INVALID_VALUE", cuda.cuGraphExecKernelNodeSetParams(run, node, changed))
        self.fails("INVALID_VALUE", cuda.cuGraphDestroy(graph))

    def test_an_executable_graph_is_updated_from_another_capture(self):
        values = self.fill_host(1)
        graph = self.capture(self.sums)
        run = ok(cuda.cuGraphInstantiate(graph, 0))
        self.b = upload(floats([5] * self.COUNT))
        ok(cuda.cuGraphExecUpdate(run, self.capture(self.sums)))
        ok(cuda.cuGraphLaunch(run, self.stream))
        self.assertEqual(download(self.c, self.zeros), floats(value + 5 for value in values))

        def other():
            ok(cuda.cuMemsetD32Async(self.c, 0, self.COUNT, self.stream))

        # The bindings give no further information beside a failure.
        self.fails("GRAPH_EXEC_UPDATE_FAILURE", cuda.cuGraphExecUpdate(run, self.capture(other)))

    def test_the_rules_of_capture(self):
        active = cuda.CUstreamCaptureStatus.CU_STREAM_CAPTURE_STATUS_ACTIVE
        mode = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_GLOBAL
        ok(cuda.cuStreamBeginCapture(self.stream, mode))
        self.assertEqual(ok(cuda.cuStreamIsCapturing(self.stream)), active)
        relaxed = cuda.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_RELAXED
        self.assertEqual(ok(cuda.cuThreadExchangeStreamCaptureMode(relaxed)), mode)
        ok(cuda.cuMemAlloc(64))
        self.assertEqual(ok(cuda.cuThreadExchangeStreamCaptureMode(mode)), relaxed)
        self.fails("STREAM_CAPTURE_UNSUPPORTED", cuda.cuMemAlloc(64))
        self.fails("STREAM_CAPTURE_INVALIDATED", cuda.cuMemsetD8Async(self.c, 0, 4, self.stream))
        self.fails("STREAM_CAPTURE_INVALIDATED", cuda.cuStreamEndCapture(self.stream))
        ok(cuda.cuMemsetD8Async(self.c, 0, 4, self.stream))
        ok(cuda.cuStreamBeginCapture(self.stream, mode))
        self.fails("STREAM_CAPTURE_UNSUPPORTED", cuda.cuStreamSynchronize(self.stream))
        self.fails("STREAM_CAPTURE_INVALIDATED", cuda.cuStreamEndCapture(self.stream))


if __name__ == "__main__":
    unittest.main()
