"""What calls refuse, before anything is launched."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from host import Strided

from lora_kernels import (
    BackwardPlan,
    Dropout,
    DType,
    ForwardPlan,
    Kernels,
    LoraError,
    LoraProjection,
    Mask,
    Saved,
    cuda,
    problem_of,
)

M, K, N, R = 5, 24, 16, 3


class Made:
    def __init__(self, tokens: int = M) -> None:
        def matrix(*shape: int) -> Strided:
            return Strided(shape, DType.F32).put(np.ones(shape))

        self.x, self.dy = matrix(tokens, K), matrix(tokens, N)
        self.y = Strided((tokens, N), DType.F32)
        self.projection = LoraProjection(matrix(N, K), matrix(R, K), matrix(N, R), 2.0, matrix(N))


@pytest.fixture
def made(kernels: Kernels) -> Made:
    return Made()


@pytest.fixture
def plan(kernels: Kernels, made: Made) -> ForwardPlan:
    return ForwardPlan(problem_of(made.x, [made.projection]), kernels.props)


class ReadOnly:
    def __init__(self, matrix: Strided) -> None:
        interface = matrix.__cuda_array_interface__
        self.__cuda_array_interface__ = interface | {"data": (interface["data"][0], True)}


class Over:
    """A matrix like one array, in the memory of another."""

    def __init__(self, matrix: Strided, memory: Strided) -> None:
        data = memory.__cuda_array_interface__["data"]
        self.__cuda_array_interface__ = matrix.__cuda_array_interface__ | {"data": data}


def forward(kernels: Kernels, plan: ForwardPlan, made: Made, **changes: Any) -> None:
    arguments: dict[str, Any] = {
        "x": made.x,
        "projections": [made.projection],
        "y": [made.y],
        "allocate": cuda.allocate,
    } | changes
    kernels.forward(plan, **arguments)


CASES: list[tuple[str, type[Exception], str]] = [
    ("projections", ValueError, "2 projections were given, the plan was made for 1"),
    ("shape", ValueError, r"x has the shape \(5, 16\), the plan was made for \(5, 24\)"),
    ("dtype", TypeError, "weight is F16, the plan was made for F32"),
    (
        "stride",
        ValueError,
        "x has a row stride of 26 elements, the plan was made for 24: give the problem a Layout",
    ),
    ("alignment", LoraError, "x starts at an address that is a multiple of 4 bytes only"),
    ("host", ValueError, "x: an array on DLPack device type 1"),
    ("none", LoraError, "weight is a null pointer"),
    ("bias", LoraError, "bias was not given, but the plan was made with it"),
    ("dropout", LoraError, "dropout was given, but the plan was made without it"),
    ("read-only", ValueError, "y is read-only, and would be written"),
    ("saved", LoraError, "the saved buffer has 8 bytes, the plan needs"),
    ("overlap", LoraError, "y shares memory with x: give each output of a call memory of its own"),
    ("allocate", ValueError, "saved was not given: give it, or an allocate function that makes it"),
]


@pytest.mark.parametrize(("name", "error", "text"), CASES, ids=[name for name, *_ in CASES])
def test_bad_input_is_refused(
    kernels: Kernels, made: Made, plan: ForwardPlan, name: str, error: type[Exception], text: str
) -> None:
    changes: dict[str, dict[str, Any]] = {
        "projections": {"projections": [made.projection] * 2},
        "shape": {"x": made.dy},
        "dtype": {"projections": [replace(made.projection, weight=Strided((N, K), DType.F16))]},
        "stride": {"x": Strided((M, K), DType.F32, padding=2)},
        "alignment": {"x": Strided((M, K), DType.F32, skipped=1)},
        "host": {"x": np.zeros((M, K), np.float32)},
        "none": {"projections": [replace(made.projection, weight=None)]},
        "bias": {"projections": [replace(made.projection, bias=None)]},
        "dropout": {"dropout": Dropout(0.5, 1)},
        "read-only": {"y": [ReadOnly(made.y)]},
        "saved": {"saved": cuda.allocate((8,), None)},
        "overlap": {"y": [Over(made.y, made.x)]},
        "allocate": {"allocate": None},
    }
    before = made.y.memory.to_bytes()
    with pytest.raises(error, match=text):
        forward(kernels, plan, made, **changes[name])
    cuda.synchronize()
    assert made.y.memory.to_bytes() == before


@pytest.fixture
def saved(kernels: Kernels, made: Made) -> Saved:
    """Of a forward with dropout."""
    problem = problem_of(made.x, [made.projection], dropout=True)
    result = kernels.forward(
        ForwardPlan(problem, kernels.props),
        made.x,
        [made.projection],
        dropout=Dropout(0.5, 1),
        allocate=cuda.allocate,
    )
    return result.saved


def test_backward_needs_what_forward_left(kernels: Kernels, made: Made, saved: Saved) -> None:
    problem = problem_of(made.x, [made.projection], dropout=True)
    plan = BackwardPlan(problem, kernels.props)
    nothing = replace(saved, array=None)
    with pytest.raises(ValueError, match="saved is None: it is what forward left"):
        kernels.backward(
            plan, made.x, [made.projection], [made.dy], nothing, allocate=cuda.allocate
        )
    with pytest.raises(ValueError, match="0 dy were given"):
        kernels.backward(plan, made.x, [made.projection], [], saved, allocate=cuda.allocate)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"mask": Mask.REDRAWN}, "mask .*redrawn"),
        ({"scaling": 1.0}, "scaling .*1"),
        ({"dropout": Dropout(0.5, 2)}, "dropout .*seed 2"),
        ({"dropout": Dropout(0.25, 1)}, "dropout .*p 0.25"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_backward_that_does_not_fit_its_forward_is_refused(
    kernels: Kernels, made: Made, saved: Saved, change: dict[str, Any], text: str
) -> None:
    mask = change.get("mask", Mask.STORED)
    problem = problem_of(made.x, [made.projection], dropout=True, mask=mask)
    plan = BackwardPlan(problem, kernels.props)
    projection = replace(made.projection, scaling=change.get("scaling", made.projection.scaling))
    changed = replace(saved, dropout=change.get("dropout", saved.dropout))
    with pytest.raises(LoraError, match=text) as caught:
        kernels.backward(plan, made.x, [projection], [made.dy], changed, allocate=cuda.allocate)
    assert caught.value.name == "LORA_STATUS_OTHER_FORWARD"


def test_a_backward_of_other_sizes_is_refused(kernels: Kernels, saved: Saved) -> None:
    fewer = Made(tokens=M - 1)
    plan = BackwardPlan(problem_of(fewer.x, [fewer.projection], dropout=True), kernels.props)
    with pytest.raises(LoraError, match="tokens"):
        kernels.backward(
            plan, fewer.x, [fewer.projection], [fewer.dy], saved, allocate=cuda.allocate
        )


def test_a_plan_of_another_device_is_refused(kernels: Kernels, made: Made) -> None:
    problem = problem_of(made.x, [made.projection])
    for other in (
        replace(kernels.props, multiprocessors=kernels.props.multiprocessors + 1),
        replace(kernels.props, l2_bytes=kernels.props.l2_bytes + 1024),
    ):
        with pytest.raises(LoraError) as caught:
            forward(kernels, ForwardPlan(problem, other), made)
        assert caught.value.name == "LORA_STATUS_OTHER_DEVICE"
    part = replace(kernels.props, planned_multiprocessors=1)
    forward(kernels, ForwardPlan(problem, part), made)


def test_a_plan_of_another_kind_is_refused(kernels: Kernels, made: Made) -> None:
    plan: Any = BackwardPlan(problem_of(made.x, [made.projection]), kernels.props)
    before = made.y.memory.to_bytes()
    with pytest.raises(LoraError, match="plan is a lora_backward_plan: give a") as caught:
        forward(kernels, plan, made)
    assert caught.value.name == "LORA_STATUS_HANDLE"
    cuda.synchronize()
    assert made.y.memory.to_bytes() == before


def test_arrays_that_pose_no_problem(made: Made) -> None:
    with pytest.raises(ValueError, match="the weight of projection 0 takes 24 features, x has 16"):
        problem_of(made.dy, [made.projection])
    with pytest.raises(ValueError, match="projection 0 has one of lora_a and lora_b"):
        problem_of(made.x, [replace(made.projection, lora_a=None)])
    with pytest.raises(ValueError, match="give all of them one, of zeros"):
        problem_of(made.x, [made.projection, replace(made.projection, bias=None)])
    with pytest.raises(TypeError, match="the adapters have several types"):
        problem_of(made.x, [replace(made.projection, lora_a=Strided((R, K), DType.F16))])
    with pytest.raises(ValueError, match=r"x has the shape \(16,\): it must have two dimensions"):
        problem_of(made.projection.bias, [made.projection])


def test_no_such_device() -> None:
    with pytest.raises(LoraError, match="opening device 77") as caught:
        Kernels(77)
    assert (caught.value.name, caught.value.cuda_result) == ("LORA_STATUS_DRIVER", 101)


def test_closed_kernels_say_so(made: Made, plan: ForwardPlan) -> None:
    kernels = Kernels(0)
    kernels.close()
    with pytest.raises(ValueError, match="these kernels are closed"):
        forward(kernels, plan, made)


@pytest.mark.parametrize("stream", [-1, 2**64, 2**64 + 1])
def test_a_stream_is_no_other_number(
    kernels: Kernels, made: Made, plan: ForwardPlan, stream: int
) -> None:
    with pytest.raises(ValueError, match=f"stream is {stream}: it must "):
        kernels.forward(plan, made.x, [made.projection], stream=stream, allocate=cuda.allocate)


@pytest.mark.parametrize("device", [2**31, 2**32, -(2**32)])
def test_a_device_is_no_other_number(device: int) -> None:
    with pytest.raises(ValueError, match=f"device is {device}: it must be a signed 32-bit number"):
        Kernels(device)
