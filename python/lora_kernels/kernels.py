"""The loaded kernels, and calls on device arrays."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from . import _abi
from ._checks import Call
from ._library import check, library
from .plans import BackwardPlan, DeviceProps, ForwardPlan, MergePlan, _signed
from .table import GradientTable, Rows
from .tensors import Adapter, LoraProjection, Saved
from .types import Dropout, DType, Problem, Role

#: Makes device memory of a shape and type, None being bytes: anything that `lora_kernels.array`
#: takes. `lora_kernels.cuda.allocate` is one. The memory is used on the call's stream: an allocator
#: that hands out freed memory again in the order of a stream must do so in that of this one.
Allocator = Callable[[tuple[int, ...], DType | None], Any]


@dataclass(frozen=True)
class ForwardResult:
    """y of every projection, what backward needs, and the scratch memory.

    workspace: None where none is needed. Keep the result until the stream has run.
    """

    y: tuple[Any, ...]
    saved: Saved
    workspace: Any


@dataclass(frozen=True)
class BackwardResult:
    """The gradients, and the scratch memory.

    dx: None where the problem has no input gradient. d_lora_a, d_lora_b: None for a projection
    without an adapter. workspace: None where none is needed. Keep the result until the stream has
    run.
    """

    dx: Any
    d_lora_a: tuple[Any, ...]
    d_lora_b: tuple[Any, ...]
    workspace: Any


@dataclass(frozen=True)
class MergeResult:
    """The merged weight, the report as bytes on the device, and the scratch memory.

    report: None where the problem has none. workspace: None where none is needed. Keep the result
    until the stream has run.
    """

    merged: Any
    report: Any
    workspace: Any


@dataclass(frozen=True)
class MergeReport:
    """What merging changed, and what storing the result in the weight's type lost of it.

    elements: of the weight. nonzero: elements with a delta. unchanged: elements with a delta that
    was rounded away. non_finite: elements whose merged value is a NaN or an infinity; a safe merge
    has then written nothing. relative_error: |stored change - delta| / |delta|.
    """

    elements: int
    nonzero: int
    unchanged: int
    non_finite: int
    delta_squares: float
    error_squares: float
    unchanged_share: float
    relative_error: float

    #: Bytes of a report in device memory.
    BYTES = _abi.MERGE_REPORT_BYTES

    @staticmethod
    def from_bytes(data: bytes) -> MergeReport:
        """A report as a merge wrote it, after it was copied to the host."""
        if len(data) != _abi.MERGE_REPORT_BYTES:
            raise ValueError(f"a report of {len(data)} bytes: it has {_abi.MERGE_REPORT_BYTES}")
        report = _abi.MergeReport()
        check(library().lora_merge_report_read(data, ctypes.byref(report)))
        return MergeReport(*(getattr(report, name) for name, *_ in report._fields_[2:]))


class Kernels:
    """All kernels, loaded into the primary context of a device.

    That is the context that the CUDA runtime, PyTorch and CuPy use. Arrays stay the caller's: they
    have to live until the stream has run what was enqueued. So does a call's result, which holds
    all that `allocate` made. A call waits for nothing, allocates nothing on the device except
    through `allocate`, and may be captured in a CUDA graph. Threads may share an object.

    device: the ordinal.
    """

    def __init__(self, device: int = 0) -> None:
        self._handle = ctypes.c_void_p()
        ordinal = _signed("device", device, 32)
        check(library().lora_kernels_load(ordinal, ctypes.byref(self._handle)))
        #: The ordinal.
        self.ordinal = device
        props = _abi.Device()
        check(library().lora_kernels_device(self._handle, ctypes.byref(props)))
        #: What plans need to know of the device.
        self.props = DeviceProps._of(props)

    def close(self) -> None:
        """Waits for all work of the device and unloads the kernels.

        The object can't be used after. The last reference's end does the same. Not while a stream
        of the device is being captured, in whatever thread: that would invalidate the capture.
        """
        if getattr(self, "_handle", None):
            library().lora_kernels_free(self._handle)
            self._handle = ctypes.c_void_p()

    def __enter__(self) -> Kernels:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):
            self.close()

    def forward(
        self,
        plan: ForwardPlan,
        x: Any,
        projections: Sequence[LoraProjection[Any]],
        *,
        y: Sequence[Any] | None = None,
        saved: Any = None,
        workspace: Any = None,
        dropout: Dropout | None = None,
        rows: Rows | None = None,
        flags: Any = None,
        stream: int = 0,
        allocate: Allocator | None = None,
    ) -> ForwardResult:
        """Enqueues a forward on a stream (a CUstream as a number; 0 is the default stream).

        x: (tokens, in_features). projections: as many as the problem has. dropout: exactly if the
        problem has it. y (tokens, out_features) of each projection, saved (plan.saved_bytes bytes)
        and workspace (plan.workspace_bytes bytes) come from `allocate` where they aren't given.
        saved may be two arrays, (S, mask), with plan.s.bytes and plan.mask.bytes bytes; what is
        None of them is allocated. rows: exactly if the problem has adapter_slots; the projections
        have no adapters then. flags (plan.flags_bytes bytes): zero before the first call that is
        given them, as `cuda.zeros` makes them, and left zero by every call; calls that may run at
        the same time need flags of their own. Arrays must have the shapes, types, strides and
        alignments that the plan was made for. What is written (y, saved, workspace, flags) shares
        memory with nothing else of the call; column ranges of one array are apart.
        """
        problem = plan.problem
        call = Call(self.ordinal, stream, allocate)
        call.count("projections", projections, len(problem.projections))
        outputs = call.outputs(problem, Role.Y, y, [True] * len(projections))
        buffers = call.saved(plan.s, plan.mask, saved, plan.saved_bytes)
        workspace = call.buffer("workspace", workspace, plan.workspace_bytes)
        if flags is None and plan.flags_bytes:
            raise ValueError(
                f"flags is None: the plan needs {plan.flags_bytes} bytes that are zero, as "
                "lora_kernels.cuda.zeros makes them, for all its calls one after the other"
            )
        words = call.buffer("flags", flags, plan.flags_bytes)
        structs = [
            _abi.ForwardProjection(
                scaling=tensors.scaling,
                weight=call.read(problem, Role.WEIGHT, index, tensors.weight),
                bias=call.read(problem, Role.BIAS, index, tensors.bias),
                lora_a=call.read(problem, Role.LORA_A, index, tensors.lora_a),
                lora_b=call.read(problem, Role.LORA_B, index, tensors.lora_b),
                y=outputs.addresses[index],
            )
            for index, tensors in enumerate(projections)
        ]
        record = _abi.ForwardRecord()
        args = _abi.ForwardArgs(
            x=call.read(problem, Role.X, 0, x),
            projections=(_abi.ForwardProjection * len(structs))(*structs),
            projection_count=len(structs),
            dropout=_dropout(dropout),
            workspace=workspace.address,
            workspace_bytes=workspace.bytes,
            record=ctypes.pointer(record),
            flags=words.address,
            flags_bytes=words.bytes,
            rows=None if rows is None else ctypes.pointer(rows._struct(problem)),
            **buffers.fields,
        )
        check(library().lora_forward(self._open(), plan._handle, ctypes.byref(args), stream))
        kept = Saved(buffers.source, dropout, record)
        return ForwardResult(tuple(outputs.arrays), kept, workspace.source)

    def backward(
        self,
        plan: BackwardPlan,
        x: Any,
        projections: Sequence[LoraProjection[Any]],
        dy: Sequence[Any],
        saved: Saved,
        *,
        dx: Any = None,
        d_lora_a: Sequence[Any] | None = None,
        d_lora_b: Sequence[Any] | None = None,
        workspace: Any = None,
        rows: Rows | None = None,
        gradients: GradientTable | None = None,
        stream: int = 0,
        allocate: Allocator | None = None,
    ) -> BackwardResult:
        """Enqueues a backward on a stream.

        x and projections are those of the forward; biases take no part. saved: of the forward's
        result; it brings the dropout with it. LoraError if it is of a forward with other sizes,
        types or scalings.

        dy: (tokens, out_features) of each projection. dx (tokens, in_features), d_lora_a (rank,
        in_features) and d_lora_b (out_features, rank) of each projection, and workspace
        (plan.workspace_bytes bytes) come from `allocate` where they aren't given. They share memory
        with nothing else of the call.

        rows: as in the forward. gradients: exactly with rows, where those of each adapter go; the
        result's d_lora_a and d_lora_b are None then.
        """
        problem = plan.problem
        call = Call(self.ordinal, stream, allocate)
        call.count("projections", projections, len(problem.projections))
        call.count("dy", dy, len(problem.projections))
        has_own = not problem.adapter_slots
        is_adapted = [has_own and projection.rank > 0 for projection in problem.projections]
        given_dx = None if dx is None else [dx]
        outputs_dx = call.outputs(problem, Role.DX, given_dx, [problem.input_gradient])
        outputs_a = call.outputs(problem, Role.D_LORA_A, d_lora_a, is_adapted)
        outputs_b = call.outputs(problem, Role.D_LORA_B, d_lora_b, is_adapted)
        buffers = call.saved(plan.s, plan.mask, saved.array, plan.saved_bytes, written=False)
        workspace = call.buffer("workspace", workspace, plan.workspace_bytes)
        structs = [
            _abi.BackwardProjection(
                scaling=tensors.scaling,
                dy=call.read(problem, Role.DY, index, dy[index]),
                weight=call.read(problem, Role.WEIGHT, index, tensors.weight),
                lora_a=call.read(problem, Role.LORA_A, index, tensors.lora_a),
                lora_b=call.read(problem, Role.LORA_B, index, tensors.lora_b),
                d_lora_a=outputs_a.addresses[index],
                d_lora_b=outputs_b.addresses[index],
            )
            for index, tensors in enumerate(projections)
        ]
        args = _abi.BackwardArgs(
            x=call.read(problem, Role.X, 0, x),
            projections=(_abi.BackwardProjection * len(structs))(*structs),
            projection_count=len(structs),
            dropout=_dropout(saved.dropout),
            dx=outputs_dx.addresses[0],
            workspace=workspace.address,
            workspace_bytes=workspace.bytes,
            record=ctypes.pointer(saved._record),
            rows=_rows_of_backward(rows, gradients, problem),
            **buffers.fields,
        )
        check(library().lora_backward(self._open(), plan._handle, ctypes.byref(args), stream))
        return BackwardResult(
            outputs_dx.arrays[0],
            tuple(outputs_a.arrays),
            tuple(outputs_b.arrays),
            workspace.source,
        )

    def merge(
        self,
        plan: MergePlan,
        weight: Any,
        adapters: Sequence[Adapter],
        *,
        merged: Any = None,
        report: Any = None,
        workspace: Any = None,
        stream: int = 0,
        allocate: Allocator | None = None,
    ) -> MergeResult:
        """Enqueues a merge on a stream: merged = weight + sum of scaling*B*A.

        merged: where the result goes; None: in place. report (`MergeReport.BYTES` bytes, exactly if
        the problem has one) and workspace (plan.workspace_bytes bytes) come from `allocate` where
        they aren't given. All three share memory with nothing else of the call. The result's report
        is for `MergeReport.from_bytes` once the stream has run and it is copied to the host.
        """
        problem = plan.problem
        call = Call(self.ordinal, stream, allocate)
        call.count("adapters", adapters, len(problem.ranks))
        if merged is None:
            merged = weight
        report_bytes = _abi.MERGE_REPORT_BYTES if problem.has_report else 0
        report = call.buffer("report", report, report_bytes)
        workspace = call.buffer("workspace", workspace, plan.workspace_bytes)
        structs = [
            _abi.MergeAdapter(
                scaling=adapter.scaling,
                lora_a=call.read(problem, Role.LORA_A, index, adapter.lora_a),
                lora_b=call.read(problem, Role.LORA_B, index, adapter.lora_b),
            )
            for index, adapter in enumerate(adapters)
        ]
        args = _abi.MergeArgs(
            weight=call.read(problem, Role.WEIGHT, 0, weight),
            merged=call.write(problem, Role.MERGED, 0, merged),
            adapters=(_abi.MergeAdapter * len(structs))(*structs),
            adapter_count=len(structs),
            report=report.address,
            report_bytes=report.bytes,
            workspace=workspace.address,
            workspace_bytes=workspace.bytes,
        )
        check(library().lora_merge(self._open(), plan._handle, ctypes.byref(args), stream))
        return MergeResult(merged, report.source, workspace.source)

    def _open(self) -> ctypes.c_void_p:
        if not self._handle:
            raise ValueError("these kernels are closed")
        return self._handle


def _rows_of_backward(rows: Rows | None, gradients: GradientTable | None, problem: Problem) -> Any:
    if (rows is None) != (gradients is None):
        given, missing = ("rows", "gradients") if gradients is None else ("gradients", "rows")
        raise ValueError(f"{given} was given without {missing}: a backward takes both or neither")
    if rows is None or gradients is None:
        return None
    struct = rows._struct(problem)
    struct.gradients = gradients._address(rows.table, problem)
    return ctypes.pointer(struct)


def _dropout(dropout: Dropout | None) -> Any:
    if dropout is None:
        return None
    return ctypes.pointer(_abi.Dropout(p=dropout.p, seed=dropout.seed, offset=dropout.offset))
