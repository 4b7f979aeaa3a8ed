"""What `accelerate` did with each layer of a model."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from .careful import why_not, why_not_fused
from .layer import Accelerated

#: fused: base and adapters in one kernel. delta: the base's own forward, and one kernel that adds
#: the adapters' part. peft: PEFT's own forward.
Way = Literal["fused", "delta", "peft"]


@dataclass(frozen=True)
class LayerReport:
    """One LoRA layer: its name in the model, who computes it, and why not better.

    group: the layers, this one among them, that are computed in one call.
    """

    name: str
    way: Way
    why: str = ""
    group: tuple[str, ...] = ()


class Report:
    """What `accelerate` did. It is read from the layers whenever it is asked.

    A layer decides anew in each forward: one that is merged or disabled runs PEFT's code until it
    no longer is, and so does one that is called with `adapter_names`.
    """

    def __init__(self) -> None:
        #: Why siblings of one parent aren't computed in one call.
        self.ungrouped: list[str] = []
        self._layers: dict[nn.Module, str] = {}

    def add(self, layer: nn.Module, name: str) -> None:
        """Makes a LoRA layer part of the report."""
        self._layers[layer] = name

    @property
    def layers(self) -> list[LayerReport]:
        """Every LoRA layer, in the model's order."""
        return [self._state(layer, name) for layer, name in self._layers.items()]

    def names(self, way: Way) -> list[str]:
        """The layers that go this way."""
        return [layer.name for layer in self.layers if layer.way == way]

    @property
    def groups(self) -> list[tuple[str, ...]]:
        """The names of layers that are computed in one call."""
        return list(dict.fromkeys(layer.group for layer in self.layers if layer.group))

    def _state(self, layer: nn.Module, name: str) -> LayerReport:
        way, why = state(layer)
        group = layer.lora_group if isinstance(layer, Accelerated) else None
        members = () if group is None else group.members
        return LayerReport(name, way, why, tuple(self._layers[one] for one in members))

    def __str__(self) -> str:
        layers = self.layers
        counts = Counter(layer.way for layer in layers)
        lines = [
            f"{len(layers)} LoRA layers: {counts['fused']} fused, {counts['delta']} delta only, "
            f"{counts['peft']} left to PEFT; {len(self.groups)} groups"
        ]
        lines += [f"  {one.name}: {one.way}, {one.why}" for one in layers if one.why]
        return "\n".join(lines + [f"  not grouped: {text}" for text in self.ungrouped])


def state(layer: Any) -> tuple[Way, str]:
    """Who computes a LoRA layer, and why it isn't fused."""
    if not isinstance(layer, Accelerated):
        return "peft", f"its class is {type(layer).__name__}"
    if "forward" in layer.__dict__:
        return "peft", "its forward was replaced"
    why = why_not(layer)
    if why is not None:
        return "peft", why
    why = why_not_fused(layer)
    return ("fused", "") if why is None else ("delta", why)
