"""Properties of devices, and plans. Neither needs a driver or a GPU."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from . import _abi
from ._library import check, library
from .types import Layout, MergeProblem, Problem, Role


@dataclass(frozen=True)
class DeviceProps:
    """What plans need to know of a device; sizes are in bytes. `Kernels.props` has a real one's.

    planned_multiprocessors: how many of the multiprocessors plans count on, where others use the
    device too; 0: all.
    """

    compute_major: int
    compute_minor: int
    multiprocessors: int
    shared_per_block: int
    shared_per_multiprocessor: int
    l2_bytes: int
    planned_multiprocessors: int = 0

    @staticmethod
    def named(name: str) -> DeviceProps:
        """A GPU that the library knows, such as h100; the error for others lists those known."""
        struct = _abi.Device()
        # In C the name would end at a zero. A lone surrogate is of no name either.
        text = name.replace("\0", "\ufffd").encode(errors="replace")
        check(library().lora_device_named(text, ctypes.byref(struct)))
        return DeviceProps._of(struct)

    @staticmethod
    def _of(struct: _abi.Device) -> DeviceProps:
        return DeviceProps(*(getattr(struct, one.name) for one in fields(DeviceProps)))

    def _struct(self) -> _abi.Device:
        for name, value in self.__dict__.items():
            _unsigned(name, value, 64 if name == "l2_bytes" else 32)
        return _abi.Device(**self.__dict__)


@dataclass(frozen=True)
class Region:
    """A part of a buffer, in bytes."""

    offset: int
    bytes: int


class _Plan:
    """A plan of the library, freed with this object.

    Its text says which kernels run, on which grid, and why.
    """

    _KIND: ClassVar[str]

    def __init__(self, problem: Any, struct: Any, props: DeviceProps) -> None:
        self.problem = problem
        self._handle = ctypes.c_void_p()
        handle = ctypes.byref(self._handle)
        check(self._function("new")(ctypes.byref(struct), ctypes.byref(props._struct()), handle))
        info = _abi.PlanInfo()
        check(self._function("info")(self._handle, ctypes.byref(info)))
        self._info = info
        #: Bytes of scratch memory that a call needs, uninitialised; may be 0.
        self.workspace_bytes: int = info.workspace_bytes
        #: Kernels that a call launches.
        self.launches: int = info.launches

    def _function(self, name: str) -> Any:
        return getattr(library(), f"lora_{self._KIND}_plan_{name}")

    def __str__(self) -> str:
        text: bytes = self._function("description")(self._handle)
        return text.decode()

    def __del__(self) -> None:
        # At the interpreter's exit what this needs may be gone.
        with contextlib.suppress(Exception):
            if self._handle:
                self._function("free")(self._handle)
                self._handle = ctypes.c_void_p()


class _LayerPlan(_Plan):
    problem: Problem

    def __init__(self, problem: Problem, props: DeviceProps) -> None:
        super().__init__(problem, _problem(problem), props)
        info = self._info
        #: Bytes of the buffer that holds S and the dropout mask from forward to backward. A forward
        #: alone needs it too.
        self.saved_bytes: int = info.saved_bytes
        #: Bytes of the flags of a forward, which are zero at first; may be 0.
        self.flags_bytes: int = info.flags_bytes
        #: Columns of S: the ranks, each rounded up to 16.
        self.padded_ranks: int = info.padded_ranks
        #: S = drop(x)*A^T in the saved buffer: (tokens, padded_ranks) in the problem's
        #: dtype.
        self.s = Region(info.s_offset, info.s_bytes)
        #: The mask in the saved buffer: 64-bit words (ceil(in_features / 64), tokens), bit c of
        #: word (b, row) for x (row, 64*b + c).
        self.mask = Region(info.mask_offset, info.mask_bytes) if info.mask_bytes else None

    @classmethod
    def workspace_bound(cls, problem: Problem, max_tokens: int, props: DeviceProps) -> int:
        """Bytes of workspace that suffice for any number of tokens up to `max_tokens`.

        Whatever number of tokens the problem has. For one buffer that serves batches of changing
        sizes: what a plan needs does not grow steadily with the tokens.
        """
        bytes_ = ctypes.c_size_t()
        bound = getattr(library(), f"lora_{cls._KIND}_workspace_bound")
        tokens = _unsigned("max_tokens", max_tokens)
        problem_, device = ctypes.byref(_problem(problem)), ctypes.byref(props._struct())
        check(bound(problem_, tokens, device, ctypes.byref(bytes_)))
        return bytes_.value


class ForwardPlan(_LayerPlan):
    """What a forward launches: y = x*W^T + bias + scaling*drop(x)*A^T*B^T of every projection."""

    _KIND = "forward"


class BackwardPlan(_LayerPlan):
    """What a backward launches: dx, and dA and dB of every adapted projection, from every dy."""

    _KIND = "backward"


class MergePlan(_Plan):
    """What a merge launches: merged = W + sum of scaling*B*A."""

    _KIND = "merge"
    problem: MergeProblem

    def __init__(self, problem: MergeProblem, props: DeviceProps) -> None:
        super().__init__(problem, _merge_problem(problem), props)


def _layouts(layouts: Sequence[Layout]) -> Any:
    structs = [
        _abi.Layout(
            role=int(layout.role),
            index=_unsigned("index of a layout", layout.index),
            row_stride=_signed("row_stride of a layout", layout.row_stride),
            alignment=_unsigned("alignment of a layout", layout.alignment),
        )
        for layout in layouts
    ]
    return (_abi.Layout * len(structs))(*structs)


def _problem(problem: Problem) -> _abi.Problem:
    projections = [
        _abi.Projection(
            out_features=_unsigned("out_features", projection.out_features),
            rank=_unsigned("rank", projection.rank),
        )
        for projection in problem.projections
    ]
    return _abi.Problem(
        dtype=int(problem.dtype),
        tokens=_unsigned("tokens", problem.tokens),
        in_features=_unsigned("in_features", problem.in_features),
        projections=(_abi.Projection * len(projections))(*projections),
        projection_count=len(projections),
        adapter_dtype=int(problem.adapter_dtype or 0),
        weight_layout=int(problem.weight_layout),
        bias=problem.bias,
        dropout=problem.dropout,
        mask=int(problem.mask),
        no_input_gradient=not problem.input_gradient,
        accumulate_y=Role.Y in problem.accumulate,
        accumulate_dx=Role.DX in problem.accumulate,
        accumulate_d_lora_a=Role.D_LORA_A in problem.accumulate,
        accumulate_d_lora_b=Role.D_LORA_B in problem.accumulate,
        layouts=_layouts(problem.layouts),
        layout_count=len(problem.layouts),
        inference=problem.inference,
        batch_invariant=problem.batch_invariant,
        delta_only=problem.delta_only,
        dropout_from_memory=problem.dropout_from_memory,
        mask_row=_unsigned("mask_row", problem.mask_row),
        mask_column=_unsigned("mask_column", problem.mask_column),
        adapter_slots=_unsigned("adapter_slots", problem.adapter_slots),
        adapters_per_row=_unsigned("adapters_per_row", problem.adapters_per_row),
    )


def _merge_problem(problem: MergeProblem) -> _abi.MergeProblem:
    ranks = [_unsigned("rank", rank) for rank in problem.ranks]
    return _abi.MergeProblem(
        dtype=int(problem.dtype),
        out_features=_unsigned("out_features", problem.out_features),
        in_features=_unsigned("in_features", problem.in_features),
        ranks=(ctypes.c_size_t * len(ranks))(*ranks),
        adapter_count=len(ranks),
        adapter_dtype=int(problem.adapter_dtype or 0),
        weight_layout=int(problem.weight_layout),
        safe=problem.safe,
        report=problem.report,
        layouts=_layouts(problem.layouts),
        layout_count=len(problem.layouts),
    )


def _signed(name: str, value: int, bits: int = 64) -> int:
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise ValueError(f"{name} is {value}: it must be a signed {bits}-bit number")
    return value


def _unsigned(name: str, value: int, bits: int = 64) -> int:
    # ctypes would take it modulo 2**bits.
    if value < 0:
        raise ValueError(f"{name} is {value}: it must not be negative")
    if value >= 1 << bits:
        raise ValueError(f"{name} is {value}: it must be below 2**{bits}")
    return value
