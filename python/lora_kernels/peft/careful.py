"""Layers that aren't of the usual kind, and why some are left to PEFT.

Several active adapters, biases of adapters, scalings in device memory, parameters that are gathered
by hooks, bases that keep their own forward.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..tensors import LoraProjection
from ..torch import call, lora_delta, lora_linears, owned
from ..types import WeightLayout
from .owned import parameters_of, why_not_owned
from .plain import DEQUANTISED, HALVES, computed_in, dequantised, has_hooks

DTYPES = (torch.float32, *HALVES)


def why_not(layer: Any) -> str | None:
    """Why this layer, as it is now, runs PEFT's forward; None if it runs the kernels."""
    if layer._disable_adapters:
        return "its adapters are disabled"
    if layer.merged_adapters:
        return "its adapters are merged"
    names = active(layer)
    if not names:
        return "it has no active adapter"
    for name in names:
        variant = layer.lora_variant.get(name)
        if variant is not None:
            return f"its adapter {name!r} is of the variant {type(variant).__name__}"
        for part in (layer.lora_A[name], layer.lora_B[name]):
            why = why_not_owned(part)
            if why is not None:
                return f"a matrix of its adapter {name!r} {why}"
        dropout = layer.lora_dropout[name]
        if type(dropout) is nn.Dropout:
            if dropout.p >= 1.0:
                return f"its adapter {name!r} has the dropout probability 1"
        elif type(dropout) is not nn.Identity:
            return f"its adapter {name!r} has a {type(dropout).__name__} for its dropout"
    return None


def why_not_of(layer: Any, x: torch.Tensor) -> str | None:
    """The same of an x."""
    if x.device.type != call.DEVICE:
        return f"x is on {x.device}"
    if hasattr(x, "device_mesh"):
        return "x is a DTensor"
    if x.dtype not in DTYPES:
        return f"x is of {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return None
    for name in active(layer):
        dtype = owned.inside(layer.lora_A[name]).weight.dtype
        if dtype is not x.dtype and not (dtype is torch.float32 and x.dtype in HALVES):
            return f"its adapter {name!r} is of {dtype}, x of {x.dtype}"
        if owned.inside(layer.lora_B[name]).weight.dtype is not dtype:
            return f"its adapter {name!r} is of two types"
    return None


def why_not_fused(layer: Any) -> str | None:
    """Why the base's own forward runs, and the kernels compute the adapters' part alone."""
    base = layer.base_layer
    if layer.lora_dequantise and type(base).__name__ in DEQUANTISED:
        return None
    if type(base) not in (nn.Linear, Conv1D):
        return f"its base is a {type(base).__name__}"
    if has_hooks(base):
        return "its base has hooks"
    weight = base.weight
    if not (type(weight) in (nn.Parameter, torch.Tensor) and weight.dtype in DTYPES):
        return f"its base's weight is a {type(weight).__name__} of {weight.dtype}"
    return "its base's weight is trained" if weight.requires_grad else None


def active(layer: Any) -> list[str]:
    """The active adapters that this layer has."""
    adapters = layer.lora_A._modules
    return [name for name in layer.active_adapters if name in adapters]


@dataclass(frozen=True)
class _Adapter:
    """An adapter of a layer: its tensors, and the dropout in front of them."""

    lora_a: torch.Tensor
    lora_b: torch.Tensor
    scaling: float
    bias: torch.Tensor | None
    dropout_p: float


def _adapter(layer: Any, name: str) -> _Adapter:
    lora_a, _ = parameters_of(layer.lora_A[name])
    lora_b, bias = parameters_of(layer.lora_B[name])
    scaling = layer.scaling[name]
    if bias is not None:
        bias = bias * scaling
    if isinstance(scaling, torch.Tensor):
        # PEFT's hot-swapping keeps it in memory of the device, which the host doesn't read.
        lora_b, scaling = lora_b * scaling, 1.0
    return _Adapter(lora_a, lora_b, scaling, bias, _dropout(layer, name))


def _dropout(layer: Any, name: str) -> float:
    dropout = layer.lora_dropout[name]
    return dropout.p if dropout.training and type(dropout) is nn.Dropout else 0.0


def _projection(layer: Any, adapter: _Adapter, dtype: torch.dtype) -> LoraProjection[Any]:
    """Base and one adapter in one product."""
    base = layer.base_layer
    weight, bias = base.weight, base.bias
    if type(base).__name__ in DEQUANTISED:
        weight = functools.partial(dequantised, base, dtype)
        bias = None if bias is None else bias.to(dtype)
    if adapter.bias is not None:
        bias = adapter.bias if bias is None else bias + adapter.bias
        bias = bias.to(dtype)
    return LoraProjection(weight, adapter.lora_a, adapter.lora_b, adapter.scaling, bias)


def _layout(layer: Any) -> WeightLayout:
    is_transposed = type(layer.base_layer) is Conv1D
    return WeightLayout.IN_OUT if is_transposed else WeightLayout.OUT_IN


def _fused(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Base and first adapter in one product, the others on top of it."""
    first, *others = (_adapter(layer, name) for name in active(layer))
    (y,) = lora_linears(
        x,
        [_projection(layer, first, computed_in(x))],
        dropout_p=first.dropout_p,
        weight_layout=_layout(layer),
    )
    return _added(x, y, others)


def _delta(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """The base's own forward, and the adapters on top of it."""
    y = layer.base_layer(x)
    return _added(x, y, [_adapter(layer, name) for name in active(layer)])


def _added(x: torch.Tensor, y: torch.Tensor, adapters: Sequence[_Adapter]) -> torch.Tensor:
    """y and the adapters' parts, of y's type."""
    for adapter in adapters:
        projection = LoraProjection(None, adapter.lora_a, adapter.lora_b, adapter.scaling)
        dtype = computed_in(x)
        # The sum is rounded once if it is of the kernels' type. A wider y is not narrowed for it.
        is_summed = y.dtype is dtype
        onto = y if is_summed else torch.zeros_like(y, dtype=dtype)
        (part,) = lora_delta(x, [projection], [onto], dropout_p=adapter.dropout_p)
        y = part if is_summed else y + part.to(y.dtype)
        if adapter.bias is not None:
            y = y + adapter.bias.to(y.dtype)
    return y


def carefully(layer: Any, x: torch.Tensor) -> torch.Tensor | None:
    """y of a layer that isn't `plain`; None if it is left to PEFT."""
    if why_not(layer) is not None or why_not_of(layer, x) is not None:
        return None
    return _fused(layer, x) if why_not_fused(layer) is None else _delta(layer, x)
