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
from .plans import BackwardPlan, Device, ForwardPlan, MergePlan
from .types import DType, Dropout, Tensor

#: Makes device memory of a shape and type, None being bytes: anything that `lora_kernels.array`
#: takes. `lora_kernels.cuda.allocate` is one. The memory is used on the call's stream: an allocator
#: that hands out freed memory again in the order of a stream must do so in that of this one.
Allocator = Callable[[tuple[int, ...], DType | None], Any]


@dataclass(frozen=True)
class Layer:
    """The tensors of one projection, as device arrays; without lora_a and lora_b where it has no adapter."""

    weight: Any
    lora_a: Any = None
    lora_b: Any = None
    scaling: float = 1.0
    bias: Any = None


@dataclass(frozen=True)
class Adapter:
    """One adapter of a merge. A negative scaling takes it out."""

    lora_a: Any
    lora_b: Any
    scaling: float


@dataclass(frozen=True)
class ForwardResult:
    """y of every projection, what backward needs, and the scratch memory, None where none is needed: to be kept until the stream has run."""

    y: tuple[Any, ...]
    saved: Any
    workspace: Any


@dataclass(frozen=True)
class BackwardResult:
    """dx, None where the problem has no input gradient, the adapters' gradients, None where a projection has no adapter, and the scratch memory,
    None where none is needed: to be kept until the stream has run."""

    dx: Any
    d_lora_a: tuple[Any, ...]
    d_lora_b: tuple[Any, ...]
    workspace: Any


@dataclass(frozen=True)
class MergeResult:
    """The merged weight, the report as bytes on the device, None where the problem has none, and the scratch memory, None where none is needed: to
    be kept until the stream has run."""

    merged: Any
    report: Any
    workspace: Any


