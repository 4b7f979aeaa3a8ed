"""PEFT's LoRA layers with a forward that runs the kernels.

A layer keeps its class's state, names and methods: only its class changes, to a subclass of its own
that overrides `forward`. What the kernels don't take goes to PEFT's forward.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..tensors import LoraProjection
from ..torch import call, lora_delta, lora_linears
from ..types import WeightLayout
from .group import Group
from .owned import has_hooks, parameters_of, unwrapped, why_not_owned

_HALVES = (torch.float16, torch.bfloat16)
_DTYPES = (torch.float32, *_HALVES)
#: PEFT's layers over other bases whose forward is the base's, plus the adapters' part.
_OVER_OTHER_BASES = (
    "AwqLoraLinear",
    "GPTQLoraLinear",
    "Linear4bit",
    "Linear8bitLt",
    "TorchaoLoraLinear",
)
#: Bases whose weight PEFT can make dense.
_DEQUANTISED = ("Linear4bit", "Linear8bitLt")
#: The kernels' limit.
_MOST_PROJECTIONS = 8


class Accelerated(nn.Module):
    """What an accelerated layer has before its PEFT class."""

    lora_group: Group | None = None
    lora_dequantise: bool = False

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """x (..., in_features) to y (..., out_features), as the PEFT class has it."""
        # What else is given is for PEFT's own ways: mixed batches, aLoRA.
        if args or kwargs:
            return super().forward(x, *args, **kwargs)  # type: ignore[no-any-return]
        if why_not(self) is not None or why_not_of(self, x) is not None:
            return super().forward(x)  # type: ignore[no-any-return]
        is_fused = why_not_fused(self) is None
        if why_not_dropped(self, is_fused) is not None:
            return super().forward(x)  # type: ignore[no-any-return]
        if not is_fused:
            return _delta(self, x)
        # A replica of DataParallel has another's siblings.
        group = None if hasattr(self, "_is_replica") else self.lora_group
        if group is not None and _is_alone(self):
            if group.members[0] is self:
                return _together(group, x)
            y = group.take(self, x)
            if y is not None:
                return y
        return _fused(self, x)

    def __reduce__(self) -> Any:
        return _rebuild, (type(self).__mro__[2],), self.__dict__


def _rebuild(peft_class: Any) -> Any:
    made: Any = accelerated(peft_class)
    return made.__new__(made)


_CLASSES: dict[type, type] = {}


def accelerated(peft_class: type) -> type:
    """The subclass of a PEFT class that runs the kernels."""
    if peft_class not in _CLASSES:
        name = f"Accelerated{peft_class.__name__}"
        _CLASSES[peft_class] = type(name, (Accelerated, peft_class), {})
    return _CLASSES[peft_class]


def takes_device(device: torch.device) -> bool:
    """Whether tensors there reach the kernels."""
    return device.type == call.DEVICE


def class_is_known(layer: Any) -> bool:
    """Whether the layer's forward is one that the kernels compute."""
    cls = type(layer)
    if isinstance(layer, Accelerated):
        return True
    is_linear = isinstance(layer, PeftLinear) and cls.forward is PeftLinear.forward
    is_listed = cls.__name__ in _OVER_OTHER_BASES and cls.__module__.startswith("peft.")
    return is_linear or is_listed


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
    if not takes_device(x.device):
        return f"x is on {x.device}"
    if x.dtype not in _DTYPES:
        return f"x is of {x.dtype}"
    if torch.is_autocast_enabled(x.device.type):
        return None
    for name in active(layer):
        dtype = unwrapped(layer.lora_A[name]).weight.dtype
        if dtype is not x.dtype and not (dtype is torch.float32 and x.dtype in _HALVES):
            return f"its adapter {name!r} is of {dtype}, x of {x.dtype}"
        if unwrapped(layer.lora_B[name]).weight.dtype is not dtype:
            return f"its adapter {name!r} is of two types"
    return None


def why_not_dropped(layer: Any, is_fused: bool) -> str | None:
    """The same of the dropouts: those that aren't drawn in a product with the base."""
    for name in active(layer)[is_fused:]:
        if _dropout(layer, name) > 0.0:
            return f"dropout of its adapter {name!r} has no kernel without the base"
    return None


