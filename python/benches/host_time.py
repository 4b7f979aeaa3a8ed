"""What a layer costs the host, beside PEFT's own sequence of operations, in one run.

    python python/benches/host_time.py [--check]

The library's call is stubbed out, and tensors are tiny, so that both sides are left with what
Python and torch do around the work. A forward makes a graph, as in training; gradients are asked
for by torch.autograd.grad. Of many short rounds that take turns, the shortest one counts, since
other programs can only add to it. --check fails if the bars aren't met: 25 us a forward, 80 us a
forward with its backward, and half of PEFT's.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import torch
from torch import nn

from lora_kernels import DeviceProps
from lora_kernels.torch import LoraLinear, call

SIZE, RANK = 16, 4
FORWARD_US, BOTH_US, SHARE = 25.0, 80.0, 0.5


class Stub:
    """Kernels that were never loaded: plans are made for an A100, calls do nothing."""

    def __init__(self) -> None:
        self._handle = None
        self.props = DeviceProps.named("a100")


class PeftLinear(nn.Module):
    """The operations of peft.tuners.lora.layer.Linear with one adapter, in its order."""

    def __init__(self, layer: LoraLinear) -> None:
        super().__init__()
        self.base_layer = layer.base_layer
        self.lora_A = nn.ModuleDict({"default": layer.lora_A})
        self.lora_B = nn.ModuleDict({"default": layer.lora_B})
        self.lora_dropout = nn.ModuleDict({"default": nn.Identity()})
        self.scaling = {"default": layer.scaling}
        self.active_adapters = ["default"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result = self.base_layer(x)
        dtype = result.dtype
        keys = self.lora_A.keys()
        for name in self.active_adapters:
            if name not in keys:
                continue
            lora_a, lora_b = self.lora_A[name], self.lora_B[name]
            dropout, scaling = self.lora_dropout[name], self.scaling[name]
            x = x.to(lora_a.weight.dtype)
            result = result + lora_b(lora_a(dropout(x))) * scaling
        return result.to(dtype)


def per_call(run: Callable[[], None], calls: int) -> float:
    begin = time.perf_counter()
    for _ in range(calls):
        run()
    return (time.perf_counter() - begin) / calls * 1e6


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--rounds", type=int, default=400)
    given = parser.parse_args()
    torch.set_num_threads(1)
    call.DEVICE, call.launch = "cpu", lambda prepared, frame, stream: None
    call.kernels_of = lambda device: stub  # type: ignore[assignment, misc]
    stub = Stub()

    layer = LoraLinear(nn.Linear(SIZE, SIZE), RANK, lora_alpha=8)
    x = torch.rand(2, SIZE, requires_grad=True)
    dy = torch.rand(2, SIZE)
    tensors = (x, layer.lora_A.weight, layer.lora_B.weight)
    by_peft = PeftLinear(layer)

    def both(layer: Callable[[torch.Tensor], torch.Tensor]) -> None:
        torch.autograd.grad(layer(x), tensors, dy)

    runs: dict[str, Callable[[], object]] = {
        "forward": lambda: layer(x),
        "PEFT's forward": lambda: by_peft(x),
        "forward and backward": lambda: both(layer),
        "PEFT's forward and backward": lambda: both(by_peft),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(given.rounds):
        for name, run in runs.items():
            times[name].append(per_call(run, 8))
    found = {name: min(some) for name, some in times.items()}
    for name, time_us in found.items():
        print(f"{name:30} {time_us:7.1f} us")
    forward, peft_forward, both_, peft_both = found.values()
    print(f"of PEFT's: forward {forward / peft_forward:.2f}, both {both_ / peft_both:.2f}")
    is_met = (
        forward <= FORWARD_US
        and both_ <= BOTH_US
        and max(forward / peft_forward, both_ / peft_both) <= SHARE
    )
    return 1 if given.check and not is_met else 0


if __name__ == "__main__":
    sys.exit(main())
