"""Layers that a module calls with the same x: q, k and v, or gate and up.

Which ones is read from the source of the module's forward, and checked again in every call: the
first layer computes them all, and a later one takes its result only if it is given the same tensor.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from .plain import Plain

#: Expressions whose parts may not be evaluated, or more than once.
_CONDITIONAL = (ast.IfExp, ast.BoolOp, ast.Lambda, ast.ListComp, ast.SetComp, ast.GeneratorExp)


class Group:
    """Layers that share x. The results of a call wait here for the layers that they belong to."""

    def __init__(self, members: Sequence[nn.Module]) -> None:
        self.members = tuple(members)
        self.x: torch.Tensor | None = None
        self.ys: dict[int, tuple[torch.Tensor, Plain, Any]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Results belong to a running forward: a copy of the model starts without them.
        return {"members": self.members}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["members"])  # type: ignore[misc]

    def keep(
        self,
        x: torch.Tensor,
        places: Sequence[int],
        ys: Sequence[torch.Tensor],
        ones: Sequence[Plain],
    ) -> None:
        """Results of the members with these places, from this x and from what they were."""
        self.x = x if ys else None
        self.ys = {place: (y, one, _version(x, one)) for place, y, one in zip(places, ys, ones)}

    def take(self, layer: nn.Module, x: torch.Tensor, one: Plain) -> torch.Tensor | None:
        """The layer's result, if x and the layer are what it was computed from."""
        if not self.ys:
            return None
        found, given = self.ys.pop(self._place(layer), None), self.x
        if not self.ys:
            self.x = None
        if found is None:
            return None
        y, then, version = found
        if x is given and one.is_as(then) and version == _version(x, one):
            return y
        warnings.warn(
            "a layer of a group was called with another tensor than its first layer, or was "
            "changed in between, so its part was computed for nothing: name the groups that there "
            "are, accelerate(model, group=[('q_proj', 'k_proj'), ...]), or say group=False",
            stacklevel=4,
        )
        return None

    def _place(self, layer: nn.Module) -> int:
        for place, member in enumerate(self.members):
            if member is layer:
                return place
        raise ValueError("the layer is of another group")


def _version(x: torch.Tensor, one: Plain) -> tuple[Any, ...] | bool:
    """Changes if x or the adapter are written, or gradients are asked for, or no longer."""
    mode = torch.is_grad_enabled()
    # Tensors of the inference mode don't count the writes into them.
    if torch.compiler.is_compiling() or torch.is_inference_mode_enabled() or x.is_inference():
        return mode
    return mode, x._version, one.lora_a._version, one.lora_b._version


def calls_with_one_input(module: nn.Module) -> list[tuple[str, ...]]:
    """Names of children that the module's forward calls with the same local variable.

    OSError or TypeError where there is no source.
    """
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(type(module).forward)))
    function = ast.parse(source).body[0]
    if not isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef)):
        raise TypeError("its forward isn't a function")
    found: dict[tuple[str, int, int], list[str]] = defaultdict(list)
    _read(function.body, defaultdict(int), found)
    return [tuple(names) for names in found.values() if len(set(names)) == len(names) > 1]


def _read(
    block: Sequence[ast.stmt],
    writes: dict[str, int],
    found: dict[tuple[str, int, int], list[str]],
) -> None:
    """Adds the calls of a block, by variable, its writes so far, and block."""
    for statement in block:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            continue
        calls = sorted(_calls(statement), key=lambda call: (call[0].lineno, call[0].col_offset))
        for call, variable in calls:
            found[variable, writes[variable], id(block)].append(call.attr)
        for name in ("body", "orelse", "finalbody"):
            _read(getattr(statement, name, []), writes, found)
        for handler in getattr(statement, "handlers", []):
            _read(handler.body, writes, found)
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load):
                writes[node.id] += 1


def _calls(node: ast.AST) -> Iterator[tuple[ast.Attribute, str]]:
    """`self.name(variable)` in the expressions of a statement, without those of blocks in it."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler, *_CONDITIONAL)):
            continue
        yield from _calls(child)
    if isinstance(node, ast.Call) and len(node.args) == 1 and not node.keywords:
        function, argument = node.func, node.args[0]
        if (
            isinstance(function, ast.Attribute)
            and isinstance(function.value, ast.Name)
            and function.value.id == "self"
            and isinstance(argument, ast.Name)
        ):
            yield function, argument.id
