"""Plans, which need no device."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lora_kernels import (
    BackwardPlan,
    DeviceProps,
    Dropout,
    DType,
    ForwardPlan,
    Layout,
    LoraError,
    Mask,
    MergePlan,
    MergeProblem,
    Problem,
    Projection,
    Role,
)

QKV = Problem(
    4096,
    4096,
    (Projection(4096, 16), Projection(1024, 0), Projection(1024, 16)),
    DType.BF16,
    dropout=True,
)


def test_a_plan_says_what_runs_and_how_much_memory_it_takes() -> None:
    h100 = DeviceProps.named("h100")
    assert (h100.compute_major, h100.multiprocessors) == (9, 132)
    forward, backward = ForwardPlan(QKV, h100), BackwardPlan(QKV, h100)
    assert str(forward).startswith(
        "forward of tokens 4096, in_features 4096, projections 4096 (rank 16)"
    )
    assert (forward.launches, backward.launches) == (2, 3)
    assert forward.saved_bytes == backward.saved_bytes
    assert forward.mask is not None and forward.mask.bytes == 4096 * 4096 // 8
    assert forward.s.bytes == 4096 * forward.padded_ranks * 2
    assert ForwardPlan(Problem(**{**QKV.__dict__, "mask": Mask.REDRAWN}), h100).mask is None
    assert str(MergePlan(MergeProblem(64, 32, (4,), DType.F16, safe=True), h100)).startswith(
        "merge of"
    )


def test_one_workspace_suffices_for_all_numbers_of_tokens() -> None:
    h100 = DeviceProps.named("h100")
    for kind in (ForwardPlan, BackwardPlan):
        bound = kind.workspace_bound(QKV, 8192, h100)
        needed = [
            kind(replace(QKV, tokens=tokens), h100).workspace_bytes
            for tokens in (0, 1, 17, 64, 128, 1024, 2048, 4096, 8192)
        ]
        assert max(needed) <= bound
        assert bound <= kind.workspace_bound(QKV, 16384, h100)
    with pytest.raises(ValueError, match="max_tokens is -1: it must not be negative"):
        ForwardPlan.workspace_bound(QKV, -1, h100)


def test_row_strides_are_those_of_the_layouts() -> None:
    layouts = (Layout(Role.X, 5, 72), Layout(Role.WEIGHT, 1, 80), Layout(Role.X, 0, 0, 4))
    problem = Problem(3, 64, (Projection(8, 2), Projection(8, 2)), DType.F32, layouts=layouts)
    assert problem.row_stride(Role.X, 1) == 72
    assert [problem.row_stride(Role.WEIGHT, index) for index in (0, 1)] == [64, 80]
    merge = MergeProblem(8, 64, (2,), DType.F32, layouts=(Layout(Role.WEIGHT, 0, 80),))
    assert merge.row_stride(Role.MERGED) == 80
    merge = MergeProblem(
        8, 64, (2,), DType.F32, layouts=(*merge.layouts, Layout(Role.MERGED, 0, 96))
    )
    assert (merge.row_stride(Role.WEIGHT), merge.row_stride(Role.MERGED)) == (80, 96)


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        ({"in_features": 0}, "LORA_STATUS_DIMENSION", "in_features is 0: it must be between 1 and"),
        (
            {"projections": (Projection(8, 0),)},
            "LORA_STATUS_NOT_ADAPTED",
            "at least one must be adapted",
        ),
        ({"projections": ()}, "LORA_STATUS_PROJECTIONS", "0 projections"),
        ({"adapter_dtype": DType.F16}, "LORA_STATUS_ADAPTER_DTYPE", "they must be in bf16 or f32"),
        ({"layouts": (Layout(Role.X, 0, 5),)}, "LORA_STATUS_STRIDE", "row stride of 5 elements"),
        ({"layouts": (Layout(Role.X, 0, 0, 6),)}, "LORA_STATUS_LAYOUT_ALIGNMENT", "power of two"),
    ],
)
def test_the_library_refuses_what_can_not_be(
    change: dict[str, object], status: str, text: str
) -> None:
    with pytest.raises(LoraError, match=text) as caught:
        ForwardPlan(Problem(**{**QKV.__dict__, **change}), DeviceProps.named("a100"))
    assert caught.value.name == status
    assert str(caught.value).endswith(f"[{status}]")


def test_python_refuses_what_c_could_not_see() -> None:
    with pytest.raises(ValueError, match="tokens is -1: it must not be negative"):
        ForwardPlan(Problem(-1, 8, (Projection(8, 2),), DType.F32), DeviceProps.named("a100"))
    # ctypes would make a 1 of it.
    with pytest.raises(
        ValueError, match=r"tokens is 18446744073709551617: it must be below 2\*\*64"
    ):
        ForwardPlan(
            Problem(2**64 + 1, 8, (Projection(8, 2),), DType.F32), DeviceProps.named("a100")
        )
    with pytest.raises(
        ValueError,
        match="row_stride of a layout is 18446744073709551624: it must be a signed 64-bit number",
    ):
        ForwardPlan(
            Problem(1, 8, (Projection(8, 2),), DType.F32, layouts=(Layout(Role.X, 0, 2**64 + 8),)),
            DeviceProps.named("a100"),
        )
    with pytest.raises(ValueError, match="multiprocessors is -3: it must not be negative"):
        props = replace(DeviceProps.named("a100"), multiprocessors=-3)
        ForwardPlan(QKV, props)
    with pytest.raises(ValueError, match="x can't be accumulated into"):
        Problem(1, 8, (Projection(8, 2),), DType.F32, accumulate=frozenset({Role.X}))
    with pytest.raises(ValueError, match="seed -1: it must be an unsigned 64-bit number"):
        Dropout(0.1, -1)
    # In C the second one would be h100, and the third one can't be said.
    for name in ("h1000", "h100\0", "h100\udc80"):
        with pytest.raises(LoraError, match="known are a100"):
            DeviceProps.named(name)
