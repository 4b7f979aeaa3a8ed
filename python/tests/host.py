"""Numbers on the host, and the same on the device in awkward memory."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np

from lora_kernels import DType
from lora_kernels.cuda import DeviceArray

POISON = 0xFF


def to_bf16(values: np.ndarray) -> np.ndarray:
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def encode(values: np.ndarray, dtype: DType) -> np.ndarray:
    """Elements as they lie in memory."""
    if dtype is DType.BF16:
        return to_bf16(values)
    return values.astype(np.float16 if dtype is DType.F16 else np.float32)


def decode(elements: np.ndarray, dtype: DType) -> np.ndarray:
    if dtype is DType.BF16:
        return (elements.astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    return elements.astype(np.float64)


def storage(dtype: DType) -> type:
    return {DType.F16: np.float16, DType.BF16: np.uint16, DType.F32: np.float32}[dtype]


def random(
    rng: np.random.Generator, shape: tuple[int, ...], dtype: DType, scale: float = 1.0
) -> np.ndarray:
    """Numbers that the type can hold, in float64."""
    return decode(encode(rng.uniform(-scale, scale, shape), dtype), dtype)


class Strided:
    """A matrix or vector on the device, with poison between its rows.

    Rows are `padding` elements longer than they need to be. The first element lies `skipped`
    elements into an allocation.
    """

    def __init__(
        self, shape: tuple[int, ...], dtype: DType, padding: int = 0, skipped: int = 0
    ) -> None:
        self.shape, self.dtype, self.skipped = shape, dtype, skipped
        rows = shape[0] if len(shape) == 2 else 1
        self.stride = shape[-1] + padding
        self.count = skipped + rows * self.stride
        self.memory = DeviceArray((self.count,), dtype)
        self.memory.copy_from(np.full(self.count * dtype.size, POISON, np.uint8))

    def _view(self, elements: np.ndarray) -> np.ndarray:
        return elements[self.skipped :].reshape(-1, self.stride)[:, : self.shape[-1]]

    def put(self, values: np.ndarray) -> Strided:
        elements = np.frombuffer(self.memory.to_bytes(), storage(self.dtype)).copy()
        self._view(elements)[...] = encode(values, self.dtype).reshape(-1, self.shape[-1])
        self.memory.copy_from(elements)
        return self

    def get(self) -> np.ndarray:
        """The values; nothing between them was written."""
        elements = np.frombuffer(self.memory.to_bytes(), storage(self.dtype)).copy()
        values = decode(self._view(elements), self.dtype).reshape(self.shape)
        between = elements.view(np.uint8).reshape(self.count, self.dtype.size)
        inside = np.zeros(self.count, bool)
        inside[self.skipped :].reshape(-1, self.stride)[:, : self.shape[-1]] = True
        assert (between[~inside] == POISON).all(), "something was written between the rows"
        return values

    @property
    def __cuda_array_interface__(self) -> dict:
        names = {DType.F16: "<f2", DType.BF16: "<V2", DType.F32: "<f4"}
        size = self.dtype.size
        strides = (size,) if len(self.shape) == 1 else (self.stride * size, size)
        address = self.memory.address + self.skipped * size
        return {
            "version": 3,
            "shape": self.shape,
            "typestr": names[self.dtype],
            "data": (address, False),
            "strides": strides,
        }


class Tensor(ctypes.Structure):
    """DLManagedTensor of dlpack.h."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    ]


class Versioned(ctypes.Structure):
    """DLManagedTensorVersioned of dlpack.h."""

    _fields_ = [
        ("version", ctypes.c_uint32 * 2),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


_new = ctypes.pythonapi.PyCapsule_New
_new.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_new.restype = ctypes.py_object


@dataclass
class ByDLPack:
    """A DLPack producer over a `Strided`, with the address in the byte offset in part.

    As the protocol has it, it gives the capsule of DLPack 1.0, which alone can be read-only, to
    those who say that they know it.
    """

    matrix: Strided
    device: tuple[int, int] = (2, 0)
    code: int | None = None
    with_strides: bool = True
    read_only: bool = False
    version: tuple[int, int] = (1, 0)
    asked: list[int | None] = field(default_factory=list)

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device

    def __dlpack__(
        self, *, stream: int | None = None, max_version: tuple[int, int] | None = None
    ) -> object:
        self.asked.append(stream)
        matrix = self.matrix
        size = matrix.dtype.size
        dimensions = len(matrix.shape)
        code = (
            {DType.F16: 2, DType.BF16: 4, DType.F32: 2}[matrix.dtype]
            if self.code is None
            else self.code
        )
        strides = (1,) if dimensions == 1 else (matrix.stride, 1)
        self.shape = (ctypes.c_int64 * dimensions)(*matrix.shape)
        self.strides = (ctypes.c_int64 * dimensions)(*strides)
        self.tensor = Tensor(
            matrix.memory.address,
            *self.device,
            dimensions,
            code,
            size * 8,
            1,
            self.shape,
            self.strides if self.with_strides else None,
            matrix.skipped * size,
        )
        if max_version is None or max_version[0] < 1:
            return _new(ctypes.addressof(self.tensor), b"dltensor", None)
        self.versioned = Versioned(self.version, None, None, int(self.read_only), self.tensor)
        return _new(ctypes.addressof(self.versioned), b"dltensor_versioned", None)


class ByOldDLPack(ByDLPack):
    """A producer from before DLPack 1.0."""

    def __dlpack__(self, stream: int | None = None) -> object:  # type: ignore[override]
        return super().__dlpack__(stream=stream)
