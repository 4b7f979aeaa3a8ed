"""Tables of adapters, whose rows of x go through adapters of their own."""

from __future__ import annotations

import array as host
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from . import _abi, cuda
from ._library import check, library
from .arrays import NO_STREAM, Array, named
from .plans import BackwardPlan, ForwardPlan
from .tensors import Adapter
from .types import Problem, Role

_ENTRY = ctypes.sizeof(_abi.TableEntry)
_GRADIENT = ctypes.sizeof(_abi.GradientEntry)


class AdapterTable:
    """Adapters in slots of device memory, for plans with the same layers, types and slots.

    Adding, replacing or removing one changes entries of the table by a copy that waits for earlier
    work of the device's blocking streams, and launches nothing. A captured graph stays valid: it
    reads what stands in the table when it runs. The table keeps the arrays of its adapters alive;
    those of an adapter that is replaced or removed are let go at once, so wait for the calls before
    that yourself.

    plan: of a problem with adapter_slots; its projections' ranks are the largest that an adapter
    may have. device: the ordinal.
    """

    def __init__(self, plan: ForwardPlan, device: int = 0) -> None:
        problem = plan.problem
        if not problem.adapter_slots:
            raise ValueError("the plan's problem has no table: give it adapter_slots")
        self._plan = plan
        self._device = device
        self._slots: list[Sequence[Adapter | None] | None] = [None] * problem.adapter_slots
        self._ranks: list[list[int] | None] = [None] * problem.adapter_slots
        self._bytes = _ENTRY * len(problem.projections)
        self._entries = cuda.zeros(problem.adapter_slots * self._bytes, device)
        self._wrong = cuda.zeros(4, device)

    @property
    def slots(self) -> int:
        """The number of slots."""
        return len(self._slots)

    def __contains__(self, slot: int) -> bool:
        return 0 <= slot < len(self._slots) and self._slots[slot] is not None

    def insert(self, adapters: Sequence[Adapter | None]) -> int:
        """Puts an adapter into the first empty slot, and returns the slot.

        adapters: of each projection, lora_a (rank, in_features) and lora_b (out_features, rank);
        None for a projection that it leaves alone.
        """
        for slot, held in enumerate(self._slots):
            if held is None:
                self.replace(slot, adapters)
                return slot
        raise ValueError(f"all {len(self._slots)} slots have adapters: remove one first")

    def replace(self, slot: int, adapters: Sequence[Adapter | None]) -> None:
        """Puts an adapter into a slot, in the place of one that may be there."""
        self._check(slot)
        problem = self._plan.problem
        if len(adapters) != len(problem.projections):
            raise ValueError(
                f"{len(adapters)} adapters were given, one for each projection is needed (None "
                f"where there is none): {len(problem.projections)}"
            )
        entries = (_abi.TableEntry * len(adapters))()
        ranks = []
        for index, adapter in enumerate(adapters):
            struct = _abi.TableAdapter() if adapter is None else self._adapter(index, adapter)
            ranks.append(struct.rank)
            entry = ctypes.byref(entries, index * _ENTRY)
            check(
                library().lora_table_entry_of(
                    self._plan._handle,
                    index,
                    ctypes.byref(struct),
                    ctypes.cast(entry, ctypes.POINTER(_abi.TableEntry)),
                )
            )
        self._write(slot, bytes(entries))
        self._slots[slot], self._ranks[slot] = tuple(adapters), ranks

    def remove(self, slot: int) -> None:
        """Empties a slot. Rows that name it have no adapter there, and `take_wrong` tells."""
        self._check(slot)
        self._write(slot, bytes(self._bytes))
        self._slots[slot] = self._ranks[slot] = None

    def take_wrong(self) -> bool:
        """Whether a row since the last time named a slot that was empty or doesn't exist.

        It waits for the default stream; wait for others first.
        """
        word = self._wrong.to_bytes()
        self._wrong.copy_from(bytes(4))
        return any(word)

    def rows(self, lists: Sequence[Sequence[int | tuple[int, float]]]) -> Rows:
        """Copies the list of each row to the device: slots, or pairs of a slot and a weight."""
        places = self._plan.problem.adapters_per_row
        slots, weights = host.array("i"), host.array("f")
        for row, given in enumerate(lists):
            if len(given) > places:
                raise ValueError(
                    f"row {row} has {len(given)} adapters: the problem allows {places} per row"
                )
            pairs = [one if isinstance(one, tuple) else (one, 1.0) for one in given]
            for slot, weight in pairs:
                if slot not in self:
                    raise ValueError(
                        f"row {row} names slot {slot}, which has no adapter: there are slots 0 to "
                        f"{len(self._slots) - 1}, and insert() fills one"
                    )
                slots.append(slot)
                weights.append(weight)
            missing = places - len(pairs)
            slots.extend([-1] * missing)
            weights.extend([0.0] * missing)
        buffers = [
            cuda.DeviceArray((4 * len(one),), None, self._device).copy_from(one.tobytes())
            for one in (slots, weights)
        ]
        return Rows(self, len(lists), *buffers)

    def _check(self, slot: int) -> None:
        _check(slot, len(self._slots))

    def _adapter(self, index: int, adapter: Adapter) -> _abi.TableAdapter:
        pair = (adapter.lora_a, adapter.lora_b)
        roles = (Role.LORA_A, Role.LORA_B)
        lora_a, lora_b = _pair(self._plan.problem, index, roles, pair, self._device)
        return _abi.TableAdapter(
            scaling=adapter.scaling,
            rank=lora_a.shape[0],
            lora_a=lora_a.address,
            lora_b=lora_b.address,
            lora_a_stride=lora_a.row_stride,
            lora_b_stride=lora_b.row_stride,
        )

    def _write(self, slot: int, data: bytes) -> None:
        _write(self._entries, slot, data, self._device)


