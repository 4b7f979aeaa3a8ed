"""The arrays of a call, grouped by what they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .types import Dropout, Problem

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
    """One adapter of a merge. A negative scaling takes it out."""

    lora_a: Any
    lora_b: Any
    scaling: float


@dataclass(frozen=True)
class Saved:
    """What backward needs of a forward.

    array: S and the dropout mask, `saved_bytes` bytes of the plan. problem, dropout and scalings
    are the forward's: backward takes the dropout from here, and refuses to run if its plan was made
    for something else. Whether x and the adapters are still the same can't be checked.
    """

    array: Any
    problem: Problem
    dropout: Dropout | None
    scalings: tuple[float, ...]

    def check(self, problem: Problem, scalings: Sequence[float]) -> None:
        """Raises ValueError unless a backward of this problem can take it."""
        given, wanted = _facts(self.problem), _facts(problem)
        given["scalings"], wanted["scalings"] = self.scalings, tuple(scalings)
        for name, value in given.items():
            if value != wanted[name]:
                raise ValueError(
                    f"saved is of a forward with {name} {value}, this backward has "
                    f"{wanted[name]}: give backward the same problem and scalings as forward"
                )


def _facts(problem: Problem) -> dict[str, object]:
    """What determines the content of saved, besides the arrays."""
    projections = tuple((one.out_features, one.rank) for one in problem.projections)
    return {
        "tokens": problem.tokens,
        "in_features": problem.in_features,
        "projections (out_features, rank)": projections,
        "dtype": problem.dtype.name,
        "adapter_dtype": (problem.adapter_dtype or problem.dtype).name,
        "dropout": problem.dropout,
        "mask": problem.mask.name if problem.dropout else None,
    }