def why_not_fused(layer: Any) -> str | None:
    """Why the base's own forward runs, and the kernels compute the adapters' part alone."""
    base = layer.base_layer
    if layer.lora_dequantise and type(base).__name__ in _DEQUANTISED:
        return None
    if type(base) not in (nn.Linear, Conv1D):
        return f"its base is a {type(base).__name__}"
    if has_hooks(base):
        return "its base has hooks"
    weight = base.weight
    if not (type(weight) in (nn.Parameter, torch.Tensor) and weight.dtype in _DTYPES):
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


def _computed_in(x: torch.Tensor) -> torch.dtype:
    """The type of the kernels' sums."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def _projection(layer: Any, adapter: _Adapter, dtype: torch.dtype) -> LoraProjection[Any]:
    """Base and one adapter in one product."""
    base = layer.base_layer
    weight, bias = base.weight, base.bias
    if type(base).__name__ in _DEQUANTISED:
        weight = functools.partial(_dequantised, base, dtype)
        bias = None if bias is None else bias.to(dtype)
    if adapter.bias is not None:
        bias = adapter.bias if bias is None else bias + adapter.bias
        bias = bias.to(dtype)
    return LoraProjection(weight, adapter.lora_a, adapter.lora_b, adapter.scaling, bias)


def _dequantised(base: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    return dequantize_module_weight(base).to(dtype)


def _layout(layer: Any) -> WeightLayout:
    is_transposed = type(layer.base_layer) is Conv1D
    return WeightLayout.IN_OUT if is_transposed else WeightLayout.OUT_IN


def _fused(layer: Any, x: torch.Tensor) -> torch.Tensor:
    """Base and first adapter in one product, the others on top of it."""
    first, *others = (_adapter(layer, name) for name in active(layer))
    (y,) = lora_linears(
        x,
        [_projection(layer, first, _computed_in(x))],
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
        dtype = _computed_in(x)
        # The sum is rounded once if it is of the kernels' type. A wider y is not narrowed for it.
        is_summed = y.dtype is dtype
        onto = y if is_summed else torch.zeros_like(y, dtype=dtype)
        (part,) = lora_delta(x, [projection], [onto], dropout_p=adapter.dropout_p)
        y = part if is_summed else y + part.to(y.dtype)
        if adapter.bias is not None:
            y = y + adapter.bias.to(y.dtype)
    return y


def _together(group: Group, x: torch.Tensor) -> torch.Tensor:
    """The first member's y; those of others that can be had with it wait in the group."""
    members = [(0, group.members[0])]
    members += [
        (position, member)
        for position, member in enumerate(group.members[:_MOST_PROJECTIONS])
        if position > 0 and _joins(member, x)
    ]
    found = [(at, member, _adapter(member, active(member)[0])) for at, member in members]
    made = [
        (at, one.dropout_p, _projection(member, one, _computed_in(x))) for at, member, one in found
    ]
    _, dropout_p, first = made[0]
    alike = [
        (at, projection)
        for at, p, projection in made
        if p == dropout_p and (projection.bias is None) is (first.bias is None)
    ]
    y, *others = lora_linears(
        x,
        [projection for _, projection in alike],
        dropout_p=dropout_p,
        weight_layout=_layout(group.members[0]),
    )
    group.keep(x, {at: other for (at, _), other in zip(alike[1:], others)})
    return y


def _joins(layer: Any, x: torch.Tensor) -> bool:
    """Whether a layer can be computed before it is called."""
    return (
        not has_hooks(layer)
        and why_not(layer) is None
        and why_not_of(layer, x) is None
        and why_not_fused(layer) is None
        and why_not_dropped(layer, True) is None
        and _is_alone(layer)
    )


def _is_alone(layer: Any) -> bool:
    """Whether one adapter is active, whose parameters need no call."""
    names = active(layer)
    parts = [part[name] for name in names for part in (layer.lora_A, layer.lora_B)]
    return len(names) == 1 and not any(
        type(part) is not nn.Linear or has_hooks(part) for part in parts
    )
