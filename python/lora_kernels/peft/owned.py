"""Whether an adapter's matrices can be had, where hooks or wrappers keep them elsewhere."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from ..torch import owned
from .plain import has_hooks

#: Where the hooks come from that gather parameters.
_GATHERING = ("torch.distributed", "deepspeed", "lora_kernels")


def parameters_of(linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of an adapter's Linear; copies, where the module is called for them."""

    def both(*_: Any) -> tuple[torch.Tensor, ...]:
        inside = owned.inside(linear)
        return tuple(one.clone() for one in (inside.weight, inside.bias) if one is not None)

    if owned.is_plain(linear):
        return linear.weight, linear.bias  # type: ignore[return-value]
    weight, *bias = owned.call(linear, both, None)
    return weight, bias[0] if bias else None


def why_not_owned(linear: nn.Module) -> str | None:
    """Why an adapter's matrix can't be had; None if it can."""
    is_sharded = hasattr(owned.inside(linear).weight, "device_mesh")
    # FSDP2's is whole in a call.
    if is_sharded and not hasattr(linear, "unshard"):
        return "is a DTensor"
    if type(linear) is nn.Linear and not has_hooks(linear):
        return None
    inside = owned.inside(linear)
    # FSDP2 makes classes of its own.
    if not isinstance(inside, nn.Linear) or type(inside).forward is not nn.Linear.forward:
        return f"is a {type(inside).__name__}, not a Linear"
    for hook in (*_hooks(linear), *_hooks(inside)):
        if not _home(hook).startswith(_GATHERING):
            return f"has a hook of {_home(hook)}"
    return None


def _hooks(module: nn.Module) -> Iterator[Callable[..., Any]]:
    yield from module._forward_hooks.values()
    yield from module._forward_pre_hooks.values()
    yield from module._backward_hooks.values()
    yield from module._backward_pre_hooks.values()
    if "forward" in module.__dict__:
        yield module.forward


def _home(hook: Callable[..., Any]) -> str:
    """The module of Python that a hook was written in."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return f"{getattr(hook, '__module__', None) or type(hook).__module__}"
