"""Rows that go through adapters of a table, against NumPy in float64."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lora_kernels import (
    Adapter,
    AdapterTable,
    BackwardPlan,
    Dropout,
    DType,
    ForwardPlan,
    GradientTable,
    Kernels,
    LoraError,
    LoraProjection,
    Problem,
    Projection,
    cuda,
)

TOKENS, IN, OUT = 5, 48, (24, 9)
LISTS: list[list[int | tuple[int, float]]] = [[0, (1, -2.0)], [], [(1, 0.25)], [0], [(0, 0.0), 1]]


def problem(**changes: Any) -> Problem:
    given: dict[str, Any] = {
        "tokens": TOKENS,
        "in_features": IN,
        "projections": tuple(Projection(n, 20) for n in OUT),
        "dtype": DType.F32,
        "inference": True,
        "adapter_slots": 3,
        "adapters_per_row": 2,
    }
    return Problem(**(given | changes))


def upload(values: np.ndarray[Any, Any]) -> cuda.DeviceArray:
    return cuda.DeviceArray(values.shape, DType.F32).copy_from(values)


class Layer:
    """Weights, and adapters of ranks 3 and 17, of which the second leaves one projection alone."""

    def __init__(self) -> None:
        random = np.random.default_rng(1)

        def numbers(*shape: int) -> np.ndarray[Any, Any]:
            return random.uniform(-0.5, 0.5, shape).astype(np.float32)

        self.x = numbers(TOKENS, IN)
        self.weights = [numbers(n, IN) for n in OUT]
        self.adapters: list[list[tuple[Any, Any, float] | None]] = [
            [(numbers(3, IN), numbers(n, 3), 1.5) for n in OUT],
            [(numbers(17, IN), numbers(OUT[0], 17), 0.5), None],
        ]

    def of(self, adapter: int) -> list[Adapter | None]:
        parts = self.adapters[adapter]
        return [part and Adapter(upload(part[0]), upload(part[1]), part[2]) for part in parts]

    def expected(self, index: int, present: tuple[int, ...]) -> np.ndarray[Any, Any]:
        x = self.x.astype(np.float64)
        y = x @ self.weights[index].T
        for row, given in enumerate(LISTS):
            for one in given:
                slot, weight = one if isinstance(one, tuple) else (one, 1.0)
                part = self.adapters[slot][index]
                if part is not None and slot in present:
                    y[row] += part[2] * weight * (x[row] @ part[0].T @ part[1].T)
        return np.asarray(y)


def test_rows_go_through_their_adapters_and_slots_change(kernels: Kernels) -> None:
    layer = Layer()
    plan = ForwardPlan(problem(), kernels.props)
    assert plan.launches == 1 and plan.saved_bytes == 0
    table = AdapterTable(plan)
    assert [table.insert(layer.of(adapter)) for adapter in range(2)] == [0, 1]
    rows = table.rows(LISTS)
    flags = cuda.zeros(plan.flags_bytes)
    x = upload(layer.x)
    projections = [LoraProjection(upload(weight)) for weight in layer.weights]

    def run(present: tuple[int, ...]) -> None:
        result = kernels.forward(
            plan, x, projections, rows=rows, flags=flags, allocate=cuda.allocate
        )
        for index, y in enumerate(result.y):
            given = np.frombuffer(y.to_bytes(), np.float32).reshape(TOKENS, OUT[index])
            assert np.abs(given - layer.expected(index, present)).max() < 1e-5

    run((0, 1))
    assert not table.take_wrong()
    table.remove(1)
    run((0,))
    assert table.take_wrong() and not table.take_wrong()
    table.replace(1, layer.of(1))
    run((0, 1))
    with pytest.raises(ValueError, match=f"flags is None: the plan needs {plan.flags_bytes}"):
        kernels.forward(plan, x, projections, rows=rows, allocate=cuda.allocate)
    with pytest.raises(ValueError, match="2 rows were given, the plan was made for 5"):
        two = table.rows(LISTS[:2])
        kernels.forward(plan, x, projections, rows=two, flags=flags, allocate=cuda.allocate)
    with pytest.raises(LoraError, match="rows"):
        kernels.forward(plan, x, projections, flags=flags, allocate=cuda.allocate)


def test_what_a_table_can_not_hold_is_refused(kernels: Kernels) -> None:
    layer = Layer()
    table = AdapterTable(ForwardPlan(problem(), kernels.props))
    with pytest.raises(ValueError, match="row 1 names slot 0, which has no adapter"):
        table.rows([[], [0]])
    with pytest.raises(ValueError, match="slot 3: the table has slots 0 to 2"):
        table.remove(3)
    with pytest.raises(ValueError, match="1 adapters were given"):
        table.insert(layer.of(0)[:1])
    zeros = [upload(np.zeros(shape, np.float32)) for shape in ((21, IN), (24, 21))]
    large = Adapter(zeros[0], zeros[1], 1.0)
    with pytest.raises(LoraError, match="21"):
        table.insert([large, None])
    swapped = layer.of(0)[::-1]
    with pytest.raises(ValueError, match=r"lora_B of projection 0 is \(9, 3\)"):
        table.insert(swapped)
    for _ in range(3):
        table.insert(layer.of(0))
    with pytest.raises(ValueError, match="all 3 slots have adapters"):
        table.insert(layer.of(0))
    with pytest.raises(ValueError, match="row 0 has 3 adapters: the problem allows 2"):
        table.rows([[0, 1, 2]])
    with pytest.raises(ValueError, match="give it adapter_slots"):
        AdapterTable(ForwardPlan(problem(adapter_slots=0, adapters_per_row=0), kernels.props))


def test_each_adapter_gets_its_own_gradients(kernels: Kernels) -> None:
    layer = Layer()
    given = problem(inference=False)
    forward, backward = ForwardPlan(given, kernels.props), BackwardPlan(given, kernels.props)
    table, gradients = AdapterTable(forward), GradientTable(backward)
    for adapter in range(2):
        table.insert(layer.of(adapter))
        gradients.insert(table, adapter)
    x = upload(layer.x)
    projections = [LoraProjection(upload(weight)) for weight in layer.weights]
    random = np.random.default_rng(3)
    dy = [random.uniform(-1, 1, (TOKENS, n)).astype(np.float32) for n in OUT]
    on_device = [upload(one) for one in dy]
    rows = table.rows(LISTS)
    flags = cuda.zeros(forward.flags_bytes) if forward.flags_bytes else None
    result = kernels.forward(
        forward, x, projections, rows=rows, flags=flags, allocate=cuda.allocate
    )

    def run(**changes: Any) -> Any:
        both: dict[str, Any] = {"rows": rows, "gradients": gradients, "allocate": cuda.allocate}
        return kernels.backward(backward, x, projections, on_device, result.saved, **both | changes)

    found = run()
    assert found.d_lora_a == found.d_lora_b == (None, None)
    dx = np.zeros((TOKENS, IN))
    for index, own in enumerate(dy):
        dx += own.astype(np.float64) @ layer.weights[index]
    for slot, parts in enumerate(layer.adapters):
        for index, part in enumerate(parts):
            pair = gradients[slot][index]
            if part is None:
                assert pair is None
                continue
            assert pair is not None
            a, b, scaling = part
            da, db = np.zeros(a.shape), np.zeros(b.shape)
            for row, named in enumerate(LISTS):
                for one in named:
                    of, weight = one if isinstance(one, tuple) else (one, 1.0)
                    if of == slot:
                        own, factor = dy[index][row].astype(np.float64), scaling * weight
                        da += factor * np.outer(own @ b, layer.x[row])
                        db += factor * np.outer(own, layer.x[row] @ a.T)
                        dx[row] += factor * (own @ b @ a)
            for array, expected in zip(pair, (da, db), strict=True):
                values = np.frombuffer(array.to_bytes(), np.float32).reshape(expected.shape)
                assert np.abs(values - expected).max() < 1e-4
    values = np.frombuffer(found.dx.to_bytes(), np.float32).reshape(dx.shape)
    assert np.abs(values - dx).max() < 1e-4

    # A frozen adapter, and one whose ranks changed
    gradients.remove(1)
    with pytest.raises(KeyError, match="slot 1 has no gradients"):
        gradients[1]
    run()
    table.replace(0, [*layer.of(1)[:1], None])
    with pytest.raises(ValueError, match="slot 0 have rank 3 in projection 0, its adapter has 17"):
        run()
    with pytest.raises(ValueError, match="rows was given without gradients"):
        run(gradients=None)
    with pytest.raises(ValueError, match="slot 2 has no adapter"):
        gradients.insert(table, 2)
    swapped = [gradients[0][1], gradients[0][0]]
    with pytest.raises(ValueError, match=r"d_lora_B of projection 0 is \(9, 3\)"):
        gradients.replace(1, swapped)
    with pytest.raises(ValueError, match="give it adapter_slots"):
        plain = problem(inference=False, adapter_slots=0, adapters_per_row=0)
        GradientTable(BackwardPlan(plain, kernels.props))


def mask_of(kernels: Kernels, dropout: Dropout, **changes: Any) -> bytes:
    random = np.random.default_rng(2)
    given = problem(
        projections=(Projection(8, 4),),
        inference=False,
        adapter_slots=0,
        adapters_per_row=0,
        dropout=True,
        **changes,
    )
    plan = ForwardPlan(given, kernels.props)
    shapes = ((8, IN), (4, IN), (8, 4))
    weight, a, b = (upload(random.random(shape, np.float32)) for shape in shapes)
    x = upload(random.random((TOKENS, IN), np.float32))
    projections = [LoraProjection(weight, lora_a=a, lora_b=b)]
    result = kernels.forward(plan, x, projections, dropout=dropout, allocate=cuda.allocate)
    assert plan.mask is not None
    saved: bytes = result.saved.array.to_bytes()
    return saved[plan.mask.offset :][: plan.mask.bytes]


def test_shards_draw_the_mask_of_the_whole_and_words_come_from_memory(kernels: Kernels) -> None:
    words = cuda.DeviceArray((16,), None).copy_from(np.array([7, 9], np.uint64))
    whole = mask_of(kernels, Dropout(0.4, 7, 9))
    from_memory = Dropout(0.4, words.address)
    assert mask_of(kernels, from_memory, dropout_from_memory=True) == whole
    words.copy_from(np.array([7, 10], np.uint64))
    assert mask_of(kernels, from_memory, dropout_from_memory=True) != whole
    shard = mask_of(kernels, Dropout(0.4, 7, 9), mask_row=2, mask_column=8)
    all_words, some = (np.frombuffer(mask, np.uint64) for mask in (whole, shard))
    inside = np.uint64((1 << (IN - 8)) - 1)
    assert ((some[: TOKENS - 2] & inside) == all_words[2:] >> np.uint64(8)).all()
    with pytest.raises(LoraError, match="column is 4"):
        mask_of(kernels, Dropout(0.4, 7, 9), mask_column=4)
