"""The host's path of a call on torch's tensors, made to be short.

What a call looks like (sizes, types, strides, alignments, options) is its key. The first call with
a key is planned and checked, and leaves a `Prepared`: later ones only make outputs, write addresses
into a block of C structs that is ready, and call the library. `launch` is the one place that does.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch

from .._library import check
from ..kernels import Kernels
from ..plans import BackwardPlan, ForwardPlan
from ..types import Dropout
from .prepared import Backward, Config, Forward, Frame, Prepared, problem_of

#: The type of device whose tensors are taken. The tests' device is "cpu".
DEVICE = "cuda"

#: How many keys are remembered of either direction.
_REMEMBERED = 4096

#: The address of tensors without elements, which torch says is 0: 0 is a missing one.
_NOWHERE = 256

Tensors = Sequence[torch.Tensor | None]


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
    problem = problem_of(config, x, [(weight, a, b, bias) for weight, bias, a, b in groups])
    kernels = kernels_of(max(x.get_device(), 0))
    prepared = Forward(kernels, ForwardPlan(problem, kernels.props), config, x.shape)
    if len(_forwards) >= _REMEMBERED:
        _forwards.clear()
    return _forwards.setdefault(key, prepared)


def _prepare_backward(
    key: Any, config: Config, x: torch.Tensor, tensors: Tensors, input_gradient: bool
) -> Backward:
    groups = [tensors[first : first + 4] for first in range(0, len(tensors), 4)]
    problem = problem_of(
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


def by_value(dropout: Dropout | None) -> tuple[float, int, int] | None:
    """As forward and backward take it."""
    return None if dropout is None else (dropout.p, dropout.seed, dropout.offset)
