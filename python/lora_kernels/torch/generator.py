"""Where a dropout's seed and offset come from: torch's own generators.

On a CUDA device they are read from the state of its generator on the host, and the state moves on,
as torch's own dropout does it: nothing is launched, nothing waits. While a graph is captured, and
under torch.compile, two numbers are drawn on the device instead, so that every replay draws anew.
Either way `torch.manual_seed` repeats a run, and activation checkpointing, which restores the
generators, sees the same mask. None of this has run on a GPU: no one was at hand.
"""

from __future__ import annotations

import torch

from ..types import Dropout
from . import call

#: Keeps the masks apart from what torch draws itself with the same seed.
_OURS = 0x6C6F72612D6B726E
#: torch counts a generator's offset in steps of 4.
_STEP = 4


def draw_dropout(p: float, generator: torch.Generator | None = None) -> Dropout:
    """Dropout with probability p; seed and offset are drawn from `generator`.

    Without one, from torch's default generator of the CPU: two numbers of 63 bits. Of a generator
    of a CUDA device, they are its seed and its offset, which moves on.
    """
    if generator is not None and generator.device.type == "cuda":
        return Dropout(p, *_taken(generator))
    seed, offset = words(torch.device("cpu"), generator).tolist()
    return Dropout(p, seed, offset)


def _taken(generator: torch.Generator) -> tuple[int, int]:
    offset = generator.get_offset()
    generator.set_offset(offset + _STEP)
    return generator.initial_seed() ^ _OURS, offset


def draw_for(
    x: torch.Tensor, p: float, generator: torch.Generator | None
) -> tuple[tuple[float, int, int] | None, torch.Tensor | None]:
    """p, seed and offset for a call on x; or the words that have them, if they are drawn later."""
    if x.is_cuda:
        if call.is_capturing(x):
            return None, words(x.device, generator)
        if generator is None:
            generator = torch.cuda.default_generators[x.get_device()]
    return call.by_value(draw_dropout(p, generator)), None


def words(device: torch.device, generator: torch.Generator | None = None) -> torch.Tensor:
    """Seed and offset, (2,) int64 on a device, drawn when the stream, or the graph, gets there."""
    return torch.randint(0, 2**63 - 1, (2,), dtype=torch.int64, device=device, generator=generator)


def given(dropout: Dropout, device: torch.device) -> torch.Tensor:
    """A dropout's seed and offset as words on a device."""
    numbers = [one - (one >> 63 << 64) for one in (dropout.seed, dropout.offset)]
    return torch.tensor(numbers, dtype=torch.int64, device=device)
