"""Parameters of modules that a wrapper or hooks keep elsewhere: FSDP, FSDP2, DeepSpeed's ZeRO-3.

Such a parameter is whole only while its own module is called, and again in backward, from the
hooks on what that call gave. So whoever needs it calls the module, with another forward.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

#: Where wrappers keep the module that they wrap: FSDP, torch.compile.
_INSIDE = ("_fsdp_wrapped_module", "_orig_mod")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def is_plain(module: nn.Module) -> bool:
    """Whether parameters can be read without calling the module."""
    # A class of its own (FSDP2's) also tells. So does a list of hooks that isn't empty.
    if type(module).__module__.startswith("torch.distributed"):
        return False
    members = module.__dict__
    return not (
        members["_forward_hooks"]
        or members["_forward_pre_hooks"]
        or members["_backward_hooks"]
        or members["_backward_pre_hooks"]
        or "_fsdp_wrapped_module" in members["_modules"]
        or "_orig_mod" in members["_modules"]
    )


def is_bare(module: nn.Module) -> bool:
    """Whether it is torch's own linear layer, with a weight on one device and without hooks."""
    members = module.__dict__
    return (
        type(module) is nn.Linear
        and type(members["_parameters"].get("weight")) is nn.Parameter
        and not (
            members["_forward_hooks"]
            or members["_forward_pre_hooks"]
            or members["_backward_hooks"]
            or members["_backward_pre_hooks"]
            or "forward" in members
        )
    )


def inside(module: nn.Module) -> Any:
    """The module that wrappers wrap."""
    found = module
    while True:
        for name in _INSIDE:
            if name in found._modules:
                found = found._modules[name]  # type: ignore[assignment]
                break
        else:
            return found


def call(module: nn.Module, forward: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a module whose forward is this one meanwhile: its hooks and wrappers see that call."""
    wrapped = inside(module)
    before = wrapped.__dict__.get("forward")
    wrapped.forward = forward
    try:
        return module(*arguments)
    finally:
        if before is None:
            del wrapped.forward
        else:
            wrapped.forward = before


def frozen(parameter: torch.Tensor) -> torch.Tensor:
    """A frozen parameter as itself; as FSDP has it, a part of one that learns, cut off from it."""
    return parameter if parameter.grad_fn is None else parameter.detach()


def weight_of(module: nn.Module) -> torch.Tensor:
    """The weight of a small linear layer, such as lora_A.

    It is a copy where the module has to be called for it; its gradient goes to the parameter.
    """
    if is_plain(module):
        return module.weight  # type: ignore[return-value]
    wrapped = inside(module)
    copied: torch.Tensor = call(module, lambda *_: wrapped.weight.clone())
    return copied
