"""The host's path of a call on torch's tensors, made to be short.

What a call looks like (sizes, types, strides, alignments, options) is its key. The first call with
a key is planned and checked, and leaves a `Prepared`: later ones only make outputs, write addresses
into a block of C structs that is ready, and call the library. `launch` is the one place that does.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from .. import _abi
from .._library import check, library
from ..kernels import Kernels
from ..plans import BackwardPlan, ForwardPlan
from ..types import Dropout, DType, Layout, Mask, Problem, Projection, Role, WeightLayout

DTYPES = {torch.float16: DType.F16, torch.bfloat16: DType.BF16, torch.float32: DType.F32}

#: The type of device whose tensors are taken. The tests' device is "cpu".
DEVICE = "cuda"

#: How many keys are remembered of either direction.
_REMEMBERED = 4096

#: The address of tensors without elements, which torch says is 0: 0 is a missing one.
_NOWHERE = 256

Tensors = Sequence[torch.Tensor | None]


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


#: A planned forward, and the addresses of x and of its projections' tensors.
Seen = tuple[Forward, list[int]]


def launch(prepared: Prepared, frame: Frame, stream: int) -> None:
    """The one call of the library. The tests' device has another one in its place."""
    kernels, plan = prepared.handles
    check(prepared.function(kernels, plan, frame.pointer, stream))


def stream_of(x: torch.Tensor) -> int:
    """torch's current stream on the device of x, as a number."""
    if not x.is_cuda:
        return 0
    stream: int = torch._C._cuda_getCurrentRawStream(x.get_device())
    return stream


def is_capturing(x: torch.Tensor) -> bool:
    """Whether work on the current stream goes into a graph."""
    return x.is_cuda and torch.cuda.is_current_stream_capturing()


@functools.cache
def kernels_of(device: int) -> Kernels:
    """The kernels on a device, loaded once."""
    return Kernels(device)


_flags: dict[tuple[int, int], torch.Tensor] = {}
#: Workspaces up to this many bytes are kept for a stream; larger ones are the allocator's.
_SMALL = 1 << 20
_workspaces: dict[tuple[int, int], torch.Tensor] = {}


def _flags_of(x: torch.Tensor, stream: int, needed: int) -> torch.Tensor:
    """Words that are zero, which calls of one stream may share, since they run in its order."""
    if is_capturing(x):
        # The graph zeroes words of its own, since its replays may run beside anything.
        return torch.zeros(needed, dtype=torch.uint8, device=x.device)
    key = (x.get_device(), stream)
    found = _flags.get(key)
    if found is None or found.numel() < needed:
        found = _flags[key] = torch.zeros(needed, dtype=torch.uint8, device=x.device)
    return found


def _workspace(x: torch.Tensor, stream: int, needed: int) -> torch.Tensor:
    """Scratch memory; calls of one stream may share it, since they run in its order."""
    if needed > _SMALL or is_capturing(x):
        return torch.empty(needed, dtype=torch.uint8, device=x.device)
    key = (x.get_device(), stream)
    found = _workspaces.get(key)
    if found is None:
        found = torch.empty(_SMALL, dtype=torch.uint8, device=x.device)
        _workspaces[key] = found
    return found


_forwards: dict[Any, Forward] = {}
_backwards: dict[Any, Backward] = {}


def _key(first: list[Any], tensors: Tensors) -> tuple[Any, list[int]]:
    """What the tensors look like, and their addresses."""
    addresses = []
    for tensor in tensors:
        if tensor is None:
            first.append(None)
            addresses.append(0)
        else:
            address = tensor.data_ptr() or _NOWHERE
            addresses.append(address)
            first += (
                tensor.dtype,
                tensor.shape,
                tensor.is_contiguous() or tensor.stride(),
                address & 15,
                tensor.get_device(),
            )
    return tuple(first), addresses


def rows(x: torch.Tensor) -> torch.Tensor:
    """The same numbers so that rows of x (..., columns) lie evenly and apart: x itself if it can.

    Rows of an expanded tensor lie on one another, and are copied.
    """
    if x.is_neg():
        x = x.resolve_neg()
    if x.is_contiguous():
        return x
    flat = x.reshape(-1, x.shape[-1])
    count, columns = flat.shape
    is_contiguous = columns == 1 or flat.stride(1) == 1
    is_apart = count < 2 or flat.stride(0) >= columns
    return flat.view(x.shape) if is_contiguous and is_apart else x.contiguous()


