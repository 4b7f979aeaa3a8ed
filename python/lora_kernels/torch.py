"""Adapted linear layers for PyTorch, with autograd.

    y = lora_linear(x, weight, lora_a, lora_b, scaling=2.0, bias=bias, dropout_p=0.1)

They run on torch's current stream, in memory of torch's allocator. Gradients are those of x,
lora_a, lora_b and, by a sum of PyTorch's own, bias; the weight is frozen. A layer's first pass with
new shapes plans it, which takes no time on the GPU; plans are kept. x, and dy in backward, are
copied where their rows are not contiguous (an expanded tensor), nothing else is. S and the dropout
mask live from forward to backward, like the saved tensors. Autocast does not reach these functions:
cast x yourself.

Tensors on the CPU are refused, unless `copy_to_device=True`. Then they are copied to device 0
through the driver, computed there, and copied back. That is slow. It is there to try code on the
emulated device, and to compare with PyTorch's own autograd in the tests. Tensors on a CUDA device
have not been tried: no GPU was at hand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from ._torch_memory import DTYPES, Copied, OnDevice
from .from_arrays import problem_of
from .kernels import Kernels
from .plans import BackwardPlan, ForwardPlan
from .tensors import LoraProjection
from .types import Dropout, Mask, Problem, WeightLayout

#: A projection's tensors in the arguments of the autograd function, in this order.
_PER_PROJECTION = 4
_WEIGHT, _BIAS, _LORA_A, _LORA_B = range(_PER_PROJECTION)


def draw_dropout(p: float, generator: torch.Generator | None = None) -> Dropout:
    """Dropout with probability p; seed and offset are drawn from `generator`.

    Without one, from torch's default generator of the CPU: two `torch.randint` over 63 bits. So
    `torch.manual_seed` makes runs repeatable, and activation checkpointing, which restores that
    generator, sees the same mask.
    """
    drawn = torch.randint(0, 2**63 - 1, (2,), dtype=torch.int64, generator=generator)
    seed, offset = drawn.tolist()
    return Dropout(p, seed, offset)


def lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor,
    lora_a: torch.Tensor,
    lora_b: torch.Tensor,
    *,
    scaling: float,
    bias: torch.Tensor | None = None,
    dropout_p: float = 0.0,
    dropout: Dropout | None = None,
    generator: torch.Generator | None = None,
    weight_layout: WeightLayout = WeightLayout.OUT_IN,
    mask: Mask = Mask.STORED,
    copy_to_device: bool = False,
) -> torch.Tensor:
    """x*W^T + bias + scaling*drop(x)*A^T*B^T, for x (..., in_features).

    dropout_p > 0 draws a mask by `draw_dropout`; `dropout` gives one. Adapters are of x's type, or
    float32 over float16 and bfloat16.
    """
    (y,) = lora_linears(
        x,
        [LoraProjection(weight, lora_a, lora_b, scaling, bias)],
        dropout_p=dropout_p,
        dropout=dropout,
        generator=generator,
        weight_layout=weight_layout,
        mask=mask,
        copy_to_device=copy_to_device,
    )
    return y


def lora_linears(
    x: torch.Tensor,
    projections: Sequence[LoraProjection[torch.Tensor]],
    *,
    dropout_p: float = 0.0,
    dropout: Dropout | None = None,
    generator: torch.Generator | None = None,
    weight_layout: WeightLayout = WeightLayout.OUT_IN,
    mask: Mask = Mask.STORED,
    copy_to_device: bool = False,
) -> tuple[torch.Tensor, ...]:
    """As `lora_linear`, of up to 8 projections of the same x (q, k and v, or gate and up).

    x is read once for all their adapters, and all of them see it under the same dropout mask. At
    least one has an adapter.
    """
    _check_probability(dropout_p)
    if dropout is None and dropout_p > 0.0:
        dropout = draw_dropout(dropout_p, generator)
    if all(projection.lora_a is None for projection in projections):
        raise ValueError("no projection has an adapter: use torch.nn.functional.linear")
    tensors = [
        tensor
        for projection in projections
        for tensor in (projection.weight, projection.bias, projection.lora_a, projection.lora_b)
    ]
    _check(x, tensors, copy_to_device)
    scalings = tuple(projection.scaling for projection in projections)
    options = _Options(scalings, dropout, weight_layout, mask, copy_to_device)
    rows = x.reshape(-1, x.shape[-1])
    ys: tuple[torch.Tensor, ...] = _LoraLinears.apply(options, rows, *tensors)
    return tuple(y.reshape(*x.shape[:-1], y.shape[-1]) for y in ys)


def _check_probability(dropout_p: float) -> None:
    # Not so for a NaN either.
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p is {dropout_p}: it must be at least 0 and below 1")


def _check(x: torch.Tensor, tensors: Sequence[torch.Tensor | None], copy_to_device: bool) -> None:
    for tensor in (x, *tensors):
        if tensor is None:
            continue
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f"a tensor of {tensor.dtype}: the kernels take float16, bfloat16 and float32"
            )
        if tensor.device != x.device:
            raise ValueError(
                f"a tensor on {tensor.device} and x on {x.device}: they must be on one device"
            )
    if x.device.type == "cpu" and not copy_to_device:
        raise ValueError(
            "the tensors are on the CPU: move them to a CUDA device, or say copy_to_device=True to "
            "have them copied to device 0 and back for every call"
        )
    if x.device.type not in ("cpu", "cuda"):
        raise ValueError(f"the tensors are on {x.device}: they must be on a CUDA device")
    for weight in tensors[_WEIGHT::_PER_PROJECTION]:
        if weight is not None and weight.requires_grad:
            raise ValueError(
                "a base weight requires a gradient: it must be frozen "
                "(weight.requires_grad_(False)); these layers train adapters"
            )
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"x has the shape {tuple(x.shape)}: it must be (..., in_features), with at least one "
            "feature"
        )


@dataclass(frozen=True)
class _Options:
    """What isn't a tensor."""

    scalings: tuple[float, ...]
    dropout: Dropout | None
    weight_layout: WeightLayout
    mask: Mask
    copy_to_device: bool

    def projections(self, tensors: Sequence[Any]) -> list[LoraProjection[Any]]:
        """The arguments of the autograd function, grouped by projection."""
        return [
            LoraProjection(
                tensors[first + _WEIGHT],
                tensors[first + _LORA_A],
                tensors[first + _LORA_B],
                scaling,
                tensors[first + _BIAS],
            )
            for scaling, first in zip(self.scalings, range(0, len(tensors), _PER_PROJECTION))
        ]


