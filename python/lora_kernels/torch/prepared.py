"""Planned calls: the problem that tensors pose, and the C structs that wait for addresses."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .. import _abi
from .._library import library
from ..kernels import Kernels
from ..types import DType, Layout, Mask, Problem, Projection, Role, WeightLayout

DTYPES = {torch.float16: DType.F16, torch.bfloat16: DType.BF16, torch.float32: DType.F32}


class Config(NamedTuple):
    """What isn't a tensor and isn't drawn.

    delta: there is no base product, y is added to. redraw: the mask isn't stored. inference:
    nothing is saved. dropout: None, "value" or "memory": where seed and offset are. split: S and
    the mask are two tensors, not one.
    """

    scalings: tuple[float, ...]
    transposed: bool = False
    delta: bool = False
    redraw: bool = False
    mask_row: int = 0
    mask_column: int = 0
    inference: bool = False
    dropout: str | None = None
    split: bool = False


class Frame:
    """The structs of one call in one block of 64-bit words, so that an address is one store."""

    def __init__(self, args: type[_abi.Struct], projection: type[_abi.Struct], count: int) -> None:
        sizes = [
            ctypes.sizeof(args),
            ctypes.sizeof(projection) * count,
            ctypes.sizeof(_abi.Dropout),
        ]
        self.words = (ctypes.c_uint64 * (sum(sizes) // 8))()
        self.args: Any = args.from_buffer(self.words)
        self.args.struct_size = sizes[0]
        array = projection * count
        self.projections: Any = array.from_buffer(self.words, sizes[0])
        for one in self.projections:
            one.struct_size = ctypes.sizeof(projection)
        self.args.projections = self.projections
        self.args.projection_count = count
        self.dropout = _abi.Dropout.from_buffer(self.words, sizes[0] + sizes[1])
        self.dropout.struct_size = sizes[2]
        self.pointer = ctypes.byref(self.args)


def _word(struct: type[_abi.Struct], field: str) -> int:
    offset: int = getattr(struct, field).offset
    return offset // 8


def _places(
    args: type[_abi.Struct], projection: type[_abi.Struct], fields: Sequence[str], count: int
) -> list[int]:
    """The words of these fields of each projection."""
    first, step = ctypes.sizeof(args) // 8, ctypes.sizeof(projection) // 8
    return [
        first + step * index + _word(projection, field)
        for index in range(count)
        for field in fields
    ]


class Prepared:
    """A planned call. `frames` has those that no thread uses right now."""

    _ARGS: type[_abi.Struct]
    _PROJECTION: type[_abi.Struct]
    _FUNCTION: str
    #: A projection's words, in the order in which a call's addresses come.
    _FIELDS: tuple[str, ...]

    def __init__(self, kernels: Kernels, plan: Any, config: Config) -> None:
        problem: Problem = plan.problem
        self.kernels, self.plan, self.problem, self.config = kernels, plan, problem, config
        self.function = getattr(library(), self._FUNCTION)
        self.handles = kernels._handle, plan._handle
        self.frames: list[Frame] = []
        count = len(problem.projections)
        self.places = [
            _word(self._ARGS, "x"),
            *_places(self._ARGS, self._PROJECTION, self._FIELDS, count),
        ]
        self.may_be_negated = any(
            1 in problem.shape(role, index)
            for index in range(count)
            for role in (Role.WEIGHT, Role.LORA_A, Role.LORA_B)
        )
        mask_bytes = plan.mask.bytes if plan.mask else 0
        #: Buffers between forward and backward: the words of address and size, and the bytes.
        self.saved: list[tuple[int, int, int]] = []
        if config.split:
            self._buffer("saved_s", plan.s.bytes)
            self._buffer("saved_mask", mask_bytes)
        else:
            self._buffer("saved", plan.saved_bytes)
        self.workspace = _word(self._ARGS, "workspace")
        self.workspace_bytes: int = plan.workspace_bytes

    def _buffer(self, field: str, nbytes: int) -> None:
        place = _word(self._ARGS, field)
        self.saved.append((place, place + 1, nbytes))

    def frame(self) -> Frame:
        """One that this call has for itself until it puts it back."""
        try:
            return self.frames.pop()
        except IndexError:
            frame = Frame(self._ARGS, self._PROJECTION, len(self.problem.projections))
            for one, scaling in zip(frame.projections, self.config.scalings):
                one.scaling = scaling
            if self.config.dropout is not None:
                frame.args.dropout = ctypes.pointer(frame.dropout)
            for _, place, nbytes in self.saved:
                frame.words[place] = nbytes
            frame.args.workspace_bytes = self.workspace_bytes
            return frame


class Forward(Prepared):
    """A planned forward."""

    _ARGS, _PROJECTION = _abi.ForwardArgs, _abi.ForwardProjection
    _FUNCTION = "lora_forward"
    _FIELDS = ("weight", "bias", "lora_a", "lora_b")

    def __init__(self, kernels: Kernels, plan: Any, config: Config, shape: Sequence[int]) -> None:
        super().__init__(kernels, plan, config)
        sizes = self.problem.projections
        self.y_shapes = [(*shape[:-1], one.out_features) for one in sizes]
        self.y_places = _places(self._ARGS, self._PROJECTION, ("y",), len(sizes))
        self.flags_bytes: int = plan.flags_bytes


class Backward(Prepared):
    """A planned backward."""

    _ARGS, _PROJECTION = _abi.BackwardArgs, _abi.BackwardProjection
    _FUNCTION = "lora_backward"
    _FIELDS = ("weight", "lora_a", "lora_b", "dy")

    def __init__(self, kernels: Kernels, plan: Any, config: Config, shape: Sequence[int]) -> None:
        super().__init__(kernels, plan, config)
        self.dx = _word(self._ARGS, "dx")
        sizes = self.problem.projections
        self.d_a_places = _places(self._ARGS, self._PROJECTION, ("d_lora_a",), len(sizes))
        self.d_b_places = _places(self._ARGS, self._PROJECTION, ("d_lora_b",), len(sizes))
        self.is_adapted = [one.rank > 0 for one in sizes]


def problem_of(
    config: Config,
    x: torch.Tensor,
    projections: Sequence[tuple[torch.Tensor | None, ...]],
    dys: Sequence[torch.Tensor | None] = (),
    input_gradient: bool = True,
) -> Problem:
    """The problem that tensors pose. projections: weight, lora_a, lora_b and bias of each."""
    if x.dim() == 0 or x.shape[-1] == 0:
        raise ValueError(
            f"x has the shape {tuple(x.shape)}: it must be (..., in_features), with at least one "
            "feature"
        )
    is_alone = len(projections) == 1
    found = _Layouts(x)
    found.matrix("x", Role.X, 0, x.reshape(-1, x.shape[-1]))
    sizes, adapter_dtypes = [], set()
    for index, (weight, lora_a, lora_b, bias) in enumerate(projections):
        of = "" if is_alone else f" of projection {index}"
        if (lora_a is None) != (lora_b is None):
            raise ValueError(
                f"lora_a or lora_b{of} is missing: a projection has both, or none of them"
            )
        if (bias is None) != (projections[0][3] is None):
            raise ValueError(
                "some projections have a bias and some have none: give all of them one, of zeros "
                "where there is none"
            )
        if weight is not None:
            found.matrix(f"weight{of}", Role.WEIGHT, index, weight)
            out_features, in_features = weight.shape[:: -1 if config.transposed else 1]
            if in_features != x.shape[-1]:
                raise ValueError(
                    f"the weight{of} takes {in_features} features, x has {x.shape[-1]}"
                )
        elif lora_b is not None:
            out_features = lora_b.shape[0]
        else:
            raise ValueError(f"the projection{of} has neither a weight nor an adapter")
        rank = 0
        if lora_a is not None and lora_b is not None:
            found.matrix(f"lora_A{of}", Role.LORA_A, index, lora_a)
            found.matrix(f"lora_B{of}", Role.LORA_B, index, lora_b)
            rank = lora_a.shape[0]
            adapter_dtypes |= {lora_a.dtype, lora_b.dtype}
            if lora_a.shape != (rank, x.shape[-1]) or lora_b.shape != (out_features, rank):
                raise ValueError(
                    f"lora_A{of} is {tuple(lora_a.shape)} and lora_B {tuple(lora_b.shape)}: they "
                    f"must be (rank, {x.shape[-1]}) and ({out_features}, rank)"
                )
            if rank == 0:
                raise ValueError(f"lora_A{of} has rank 0: leave the adapter out (None)")
        if bias is not None:
            found.check(f"bias{of}", bias)
            if bias.shape != (out_features,) or not bias.is_contiguous():
                raise ValueError(
                    f"the bias{of} is {tuple(bias.shape)}: it must be ({out_features},), contiguous"
                )
            found.alignment(Role.BIAS, index, bias)
            _same(f"the bias{of}", bias, x)
        if weight is not None:
            _same(f"the weight{of}", weight, x)
        sizes.append(Projection(out_features, rank))
    if len(adapter_dtypes) > 1:
        names = " and ".join(sorted(map(str, adapter_dtypes)))
        raise TypeError(f"the adapters have several types ({names}): they must have one")
    for adapter in adapter_dtypes - {x.dtype, torch.float32}:
        raise TypeError(
            f"the adapters are {adapter} and x is {x.dtype}: they must be of x's type or float32"
        )
    for index, dy in enumerate(dys):
        if dy is not None:
            found.matrix("dy", Role.DY, index, dy.reshape(-1, dy.shape[-1]))
            _same("dy", dy, x)
    return Problem(
        tokens=_count(x),
        in_features=x.shape[-1],
        projections=tuple(sizes),
        dtype=DTYPES[x.dtype],
        adapter_dtype=DTYPES[next(iter(adapter_dtypes))] if adapter_dtypes else None,
        weight_layout=WeightLayout.IN_OUT if config.transposed else WeightLayout.OUT_IN,
        bias=projections[0][3] is not None,
        dropout=config.dropout is not None,
        mask=Mask.REDRAWN if config.redraw else Mask.STORED,
        input_gradient=input_gradient,
        layouts=tuple(found.layouts),
        inference=config.inference,
        delta_only=config.delta,
        dropout_from_memory=config.dropout == "memory",
        mask_row=config.mask_row,
        mask_column=config.mask_column,
    )


def _count(x: torch.Tensor) -> int:
    count = 1
    for size in x.shape[:-1]:
        count *= size
    return count


def _same(name: str, tensor: torch.Tensor, x: torch.Tensor) -> None:
    if tensor.dtype != x.dtype:
        raise TypeError(
            f"{name} is {tensor.dtype} and x is {x.dtype}: they must have one type; autocast casts "
            "them"
        )


class _Layouts:
    """What of the tensors isn't contiguous and aligned."""

    def __init__(self, x: torch.Tensor) -> None:
        self.device = x.device
        self.layouts: list[Layout] = []

    def check(self, name: str, tensor: torch.Tensor) -> None:
        if tensor.dtype not in DTYPES:
            raise TypeError(
                f"{name} is {tensor.dtype}: the kernels take float16, bfloat16 and float32"
            )
        if tensor.device != self.device:
            raise ValueError(
                f"{name} is on {tensor.device} and x on {self.device}: they must be on one device"
            )

    def matrix(self, name: str, role: Role, index: int, tensor: torch.Tensor) -> None:
        self.check(name, tensor)
        if tensor.dim() != 2:
            raise ValueError(
                f"{name} has the shape {tuple(tensor.shape)}: it must have two dimensions"
            )
        count, columns = tensor.shape
        if columns > 1 and tensor.stride(1) != 1:
            raise ValueError(
                f"{name} has a stride of {tensor.stride(1)} elements between columns: they must be "
                "contiguous"
            )
        stride = tensor.stride(0) if count > 1 and tensor.stride(0) != columns else 0
        self.alignment(role, index, tensor, stride)

    def alignment(self, role: Role, index: int, tensor: torch.Tensor, stride: int = 0) -> None:
        address = tensor.data_ptr()
        alignment = address & -address & 0xF
        if stride or alignment:
            self.layouts.append(Layout(role, index, stride, alignment))