def forward(
    config: Config,
    x: torch.Tensor,
    tensors: Tensors,
    ys: list[torch.Tensor] | None,
    dropout: tuple[float, int, int] | None,
) -> tuple[list[torch.Tensor], list[torch.Tensor | None], Seen]:
    """y of every projection, and what is saved: one buffer, or if config is split S and the mask.

    The third is for the backward of the very same tensors.

    x: (..., in_features), as `rows` makes it. tensors: weight, bias, lora_a and lora_b of every
    projection. ys: outputs that are added to, of a delta. dropout: p, and seed and offset, or their
    address and 0. Buffers are bytes, or None where they have
    none.
    """
    key, addresses = _key([config], (x, *tensors))
    prepared = _forwards.get(key)
    if prepared is None:
        prepared = _prepare_forward(key, config, x, tensors)
    if prepared.may_be_negated:
        _refuse_negated(tensors)
    frame = prepared.frame()
    words = frame.words
    for place, address in zip(prepared.places, addresses):
        words[place] = address
    if ys is None:
        ys = [torch.empty(one, dtype=x.dtype, device=x.device) for one in prepared.y_shapes]
    for place, y in zip(prepared.y_places, ys):
        words[place] = y.data_ptr() or _NOWHERE
    if dropout is not None:
        frame.dropout.p, frame.dropout.seed, frame.dropout.offset = dropout
    saved: list[torch.Tensor | None] = []
    for place, _, nbytes in prepared.saved:
        buffer = None
        if nbytes:
            buffer = torch.empty(nbytes, dtype=torch.uint8, device=x.device)
            words[place] = buffer.data_ptr()
        saved.append(buffer)
    stream = stream_of(x)
    if prepared.workspace_bytes:
        workspace = _workspace(x, stream, prepared.workspace_bytes)
        words[prepared.workspace] = workspace.data_ptr()
    if prepared.flags_bytes:
        flags = _flags_of(x, stream, prepared.flags_bytes)
        frame.args.flags, frame.args.flags_bytes = flags.data_ptr(), flags.numel()
    launch(prepared, frame, stream)
    prepared.frames.append(frame)
    return ys, saved, (prepared, addresses)


def backward(
    config: Config,
    x: torch.Tensor,
    tensors: Tensors,
    saved: Tensors,
    dropout: tuple[float, int, int] | None,
    input_gradient: bool,
    seen: Seen | None = None,
) -> tuple[torch.Tensor | None, list[torch.Tensor | None], list[torch.Tensor | None]]:
    """dx, and d_lora_a and d_lora_b of every projection, None where there is no adapter.

    tensors: weight, lora_a, lora_b and dy of every projection. saved: as forward left it.
    """
    again = None if seen is None else _again(seen, x, tensors, input_gradient)
    key, addresses = again or _key([config, input_gradient], (x, *tensors))
    prepared = _backwards.get(key)
    if prepared is None:
        prepared = _prepare_backward(key, config, x, tensors, input_gradient)
    if prepared.may_be_negated:
        _refuse_negated(tensors)
    frame = prepared.frame()
    words = frame.words
    for place, address in zip(prepared.places, addresses):
        words[place] = address
    dx = None
    if input_gradient:
        # A delta's is added to what is there.
        dx = torch.zeros_like(x) if config.delta else torch.empty_like(x)
        if not dx.is_contiguous():
            dx = dx.new_zeros(x.shape)
        words[prepared.dx] = dx.data_ptr() or _NOWHERE
    d_lora_as: list[torch.Tensor | None] = []
    d_lora_bs: list[torch.Tensor | None] = []
    for index, is_adapted in enumerate(prepared.is_adapted):
        d_a = d_b = None
        if is_adapted:
            # Of matrices with contiguous rows these are contiguous.
            d_a = torch.empty_like(tensors[4 * index + 1])  # type: ignore[arg-type]
            d_b = torch.empty_like(tensors[4 * index + 2])  # type: ignore[arg-type]
            words[prepared.d_a_places[index]] = d_a.data_ptr()
            words[prepared.d_b_places[index]] = d_b.data_ptr()
        d_lora_as.append(d_a)
        d_lora_bs.append(d_b)
    if dropout is not None:
        frame.dropout.p, frame.dropout.seed, frame.dropout.offset = dropout
    for (place, _, nbytes), buffer in zip(prepared.saved, saved):
        if nbytes:
            words[place] = _address(buffer, nbytes)
    stream = stream_of(x)
    if prepared.workspace_bytes:
        workspace = _workspace(x, stream, prepared.workspace_bytes)
        words[prepared.workspace] = workspace.data_ptr()
    launch(prepared, frame, stream)
    prepared.frames.append(frame)
    return dx, d_lora_as, d_lora_bs


