"""A small part of the CUDA driver, for programs that have nothing else to hold device memory with.

Such are this package's tests, its examples, and tensors on the CPU that are computed on the device.
Frameworks bring their own.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
from collections.abc import Iterator
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_uint64, c_void_p
from typing import Any

from .errors import CudaError
from .types import DType

_NAMES = ("libcuda.so.1", "libcuda.so")
_POINTER_DEVICE_ORDINAL = 9
_EVENT_DISABLE_TIMING = 2

_FUNCTIONS: dict[str, list[Any]] = {
    "cuInit": [c_uint],
    "cuGetErrorName": [c_int, ctypes.POINTER(c_char_p)],
    "cuDriverGetVersion": [ctypes.POINTER(c_int)],
    "cuDeviceGetCount": [ctypes.POINTER(c_int)],
    "cuDeviceGet": [ctypes.POINTER(c_int), c_int],
    "cuDeviceGetName": [c_char_p, c_int, c_int],
    "cuDeviceGetAttribute": [ctypes.POINTER(c_int), c_int, c_int],
    "cuDeviceTotalMem_v2": [ctypes.POINTER(c_size_t), c_int],
    "cuDevicePrimaryCtxRetain": [ctypes.POINTER(c_void_p), c_int],
    "cuCtxPushCurrent_v2": [c_void_p],
    "cuCtxPopCurrent_v2": [ctypes.POINTER(c_void_p)],
    "cuMemAlloc_v2": [ctypes.POINTER(c_uint64), c_size_t],
    "cuMemFree_v2": [c_uint64],
    "cuMemcpyHtoD_v2": [c_uint64, c_void_p, c_size_t],
    "cuMemcpyDtoH_v2": [c_void_p, c_uint64, c_size_t],
    "cuPointerGetAttribute": [c_void_p, c_int, c_uint64],
    "cuStreamCreate": [ctypes.POINTER(c_void_p), c_uint],
    "cuStreamDestroy_v2": [c_void_p],
    "cuStreamSynchronize": [c_void_p],
    "cuStreamWaitEvent": [c_void_p, c_void_p, c_uint],
    "cuEventCreate": [ctypes.POINTER(c_void_p), c_uint],
    "cuEventRecord": [c_void_p, c_void_p],
    "cuEventDestroy_v2": [c_void_p],
}


@functools.cache
def _driver() -> ctypes.CDLL:
    reasons = []
    for name in _NAMES:
        try:
            driver = ctypes.CDLL(name)
            break
        except OSError as error:
            reasons.append(str(error))
    else:
        raise OSError(
            f"no CUDA driver: {'; '.join(reasons)}. Install the NVIDIA driver, or put its "
            "libcuda.so.1 on the loader's path"
        )
    for name, arguments in _FUNCTIONS.items():
        function = getattr(driver, name)
        function.argtypes = arguments
        function.restype = c_int
    result = driver.cuInit(0)
    if result:
        name = _error_name(driver, result)
        raise CudaError("cuInit", result, f"{name}: no device works with this driver")
    return driver


def _error_name(driver: ctypes.CDLL, result: int) -> str:
    text = c_char_p()
    driver.cuGetErrorName(result, ctypes.byref(text))
    return (text.value or b"unknown").decode()


def call(name: str, *arguments: Any) -> None:
    """Calls a function of the driver API; raises `CudaError` if it fails."""
    driver = _driver()
    result = getattr(driver, name)(*arguments)
    if result:
        raise CudaError(name, result, _error_name(driver, result))


@functools.cache
def _primary(device: int) -> c_void_p:
    """The primary context of a device, retained until the program ends."""
    context = c_void_p()
    call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return context


@contextlib.contextmanager
def current(device: int) -> Iterator[None]:
    """The primary context of a device is current inside."""
    call("cuCtxPushCurrent_v2", _primary(device))
    try:
        yield
    finally:
        popped = c_void_p()
        call("cuCtxPopCurrent_v2", ctypes.byref(popped))


def device_of(address: int, device: int = 0) -> int | None:
    """The ordinal of the device that an address is of; None if the driver doesn't know it.

    device: the driver is asked through this one's context.
    """
    ordinal = c_int(-1)
    with current(device):
        try:
            call("cuPointerGetAttribute", ctypes.byref(ordinal), _POINTER_DEVICE_ORDINAL, address)
        except CudaError:
            return None
    return ordinal.value


def wait_for(stream: int, producer: int, device: int) -> None:
    """Makes a stream wait for what another one has been given so far. 0 is the default stream."""
    with current(device):
        event = c_void_p()
        call("cuEventCreate", ctypes.byref(event), _EVENT_DISABLE_TIMING)
        try:
            call("cuEventRecord", event, producer)
            call("cuStreamWaitEvent", stream, event, 0)
        finally:
            call("cuEventDestroy_v2", event)


class Stream:
    """A stream of a device's primary context, destroyed with this object."""

    def __init__(self, device: int = 0) -> None:
        handle = c_void_p()
        self.device = device
        with current(device):
            call("cuStreamCreate", ctypes.byref(handle), 0)
        self.handle: int = handle.value or 0

    def synchronize(self) -> None:
        """Waits for all work of the stream."""
        with current(self.device):
            call("cuStreamSynchronize", self.handle)

    def __del__(self) -> None:
        if getattr(self, "handle", 0):
            with contextlib.suppress(Exception), current(self.device):
                call("cuStreamDestroy_v2", self.handle)


