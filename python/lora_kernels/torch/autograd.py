"""The eager way: one autograd function from tensors straight to the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import call
from .call import Config

#: A projection's tensors in the function's arguments: weight, bias, lora_a, lora_b.
PER_PROJECTION = 4

DOUBLE = (
    "lora_kernels: a second derivative was asked for (a backward through a backward with "
    "create_graph=True), and the kernels have only the first one"
)


class State:
    """What a forward leaves for its backward besides tensors."""

    __slots__ = ("config", "weights", "cast", "dropout", "p")

    def __init__(
        self,
        config: Config,
        weights: dict[int, Callable[[], torch.Tensor]] | None,
        cast: torch.dtype | None,
        dropout: tuple[float, int, int] | None,
        p: float,
    ) -> None:
        self.config = config
        #: By the index of the argument: weights that are made when they are needed.
        self.weights = weights
        self.cast = cast
        self.dropout = dropout
        self.p = p

    def placed(self, words: torch.Tensor | None) -> tuple[float, int, int] | None:
        """p, and seed and offset or their address."""
        return self.dropout if words is None else (self.p, words.data_ptr(), 0)

    def filled(self, tensors: list[Any]) -> None:
        """Puts the weights that aren't kept, or not in this type, in their places."""
        if self.weights is not None:
            for index, weight in self.weights.items():
                tensors[index] = weight()
        if self.cast is not None:
            for index in range(0, len(tensors), PER_PROJECTION):
                if tensors[index] is not None:
                    tensors[index] = tensors[index].to(self.cast)


def run(
    state: State,
    x: torch.Tensor,
    words: torch.Tensor | None,
    tensors: list[Any],
    bases: Sequence[torch.Tensor],
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """y of every projection, and what is saved; no graph."""
    x = call.rows(x)
    if state.cast is not None or state.weights is not None:
        tensors = list(tensors)
        state.filled(tensors)
    ys = [base.clone(memory_format=torch.contiguous_format) for base in bases] or None
    ys, saved, _ = call.forward(state.config, x, tensors, ys, state.placed(words))
    return ys, saved


class Lora(torch.autograd.Function):
    """state, x, words (seed and offset in memory, or None), tensors of projections, ys of others.

    The ys are there for a delta alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        state: State,
        x: torch.Tensor,
        words: torch.Tensor | None,
        *given: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        count = PER_PROJECTION * len(state.config.scalings)
        tensors = list(given[:count])
        ys, saved = run(state, x, words, tensors, given[count:])  # type: ignore[arg-type]
        # Biases take no part in backward.
        tensors[1::PER_PROJECTION] = [None] * len(ys)
        ctx.state = state
        ctx.save_for_backward(x, words, saved, *tensors)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        state: State = ctx.state
        x, words, saved, *tensors = ctx.saved_tensors
        needed: Sequence[bool] = ctx.needs_input_grad
        needs_x, needs = needed[1], needed[3:]
        gradients: list[torch.Tensor | None] = [None] * len(needs)
        adapters = range(len(tensors))
        for index, dy in enumerate(dys):
            bias, base = PER_PROJECTION * index + 1, len(tensors) + index
            if needs[bias]:
                gradients[bias] = dy.reshape(-1, dy.shape[-1]).sum(0)
            if state.config.delta and needs[base]:
                gradients[base] = dy
        dx = None
        if needs_x or any(needs[index] for index in adapters if index % PER_PROJECTION > 1):
            dx, d_as, d_bs = _kernels(state, x, words, saved, tensors, dys, needs_x)
            for index, (d_a, d_b) in enumerate(zip(d_as, d_bs)):
                first = PER_PROJECTION * index
                gradients[first + 2] = d_a if needs[first + 2] else None
                gradients[first + 3] = d_b if needs[first + 3] else None
        results = (None, dx, None, *gradients)
        return Once.apply(*results) if torch.is_grad_enabled() else results  # type: ignore

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Refuses forward-mode derivatives."""
        raise RuntimeError(
            "lora_kernels: a forward-mode derivative (torch.autograd.forward_ad) was asked for, "
            "and the kernels have only backward"
        )


def _kernels(
    state: State,
    x: torch.Tensor,
    words: torch.Tensor | None,
    saved: torch.Tensor | None,
    tensors: list[Any],
    dys: Sequence[torch.Tensor],
    needs_x: bool,
) -> tuple[torch.Tensor | None, Sequence[Any], Sequence[Any]]:
    state.filled(tensors)
    # weight, bias, lora_a, lora_b become weight, lora_a, lora_b, dy.
    arguments = []
    for first, dy in zip(range(0, len(tensors), PER_PROJECTION), dys):
        arguments += [tensors[first], tensors[first + 2], tensors[first + 3], call.rows(dy)]
    return call.backward(
        state.config, call.rows(x), arguments, saved, None, state.placed(words), needs_x
    )


class Once(torch.autograd.Function):
    """Gradients that can't be differentiated again, and say so."""

    @staticmethod
    def forward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        return tuple(None if one is None else one.view_as(one) for one in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(DOUBLE)
