"""What is checked of a call's arrays before the library is called, which sees addresses alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .arrays import Array, named
from .plans import Region, _unsigned
from .types import DType, MergeProblem, Problem, Role

Problems = Problem | MergeProblem


@dataclass(frozen=True)
class Outputs:
    """Arrays that are written, and their addresses; None and 0 where there is none."""

    arrays: list[Any]
    addresses: list[int]


@dataclass(frozen=True)
class Buffer:
    """Bytes of device memory."""

    source: Any
    address: int
    bytes: int


@dataclass(frozen=True)
class SavedBuffers:
    """Memory for S and the mask, and what the structs of a call say of it."""

    source: Any
    fields: dict[str, int]


class Call:
    """One call's device, stream and allocator."""

    def __init__(
        self,
        device: int,
        stream: int,
        allocate: Callable[[tuple[int, ...], DType | None], Any] | None,
    ) -> None:
        self._device = device
        self._stream = _unsigned("stream", stream)
        self._allocate = allocate
        # Arrays made on the way must live until the call is enqueued.
        self._alive: list[Array] = []

    def count(self, name: str, given: Sequence[Any], wanted: int) -> None:
        """There are as many as the problem has."""
        if len(given) != wanted:
            raise ValueError(f"{len(given)} {name} were given, the plan was made for {wanted}")

    def read(self, problem: Problems, role: Role, index: int, source: Any) -> int:
        """The address of a tensor that is read; 0 for None."""
        if source is None:
            # The library knows whether it is needed.
            return 0
        return self._matrix(problem, role, index, source).address

    def write(self, problem: Problems, role: Role, index: int, source: Any) -> int:
        """The address of a tensor that is written."""
        found = self._matrix(problem, role, index, source)
        if found.read_only:
            raise ValueError(f"{_name(problem, role, index)} is read-only, and would be written")
        return found.address

    def outputs(
        self, problem: Problem, role: Role, given: Sequence[Any] | None, wanted: Sequence[bool]
    ) -> Outputs:
        """Outputs as given or, where they aren't, allocated.

        Allocated ones are contiguous, so the plan must have been made for that.
        """
        if given is not None:
            self.count(role.text, given, len(wanted))
        result = Outputs([], [])
        for index, is_wanted in enumerate(wanted):
            output = given[index] if given is not None else None
            if output is None and is_wanted:
                name = _name(problem, role, index)
                if role in problem.accumulate:
                    raise ValueError(f"{name} is added to, so it must be given")
                output = self._new(name, problem.shape(role, index), problem.dtype_of(role))
            result.arrays.append(output)
            address = 0 if output is None else self.write(problem, role, index, output)
            result.addresses.append(address)
        return result

    def buffer(self, name: str, given: Any, needed: int, written: bool = True) -> Buffer:
        """A buffer of bytes, of whatever type, as given or allocated; none where none is needed."""
        if given is None:
            if needed == 0:
                return Buffer(None, 0, 0)
            if not written:
                raise ValueError(f"{name} is None: it is what forward left")
            given = self._new(name, (needed,), None)
        found = self._array(name, given)
        if not found.is_contiguous:
            raise ValueError(f"{name} is not contiguous")
        if written and found.read_only:
            raise ValueError(f"{name} is read-only, and would be written")
        count = found.dtype.size if found.dtype else 1
        for size in found.shape:
            count *= size
        return Buffer(given, found.address, count)

    def saved(
        self, s: Region, mask: Region | None, given: Any, needed: int, written: bool = True
    ) -> SavedBuffers:
        """The buffer, or the pair of buffers, that S and the mask go from forward to backward in.

        needed: bytes of both together. A pair is allocated where it has None.
        """
        if not isinstance(given, tuple):
            whole = self.buffer("saved", given, needed, written)
            return SavedBuffers(whole.source, {"saved": whole.address, "saved_bytes": whole.bytes})
        if len(given) != 2:
            raise ValueError(f"saved is a tuple of {len(given)}: it must be (S, mask)")
        of_s = self.buffer("saved S", given[0], s.bytes, written)
        of_mask = self.buffer("saved mask", given[1], mask.bytes if mask else 0, written)
        fields = {
            "saved_s": of_s.address,
            "saved_s_bytes": of_s.bytes,
            "saved_mask": of_mask.address,
            "saved_mask_bytes": of_mask.bytes,
        }
        return SavedBuffers((of_s.source, of_mask.source), fields)

    def _new(self, name: str, shape: tuple[int, ...], dtype: DType | None) -> Any:
        if self._allocate is None:
            raise ValueError(
                f"{name} was not given: give it, or an allocate function that makes it"
            )
        return self._allocate(shape, dtype)

    def _array(self, name: str, source: Any) -> Array:
        found = named(name, source, self._stream, self._device)
        if found.device != self._device:
            raise ValueError(
                f"{name} is on device {found.device}, the kernels were loaded on device "
                f"{self._device}"
            )
        self._alive.append(found)
        return found

    def _matrix(self, problem: Problems, role: Role, index: int, source: Any) -> Array:
        name = _name(problem, role, index)
        found = self._array(name, source)
        shape, dtype = problem.shape(role, index), problem.dtype_of(role)
        if found.dtype is not dtype:
            given = found.dtype.name if found.dtype else "bytes"
            raise TypeError(f"{name} is {given}, the plan was made for {dtype.name}")
        if found.shape != shape:
            raise ValueError(f"{name} has the shape {found.shape}, the plan was made for {shape}")
        if not found.has_contiguous_columns:
            raise ValueError(
                f"{name} has a stride of {found.strides[-1]} elements between columns: they must "
                "be contiguous"
            )
        planned = problem.row_stride(role, index) if len(shape) == 2 else shape[0]
        if len(shape) == 2 and shape[0] > 1 and found.row_stride != planned:
            raise ValueError(
                f"{name} has a row stride of {found.row_stride} elements, the plan was made for "
                f"{planned}: give the problem a Layout with this row stride"
            )
        return found


def _name(problem: Problems, role: Role, index: int) -> str:
    if isinstance(problem, MergeProblem):
        is_adapter = role in (Role.LORA_A, Role.LORA_B)
        return f"{role.text} of adapter {index}" if is_adapter else role.text
    is_alone = role in (Role.X, Role.DX) or len(problem.projections) == 1
    return role.text if is_alone else f"{role.text} of projection {index}"
