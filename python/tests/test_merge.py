"""Merging, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
from host import ByDLPack, Strided, decode, encode, random

from lora_kernels import (
    Adapter,
    DType,
    Kernels,
    Layout,
    LoraError,
    MergePlan,
    MergeProblem,
    MergeReport,
    Role,
    WeightLayout,
    cuda,
)

OUT, IN, RANKS, SCALINGS = 19, 37, (3, 5), (1.5, -0.25)


def merged_by_numpy(
    weight: np.ndarray, adapters: list[tuple[np.ndarray, np.ndarray]], layout: WeightLayout
) -> np.ndarray:
    delta = sum(scaling * (b @ a) for scaling, (a, b) in zip(SCALINGS, adapters))
    return weight + (delta if layout is WeightLayout.OUT_IN else delta.T)


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "apart"])
@pytest.mark.parametrize("layout", list(WeightLayout), ids=lambda layout: layout.name)
@pytest.mark.parametrize("dtype", list(DType), ids=lambda dtype: dtype.name)
def test_two_adapters_are_merged(
    kernels: Kernels, dtype: DType, layout: WeightLayout, in_place: bool
) -> None:
    rng = np.random.default_rng(3)
    shape = (OUT, IN) if layout is WeightLayout.OUT_IN else (IN, OUT)
    base = random(rng, shape, dtype)
    weight = Strided(shape, dtype, padding=2, skipped=1).put(base)
    apart = Strided(shape, dtype, padding=5)
    target = weight if in_place else apart
    adapters = [
        (random(rng, (r, IN), DType.F32, 0.5), random(rng, (OUT, r), DType.F32, 0.5)) for r in RANKS
    ]
    there = [
        Adapter(Strided(a.shape, DType.F32).put(a), Strided(b.shape, DType.F32).put(b), scaling)
        for (a, b), scaling in zip(adapters, SCALINGS)
    ]
    layouts = [Layout(Role.WEIGHT, 0, weight.stride, dtype.size)]
    if not in_place:
        layouts.append(Layout(Role.MERGED, 0, apart.stride))
    problem = MergeProblem(
        OUT, IN, RANKS, dtype, DType.F32, layout, report=True, layouts=tuple(layouts)
    )
    plan = MergePlan(problem, kernels.props)
    merged = None if in_place else ByDLPack(target)
    result = kernels.merge(plan, ByDLPack(weight), there, merged=merged, allocate=cuda.allocate)
    cuda.synchronize()

    wanted = merged_by_numpy(base, adapters, layout)
    unit = {DType.F32: 2.0**-22, DType.F16: 2.0**-11, DType.BF16: 2.0**-8}[dtype]
    assert (np.abs(target.get() - wanted) <= unit * np.abs(wanted) + 2.0**-22).all()
    told = MergeReport.from_bytes(result.report.to_bytes())
    assert (told.elements, told.non_finite) == (OUT * IN, 0)
    assert told.unchanged == np.count_nonzero(target.get() == base)
    assert told.delta_squares == pytest.approx(np.square(wanted - base).sum(), rel=1e-4)
    assert 0 <= told.relative_error < 0.1


def test_taking_an_adapter_out_gives_f32_weights_back(kernels: Kernels) -> None:
    rng = np.random.default_rng(4)
    base = random(rng, (OUT, IN), DType.F32)
    weight = Strided((OUT, IN), DType.F32).put(base)
    a, b = (
        Strided(shape, DType.F32).put(random(rng, shape, DType.F32))
        for shape in ((3, IN), (OUT, 3))
    )
    plan = MergePlan(MergeProblem(OUT, IN, (3,), DType.F32), kernels.props)
    for scaling in (0.75, -0.75):
        result = kernels.merge(plan, weight, [Adapter(a, b, scaling)])
        assert (result.merged, result.report, result.workspace) == (weight, None, None)
    cuda.synchronize()
    assert np.abs(weight.get() - base).max() < 1e-6


def test_a_safe_merge_leaves_a_weight_that_would_overflow(kernels: Kernels) -> None:
    base = np.full((OUT, IN), 60000.0)
    weight = Strided((OUT, IN), DType.F16).put(base)
    a, b = (
        Strided((1, IN), DType.F16).put(np.full((1, IN), 100.0)),
        Strided((OUT, 1), DType.F16).put(np.full((OUT, 1), 100.0)),
    )
    plan = MergePlan(MergeProblem(OUT, IN, (1,), DType.F16, safe=True), kernels.props)
    result = kernels.merge(plan, weight, [Adapter(a, b, 1.0)], allocate=cuda.allocate)
    told = MergeReport.from_bytes(result.report.to_bytes())
    assert told.non_finite == OUT * IN
    assert (weight.get() == decode(encode(base, DType.F16), DType.F16)).all()


def test_what_a_merge_can_not_be_given(kernels: Kernels) -> None:
    plan = MergePlan(MergeProblem(OUT, IN, (3,), DType.F32, report=True), kernels.props)
    weight, a, b = (
        Strided(shape, DType.F32).put(np.zeros(shape)) for shape in ((OUT, IN), (3, IN), (OUT, 3))
    )
    with pytest.raises(ValueError, match="report was not given: give it, or an allocate function"):
        kernels.merge(plan, weight, [Adapter(a, b, 1.0)])
    with pytest.raises(ValueError, match=r"lora_B of adapter 0 has the shape \(3, 37\)"):
        kernels.merge(plan, weight, [Adapter(a, a, 1.0)], allocate=cuda.allocate)
    with pytest.raises(LoraError, match="scaling inf: it must be finite"):
        kernels.merge(plan, weight, [Adapter(a, b, float("inf"))], allocate=cuda.allocate)
    with pytest.raises(ValueError, match="2 adapters were given, the plan was made for 1"):
        kernels.merge(plan, weight, [Adapter(a, b, 1.0)] * 2, allocate=cuda.allocate)
    with pytest.raises(LoraError, match="between 1 and 8"):
        MergePlan(MergeProblem(OUT, IN, (), DType.F32), kernels.props)