@dataclass(frozen=True)
class MergeReport:
    """What merging changed, and what storing the result in the weight's type lost of it.

    elements: of the weight; nonzero: those with a delta; unchanged: of these, those whose delta was rounded away; non_finite: those whose merged
    value is a NaN or an infinity, after which a safe merge has written nothing. relative_error: |stored change - delta| / |delta|.
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
        return MergeReport(*(getattr(report, one[0]) for one in report._fields_[2:]))


class Kernels:
    """All kernels, loaded into the primary context of a device: the context that the CUDA runtime, PyTorch and CuPy use.

    Arrays stay the caller's: they have to live until the stream has run what was enqueued. So does a call's result, which holds all that
    `allocate` made. A call allocates nothing on the device but what it is
    told to by `allocate`, waits for nothing, and may be captured in a CUDA graph. Threads may share an object.
    """

    def __init__(self, device: int = 0) -> None:
        self._handle = ctypes.c_void_p()
        check(library().lora_kernels_load(device, ctypes.byref(self._handle)))
        #: The ordinal.
        self.ordinal = device
        properties = _abi.Device()
        check(library().lora_kernels_device(self._handle, ctypes.byref(properties)))
        #: What plans need to know of the device.
        self.device = Device._of(properties)

    def close(self) -> None:
        """Waits for all work of the device and unloads the kernels; the object can't be used after. It happens with the last reference, too.

        Not while a stream of the device is being captured, in whatever thread: that would invalidate the capture.
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
        layers: Sequence[Layer],
        *,
        y: Sequence[Any] | None = None,
        saved: Any = None,
        workspace: Any = None,
        dropout: Dropout | None = None,
        stream: int = 0,
        allocate: Allocator | None = None,
    ) -> ForwardResult:
        """Enqueues a forward on a stream (a CUstream as a number; 0 is the default stream).

        x: (tokens, in_features); layers: as many as the problem has projections. dropout: exactly if the problem has it.
        y (tokens, out_features) of each layer, saved (plan.saved_bytes bytes) and workspace (plan.workspace_bytes bytes) come from `allocate`
        where they aren't given. Arrays must have the shapes, types, strides and alignments that the plan was made for.
        """
        problem = plan.problem
        call = Call(self.ordinal, stream, allocate)
        call.count("layers", layers, len(problem.projections))
        outputs = call.outputs(problem, Tensor.Y, y, [True] * len(layers))
        saved = call.buffer("saved", saved, plan.saved_bytes)
        workspace = call.buffer("workspace", workspace, plan.workspace_bytes)
        projections = [
            _abi.ForwardProjection(
                scaling=layer.scaling,
                weight=call.read(problem, Tensor.WEIGHT, index, layer.weight),
                bias=call.read(problem, Tensor.BIAS, index, layer.bias),
                lora_a=call.read(problem, Tensor.LORA_A, index, layer.lora_a),
                lora_b=call.read(problem, Tensor.LORA_B, index, layer.lora_b),
                y=outputs.addresses[index],
            )
            for index, layer in enumerate(layers)
        ]
        args = _abi.ForwardArgs(
            x=call.read(problem, Tensor.X, 0, x),
            projections=(_abi.ForwardProjection * len(projections))(*projections),
            projection_count=len(projections),
            dropout=_dropout(dropout),
            saved=saved.address,
            saved_bytes=saved.bytes,
            workspace=workspace.address,
            workspace_bytes=workspace.bytes,
        )
        check(library().lora_forward(self._open(), plan._handle, ctypes.byref(args), stream))
        return ForwardResult(tuple(outputs.arrays), saved.source, workspace.source)

    def backward(
        self,
        plan: BackwardPlan,
        x: Any,
        layers: Sequence[Layer],
        dy: Sequence[Any],
        saved: Any,
        *,
        dx: Any = None,
        d_lora_a: Sequence[Any] | None = None,
        d_lora_b: Sequence[Any] | None = None,
        workspace: Any = None,
        dropout: Dropout | None = None,
        stream: int = 0,
        allocate: Allocator | None = None,
    ) -> BackwardResult:
        """Enqueues a backward on a stream. x, layers, dropout and saved are those of the forward; biases take no part.

        dy: (tokens, out_features) of each layer. dx (tokens, in_features), d_lora_a (rank, in_features) and d_lora_b (out_features, rank) of each
        layer, and workspace (plan.workspace_bytes bytes) come from `allocate` where they aren't given; of a layer without an adapter the last
        two are None.
        """
        problem = plan.problem
        call = Call(self.ordinal, stream, allocate)
        call.count("layers", layers, len(problem.projections))
        call.count("dy", dy, len(problem.projections))
        adapted = [one.rank > 0 for one in problem.projections]
        of_x = call.outputs(problem, Tensor.DX, None if dx is None else [dx], [problem.input_gradient])
        of_a = call.outputs(problem, Tensor.D_LORA_A, d_lora_a, adapted)
        of_b = call.outputs(problem, Tensor.D_LORA_B, d_lora_b, adapted)
        kept = call.buffer("saved", saved, plan.saved_bytes, written=False)
        workspace = call.buffer("workspace", workspace, plan.workspace_bytes)
        projections = [
            _abi.BackwardProjection(
                scaling=layer.scaling,
                dy=call.read(problem, Tensor.DY, index, dy[index]),
                weight=call.read(problem, Tensor.WEIGHT, index, layer.weight),
                lora_a=call.read(problem, Tensor.LORA_A, index, layer.lora_a),
                lora_b=call.read(problem, Tensor.LORA_B, index, layer.lora_b),
                d_lora_a=of_a.addresses[index],
                d_lora_b=of_b.addresses[index],
            )
            for index, layer in enumerate(layers)
        ]
        args = _abi.BackwardArgs(
            x=call.read(problem, Tensor.X, 0, x),
            projections=(_abi.BackwardProjection * len(projections))(*projections),
            projection_count=len(projections),
            dropout=_dropout(dropout),
            saved=kept.address,
            saved_bytes=kept.bytes,
            dx=of_x.addresses[0],
            workspace=workspace.address,
            workspace_bytes=workspace.bytes,
        )
        check(library().lora_backward(self._open(), plan._handle, ctypes.byref(args), stream))
        return BackwardResult(of_x.arrays[0], tuple(of_a.arrays), tuple(of_b.arrays), workspace.source)

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

        merged: where the result goes; None: in place. report (`MergeReport.BYTES` bytes, exactly if the problem has one) and workspace
        (plan.workspace_bytes bytes) come from `allocate` where they aren't given. The result's report is for `MergeReport.from_bytes` once the
        stream has run and it is copied to the host.
        """
        problem = plan.problem
        call = Call(self.ordinal, stream, allocate)
        call.count("adapters", adapters, len(problem.ranks))
        if merged is None:
            merged = weight
        of_report = call.buffer("report", report, _abi.MERGE_REPORT_BYTES if problem.has_report else 0)
        workspace = call.buffer("workspace", workspace, plan.workspace_bytes)
        structs = [
            _abi.MergeAdapter(
                scaling=adapter.scaling,
                lora_a=call.read(problem, Tensor.LORA_A, index, adapter.lora_a),
                lora_b=call.read(problem, Tensor.LORA_B, index, adapter.lora_b),
            )
            for index, adapter in enumerate(adapters)
        ]
        args = _abi.MergeArgs(
            weight=call.read(problem, Tensor.WEIGHT, 0, weight),
            merged=call.write(problem, Tensor.MERGED, 0, merged),
            adapters=(_abi.MergeAdapter * len(structs))(*structs),
            adapter_count=len(structs),
            report=of_report.address,
            report_bytes=of_report.bytes,
            workspace=workspace.address,
            workspace_bytes=workspace.bytes,
        )
        check(library().lora_merge(self._open(), plan._handle, ctypes.byref(args), stream))
        return MergeResult(merged, of_report.source, workspace.source)

    def _open(self) -> ctypes.c_void_p:
        if not self._handle:
            raise ValueError("these kernels are closed")
        return self._handle


def _dropout(dropout: Dropout | None) -> Any:
    if dropout is None:
        return None
    return ctypes.pointer(_abi.Dropout(p=dropout.p, seed=dropout.seed, offset=dropout.offset))
