"""Forward and backward on raw device memory, against NumPy in float64."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import reference
from host import ByDLPack, Strided, decode, encode, random
from reference import Values, close

from lora_kernels import (
    Adapter,
    BackwardPlan,
    Dropout,
    DType,
    ForwardPlan,
    Kernels,
    LoraProjection,
    Mask,
    MergePlan,
    MergeProblem,
    Role,
    WeightLayout,
    cuda,
    problem_of,
)

DROPOUT = Dropout(0.3, seed=0x0123456789ABCDEF, offset=0xFEDCBA9876543210)


@dataclass
class Case:
    tokens: int
    in_features: int
    projections: list[tuple[int, int, float]]  # out_features, rank, scaling
    dropout: Dropout | None = None
    bias: bool = False
    f32_adapters: bool = False
    weight_layout: WeightLayout = WeightLayout.OUT_IN
    mask: Mask = Mask.STORED
    input_gradient: bool = True
    padding: int = 0
    skipped: int = 0
    accumulate: frozenset[Role] = field(default_factory=frozenset)


CASES = {
    "odd sizes, rank 3, bias, dropout": Case(5, 37, [(23, 3, 1.7)], DROPOUT, bias=True),
    "one token, no dropout, no dx": Case(1, 72, [(40, 8, 2.0)], input_gradient=False),
    "q, k, v of different widths and ranks, one without": Case(
        33, 64, [(48, 16, 0.5), (17, 0, 0.0), (24, 5, -1.3)], DROPOUT, bias=True
    ),
    "misaligned rows, (in, out) weights, f32 adapters, mask redrawn": Case(
        19,
        70,
        [(40, 20, 0.6)],
        DROPOUT,
        f32_adapters=True,
        weight_layout=WeightLayout.IN_OUT,
        mask=Mask.REDRAWN,
        padding=3,
        skipped=1,
    ),
    "outputs added to": Case(
        9,
        40,
        [(24, 4, 1.5)],
        bias=True,
        padding=8,
        accumulate=frozenset({Role.Y, Role.DX, Role.D_LORA_A, Role.D_LORA_B}),
    ),
}


class Made:
    """A case's numbers on both sides."""

    def __init__(self, case: Case, dtype: DType) -> None:
        rng = np.random.default_rng(7)
        adapter = DType.F32 if case.f32_adapters else dtype

        def both(shape: tuple[int, ...], scale: float, dtype: DType) -> tuple[np.ndarray, Strided]:
            values = random(rng, shape, dtype, scale)
            padding = case.padding if len(shape) == 2 else 0
            return values, Strided(shape, dtype, padding, case.skipped).put(values)

        self.case, self.dtype = case, dtype
        m, k = case.tokens, case.in_features
        self.x, self.x_there = both((m, k), 1.0, dtype)
        self.before: dict[tuple[Role, int], np.ndarray] = {}
        self.values: list[Values] = []
        self.projections: list[LoraProjection[Any]] = []
        self.dys: list[Strided] = []
        outputs: dict[Role, list[Strided | None]] = {
            tensor: [] for tensor in (Role.Y, Role.D_LORA_A, Role.D_LORA_B)
        }

        def output(role: Role, index: int, shape: tuple[int, ...], dtype: DType) -> Strided:
            if role in case.accumulate:
                self.before[role, index], there = both(shape, 2.0, dtype)
                return there
            return Strided(shape, dtype, case.padding, case.skipped)

        for index, (n, r, scaling) in enumerate(case.projections):
            stored = (n, k) if case.weight_layout is WeightLayout.OUT_IN else (k, n)
            weight, weight_there = both(stored, 0.3, dtype)
            bias, bias_there = both((n,), 1.0, dtype) if case.bias else (None, None)
            lora_a, a_there = both((r, k), 0.5, adapter) if r else (None, None)
            lora_b, b_there = both((n, r), 0.5, adapter) if r else (None, None)
            dy, dy_there = both((m, n), 1.0, dtype)
            # Kernels round f32 adapters to the tensors' type before they use them.
            if case.f32_adapters and lora_a is not None and lora_b is not None:
                lora_a, lora_b = (decode(encode(one, dtype), dtype) for one in (lora_a, lora_b))
            weight = weight if case.weight_layout is WeightLayout.OUT_IN else weight.T
            self.values.append(Values(weight, bias, lora_a, lora_b, scaling, dy))
            self.projections.append(
                LoraProjection(weight_there, a_there, b_there, scaling, bias_there)
            )
            self.dys.append(dy_there)
            outputs[Role.Y].append(output(Role.Y, index, (m, n), dtype))
            outputs[Role.D_LORA_A].append(
                output(Role.D_LORA_A, index, (r, k), adapter) if r else None
            )
            outputs[Role.D_LORA_B].append(
                output(Role.D_LORA_B, index, (n, r), adapter) if r else None
            )
        self.y, self.d_lora_a, self.d_lora_b = outputs.values()
        self.dx = output(Role.DX, 0, (m, k), dtype) if case.input_gradient else None

    def known(self, source: Strided | None) -> object:
        """bf16 arrays have no name in the array interface; all come by DLPack here."""
        return None if source is None else ByDLPack(source)

    def check(
        self, role: Role, index: int, given: Strided, wanted: reference.Sum, depth: int
    ) -> None:
        if (before := self.before.get((role, index))) is not None:
            wanted += reference.exact(before)
        close(given.get(), wanted, self.dtype, depth)


