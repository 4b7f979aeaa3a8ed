"""Two processes against one: the adapters after some steps of training."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from typing import Any

import cases
import pytest
import torch
from workers import Workers


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    both = Workers()
    yield both
    both.close()


def are_those_of_one_process(
    workers: Workers, case: str, *arguments: Any, dropout_p: float = 0.0
) -> None:
    wanted = cases.alone(dropout_p=dropout_p)
    start = cases.adapters(cases.model())
    for given in workers.run(case, *arguments):
        assert sorted(given) == sorted(wanted)
        for name, tensor in wanted.items():
            # They have learned, so that the comparison can fail.
            assert (tensor - start[name]).abs().max() > 1e-3, name
            torch.testing.assert_close(given[name], tensor, rtol=1e-5, atol=1e-6, msg=name)


def test_data_parallel(workers: Workers) -> None:
    are_those_of_one_process(workers, "ddp")


@pytest.mark.parametrize("units", ["model", "layers", "modules"])
def test_fsdp2(workers: Workers, units: str) -> None:
    are_those_of_one_process(workers, "fsdp2", units)


@pytest.mark.parametrize(
    ("units", "use_orig_params"), [("layers", True), ("modules", True), ("modules", False)]
)
def test_fsdp1(workers: Workers, units: str, use_orig_params: bool) -> None:
    are_those_of_one_process(workers, "fsdp1", units, use_orig_params)


@pytest.mark.skipif(
    importlib.util.find_spec("deepspeed") is None, reason="deepspeed is not installed"
)
def test_zero3(workers: Workers) -> None:
    are_those_of_one_process(workers, "zero3")


@pytest.mark.parametrize("dropout_p", [0.0, 0.4])
@pytest.mark.parametrize("local", [True, False], ids=["local tensors", "DTensors"])
def test_tensor_parallel(workers: Workers, dropout_p: float, local: bool) -> None:
    are_those_of_one_process(workers, "tensor_parallel", dropout_p, local, dropout_p=dropout_p)


def test_sequence_parallel(workers: Workers) -> None:
    are_those_of_one_process(workers, "sequence_parallel")


def test_what_tensor_parallel_layers_refuse(workers: Workers) -> None:
    wanted = ["it takes a LoraLinear", "must be a multiple of 16", "parallelize the whole layer"]
    for texts in workers.run("refusals"):
        assert len(texts) == len(wanted)
        for text, part in zip(texts, wanted):
            assert part in text