class GradientTable:
    """Where a backward writes the gradients of the adapters of a table.

    A slot has device arrays for them, or none: then its adapter is frozen. A backward overwrites
    the gradients of the adapters that its rows name, or adds to them where the problem has
    accumulate_d_lora_a and accumulate_d_lora_b; those of other adapters stay as they are. Changing
    a slot copies an entry, as `AdapterTable` does. The table keeps its arrays alive.

    plan: of a problem with adapter_slots. device: the ordinal.
    """

    def __init__(self, plan: BackwardPlan, device: int = 0) -> None:
        problem = plan.problem
        if not problem.adapter_slots:
            raise ValueError("the plan's problem has no table: give it adapter_slots")
        self._plan = plan
        self._device = device
        self._slots: list[tuple[tuple[Any, Any] | None, ...] | None] = [
            None
        ] * problem.adapter_slots
        self._ranks: list[list[int]] = [[] for _ in range(problem.adapter_slots)]
        self._bytes = _GRADIENT * len(problem.projections)
        self._entries = cuda.zeros(problem.adapter_slots * self._bytes, device)

    def insert(self, table: AdapterTable, slot: int) -> None:
        """Gives a slot gradients of its adapter's ranks, all zero, in new device arrays."""
        _check(slot, len(self._slots))
        ranks = table._ranks[slot]
        if ranks is None:
            raise ValueError(f"slot {slot} has no adapter: insert one there first")
        problem = self._plan.problem
        dtype = problem.dtype_of(Role.D_LORA_A)
        pairs: list[tuple[Any, Any] | None] = []
        for rank, projection in zip(ranks, problem.projections, strict=True):
            shapes = ((rank, problem.in_features), (projection.out_features, rank))
            arrays = [
                cuda.DeviceArray(shape, dtype, self._device).copy_from(
                    bytes(shape[0] * shape[1] * dtype.size)
                )
                for shape in shapes
                if rank
            ]
            pairs.append((arrays[0], arrays[1]) if rank else None)
        self.replace(slot, pairs)

    def replace(self, slot: int, gradients: Sequence[tuple[Any, Any] | None]) -> None:
        """Gives a slot device arrays for the gradients of its adapter.

        gradients: of each projection, d_lora_a (rank, in_features) and d_lora_b (out_features,
        rank) of the adapter's rank; None for a projection whose gradients nobody wants.
        """
        _check(slot, len(self._slots))
        problem = self._plan.problem
        if len(gradients) != len(problem.projections):
            raise ValueError(
                f"{len(gradients)} pairs of gradients were given, one for each projection is "
                f"needed (None where there is none): {len(problem.projections)}"
            )
        entries = (_abi.GradientEntry * len(gradients))()
        ranks = []
        roles = (Role.D_LORA_A, Role.D_LORA_B)
        for index, pair in enumerate(gradients):
            struct = _abi.TableGradients()
            if pair is not None:
                first, second = _pair(problem, index, roles, pair, self._device)
                struct = _abi.TableGradients(
                    rank=first.shape[0],
                    d_lora_a=first.address,
                    d_lora_b=second.address,
                    d_lora_a_stride=first.row_stride,
                    d_lora_b_stride=second.row_stride,
                )
            ranks.append(struct.rank)
            entry = ctypes.byref(entries, index * _GRADIENT)
            check(
                library().lora_gradient_entry_of(
                    self._plan._handle,
                    index,
                    ctypes.byref(struct),
                    ctypes.cast(entry, ctypes.POINTER(_abi.GradientEntry)),
                )
            )
        _write(self._entries, slot, bytes(entries), self._device)
        self._slots[slot], self._ranks[slot] = tuple(gradients), ranks

    def remove(self, slot: int) -> None:
        """Takes the gradients from a slot: its adapter is frozen."""
        _check(slot, len(self._slots))
        _write(self._entries, slot, bytes(self._bytes), self._device)
        self._slots[slot], self._ranks[slot] = None, []

    def __getitem__(self, slot: int) -> tuple[tuple[Any, Any] | None, ...]:
        """(d_lora_a, d_lora_b) of each projection."""
        _check(slot, len(self._slots))
        held = self._slots[slot]
        if held is None:
            raise KeyError(f"slot {slot} has no gradients: insert() gives it some")
        return held

    def _address(self, table: AdapterTable, problem: Problem) -> int:
        if not _same(self._plan.problem, problem):
            raise ValueError(
                "gradients for another problem: layers, types, adapter_slots and adapters_per_row "
                "must be the plan's"
            )
        for slot, ranks in enumerate(self._ranks):
            adapter = table._ranks[slot] if any(ranks) else None
            for index, (given, wanted) in enumerate(zip(ranks, adapter or [], strict=False)):
                if given and wanted and given != wanted:
                    raise ValueError(
                        f"the gradients of slot {slot} have rank {given} in projection {index}, "
                        f"its adapter has {wanted}: insert() gradients for the adapter there"
                    )
        return self._entries.address


