"""The arrays of a call, grouped by what they belong to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from . import _abi
from .types import Dropout

T = TypeVar("T")


@dataclass(frozen=True)
class LoraProjection(Generic[T]):
    """The tensors of one projection.

    weight (out_features, in_features), or transposed; lora_a (rank, in_features) and lora_b
    (out_features, rank), None where there is no adapter; bias (out_features), in all projections
    or in none.
    """

    weight: T
    lora_a: T | None = None
    lora_b: T | None = None
    scaling: float = 1.0
    bias: T | None = None


@dataclass(frozen=True)
class Adapter:
    """One adapter of a merge, or of a table. In a merge, a negative scaling takes it out."""

    lora_a: Any
    lora_b: Any
    scaling: float


@dataclass(frozen=True)
class Saved:
    """What backward needs of a forward.

    array: S and the dropout mask in one buffer, or (S, mask) in two. dropout: the forward's, which
    backward takes from here. A record of what the forward was goes with it: backward refuses to run
    if its problem or its scalings are others. Whether x, the adapters and the array are still the
    same can't be checked.
    """

    array: Any
    dropout: Dropout | None
    _record: _abi.ForwardRecord = field(repr=False)
