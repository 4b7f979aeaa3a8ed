"""The functions: what they check, how they draw, and by which way a call goes.

Eager calls on plain tensors go straight to the library, in one autograd function. Whatever traces
or watches (torch.compile, torch.export, fake tensors, dispatch modes) gets the operators of `ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..tensors import LoraProjection
from ..types import Dropout, Mask, WeightLayout
from . import call, ops
from . import generator as generators
from .autograd import PER_PROJECTION, Lora, State, computed
from .prepared import Config

_AUTOCAST = ("cuda", "cpu")
_PLAIN = (torch.Tensor, torch.nn.Parameter)
#: Past the check for torch.func, which `_is_unseen` has made.
_apply = super(torch.autograd.Function, Lora).apply
Projections = Sequence[LoraProjection[Any]]


def lora_linear(
    x: torch.Tensor,
    weight: torch.Tensor | Callable[[], torch.Tensor],
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
    mask_origin: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    """x*W^T + bias + scaling*drop(x)*A^T*B^T, for x (..., in_features).

    weight: frozen; or a function that makes it, such as one that dequantises. It is called in
    forward and again in backward, and what it made is not kept. lora_a (rank, in_features), lora_b
    (out_features, rank): of x's type, or float32 over float16 and bfloat16. dropout_p > 0 draws a
    mask from the generator (None: torch's default one of x's device); `dropout` gives one instead.
    mask_origin: row and column where x, a shard, begins in the mask of the whole layer; the column
    is a multiple of 8.
    """
    return run(
        x,
        [weight, bias, lora_a, lora_b],
        (scaling,),
        (),
        dropout_p,
        dropout,
        generator,
        _options(weight_layout, mask, mask_origin),
    )[0]


def lora_linears(
    x: torch.Tensor,
    projections: Projections,
    *,
    dropout_p: float = 0.0,
    dropout: Dropout | None = None,
    generator: torch.Generator | None = None,
    weight_layout: WeightLayout = WeightLayout.OUT_IN,
    mask: Mask = Mask.STORED,
    mask_origin: tuple[int, int] = (0, 0),
) -> tuple[torch.Tensor, ...]:
    """As `lora_linear`, of up to 8 projections of the same x (q, k and v, or gate and up).

    x is read once for all their adapters, and all of them see it under the same dropout mask. At
    least one has an adapter.
    """
    tensors = [
        tensor for one in projections for tensor in (one.weight, one.bias, one.lora_a, one.lora_b)
    ]
    if all([one is None for one in tensors[2::PER_PROJECTION]]):
        raise ValueError("no projection has an adapter: use torch.nn.functional.linear")
    return run(
        x,
        tensors,
        tuple([one.scaling for one in projections]),
        (),
        dropout_p,
        dropout,
        generator,
        _options(weight_layout, mask, mask_origin),
    )


def lora_delta(
    x: torch.Tensor,
    projections: Projections,
    ys: Sequence[torch.Tensor],
    *,
    dropout_p: float = 0.0,
    dropout: Dropout | None = None,
    generator: torch.Generator | None = None,
    mask: Mask = Mask.STORED,
    mask_origin: tuple[int, int] = (0, 0),
) -> tuple[torch.Tensor, ...]:
    """ys + scaling*drop(x)*A^T*B^T of each projection: adapters over outputs of other layers.

    ys (..., out_features): as many as projections, of x's type; they are left alone. Weights and
    biases of the projections take no part, and may be None. A y whose projection has no adapter is
    returned as it is. Gradients go through to ys; those of x, lora_a and lora_b are of the
    adapters' part alone.
    """
    if len(ys) != len(projections):
        raise ValueError(f"{len(ys)} ys and {len(projections)} projections: there must be as many")
    adapted = [index for index, one in enumerate(projections) if one.lora_a is not None]
    results = list(ys)
    if not adapted:
        return tuple(results)
    some = [projections[index] for index in adapted]
    added = run(
        x,
        [tensor for one in some for tensor in (None, None, one.lora_a, one.lora_b)],
        tuple([one.scaling for one in some]),
        [ys[index] for index in adapted],
        dropout_p,
        dropout,
        generator,
        _options(WeightLayout.OUT_IN, mask, mask_origin, delta=True),
    )
    for index, y in zip(adapted, added):
        results[index] = y
    return tuple(results)


def _options(
    weight_layout: WeightLayout, mask: Mask, mask_origin: tuple[int, int], delta: bool = False
) -> tuple[bool, bool, bool, int, int]:
    is_transposed = weight_layout is WeightLayout.IN_OUT
    return is_transposed, delta, mask is Mask.REDRAWN, *mask_origin


def check_probability(dropout_p: float) -> None:
    """Raises ValueError unless it is in [0, 1)."""
    # Not so for a NaN either.
    if not 0.0 <= dropout_p < 1.0:
        raise ValueError(f"dropout_p is {dropout_p}: it must be at least 0 and below 1")


def run(
    x: torch.Tensor,
    tensors: list[Any],
    scalings: tuple[float, ...],
    bases: Sequence[torch.Tensor],
    dropout_p: float,
    dropout: Dropout | None = None,
    generator: torch.Generator | None = None,
    options: tuple[bool, bool, bool, int, int] = (False, False, False, 0, 0),
) -> tuple[torch.Tensor, ...]:
    """tensors: weight, bias, lora_a and lora_b of each projection; bases: for a delta.

    options: a `Config` from transposed to mask_column.
    """
    cast = None
    if torch._C._is_any_autocast_enabled():
        cast = _autocast(x)
        if cast is not None:
            x, bases = x.to(cast), [base.to(cast) for base in bases]
            tensors = _cast(tensors, cast)
    is_dropped = dropout is not None
    if dropout_p != 0.0:
        check_probability(dropout_p)
        is_dropped = True
    needs_graph, is_plain, is_made = x.requires_grad, type(x) in _PLAIN, False
    for one in (*tensors, *bases) if bases else tensors:
        if one is None:
            continue
        if type(one) in _PLAIN:
            needs_graph = needs_graph or one.requires_grad
        elif isinstance(one, torch.Tensor):
            is_plain = False
            needs_graph = needs_graph or one.requires_grad
        else:
            is_made = True
    if needs_graph:
        needs_graph = torch.is_grad_enabled()
        for weight in tensors[::PER_PROJECTION]:
            if isinstance(weight, torch.Tensor) and weight.requires_grad:
                raise ValueError(
                    "a base weight requires a gradient: it must be frozen "
                    "(weight.requires_grad_(False)); these layers train adapters"
                )
    inference = not needs_graph and not is_dropped
    if not torch.compiler.is_dynamo_compiling() and is_plain and _is_unseen():
        if not x.is_cuda and x.device.type != call.DEVICE:
            raise ValueError(f"the tensors are on {x.device}: move them to a CUDA device")
        value = words = where = made = None
        if is_dropped:
            if dropout is not None:
                value = call.by_value(dropout)
            else:
                value, words = generators.draw_for(x, dropout_p, generator)
            where = "memory" if value is None else "value"
        if is_made:
            made = {}
            for index in range(0, len(tensors), PER_PROJECTION):
                if callable(tensors[index]):
                    made[index], tensors[index] = tensors[index], None
        state = State(Config(scalings, *options, inference, where), made, cast, value, dropout_p)
        if needs_graph:
            return _apply(state, x, words, *tensors, *bases)  # type: ignore[no-any-return]
        return tuple(computed(state, x, words, tensors, bases)[0])
    if not is_plain:
        _refuse_distributed((x, *tensors, *bases))
    words = None
    if dropout is not None:
        dropout_p, words = dropout.p, generators.given(dropout, x.device)
    elif is_dropped:
        words = generators.words(x.device, generator)
    for index in range(0, len(tensors), PER_PROJECTION):
        weight = tensors[index]
        if callable(weight):
            weight = weight()
        tensors[index] = weight if cast is None or weight is None else weight.to(cast)
    config = Config(scalings, *options, inference)
    return ops.call_forward(x, tensors, bases, words, dropout_p, config)


def _autocast(x: torch.Tensor) -> torch.dtype | None:
    """The type that autocast on the device of x casts to; as for torch, not from float64."""
    kind = x.device.type
    if kind not in _AUTOCAST or not torch.is_autocast_enabled(kind) or x.dtype is torch.float64:
        return None
    return torch.get_autocast_dtype(kind)


def _cast(tensors: list[Any], dtype: torch.dtype) -> list[Any]:
    """Biases in autocast's type, and adapters if they aren't in float32. Weights come later."""
    tensors = list(tensors)
    for index in range(1, len(tensors), PER_PROJECTION):
        if tensors[index] is not None:
            tensors[index] = tensors[index].to(dtype)
    lora_as, lora_bs = ops.adapters_for(
        dtype, tensors[2::PER_PROJECTION], tensors[3::PER_PROJECTION]
    )
    tensors[2::PER_PROJECTION], tensors[3::PER_PROJECTION] = lora_as, lora_bs
    return tensors


def _is_unseen() -> bool:
    """Whether nothing but the device sees what happens, so that no operator is needed."""
    if torch._C._are_functorch_transforms_active():
        raise RuntimeError(
            "lora_kernels: a transform of torch.func (grad, vmap, jvp, ...) is active, and the "
            "kernels have no rule for it; use torch.autograd"
        )
    return not (torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack())


def _refuse_distributed(tensors: Sequence[Any]) -> None:
    for one in tensors:
        if type(one).__name__ == "DTensor":
            raise TypeError(
                "a tensor is a DTensor: give each rank's own part (to_local()), as "
                "lora_kernels.torch.parallel does for layers"
            )
