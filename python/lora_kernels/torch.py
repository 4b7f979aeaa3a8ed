"""Adapted linear layers for PyTorch, with autograd: on torch's current stream, in memory of torch's allocator.

    y = lora_linear(x, weight, lora_a, lora_b, scaling=2.0, bias=bias, dropout_p=0.1)

Gradients are those of x, lora_a, lora_b and, by a sum of PyTorch's own, bias; the weight is frozen. A layer's first pass with new shapes plans it,
which takes no time on the GPU; plans are kept. x, and dy in backward, are copied where their rows are not contiguous (an expanded tensor), nothing
else is. S and the dropout mask live from forward to backward, like the saved tensors. Autocast does not reach these functions: cast x yourself.

Tensors on the CPU are refused, unless `carry=True`: then they are copied to device 0 through the driver, computed there, and copied back. That is
slow; it is there so that code can be tried on the emulated device, and how the tests compare with PyTorch's own autograd. Tensors of a CUDA device
have not been tried: no GPU was at hand.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable

from . import cuda
from .arrays import Array
from .described import problem_of
from .kernels import Kernels, Layer
from .plans import BackwardPlan, ForwardPlan
from .types import DType, Dropout, Mask, Problem, WeightLayout

_TYPES = {torch.float16: DType.F16, torch.bfloat16: DType.BF16, torch.float32: DType.F32}
_NAMES = {dtype: name for name, dtype in _TYPES.items()}


@dataclass(frozen=True)
class Adapted:
    """One of the projections that share x. weight (out_features, in_features), or transposed; lora_a (rank, in_features) and lora_b
    (out_features, rank), None where there is no adapter; bias (out_features), in all of the projections or in none."""

    weight: torch.Tensor
    lora_a: torch.Tensor | None = None
    lora_b: torch.Tensor | None = None
    scaling: float = 1.0
    bias: torch.Tensor | None = None


def draw_dropout(p: float, generator: torch.Generator | None = None) -> Dropout:
    """Dropout with probability p, seed and offset drawn from `generator`, or from torch's default generator of the CPU: two `torch.randint`
    over 63 bits. So `torch.manual_seed` makes runs repeatable, and activation checkpointing, which restores that generator, sees the same mask."""
    seed, offset = torch.randint(0, 2**63 - 1, (2,), dtype=torch.int64, generator=generator).tolist()
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
    carry: bool = False,
) -> torch.Tensor:
    """x*W^T + bias + scaling*drop(x)*A^T*B^T, for x (..., in_features).

    dropout_p > 0 draws a mask by `draw_dropout`; `dropout` gives one. Adapters are of x's type, or float32 over float16 and bfloat16.
    """
    one = Adapted(weight, lora_a, lora_b, scaling, bias)
    (y,) = lora_linears(
        x,
        [one],
        dropout_p=dropout_p,
        dropout=dropout,
        generator=generator,
        weight_layout=weight_layout,
        mask=mask,
        carry=carry,
    )
    return y


def lora_linears(
    x: torch.Tensor,
    projections: Sequence[Adapted],
    *,
    dropout_p: float = 0.0,
    dropout: Dropout | None = None,
    generator: torch.Generator | None = None,
    weight_layout: WeightLayout = WeightLayout.OUT_IN,
    mask: Mask = Mask.STORED,
    carry: bool = False,
) -> tuple[torch.Tensor, ...]:
    """As `lora_linear`, of up to 8 projections of the same x (q, k and v, or gate and up): x is read once for all their adapters, and all of
    them see it under the same dropout mask. At least one has an adapter."""
    _check_probability(dropout_p)
    if dropout is None and dropout_p > 0.0:
        dropout = draw_dropout(dropout_p, generator)
    if all(one.lora_a is None for one in projections):
        raise ValueError("no projection has an adapter: use torch.nn.functional.linear")
    tensors = [tensor for one in projections for tensor in (one.weight, one.bias, one.lora_a, one.lora_b)]
    _check(x, tensors, carry)
    how = _How(tuple(one.scaling for one in projections), dropout, weight_layout, mask, carry)
    rows = x.reshape(-1, x.shape[-1])
    ys: tuple[torch.Tensor, ...] = _LoraLinears.apply(how, rows, *tensors)
    return tuple(y.reshape(*x.shape[:-1], y.shape[-1]) for y in ys)


def _check_probability(dropout_p: float) -> None:
    # Not so for a NaN either.
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p is {dropout_p}: it must be at least 0 and below 1")


def _check(x: torch.Tensor, tensors: Sequence[torch.Tensor | None], carry: bool) -> None:
    for tensor in (x, *tensors):
        if tensor is None:
            continue
        if tensor.dtype not in _TYPES:
            raise TypeError(f"a tensor of {tensor.dtype}: the kernels take float16, bfloat16 and float32")
        if tensor.device != x.device:
            raise ValueError(f"a tensor on {tensor.device} and x on {x.device}: they must be on one device")
    if x.device.type == "cpu" and not carry:
        raise ValueError(
            "the tensors are on the CPU: move them to a CUDA device, or say carry=True to have them copied to device 0 and back for every call"
        )
    if x.device.type not in ("cpu", "cuda"):
        raise ValueError(f"the tensors are on {x.device}: they must be on a CUDA device")
    for weight in tensors[::4]:
        if weight is not None and weight.requires_grad:
            raise ValueError("a base weight requires a gradient: it must be frozen (weight.requires_grad_(False)); these layers train adapters")
    if x.dim() == 0 or x.numel() == 0:
        raise ValueError(f"x has the shape {tuple(x.shape)}: it must be (..., in_features), with at least one token")


@dataclass(frozen=True)
class _How:
    """What isn't a tensor."""

    scalings: tuple[float, ...]
    dropout: Dropout | None
    weight_layout: WeightLayout
    mask: Mask
    carry: bool

    def layers(self, tensors: Sequence[Any]) -> list[Layer]:
        return [
            Layer(weight, lora_a, lora_b, scaling, bias)
            for scaling, weight, bias, lora_a, lora_b in zip(
                self.scalings, tensors[::4], tensors[1::4], tensors[2::4], tensors[3::4]
            )
        ]


