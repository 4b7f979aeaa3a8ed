"""Parameters that are whole only while the module that owns them is being called.

FSDP and DeepSpeed's ZeRO-3 gather a module's parameters in hooks before its forward, and let them
go in hooks after it. So such a module is called, with a forward that returns a copy of its weight:
the matrices of adapters are small, and autograd leads from the copy to the parameter.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from .plain import has_hooks

#: Where the hooks come from that gather parameters.
_GATHERING = ("torch.distributed.", "deepspeed.", "lora_kernels.")
#: The attributes under which wrappers keep the module that they wrap.
_WRAPPED = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module")


class _Weight:
    """Given to a forward in place of x: it returns the weight."""


_WEIGHT = _Weight()


class Owner(nn.Linear):
    """A Linear that can be asked for its weight, and its bias, by a call."""

    def forward(self, x: Any) -> Any:
        """x (..., in_features) to y, or copies of the parameters."""
        if x is _WEIGHT:
            return self.weight.clone(), None if self.bias is None else self.bias.clone()
        return super().forward(x)


def parameters_of(linear: nn.Module) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Weight and bias of an adapter's Linear."""
    if type(linear) is nn.Linear and not has_hooks(linear):
        return linear.weight, linear.bias
    inner = unwrapped(linear)
    if type(inner) is nn.Linear:
        inner.__class__ = Owner
    weight, bias = linear(_WEIGHT)
    return weight, bias


def why_not_owned(linear: nn.Module) -> str | None:
    """Why an adapter's matrix can't be had; None if it can."""
    if type(linear) is nn.Linear and not has_hooks(linear):
        return None
    inner = unwrapped(linear)
    if type(inner) not in (nn.Linear, Owner):
        return f"is a {type(inner).__name__}, not a Linear"
    for hook in _hooks(linear):
        if not _home(hook).startswith(_GATHERING):
            return f"has a hook of {_home(hook)}"
    return None


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside those that FSDP and checkpointing put around it."""
    for name in _WRAPPED:
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            return unwrapped(inner)
    return module


def _hooks(module: nn.Module) -> Iterator[Callable[..., Any]]:
    yield from module._forward_hooks.values()
    yield from module._forward_pre_hooks.values()
    yield from module._backward_hooks.values()
    yield from module._backward_pre_hooks.values()
    if "forward" in module.__dict__:
        yield module.forward
    for name in _WRAPPED:
        inner = getattr(module, name, None)
        if isinstance(inner, nn.Module):
            yield from _hooks(inner)


def _home(hook: Callable[..., Any]) -> str:
    """The module of Python that a hook was written in."""
    while isinstance(hook, functools.partial):
        hook = hook.func
    return f"{getattr(hook, '__module__', None) or type(hook).__module__}"
