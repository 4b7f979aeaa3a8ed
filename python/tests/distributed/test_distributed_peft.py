"""PEFT's models on two processes against one: the adapters after some steps of training."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import peft_cases
import pytest
import torch
from workers import Workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    both = Workers()
    yield both
    both.close()


@pytest.fixture(scope="module")
def wanted() -> peft_cases.State:
    return peft_cases.alone()


#: Calls of the kernels in a step: q, k and v; o; gate and up; down. Or every layer for itself. Or
#: those of the attention alone.
GROUPED, SINGLE, ATTENTION = 4, 7, 2


@pytest.mark.parametrize(
    ("case", "arguments", "calls"),
    [
        ("ddp", (), GROUPED),
        ("fsdp2", ("layers",), GROUPED),
        ("fsdp2", ("modules",), SINGLE),
        ("fsdp1", (True,), SINGLE),
        ("fsdp1", (False,), SINGLE),
        ("tensor_parallel", (), ATTENTION),
    ],
    ids=["DDP", "FSDP2 layers", "FSDP2 modules", "FSDP1 original", "FSDP1 flat", "TP"],
)
def test_adapters_are_those_of_one_process(
    workers: Workers, wanted: peft_cases.State, case: str, arguments: Any, calls: int
) -> None:
    start = peft_cases.adapters(peft_cases.model())
    for given, called in workers.run(f"peft_cases:{case}", *arguments):
        assert sorted(given) == sorted(wanted)
        assert called == calls * peft_cases.STEPS
        for name, tensor in wanted.items():
            assert (tensor - start[name]).abs().max() > 1e-4, name
            torch.testing.assert_close(given[name], tensor, rtol=1e-4, atol=1e-5, msg=name)