@functools.cache
def _kernels(device: int) -> Kernels:
    return Kernels(device)


@functools.lru_cache(maxsize=1024)
def _forward_plan(problem: Problem, device: int) -> ForwardPlan:
    return ForwardPlan(problem, _kernels(device).props)


@functools.lru_cache(maxsize=1024)
def _backward_plan(problem: Problem, device: int) -> BackwardPlan:
    return BackwardPlan(problem, _kernels(device).props)


def _memory(options: _Options, x: torch.Tensor) -> OnDevice | Copied:
    is_copied = options.copy_to_device and x.device.type == "cpu"
    return Copied() if is_copied else OnDevice(x.device)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in rows that the kernels can take: those of an expanded tensor overlap."""
    rows, columns = tensor.shape
    is_contiguous = columns == 1 or tensor.stride(1) == 1
    is_apart = rows < 2 or tensor.stride(0) >= columns
    return tensor if is_contiguous and is_apart else tensor.contiguous()


class _LoraLinears(torch.autograd.Function):
    """options, x (tokens, in_features), and of each projection weight, bias, lora_a, lora_b."""

    @staticmethod
    def forward(
        ctx: Any, options: _Options, x: torch.Tensor, *tensors: torch.Tensor | None
    ) -> tuple[torch.Tensor, ...]:
        memory = _memory(options, x)
        x = _rows(x)
        x_array = memory.take(x)
        projections = options.projections([memory.take(tensor) for tensor in tensors])
        problem = problem_of(
            x_array,
            projections,
            dropout=options.dropout is not None,
            mask=options.mask,
            weight_layout=options.weight_layout,
            device=memory.ordinal,
        )
        result = _kernels(memory.ordinal).forward(
            _forward_plan(problem, memory.ordinal),
            x_array,
            projections,
            dropout=options.dropout,
            stream=memory.stream,
            allocate=memory.allocate,
        )
        ctx.options = options
        # Its array goes with the tensors, so that autograd frees it with them.
        ctx.saved = replace(result.saved, array=None)
        ctx.save_for_backward(x, *tensors, memory.give(result.saved.array))
        ys = (memory.give(y) for y in result.y)
        return tuple(y for y in ys if y is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        options: _Options = ctx.options
        x, *tensors, saved = ctx.saved_tensors
        needed_x: bool = ctx.needs_input_grad[1]
        needed: Sequence[bool] = ctx.needs_input_grad[2:]
        gradients: list[torch.Tensor | None] = [None] * len(tensors)
        for index, dy in enumerate(dys):
            if needed[_PER_PROJECTION * index + _BIAS]:
                gradients[_PER_PROJECTION * index + _BIAS] = dy.sum(0)
        is_adapter = [index % _PER_PROJECTION in (_LORA_A, _LORA_B) for index in range(len(needed))]
        if not needed_x and not any(both == (True, True) for both in zip(needed, is_adapter)):
            return (None, None, *gradients)

        memory = _memory(options, x)
        x_array = memory.take(x)
        # Biases take no part.
        arrays = [
            None if index % _PER_PROJECTION == _BIAS else memory.take(tensor)
            for index, tensor in enumerate(tensors)
        ]
        projections = options.projections(arrays)
        dy_arrays = [memory.take(_rows(dy)) for dy in dys]
        problem = problem_of(
            x_array,
            projections,
            dropout=options.dropout is not None,
            mask=options.mask,
            weight_layout=options.weight_layout,
            input_gradient=needed_x,
            dy=dy_arrays,
            device=memory.ordinal,
        )
        result = _kernels(memory.ordinal).backward(
            _backward_plan(problem, memory.ordinal),
            x_array,
            projections,
            dy_arrays,
            replace(ctx.saved, array=memory.take(saved)),
            stream=memory.stream,
            allocate=memory.allocate,
        )
        for index in range(len(dys)):
            first = _PER_PROJECTION * index
            gradients[first + _LORA_A] = memory.give(result.d_lora_a[index])
            gradients[first + _LORA_B] = memory.give(result.d_lora_b[index])
        wanted = (gradient if want else None for gradient, want in zip(gradients, needed))
        return (None, memory.give(result.dx) if needed_x else None, *wanted)


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable adapter: y = x*W^T + bias + scaling*drop(x)*A^T*B^T.

    lora_A (rank, in_features) and lora_B (out_features, rank) are its parameters, initialised as
    PEFT does: A by Kaiming's uniform distribution with a = sqrt(5), B with zeros. scaling is
    lora_alpha / rank, with `use_rslora` lora_alpha / sqrt(rank). Dropout is drawn in training only,
    by `draw_dropout`.
    """

    weight: torch.Tensor
    bias: torch.Tensor | None

    def __init__(
        self,
        base: nn.Linear,
        rank: int,
        *,
        lora_alpha: float,
        dropout_p: float = 0.0,
        use_rslora: bool = False,
        adapter_dtype: torch.dtype | None = None,
        copy_to_device: bool = False,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}: it must be at least 1")
        _check_probability(dropout_p)
        self.in_features, self.out_features, self.rank = base.in_features, base.out_features, rank
        self.scaling = lora_alpha / (math.sqrt(rank) if use_rslora else rank)
        self.dropout_p = dropout_p
        self.copy_to_device = copy_to_device
        self.register_buffer("weight", base.weight.detach())
        self.register_buffer("bias", None if base.bias is None else base.bias.detach())
        dtype, device = adapter_dtype or base.weight.dtype, base.weight.device
        lora_a = torch.empty(rank, base.in_features, dtype=dtype, device=device)
        lora_b = torch.zeros(base.out_features, rank, dtype=dtype, device=device)
        self.lora_A, self.lora_B = nn.Parameter(lora_a), nn.Parameter(lora_b)
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def projection(self) -> LoraProjection[torch.Tensor]:
        """For `lora_linears`, with others that share x."""
        return LoraProjection(self.weight, self.lora_A, self.lora_B, self.scaling, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) to y (..., out_features)."""
        (y,) = lora_linears(
            x,
            [self.projection()],
            dropout_p=self.dropout_p if self.training else 0.0,
            copy_to_device=self.copy_to_device,
        )
        return y

    def extra_repr(self) -> str:
        """What print shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, "
            f"scaling={self.scaling:g}, dropout_p={self.dropout_p:g}, bias={self.bias is not None}"
        )
