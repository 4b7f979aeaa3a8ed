"""The usual layer, found quickly: one adapter, no hooks, a dense base that is frozen.

Every forward of every layer asks this, so it reads the dictionaries that `nn.Module` keeps its
parts in.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from peft.utils.integrations import dequantize_module_weight
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..torch import call
from ..types import WeightLayout

#: Bases whose weight PEFT can make dense.
DEQUANTISED = ("Linear4bit", "Linear8bitLt")
HALVES = (torch.float16, torch.bfloat16)


class Plain(NamedTuple):
    """What a layer computes in one product.

    weight: a tensor, or a function that makes it.
    """

    weight: Any
    bias: torch.Tensor | None
    lora_a: torch.Tensor
    lora_b: torch.Tensor
    scaling: float
    dropout_p: float
    layout: WeightLayout
    base_dtype: torch.dtype

    def goes_with(self, other: Plain) -> bool:
        """Whether both are computed by one call."""
        return (
            self.dropout_p == other.dropout_p
            and self.layout is other.layout
            and self.base_dtype is other.base_dtype
            and self.lora_a.dtype is other.lora_a.dtype
            and self.lora_a.device == other.lora_a.device
            and (self.bias is None) is (other.bias is None)
        )

    def is_as(self, other: Plain) -> bool:
        """Whether the same tensors go the same way."""
        return (
            self.lora_a is other.lora_a
            and self.lora_b is other.lora_b
            and self.scaling == other.scaling
            and self.dropout_p == other.dropout_p
        )


def plain(layer: nn.Module, x: torch.Tensor) -> Plain | None:
    """What the layer computes from x, if it is of the usual kind."""
    state: dict[str, Any] = layer.__dict__
    modules = state["_modules"]
    names = state["_active_adapter"]
    name = names if isinstance(names, str) else names[0] if len(names) == 1 else None
    linear_a = modules["lora_A"]._modules.get(name)
    if linear_a is None or state["_disable_adapters"] or state["merged_adapters"]:
        return None
    linear_b = modules["lora_B"]._modules[name]
    if not (_is_linear(linear_a) and _is_linear(linear_b)) or name in state["lora_variant"]:
        return None
    # FSDP takes parameters out of these dictionaries, tensor parallelism puts DTensors there.
    lora_a, lora_b = linear_a._parameters.get("weight"), linear_b._parameters.get("weight")
    scaling = state["scaling"][name]
    if type(lora_a) is not nn.Parameter or type(lora_b) is not nn.Parameter:
        return None
    if linear_b._parameters.get("bias") is not None or not isinstance(scaling, (float, int)):
        return None
    dropout = modules["lora_dropout"]._modules[name]
    dropout_p = 0.0
    if type(dropout) is nn.Dropout:
        dropout_p = dropout.p if dropout.training else 0.0
    elif type(dropout) is not nn.Identity:
        return None
    base = modules["base_layer"]
    weight, bias, layout = _base(base, state, x)
    if weight is None or dropout_p >= 1.0:
        return None
    kind = x.device.type
    if kind != call.DEVICE or not _types_are_right(x, weight, bias, lora_a, lora_b, kind):
        return None
    base_dtype = x.dtype if callable(weight) else weight.dtype
    return Plain(weight, bias, lora_a, lora_b, scaling, dropout_p, layout, base_dtype)


def _is_linear(module: nn.Module) -> bool:
    return type(module) is nn.Linear and not has_hooks(module)


def has_hooks(module: nn.Module) -> bool:
    """Whether a call of the module does more than its class's forward."""
    state = module.__dict__
    return bool(
        state["_forward_hooks"]
        or state["_forward_pre_hooks"]
        or state["_backward_hooks"]
        or state["_backward_pre_hooks"]
        or "forward" in state
    )


def computed_in(x: torch.Tensor) -> torch.dtype:
    """The type of the kernels' sums."""
    kind = x.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype


def dequantised(base: nn.Module, dtype: torch.dtype) -> torch.Tensor:
    """The dense weight of a base of bitsandbytes."""
    return dequantize_module_weight(base).to(dtype)


def _base(base: nn.Module, state: dict[str, Any], x: torch.Tensor) -> tuple[Any, Any, WeightLayout]:
    """Weight, None if the base isn't of the usual kind, bias and layout."""
    cls = type(base)
    layout = WeightLayout.IN_OUT if cls is Conv1D else WeightLayout.OUT_IN
    parameters = base._parameters
    if has_hooks(base):
        return None, None, layout
    if cls is nn.Linear or cls is Conv1D:
        weight, bias = parameters.get("weight"), parameters.get("bias")
        is_usual = type(weight) is nn.Parameter and not weight.requires_grad
        return weight if is_usual else None, bias, layout
    if state.get("lora_dequantise") and cls.__name__ in DEQUANTISED:
        dtype, bias = computed_in(x), parameters.get("bias")
        narrow = None if bias is None else bias.to(dtype)
        return functools.partial(dequantised, base, dtype), narrow, layout
    return None, None, layout


def _types_are_right(
    x: torch.Tensor,
    weight: Any,
    bias: torch.Tensor | None,
    lora_a: torch.Tensor,
    lora_b: torch.Tensor,
    kind: str,
) -> bool:
    dtype, adapter = x.dtype, lora_a.dtype
    if torch.is_autocast_enabled(kind):
        return dtype is not torch.float64
    return (
        (callable(weight) or weight.dtype is dtype)
        and (bias is None or bias.dtype is dtype)
        and lora_b.dtype is adapter
        and (adapter is dtype or (adapter is torch.float32 and dtype in HALVES))
    )
