"""The eager way: one autograd function from tensors straight to the library."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from . import call
from .prepared import Config

#: A projection's tensors in the function's arguments: weight, bias, lora_a, lora_b.
PER_PROJECTION = 4

DOUBLE = (
    "lora_kernels: a second derivative was asked for (a backward through a backward with "
    "create_graph=True), and the kernels have only the first one"
)


class State:
    """What a forward leaves for its backward besides tensors."""

    __slots__ = ("config", "weights", "cast", "dropout", "p", "seen")

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
        #: The type that autocast wants weights in. They are cast again in backward, not kept.
        self.cast = cast
        self.dropout = dropout
        self.p = p
        #: The forward's, if it had these very tensors.
        self.seen: call.Seen | None = None

    def placed(self, words: torch.Tensor | None) -> tuple[float, int, int] | None:
        """p, and seed and offset or their address."""
        return self.dropout if words is None else (self.p, words.data_ptr(), 0)

    def filled(self, tensors: Sequence[Any]) -> Sequence[Any]:
        """The tensors with weights that aren't kept, or not in this type, in their places."""
        if self.weights is None and self.cast is None:
            return tensors
        tensors = list(tensors)
        for index, weight in (self.weights or {}).items():
            tensors[index] = weight()
        if self.cast is not None:
            for index in range(0, len(tensors), PER_PROJECTION):
                if tensors[index] is not None:
                    tensors[index] = tensors[index].to(self.cast)
        return tensors


def computed(
    state: State,
    x: torch.Tensor,
    words: torch.Tensor | None,
    tensors: Sequence[Any],
    bases: Sequence[torch.Tensor],
) -> tuple[list[torch.Tensor], torch.Tensor | None]:
    """y of every projection, and what is saved; no graph."""
    if not x.is_contiguous() or x.is_neg():
        x = call.rows(x)
    ys = None
    if bases:
        ys = [base.clone(memory_format=torch.contiguous_format) for base in bases]
    ys, saved, seen = call.forward(state.config, x, state.filled(tensors), ys, state.placed(words))
    if state.weights is None and state.cast is None:
        state.seen = seen
    return ys, saved[0]


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
        *tensors: torch.Tensor | None,
    ) -> tuple[torch.Tensor, ...]:
        count = PER_PROJECTION * len(state.config.scalings)
        bases = tensors[count:]
        if bases:
            tensors = tensors[:count]
        ys, saved = computed(state, x, words, tensors, bases)  # type: ignore[arg-type]
        ctx.state = state
        if tensors[1] is not None:
            # Biases take no part in backward.
            kept = list(tensors)
            kept[1::PER_PROJECTION] = [None] * len(ys)
            ctx.save_for_backward(x, words, saved, *kept)
        else:
            ctx.save_for_backward(x, words, saved, *tensors)
        return tuple(ys)

    @staticmethod
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        state: State = ctx.state
        x, words, saved, *tensors = ctx.saved_tensors
        _, needs_x, _, *needs = ctx.needs_input_grad
        gradients: list[torch.Tensor | None] = [None] * len(needs)
        needs_kernels = needs_x
        first = 0
        for index, dy in enumerate(dys):
            if needs[first + 1]:
                gradients[first + 1] = dy.reshape(-1, dy.shape[-1]).sum(0)
            if needs[first + 2] or needs[first + 3]:
                needs_kernels = True
            if state.config.delta and needs[len(tensors) + index]:
                gradients[len(tensors) + index] = dy
            first += PER_PROJECTION
        dx = None
        if needs_kernels:
            # weight, bias, lora_a, lora_b become weight, lora_a, lora_b, dy.
            tensors = list(state.filled(tensors))
            first = 0
            for dy in dys:
                is_plain = dy.is_contiguous() and not dy.is_neg()
                tensors[first + 1 : first + PER_PROJECTION] = (
                    *tensors[first + 2 : first + PER_PROJECTION],
                    dy if is_plain else call.rows(dy),
                )
                first += PER_PROJECTION
            if not x.is_contiguous() or x.is_neg():
                x = call.rows(x)
            dx, d_as, d_bs = call.backward(
                state.config,
                x,
                tensors,
                (saved,),
                state.placed(words),
                needs_x,
                state.seen,
            )
            first = 0
            for d_a, d_b in zip(d_as, d_bs):
                if needs[first + 2]:
                    gradients[first + 2] = d_a
                if needs[first + 3]:
                    gradients[first + 3] = d_b
                first += PER_PROJECTION
        results = (None, dx, None, *gradients)
        if torch.is_grad_enabled():
            # Somebody may differentiate these again: they lead to a function that refuses.
            leaves = [None if one is None else one.detach().requires_grad_() for one in results]
            results = Once.apply(*leaves)
        return results

    @staticmethod
    def jvp(ctx: Any, *_: Any) -> Any:
        """Refuses forward-mode derivatives."""
        raise RuntimeError(
            "lora_kernels: a forward-mode derivative (torch.autograd.forward_ad) was asked for, "
            "and the kernels have only backward"
        )


class Once(torch.autograd.Function):
    """Gradients that can't be differentiated again, and say so."""

    @staticmethod
    def forward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        return tuple(None if one is None else one.view_as(one) for one in gradients)

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise RuntimeError(DOUBLE)
