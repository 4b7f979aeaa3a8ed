"""Device arrays of whatever library, as the kernels take them: address, shape, type and strides.

Taken are objects with `__cuda_array_interface__` (CuPy, Numba, PyTorch, RAFT and others, versions 2
and 3) or with `__dlpack__` and `__dlpack_device__` (those, JAX, ...). Nothing is copied. bf16 has
no name in the former: take such an array by DLPack, or say it: `array(x, dtype=DType.BF16)`.
Version 2 of the former doesn't say which stream the content comes from: DLPack goes before it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from ctypes import POINTER, c_int32, c_int64, c_uint8, c_uint16, c_uint64, c_void_p
from dataclasses import dataclass, field
from typing import Any

from . import cuda
from .errors import CudaError
from .types import DType

_CUDA = 2
_CODES = {(2, 16): DType.F16, (4, 16): DType.BF16, (2, 32): DType.F32}
_BYTES = {(0, 8), (1, 8)}
#: For `array`: no stream is made to wait.
NO_STREAM = -1

_TYPESTRS = {"<f2": DType.F16, "<f4": DType.F32, "|u1": None, "|i1": None, "<u1": None, "<i1": None}


@dataclass(frozen=True)
class Array:
    """Where an array's elements are. `dtype` None: bytes. Strides are in elements.

    owner: keeps the memory alive. wait: makes a stream wait for what the array's library has
    enqueued for it so far; None where nothing is known of that. A call does so for its own stream.
    """

    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: DType | None
    device: int
    read_only: bool
    owner: Any
    wait: Callable[[int], None] | None = field(default=None, compare=False, repr=False)

    @property
    def row_stride(self) -> int:
        """Elements from one row to the next.

        Of fewer than two rows it is the number of columns, whatever the array says.
        """
        if len(self.shape) < 2 or self.shape[0] < 2:
            return self.shape[-1]
        return self.strides[0]

    @property
    def alignment(self) -> int:
        """The largest power of two up to 16 that divides the address."""
        return self.address & -self.address & 0xF or 16

    @property
    def has_contiguous_columns(self) -> bool:
        """Whether the elements of a row follow each other."""
        return not self.shape or self.shape[-1] == 1 or self.strides[-1] == 1

    @property
    def is_contiguous(self) -> bool:
        """Whether all elements follow each other, row-major."""
        strides = zip(self.shape, self.strides, _compact(self.shape))
        return 0 in self.shape or all(
            size == 1 or given == wanted for size, given, wanted in strides
        )


def _compact(shape: tuple[int, ...]) -> tuple[int, ...]:
    strides, step = [], 1
    for size in reversed(shape):
        strides.append(step)
        step *= size
    return tuple(reversed(strides))


def array(source: Any, dtype: DType | None = None, stream: int = 0, device: int = 0) -> Array:
    """What `source` is to the kernels.

    dtype: overrides what the source says, for bf16 that is said to be uint16 or void.
    stream: the CUstream that will use it, 0 being the default stream. Where the source tells which
    stream its content comes from, this one is made to wait for that; nothing waits on the host.
    `NO_STREAM`: nobody uses it yet, nothing waits. A call that is given the array waits by its own
    stream, whatever was said here.
    device: the ordinal of the stream's device. The driver is asked through its context which device
    an address is of, where the source doesn't say.
    """
    if isinstance(source, Array):
        if source.wait is not None and stream != NO_STREAM:
            source.wait(stream)
        return source
    if isinstance(source, cuda.DeviceArray):
        # It knows bf16, and its device.
        strides = _compact(source.shape)
        return Array(
            source.address,
            source.shape,
            strides,
            dtype or source.dtype,
            source.device,
            False,
            source,
        )
    interface = getattr(source, "__cuda_array_interface__", None)
    has_dlpack = hasattr(source, "__dlpack__") and hasattr(source, "__dlpack_device__")
    if interface is not None:
        is_known = dtype is not None or interface["typestr"] in _TYPESTRS
        says_stream = interface.get("version", 0) >= 3
        if is_known and (says_stream or not has_dlpack):
            return _from_interface(source, interface, dtype, stream, device)
    if has_dlpack:
        return _from_dlpack(source, dtype, stream)
    if interface is not None:
        raise TypeError(
            f"an array of type {interface['typestr']}: the kernels take float16, float32 and "
            "bfloat16; of bfloat16 say so with lora_kernels.array(x, dtype=DType.BF16)"
        )
    raise TypeError(
        f"{type(source).__name__} is no device array: it has neither __cuda_array_interface__ nor "
        "__dlpack__ with __dlpack_device__"
    )


def named(name: str, source: Any, stream: int, device: int) -> Array:
    """`array` of an argument, whose name is in errors."""
    try:
        return array(source, stream=stream, device=device)
    except CudaError:
        raise
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from error
    except (RuntimeError, BufferError) as error:
        # Of a library that doesn't give its array away, such as PyTorch a tensor that requires a
        # gradient.
        raise ValueError(f"{name}: {error}") from error


def _from_interface(
    source: Any, interface: dict[str, Any], dtype: DType | None, stream: int, device: int
) -> Array:
    if interface.get("mask") is not None:
        raise TypeError("a masked array: the kernels take none")
    typestr = interface["typestr"]
    if typestr[0] == ">":
        raise TypeError(f"an array of type {typestr}: the kernels take little-endian elements")
    size = int(typestr[2:])
    if dtype is not None and dtype.size != size:
        raise TypeError(
            f"an array of type {typestr} is not {dtype.name}, whose elements have "
            f"{dtype.size} bytes"
        )
    shape = tuple(int(size) for size in interface["shape"])
    address, read_only = interface["data"]
    given = interface.get("strides")
    strides = (
        _compact(shape) if given is None else tuple(_elements(stride, size) for stride in given)
    )
    home = _checked_device(address, device) if address else device

    def wait(stream: int) -> None:
        # Of the moment: the stream that the library works on may have changed since.
        _wait_for(source.__cuda_array_interface__.get("stream"), stream, home)

    if stream != NO_STREAM:
        _wait_for(interface.get("stream"), stream, home)
    return Array(
        int(address or 0),
        shape,
        strides,
        dtype or _TYPESTRS[typestr],
        home,
        bool(read_only),
        source,
        wait,
    )


def _wait_for(producer: int | None, stream: int, device: int) -> None:
    # 1 and 2 are the default streams, of the process and of the thread, as in the driver API; 0 is
    # not allowed.
    if producer is not None and producer != stream and not (producer == 1 and stream == 0):
        cuda.wait_for(stream, producer, device)


def _elements(stride: int, size: int) -> int:
    if stride % size:
        raise ValueError(
            f"a stride of {stride} bytes is no whole number of elements of {size} bytes"
        )
    return int(stride) // size


def _checked_device(address: int, device: int) -> int:
    found = cuda.device_of(address, device)
    if found is None:
        raise ValueError(f"0x{address:x} is no device address: the driver doesn't know it")
    return found


class _DLTensor(ctypes.Structure):
    """dlpack.h, the same in all versions."""

    _fields_ = [
        ("data", c_void_p),
        ("device_type", c_int32),
        ("device_id", c_int32),
        ("ndim", c_int32),
        ("code", c_uint8),
        ("bits", c_uint8),
        ("lanes", c_uint16),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    ]


class _Versioned(ctypes.Structure):
    """DLManagedTensorVersioned, up to its tensor."""

    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("manager", c_void_p),
        ("deleter", c_void_p),
        ("flags", c_uint64),
        ("tensor", _DLTensor),
    ]


_READ_ONLY = 1
_NEWEST = (1, 0)

_is_valid = ctypes.pythonapi.PyCapsule_IsValid
_is_valid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_is_valid.restype = ctypes.c_int
_pointer = ctypes.pythonapi.PyCapsule_GetPointer
_pointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_pointer.restype = c_void_p


def _capsule(source: Any, stream: int) -> Any:
    # DLPack's number of the default stream is 1; 0 is not allowed, and -1 is none.
    stream = stream or 1
    try:
        return source.__dlpack__(stream=stream, max_version=_NEWEST)
    except TypeError:
        # Of a library from before DLPack 1.0.
        return source.__dlpack__(stream=stream)


def _from_dlpack(source: Any, dtype: DType | None, stream: int) -> Array:
    kind, ordinal = source.__dlpack_device__()
    if kind != _CUDA:
        raise ValueError(
            f"an array on DLPack device type {int(kind)}: it must be on a CUDA device, which is "
            f"type {_CUDA}"
        )
    capsule = _capsule(source, stream)
    read_only = False
    if _is_valid(capsule, b"dltensor"):
        tensor = _DLTensor.from_address(_pointer(capsule, b"dltensor"))
    elif _is_valid(capsule, b"dltensor_versioned"):
        versioned = _Versioned.from_address(_pointer(capsule, b"dltensor_versioned"))
        if versioned.major != 1:
            raise TypeError(
                f"DLPack {versioned.major}.{versioned.minor}: this package knows version 1 and "
                "those before"
            )
        tensor, read_only = versioned.tensor, bool(versioned.flags & _READ_ONLY)
    else:
        raise TypeError(
            f"{type(source).__name__}.__dlpack__ gave no DLPack capsule, or one that was used "
            "already"
        )
    code = (tensor.code, tensor.bits)
    if dtype is not None and dtype.size * 8 != tensor.bits:
        raise TypeError(
            f"an array of elements of {tensor.bits} bits is not {dtype.name}, whose elements have "
            f"{dtype.size} bytes"
        )
    if tensor.lanes != 1 or (code not in _CODES and code not in _BYTES and dtype is None):
        raise TypeError(
            f"an array of DLPack type code {tensor.code}, {tensor.bits} bits, {tensor.lanes} "
            "lanes: the kernels take float16, bfloat16 and float32"
        )
    shape = tuple(tensor.shape[: tensor.ndim])
    strides = tuple(tensor.strides[: tensor.ndim]) if tensor.strides else _compact(shape)
    address = (tensor.data or 0) + tensor.byte_offset
    # The capsule is not consumed: it frees what it holds when the last reference to it goes.
    owner = (source, capsule)

    def wait(stream: int) -> None:
        _capsule(source, stream)

    return Array(
        address, shape, strides, dtype or _CODES.get(code), int(ordinal), read_only, owner, wait
    )
