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
from .plans import ForwardPlan
from .tensors import Adapter
from .types import Problem, Role

_ENTRY = ctypes.sizeof(_abi.TableEntry)


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
        for index, adapter in enumerate(adapters):
            struct = _abi.TableAdapter() if adapter is None else self._adapter(index, adapter)
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
        self._slots[slot] = tuple(adapters)

    def remove(self, slot: int) -> None:
        """Empties a slot. Rows that name it have no adapter there, and `take_wrong` tells."""
        self._check(slot)
        self._write(slot, bytes(self._bytes))
        self._slots[slot] = None

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
        if not 0 <= slot < len(self._slots):
            raise ValueError(f"slot {slot}: the table has slots 0 to {len(self._slots) - 1}")

    def _adapter(self, index: int, adapter: Adapter) -> _abi.TableAdapter:
        lora_a = self._matrix(Role.LORA_A, index, adapter.lora_a)
        lora_b = self._matrix(Role.LORA_B, index, adapter.lora_b)
        problem = self._plan.problem
        rank = lora_a.shape[0]
        out_features = problem.projections[index].out_features
        for role, found, wanted in (
            (Role.LORA_A, lora_a, (rank, problem.in_features)),
            (Role.LORA_B, lora_b, (out_features, rank)),
        ):
            if found.shape != wanted:
                raise ValueError(
                    f"{role.text} of projection {index} is {found.shape}: it must be {wanted}"
                )
        return _abi.TableAdapter(
            scaling=adapter.scaling,
            rank=rank,
            lora_a=lora_a.address,
            lora_b=lora_b.address,
            lora_a_stride=lora_a.row_stride,
            lora_b_stride=lora_b.row_stride,
        )

    def _matrix(self, role: Role, index: int, source: Any) -> Array:
        name = f"{role.text} of projection {index}"
        found = named(name, source, NO_STREAM, self._device)
        wanted = self._plan.problem.dtype_of(role)
        if len(found.shape) != 2 or not found.has_contiguous_columns:
            raise ValueError(f"{name} has the shape {found.shape}: it must be a matrix of rows")
        if found.dtype is not wanted:
            given = found.dtype.name if found.dtype else "bytes"
            raise TypeError(f"{name} is {given}: the problem has {wanted.name}")
        return found

    def _write(self, slot: int, data: bytes) -> None:
        with cuda.current(self._device):
            address = self._entries.address + slot * self._bytes
            cuda.call("cuMemcpyHtoD_v2", address, data, len(data))


@dataclass(frozen=True)
class Rows:
    """The adapters of each row of a call, in device memory. `AdapterTable.rows` makes it."""

    table: AdapterTable
    count: int
    slots: cuda.DeviceArray
    weights: cuda.DeviceArray

    def _struct(self, problem: Problem) -> _abi.Rows:
        ours = self.table._plan.problem
        same = (
            ours.in_features == problem.in_features
            and ours.projections == problem.projections
            and ours.dtype == problem.dtype
            and ours.dtype_of(Role.LORA_A) == problem.dtype_of(Role.LORA_A)
            and ours.adapter_slots == problem.adapter_slots
            and ours.adapters_per_row == problem.adapters_per_row
        )
        if not same:
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
