"""Arrays of other libraries, as far as they speak the two protocols."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from host import ByDLPack, ByOldDLPack, Strided

from lora_kernels import (
    Adapter,
    DType,
    Kernels,
    LoraProjection,
    MergePlan,
    MergeProblem,
    array,
    cuda,
    problem_of,
)
from lora_kernels.arrays import NO_STREAM


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
    assert (found.shape, found.strides, found.row_stride, found.dtype) == (
        MATRIX_SHAPE,
        (7, 1),
        7,
        DType.F32,
    )
    assert found.address == matrix.memory.address + 4
    assert (found.alignment, found.is_contiguous, found.has_contiguous_columns) == (4, False, True)
    compact = array(Interface(matrix, strides=None))
    assert (compact.strides, compact.is_contiguous) == ((5, 1), True)
    transposed = array(Interface(matrix, shape=(5, 3), strides=(4, 28)))
    assert not transposed.has_contiguous_columns


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        (
            {"typestr": "<f8"},
            TypeError,
            "an array of type <f8: the kernels take float16, float32 and bfloat16",
        ),
        ({"typestr": "<V2"}, TypeError, "say so with lora_kernels.array"),
        ({"mask": object()}, TypeError, "a masked array"),
        ({"strides": (28, 3)}, ValueError, "a stride of 3 bytes is no whole number of elements"),
        ({"data": (0x1000, False)}, ValueError, "0x1000 is no device address"),
    ],
)
def test_array_interfaces_that_can_not_be(
    matrix: Strided, changes: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=text):
        array(Interface(matrix, **changes))


def test_bf16_is_what_one_says_it_is(kernels: Kernels) -> None:
    narrow = Strided(MATRIX_SHAPE, DType.BF16)
    assert array(narrow, dtype=DType.BF16).dtype is DType.BF16
    assert array(Interface(narrow, typestr="<u2"), dtype=DType.BF16).dtype is DType.BF16
    assert array(ByDLPack(narrow)).dtype is DType.BF16
    with pytest.raises(TypeError, match="<V2 is not F32, whose elements have 4 bytes"):
        array(narrow, dtype=DType.F32)
    with pytest.raises(TypeError, match=">u2: the kernels take little-endian elements"):
        array(Interface(narrow, typestr=">u2"), dtype=DType.BF16)


def test_a_stream_waits_for_the_one_that_an_array_comes_from(
    matrix: Strided, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[int, int]] = []
    really = cuda.wait_for
    monkeypatch.setattr(
        cuda,
        "wait_for",
        lambda stream, producer, device: (
            waits.append((stream, producer)),
            really(stream, producer, device),
        ),
    )
    mine, theirs = cuda.Stream(), cuda.Stream()
    array(Interface(matrix, stream=theirs.handle), stream=mine.handle)
    array(Interface(matrix, stream=mine.handle), stream=mine.handle)
    array(Interface(matrix, stream=1), stream=0)
    array(Interface(matrix, stream=None), stream=mine.handle)
    array(Interface(matrix, stream=theirs.handle), stream=NO_STREAM)
    assert waits == [(mine.handle, theirs.handle)]


def test_a_call_waits_for_arrays_that_were_made_ahead_of_it(
    kernels: Kernels, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[tuple[int, int]] = []
    monkeypatch.setattr(
        cuda, "wait_for", lambda stream, producer, device: waits.append((stream, producer))
    )
    mine, theirs, others = cuda.Stream(), cuda.Stream(), cuda.Stream()
    weight, lora_a, lora_b = (
        Strided(shape, DType.F32).put(np.zeros(shape)) for shape in ((4, 8), (2, 8), (4, 2))
    )
    by_interface, by_dlpack = Interface(weight, stream=theirs.handle), ByDLPack(lora_a)
    ahead = Adapter(array(by_dlpack), array(lora_b, dtype=DType.F32), 1.0)
    weight_ahead = array(by_interface, dtype=DType.F32)
    assert waits == [(0, theirs.handle)]
    by_interface.__cuda_array_interface__ = by_interface.__cuda_array_interface__ | {
        "stream": others.handle
    }
    waits.clear()
    plan = MergePlan(MergeProblem(4, 8, (2,), DType.F32), kernels.props)
    merged = Strided((4, 8), DType.F32)
    kernels.merge(
        plan, weight_ahead, [ahead], merged=merged, stream=mine.handle, allocate=cuda.allocate
    )
    mine.synchronize()
    assert waits == [(mine.handle, others.handle)]
    assert by_dlpack.asked == [1, mine.handle]


def test_dlpack_goes_before_an_interface_that_tells_no_stream(matrix: Strided) -> None:
    class Both(ByDLPack):
        def __init__(self, matrix: Strided, version: int) -> None:
            super().__init__(matrix)
            self.__cuda_array_interface__ = matrix.__cuda_array_interface__ | {"version": version}

    for version, asked in ((2, [0x1230]), (3, [])):
        both = Both(matrix, version)
        assert array(both, stream=0x1230).strides == (7, 1)
        assert both.asked == asked
    assert array(Interface(matrix, version=2)).strides == (7, 1)


def test_what_a_library_says_of_its_own_array_has_the_name_of_the_argument(
    kernels: Kernels, matrix: Strided
) -> None:
    class Tracked:
        @property
        def __cuda_array_interface__(self) -> dict[str, Any]:
            raise RuntimeError("it requires a gradient")

    with pytest.raises(ValueError, match="^x: it requires a gradient"):
        problem_of(Tracked(), [])
    plan = MergePlan(MergeProblem(*MATRIX_SHAPE, (2,), DType.F32), kernels.props)
    with pytest.raises(ValueError, match="^lora_A of adapter 0: it requires a gradient"):
        kernels.merge(plan, matrix, [Adapter(Tracked(), Tracked(), 1.0)], allocate=cuda.allocate)


def test_a_problem_made_of_arrays_makes_no_stream_wait(matrix: Strided) -> None:
    x = ByDLPack(matrix)
    problem_of(x, [LoraProjection(ByDLPack(matrix))])
    assert x.asked == [NO_STREAM]


def test_dlpack_gives_strides_offset_and_device(matrix: Strided) -> None:
    source = ByDLPack(matrix)
    found = array(source, stream=0)
    assert (found.address, found.shape, found.strides, found.device) == (
        matrix.memory.address + 4,
        MATRIX_SHAPE,
        (7, 1),
        0,
    )
    array(source, stream=0x1230)
    # 0 is no stream to DLPack: the default one is 1.
    assert source.asked == [1, 0x1230]
    assert array(ByDLPack(matrix, with_strides=False)).strides == (5, 1)


def test_dlpack_that_can_not_be(matrix: Strided) -> None:
    with pytest.raises(ValueError, match="on DLPack device type 1: it must be on a CUDA device"):
        array(np.zeros(MATRIX_SHAPE, np.float32))
    with pytest.raises(TypeError, match="DLPack type code 0, 32 bits"):
        array(ByDLPack(matrix, code=0))
    with pytest.raises(TypeError, match="list is no device array"):
        array([1.0])

    with pytest.raises(TypeError, match="16 bits is not F32, whose elements have 4 bytes"):
        array(ByDLPack(Strided(MATRIX_SHAPE, DType.BF16)), dtype=DType.F32)

    class NoCapsule(ByDLPack):
        def __dlpack__(self, **_: Any) -> object:
            return object()

    with pytest.raises(TypeError, match="gave no DLPack capsule"):
        array(NoCapsule(matrix))


def test_dlpack_of_both_generations(matrix: Strided) -> None:
    found = array(ByDLPack(matrix, read_only=True))
    assert (found.read_only, found.strides) == (True, (7, 1))
    assert not array(ByDLPack(matrix)).read_only
    old = array(ByOldDLPack(matrix, read_only=True), stream=0x1230)
    # It has no way to say so.
    assert (old.read_only, old.strides, old.owner[0].asked) == (False, (7, 1), [0x1230])
    with pytest.raises(TypeError, match="DLPack 2.0: this package knows version 1"):
        array(ByDLPack(matrix, version=(2, 0)))


def test_alignment_is_what_divides_the_address() -> None:
    aligned = {
        address: array_at(address).alignment for address in (0x1000, 0x1010, 0x1008, 0x1002, 0x1001)
    }
    assert list(aligned.values()) == [16, 16, 8, 2, 1]


def array_at(address: int) -> Any:
    from lora_kernels import Array

    return Array(address, (1,), (1,), DType.F16, 0, False, None)
