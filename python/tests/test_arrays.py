"""Arrays of other libraries, as far as they speak the two protocols."""

from __future__ import annotations

import ctypes
from typing import Any

import host
import numpy as np
import pytest
from host import ByDLPack, Strided

from lora_kernels import DType, Kernels, array, cuda


class Interface:
    def __init__(self, matrix: Strided, **changes: Any) -> None:
        self.matrix = matrix
        self.__cuda_array_interface__ = matrix.__cuda_array_interface__ | changes


MATRIX_SHAPE = (3, 5)


@pytest.fixture
def matrix(kernels: Kernels) -> Strided:
    return Strided(MATRIX_SHAPE, DType.F32, padding=2, skipped=1)


def test_strides_and_addresses_are_taken_from_the_array_interface(matrix: Strided) -> None:
    found = array(matrix)
    assert (found.shape, found.strides, found.row_stride, found.dtype) == (MATRIX_SHAPE, (7, 1), 7, DType.F32)
    assert found.address == matrix.memory.address + 4
    assert (found.alignment, found.is_contiguous, found.has_contiguous_columns) == (4, False, True)
    compact = array(Interface(matrix, strides=None))
    assert (compact.strides, compact.is_contiguous) == ((5, 1), True)
    transposed = array(Interface(matrix, shape=(5, 3), strides=(4, 28)))
    assert not transposed.has_contiguous_columns


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"typestr": "<f8"}, TypeError, "an array of type <f8: the kernels take float16, float32 and bfloat16"),
        ({"typestr": "<V2"}, TypeError, "say so with lora_kernels.array"),
        ({"mask": object()}, TypeError, "a masked array"),
        ({"strides": (28, 3)}, ValueError, "a stride of 3 bytes is no whole number of elements"),
        ({"data": (0x1000, False)}, ValueError, "0x1000 is no device address"),
    ],
)
def test_array_interfaces_that_can_not_be(matrix: Strided, changes: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        array(Interface(matrix, **changes))


def test_bf16_is_what_one_says_it_is(kernels: Kernels) -> None:
    narrow = Strided(MATRIX_SHAPE, DType.BF16)
    assert array(narrow, dtype=DType.BF16).dtype is DType.BF16
    assert array(Interface(narrow, typestr="<u2"), dtype=DType.BF16).dtype is DType.BF16
    assert array(ByDLPack(narrow)).dtype is DType.BF16
    with pytest.raises(TypeError, match="<V2 is not F32, whose elements have 4 bytes"):
        array(narrow, dtype=DType.F32)


def test_a_stream_waits_for_the_one_that_an_array_comes_from(matrix: Strided, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[tuple[int, int]] = []
    really = cuda.wait_for
    monkeypatch.setattr(cuda, "wait_for", lambda stream, producer, device: (waits.append((stream, producer)), really(stream, producer, device)))
    mine, theirs = cuda.Stream(), cuda.Stream()
    array(Interface(matrix, stream=theirs.handle), stream=mine.handle)
    array(Interface(matrix, stream=mine.handle), stream=mine.handle)
    array(Interface(matrix, stream=1), stream=0)
    array(Interface(matrix, stream=None), stream=mine.handle)
    assert waits == [(mine.handle, theirs.handle)]


def test_dlpack_gives_strides_offset_and_device(matrix: Strided) -> None:
    source = ByDLPack(matrix)
    found = array(source, stream=0)
    assert (found.address, found.shape, found.strides, found.device) == (matrix.memory.address + 4, MATRIX_SHAPE, (7, 1), 0)
    # 0 is no stream to DLPack: the default one is 1.
    assert source.asked == 1
    array(source, stream=0x1230)
    assert source.asked == 0x1230
    assert array(ByDLPack(matrix, with_strides=False)).strides == (5, 1)


def test_dlpack_that_can_not_be(matrix: Strided) -> None:
    with pytest.raises(ValueError, match="on DLPack device type 1: it must be on a CUDA device"):
        array(np.zeros(MATRIX_SHAPE, np.float32))
    with pytest.raises(TypeError, match="DLPack type code 0, 32 bits"):
        array(ByDLPack(matrix, code=0))
    with pytest.raises(TypeError, match="list is no device array"):
        array([1.0])

    class NoCapsule(ByDLPack):
        def __dlpack__(self, stream: int | None = None) -> object:
            return object()

    with pytest.raises(TypeError, match="gave no DLPack capsule"):
        array(NoCapsule(matrix))


def test_versioned_dlpack_can_be_read_only(matrix: Strided) -> None:
    class Versioned(ctypes.Structure):
        _fields_ = [
            ("version", ctypes.c_uint32 * 2),
            ("manager", ctypes.c_void_p),
            ("deleter", ctypes.c_void_p),
            ("flags", ctypes.c_uint64),
            ("tensor", host.Tensor),
        ]

    class Producer(ByDLPack):
        major = 1

        def __dlpack__(self, stream: int | None = None) -> object:
            super().__dlpack__(stream)
            self.versioned = Versioned((self.major, 0), None, None, 1, self.tensor)
            return host._new(ctypes.addressof(self.versioned), b"dltensor_versioned", None)

    found = array(Producer(matrix))
    assert (found.read_only, found.strides) == (True, (7, 1))
    newer = Producer(matrix)
    newer.major = 2
    with pytest.raises(TypeError, match="DLPack 2.0: this package knows version 1"):
        array(newer)


def test_alignment_is_what_divides_the_address() -> None:
    aligned = {address: array_at(address).alignment for address in (0x1000, 0x1010, 0x1008, 0x1002, 0x1001)}
    assert list(aligned.values()) == [16, 16, 8, 2, 1]


def array_at(address: int) -> Any:
    from lora_kernels import Array

    return Array(address, (1,), (1,), DType.F16, 0, False, None)