@functools.cache
def _kernels(device: int) -> Kernels:
    return Kernels(device)


@functools.lru_cache(maxsize=1024)
def _forward_plan(problem: Problem, device: int) -> ForwardPlan:
    return ForwardPlan(problem, _kernels(device).device)


@functools.lru_cache(maxsize=1024)
def _backward_plan(problem: Problem, device: int) -> BackwardPlan:
    return BackwardPlan(problem, _kernels(device).device)


class _OnDevice:
    """Tensors of a CUDA device: used where they are."""

    def __init__(self, device: torch.device) -> None:
        self.torch_device = device
        self.ordinal: int = device.index
        self.stream: int = torch.cuda.current_stream(device).cuda_stream

    def take(self, tensor: torch.Tensor | None) -> Any:
        if tensor is None:
            return None
        dtype = _TYPES.get(tensor.dtype)
        return Array(tensor.data_ptr(), tuple(tensor.shape), tuple(tensor.stride()), dtype, self.ordinal, False, tensor)

    def allocate(self, shape: tuple[int, ...], dtype: DType | None) -> Array:
        name = torch.uint8 if dtype is None else _NAMES[dtype]
        return self.take(torch.empty(shape, dtype=name, device=self.torch_device))  # type: ignore[no-any-return]

    def give(self, array: Any) -> torch.Tensor | None:
        return None if array is None else array.owner


class _Carried:
    """Tensors of the CPU: copied to device 0 and back."""

    ordinal = 0
    stream = 0

    def take(self, tensor: torch.Tensor | None) -> Any:
        if tensor is None:
            return None
        tensor = tensor.detach().contiguous()
        data = tensor.reshape(-1).view(torch.uint8).numpy()
        return cuda.DeviceArray(tuple(tensor.shape), _TYPES.get(tensor.dtype)).copy_from(data)

    def allocate(self, shape: tuple[int, ...], dtype: DType | None) -> cuda.DeviceArray:
        return cuda.allocate(shape, dtype)

    def give(self, array: cuda.DeviceArray | None) -> torch.Tensor | None:
        if array is None:
            return None
        data = torch.frombuffer(bytearray(array.to_bytes()), dtype=torch.uint8)
        name = torch.uint8 if array.dtype is None else _NAMES[array.dtype]
        return data.view(name).reshape(array.shape)


def _place(how: _How, x: torch.Tensor) -> _OnDevice | _Carried:
    return _Carried() if how.carry and x.device.type == "cpu" else _OnDevice(x.device)


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """The same numbers in rows that the kernels can take: an expanded tensor's rows lie on one another."""
    columns = tensor.shape[1]
    is_fine = (columns == 1 or tensor.stride(1) == 1) and (tensor.shape[0] == 1 or tensor.stride(0) >= columns)
    return tensor if is_fine else tensor.contiguous()