def synchronize(device: int = 0, stream: int = 0) -> None:
    """Waits for all work of a stream.

    0 is the default stream. It waits for all streams that aren't marked non-blocking.
    """
    with current(device):
        call("cuStreamSynchronize", stream)


class DeviceArray:
    """Device memory with a shape, row-major and contiguous, freed with this object.

    It has a `__cuda_array_interface__`, which has no name for bf16: only `dtype` tells that.
    """

    def __init__(self, shape: tuple[int, ...], dtype: DType | None, device: int = 0) -> None:
        #: None: bytes.
        self.dtype = dtype
        self.shape = tuple(shape)
        self.device = device
        self.address = 0
        address = c_uint64()
        with current(device):
            call("cuMemAlloc_v2", ctypes.byref(address), max(self.nbytes, 1))
        self.address = address.value

    @property
    def nbytes(self) -> int:
        """Bytes of all elements."""
        count = self.dtype.size if self.dtype else 1
        for size in self.shape:
            count *= size
        return count

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        names = {None: "|u1", DType.F16: "<f2", DType.BF16: "<V2", DType.F32: "<f4"}
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": names[self.dtype],
            "data": (self.address, False),
            "strides": None,
            "stream": None,
        }

    def copy_from(self, data: Any) -> DeviceArray:
        """Copies the bytes of a host buffer here.

        data: bytes, or anything with the buffer protocol, such as a NumPy array.
        """
        view = memoryview(data)
        if view.nbytes != self.nbytes:
            raise ValueError(
                f"the host buffer has {view.nbytes} bytes, the device array {self.nbytes}"
            )
        source = view.tobytes()
        with current(self.device):
            if source:
                call("cuMemcpyHtoD_v2", self.address, source, len(source))
        return self

    def to_bytes(self) -> bytes:
        """Waits for the default stream, and copies all elements to the host."""
        host = ctypes.create_string_buffer(max(self.nbytes, 1))
        with current(self.device):
            if self.nbytes:
                call("cuMemcpyDtoH_v2", host, self.address, self.nbytes)
        return host.raw[: self.nbytes]

    def __del__(self) -> None:
        if getattr(self, "address", 0):
            with contextlib.suppress(Exception), current(self.device):
                call("cuMemFree_v2", self.address)


def zeros(nbytes: int, device: int = 0) -> DeviceArray:
    """Bytes of device memory that are zero, such as the flags of `Kernels.forward`."""
    return DeviceArray((nbytes,), None, device).copy_from(bytes(nbytes))


def allocate(shape: tuple[int, ...], dtype: DType | None) -> DeviceArray:
    """An allocator of device 0 for `Kernels.forward` and its like: memory by cuMemAlloc."""
    return DeviceArray(shape, dtype)