def projections_by_dlpack(made: Made) -> list[LoraProjection[Any]]:
    known = made.known
    return [
        LoraProjection(
            known(one.weight), known(one.lora_a), known(one.lora_b), one.scaling, known(one.bias)
        )
        for one in made.projections
    ]


@pytest.mark.parametrize("dtype", list(DType), ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("name", CASES)
def test_layers_are_right(kernels: Kernels, name: str, dtype: DType) -> None:
    case = CASES[name]
    made = Made(case, dtype)
    known, projections = made.known, projections_by_dlpack(made)
    lists = {
        tensor: [known(one) for one in made.__dict__[tensor]]
        for tensor in ("y", "d_lora_a", "d_lora_b")
    }
    dys, dx, x = [known(dy) for dy in made.dys], known(made.dx), known(made.x_there)
    problem = problem_of(
        x,
        projections,
        dropout=case.dropout is not None,
        mask=case.mask,
        weight_layout=case.weight_layout,
        input_gradient=case.input_gradient,
        accumulate=case.accumulate,
        dy=dys,
        dx=dx,
        **lists,
    )
    forward, backward = ForwardPlan(problem, kernels.props), BackwardPlan(problem, kernels.props)
    stream = cuda.Stream()
    result = kernels.forward(
        forward,
        x,
        projections,
        y=lists["y"],
        dropout=case.dropout,
        stream=stream.handle,
        allocate=cuda.allocate,
    )
    kernels.backward(
        backward,
        x,
        projections,
        dys,
        result.saved,
        dx=dx,
        d_lora_a=lists["d_lora_a"],
        d_lora_b=lists["d_lora_b"],
        stream=stream.handle,
        allocate=cuda.allocate,
    )
    stream.synchronize()

    for index, one in enumerate(made.values):
        made.check(
            Role.Y,
            index,
            made.y[index],
            reference.forward(made.x, one, case.dropout),
            case.in_features,
        )
        if one.lora_a is not None:
            d_lora_a, d_lora_b = reference.adapter_gradients(made.x, one, case.dropout)
            made.check(
                Role.D_LORA_A, index, made.d_lora_a[index], d_lora_a, case.tokens + one.dy.shape[1]
            )
            made.check(
                Role.D_LORA_B, index, made.d_lora_b[index], d_lora_b, case.tokens + case.in_features
            )
    if made.dx is not None:
        depth = sum(n + r for n, r, _ in case.projections)
        made.check(
            Role.DX, 0, made.dx, reference.input_gradient(made.x, made.values, case.dropout), depth
        )
    if case.dropout is not None and case.mask is Mask.STORED:
        assert forward.mask is not None
        region = result.saved.array.to_bytes()[forward.mask.offset :][: forward.mask.bytes]
        wanted = reference.mask_words(
            reference.keep_mask(case.tokens, case.in_features, case.dropout)
        )
        assert (np.frombuffer(region, np.uint64).reshape(wanted.shape) == wanted).all()


def test_outputs_come_from_the_allocator_where_they_are_not_given(kernels: Kernels) -> None:
    made = Made(CASES["odd sizes, rank 3, bias, dropout"], DType.F32)
    problem = problem_of(made.x_there, made.projections, dropout=True)
    forward, backward = ForwardPlan(problem, kernels.props), BackwardPlan(problem, kernels.props)
    asked: list[tuple[tuple[int, ...], DType | None]] = []

    def allocate(shape: tuple[int, ...], dtype: DType | None) -> cuda.DeviceArray:
        asked.append((shape, dtype))
        return cuda.allocate(shape, dtype)

    result = kernels.forward(
        forward, made.x_there, made.projections, dropout=DROPOUT, allocate=allocate
    )
    assert asked == [((5, 23), DType.F32), ((forward.saved_bytes,), None)]
    asked.clear()
    back = kernels.backward(
        backward, made.x_there, made.projections, made.dys, result.saved, allocate=allocate
    )
    assert asked == [
        ((5, 37), DType.F32),
        ((3, 37), DType.F32),
        ((23, 3), DType.F32),
        ((backward.workspace_bytes,), None),
    ]
    dx = np.frombuffer(back.dx.to_bytes(), np.float32).reshape(5, 37).astype(np.float64)
    close(dx, reference.input_gradient(made.x, made.values, DROPOUT), DType.F32, 26)


def test_s_and_the_mask_may_be_two_arrays(kernels: Kernels) -> None:
    made = Made(CASES["odd sizes, rank 3, bias, dropout"], DType.F32)
    problem = problem_of(made.x_there, made.projections, dropout=True)
    plan, back = ForwardPlan(problem, kernels.props), BackwardPlan(problem, kernels.props)
    x, projections, dys = made.x_there, made.projections, made.dys

    def gradients(saved: object) -> list[bytes]:
        result = kernels.forward(
            plan, x, projections, saved=saved, dropout=DROPOUT, allocate=cuda.allocate
        )
        assert isinstance(result.saved.array, tuple) == isinstance(saved, tuple)
        found = kernels.backward(back, x, projections, dys, result.saved, allocate=cuda.allocate)
        arrays = [found.dx, *found.d_lora_a, *found.d_lora_b]
        return [array.to_bytes() for array in arrays]

    assert plan.mask is not None
    two = (cuda.allocate((plan.s.bytes,), None), cuda.allocate((plan.mask.bytes,), None))
    assert gradients(None) == gradients((None, None)) == gradients(two)
    with pytest.raises(ValueError, match=r"a tuple of 3: it must be \(S, mask\)"):
        gradients((None, None, None))


def test_without_tokens_y_is_empty_and_gradients_are_zeros(kernels: Kernels) -> None:
    case = Case(0, 72, [(40, 8, 2.0), (24, 0, 0.0)], DROPOUT, bias=True)
    made = Made(case, DType.BF16)
    x, projections = made.known(made.x_there), projections_by_dlpack(made)
    problem = problem_of(x, projections, dropout=True)
    plan, back = ForwardPlan(problem, kernels.props), BackwardPlan(problem, kernels.props)
    assert (plan.launches, plan.saved_bytes, plan.workspace_bytes) == (0, 0, 0)
    result = kernels.forward(plan, x, projections, dropout=DROPOUT, allocate=cuda.allocate)
    assert [y.shape for y in result.y] == [(0, 40), (0, 24)]
    dys = [made.known(dy) for dy in made.dys]
    found = kernels.backward(back, x, projections, dys, result.saved, allocate=cuda.allocate)
    cuda.synchronize()
    assert found.dx.shape == (0, 72)
    assert not any(found.d_lora_a[0].to_bytes()) and not any(found.d_lora_b[0].to_bytes())


def test_results_hold_all_that_was_allocated(kernels: Kernels) -> None:
    # What a call enqueued may still be to run: scratch memory must not be free for others before.
    # One token and many features: forward's sums are split, so it has some as well.
    made = Made(Case(1, 4096, [(48, 16, 1.0)]), DType.BF16)
    x, projections = made.known(made.x_there), projections_by_dlpack(made)
    dys = [made.known(dy) for dy in made.dys]
    problem = problem_of(x, projections)
    forward, backward = ForwardPlan(problem, kernels.props), BackwardPlan(problem, kernels.props)
    merge = MergePlan(MergeProblem(48, 4096, (16,), DType.BF16, safe=True), kernels.props)
    asked: list[weakref.ref[cuda.DeviceArray]] = []

    def allocate(shape: tuple[int, ...], dtype: DType | None) -> cuda.DeviceArray:
        one = cuda.allocate(shape, dtype)
        asked.append(weakref.ref(one))
        return one

    result = kernels.forward(forward, x, projections, allocate=allocate)
    back = kernels.backward(backward, x, projections, dys, result.saved, allocate=allocate)
    adapter = Adapter(projections[0].lora_a, projections[0].lora_b, 1.0)
    merged = kernels.merge(merge, projections[0].weight, [adapter], allocate=allocate)
    assert all(plan.workspace_bytes > 0 for plan in (forward, backward, merge))
    assert len(asked) == 9 and None not in [one() for one in asked]
    assert [result.workspace, back.workspace, merged.workspace] == [
        asked[index]() for index in (2, 6, 8)
    ]
    cuda.synchronize()


def test_the_published_answers_of_philox() -> None:
    zero = reference.philox(np.zeros((4, 1), np.uint32), (0, 0))
    assert [hex(word) for word in zero[:, 0]] == [
        "0x6627e8d5",
        "0xe169c58d",
        "0xbc57ac4c",
        "0x9b00dbd8",
    ]