class _LoraLinears(torch.autograd.Function):
    """how, x (tokens, in_features), and of each projection weight, bias, lora_a, lora_b."""

    @staticmethod
    def forward(ctx: Any, how: _How, x: torch.Tensor, *tensors: torch.Tensor | None) -> tuple[torch.Tensor, ...]:
        place = _place(how, x)
        x = _rows(x)
        taken = place.take(x)
        layers = how.layers([place.take(tensor) for tensor in tensors])
        problem = problem_of(taken, layers, dropout=how.dropout is not None, mask=how.mask, weight_layout=how.weight_layout, device=place.ordinal)
        plan = _forward_plan(problem, place.ordinal)
        result = _kernels(place.ordinal).forward(
            plan, taken, layers, dropout=how.dropout, stream=place.stream, allocate=place.allocate
        )
        ctx.how = how
        ctx.save_for_backward(x, *tensors, place.give(result.saved))
        ys = (place.give(y) for y in result.y)
        return tuple(y for y in ys if y is not None)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *dys: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        how: _How = ctx.how
        x, *tensors, saved = ctx.saved_tensors
        gradients: list[torch.Tensor | None] = [None] * (2 + len(tensors))
        needed: Sequence[bool] = ctx.needs_input_grad
        for index, dy in enumerate(dys):
            if needed[2 + 4 * index + 1]:
                gradients[2 + 4 * index + 1] = dy.sum(0)
        of_adapters = [needed[2 + index] for index in range(len(tensors)) if index % 4 >= 2]
        if not needed[1] and not any(of_adapters):
            return tuple(gradients)

        place = _place(how, x)
        taken = place.take(x)
        # Biases take no part.
        layers = how.layers([place.take(tensor) if index % 4 != 1 else None for index, tensor in enumerate(tensors)])
        taken_dys = [place.take(_rows(dy)) for dy in dys]
        problem = problem_of(
            taken,
            layers,
            dropout=how.dropout is not None,
            mask=how.mask,
            weight_layout=how.weight_layout,
            input_gradient=needed[1],
            dy=taken_dys,
            device=place.ordinal,
        )
        plan = _backward_plan(problem, place.ordinal)
        result = _kernels(place.ordinal).backward(
            plan,
            taken,
            layers,
            taken_dys,
            place.take(saved),
            dropout=how.dropout,
            stream=place.stream,
            allocate=place.allocate,
        )
        gradients[1] = place.give(result.dx)
        for index in range(len(dys)):
            gradients[2 + 4 * index + 2] = place.give(result.d_lora_a[index])
            gradients[2 + 4 * index + 3] = place.give(result.d_lora_b[index])
        return tuple(gradient if wanted else None for gradient, wanted in zip(gradients, needed))


class LoraLinear(nn.Module):
    """A frozen linear layer with a trainable adapter: y = x*W^T + bias + scaling*drop(x)*A^T*B^T.

    lora_A (rank, in_features) and lora_B (out_features, rank) are its parameters, initialised as PEFT does: A by Kaiming's uniform distribution
    with a = sqrt(5), B with zeros. scaling is lora_alpha / rank, with `use_rslora` lora_alpha / sqrt(rank). Dropout is drawn in training only, by
    `draw_dropout`.
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
        carry: bool = False,
    ) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"rank is {rank}: it must be at least 1")
        _check_probability(dropout_p)
        self.in_features, self.out_features, self.rank = base.in_features, base.out_features, rank
        self.scaling = lora_alpha / (math.sqrt(rank) if use_rslora else rank)
        self.dropout_p = dropout_p
        self.carry = carry
        self.register_buffer("weight", base.weight.detach())
        self.register_buffer("bias", None if base.bias is None else base.bias.detach())
        dtype, device = adapter_dtype or base.weight.dtype, base.weight.device
        self.lora_A = nn.Parameter(torch.empty(rank, base.in_features, dtype=dtype, device=device))
        self.lora_B = nn.Parameter(torch.zeros(base.out_features, rank, dtype=dtype, device=device))
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))

    def adapted(self) -> Adapted:
        """For `lora_linears`, with others that share x."""
        return Adapted(self.weight, self.lora_A, self.lora_B, self.scaling, self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in_features) to y (..., out_features)."""
        dropout_p = self.dropout_p if self.training else 0.0
        (y,) = lora_linears(x, [self.adapted()], dropout_p=dropout_p, carry=self.carry)
        return y

    def extra_repr(self) -> str:
        """What print shows."""
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, rank={self.rank}, scaling={self.scaling:g}, "
            f"dropout_p={self.dropout_p:g}, bias={self.bias is not None}"
        )
