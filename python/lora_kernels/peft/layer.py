"""PEFT's LoRA layers with a forward that runs the kernels.

A layer keeps its class's state, names and methods: only its class changes, to a subclass of its own
that overrides `forward`. What the kernels don't take goes to PEFT's forward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from ..tensors import LoraProjection
from ..torch import lora_linear, lora_linears
from .careful import carefully
from .group import Group
from .plain import Plain, has_hooks, plain

#: PEFT's layers over other bases whose forward is the base's, plus the adapters' part.
_OVER_OTHER_BASES = (
    "AwqLoraLinear",
    "GPTQLoraLinear",
    "Linear4bit",
    "Linear8bitLt",
    "TorchaoLoraLinear",
)
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
        one = plain(self, x)
        if one is None:
            y = carefully(self, x)
            return super().forward(x) if y is None else y  # type: ignore[no-any-return]
        group = self.lora_group
        # A replica of DataParallel has another's siblings.
        if group is not None and "_is_replica" not in self.__dict__:
            if group.members[0] is self:
                return _together(group, one, x)
            y = group.take(self, x, one)
            if y is not None:
                return y
        return lora_linear(
            x,
            one.weight,
            one.lora_a,
            one.lora_b,
            scaling=one.scaling,
            bias=one.bias,
            dropout_p=one.dropout_p,
            weight_layout=one.layout,
        )

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


def class_is_known(layer: Any) -> bool:
    """Whether the layer's forward is one that the kernels compute."""
    cls = type(layer)
    if isinstance(layer, Accelerated):
        return True
    is_linear = isinstance(layer, PeftLinear) and cls.forward is PeftLinear.forward
    is_listed = cls.__name__ in _OVER_OTHER_BASES and cls.__module__.startswith("peft.")
    return is_linear or is_listed


def _together(group: Group, first: Plain, x: torch.Tensor) -> torch.Tensor:
    """The first member's y; those of others that can be had with it wait in the group."""
    ones = [first]
    places = [0]
    for place, layer in enumerate(group.members[1:_MOST_PROJECTIONS], 1):
        # Hooks may change x, or gather parameters.
        one = None if has_hooks(layer) else plain(layer, x)
        if one is not None and one.goes_with(first):
            ones.append(one)
            places.append(place)
    ys = lora_linears(
        x,
        [LoraProjection(one.weight, one.lora_a, one.lora_b, one.scaling, one.bias) for one in ones],
        dropout_p=first.dropout_p,
        weight_layout=first.layout,
    )
    group.keep(x, places[1:], ys[1:], ones[1:])
    return ys[0]