def _check(slot: int, slots: int) -> None:
    if not 0 <= slot < slots:
        raise ValueError(f"slot {slot}: the table has slots 0 to {slots - 1}")


def _write(entries: cuda.DeviceArray, slot: int, data: bytes, device: int) -> None:
    with cuda.current(device):
        cuda.call("cuMemcpyHtoD_v2", entries.address + slot * len(data), data, len(data))


def _pair(
    problem: Problem, index: int, roles: tuple[Role, Role], pair: tuple[Any, Any], device: int
) -> tuple[Array, Array]:
    """The matrices (rank, in_features) and (out_features, rank) of a projection."""
    first = _matrix(problem, roles[0], index, pair[0], device)
    second = _matrix(problem, roles[1], index, pair[1], device)
    rank = first.shape[0]
    out_features = problem.projections[index].out_features
    for role, found, wanted in (
        (roles[0], first, (rank, problem.in_features)),
        (roles[1], second, (out_features, rank)),
    ):
        if found.shape != wanted:
            raise ValueError(
                f"{role.text} of projection {index} is {found.shape}: it must be {wanted}"
            )
    return first, second


def _matrix(problem: Problem, role: Role, index: int, source: Any, device: int) -> Array:
    name = f"{role.text} of projection {index}"
    found = named(name, source, NO_STREAM, device)
    wanted = problem.dtype_of(role)
    if len(found.shape) != 2 or not found.has_contiguous_columns:
        raise ValueError(f"{name} has the shape {found.shape}: it must be a matrix of rows")
    if found.dtype is not wanted:
        given = found.dtype.name if found.dtype else "bytes"
        raise TypeError(f"{name} is {given}: the problem has {wanted.name}")
    return found


def _same(ours: Problem, problem: Problem) -> bool:
    """Whether a table for problems like `ours` is one for `problem`."""
    return (
        ours.in_features == problem.in_features
        and ours.projections == problem.projections
        and ours.dtype == problem.dtype
        and ours.dtype_of(Role.LORA_A) == problem.dtype_of(Role.LORA_A)
        and ours.adapter_slots == problem.adapter_slots
        and ours.adapters_per_row == problem.adapters_per_row
    )


@dataclass(frozen=True)
class Rows:
    """The adapters of each row of a call, in device memory. `AdapterTable.rows` makes it."""

    table: AdapterTable
    count: int
    slots: cuda.DeviceArray
    weights: cuda.DeviceArray

    def _struct(self, problem: Problem) -> _abi.Rows:
        if not _same(self.table._plan.problem, problem):
            raise ValueError(
                "rows of a table for another problem: layers, types, adapter_slots and "
                "adapters_per_row must be the plan's"
            )
        if self.count != problem.tokens:
            raise ValueError(
                f"{self.count} rows were given, the plan was made for {problem.tokens} tokens"
            )
        return _abi.Rows(
            entries=self.table._entries.address,
            slots=self.slots.address,
            weights=self.weights.address,
            wrong=self.table._wrong.address,
        )