def _again(
    seen: Seen, x: torch.Tensor, tensors: Tensors, input_gradient: bool
) -> tuple[Any, list[int]] | None:
    """The key and the addresses, in short where forward's tensors are where they were.

    Autograd has kept them, so they look as they did. None: they are elsewhere, as FSDP and hooks
    of saved tensors have them.
    """
    forward, before = seen
    addresses = [0 if one is None else one.data_ptr() or _NOWHERE for one in (x, *tensors)]
    if addresses[0] != before[0]:
        return None
    key: list[Any] = [forward, input_gradient]
    # x, then weight, bias, lora_a and lora_b there; weight, lora_a, lora_b and dy here.
    for at in range(1, len(addresses), 4):
        weight, lora_a, lora_b, dy = addresses[at : at + 4]
        if weight != before[at] or lora_a != before[at + 2] or lora_b != before[at + 3]:
            return None
        given: Any = tensors[at + 2]
        key += (given.dtype, given.shape, given.is_contiguous() or given.stride(), dy & 15)
    return tuple(key), addresses


def _address(saved: torch.Tensor | None, needed: int) -> int:
    given = 0 if saved is None else saved.numel() * saved.element_size()
    if saved is None or given < needed or not saved.is_contiguous():
        raise ValueError(
            f"what forward saved has {given} bytes, backward needs {needed} that are contiguous: "
            "give it S and the mask that the forward of the same tensors returned"
        )
    return saved.data_ptr()


def _refuse_negated(tensors: Tensors) -> None:
    """Only what has a row or a column of one element can lie as the kernels want it and be so."""
    for tensor in tensors:
        if tensor is not None and tensor.is_neg():
            raise ValueError(
                f"a tensor of the shape {tuple(tensor.shape)} has the lazy negative bit: give its "
                "resolve_neg()"
            )


# What follows runs once for each key.


def _prepare_forward(key: Any, config: Config, x: torch.Tensor, tensors: Tensors) -> Forward:
    groups = [tensors[first : first + 4] for first in range(0, len(tensors), 4)]
    problem = _problem(config, x, [(weight, a, b, bias) for weight, bias, a, b in groups])
    kernels = kernels_of(max(x.get_device(), 0))
    prepared = Forward(kernels, ForwardPlan(problem, kernels.props), config, x.shape)
    if len(_forwards) >= _REMEMBERED:
        _forwards.clear()
    return _forwards.setdefault(key, prepared)


def _prepare_backward(
    key: Any, config: Config, x: torch.Tensor, tensors: Tensors, input_gradient: bool
) -> Backward:
    groups = [tensors[first : first + 4] for first in range(0, len(tensors), 4)]
    problem = _problem(
        config,
        x,
        [(weight, a, b, None) for weight, a, b, _ in groups],
        dys=[dy for *_, dy in groups],
        input_gradient=input_gradient,
    )
    kernels = kernels_of(max(x.get_device(), 0))
    prepared = Backward(kernels, BackwardPlan(problem, kernels.props), config, x.shape)
    if len(_backwards) >= _REMEMBERED:
        _backwards.clear()
    return _backwards.setdefault(key, prepared)


def _problem(
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


def by_value(dropout: Dropout | None) -> tuple[float, int, int] | None:
    """As forward and backward take it."""
    return None if dropout is None else (dropout.p, dropout.seed, dropout.offset)
