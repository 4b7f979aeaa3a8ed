"""The example's losses are PEFT's."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

import lora_kernels.peft
from lora_kernels.torch import call

SCRIPT = Path(__file__).parents[2] / "examples/finetune_peft.py"
#: Of the script, without empty ones.
LINES = 12


def losses(capsys: pytest.CaptureFixture[str]) -> tuple[str, list[float]]:
    torch.manual_seed(0)
    runpy.run_path(str(SCRIPT))
    first, *lines = capsys.readouterr().out.splitlines()
    return first, [float(line.removeprefix("loss ")) for line in lines]


def test_the_example(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = SCRIPT.read_text().splitlines()
    assert len([line for line in lines if line]) <= LINES
    calls: list[Any] = []
    forward = call.forward
    monkeypatch.setattr(
        call, "forward", lambda *given, **rest: calls.append(given) or forward(*given, **rest)
    )
    report, given = losses(capsys)
    assert report == "7 LoRA layers: 7 fused, 0 delta only, 0 left to PEFT; 2 groups"
    assert len(calls) == 3 * 4
    monkeypatch.setattr(lora_kernels.peft, "accelerate", lambda model: "PEFT's own")
    _, wanted = losses(capsys)
    assert len(calls) == 3 * 4
    assert len(given) == 3 and given == pytest.approx(wanted, rel=1e-5)
    # It learns.
    assert given[2] != given[0]
