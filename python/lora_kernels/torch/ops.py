"""The operators `torch.ops.lora_kernels.forward` and `backward`: what traces see.

    forward(x, weights, biases, lora_as, lora_bs, bases, words, adapted, scalings, p, ...)
        -> ys, s, mask
    backward(x, weights, lora_as, lora_bs, dys, s, mask, words, adapted, scalings, p, ...)
        -> dx, d_lora_as, d_lora_bs

Lists have what there is: adapters of the projections that `adapted` names, biases of all or of
none, and either weights or bases, outputs of other layers that the adapters' part is added to.
words: seed and offset of the dropout, (2,) int64 on the device, or None. S (tokens, padded ranks)
and the mask, 64-bit words (ceil(in_features / 64), tokens), are tensors: a compiler or a checkpoint
may keep them or make them again. dx is empty where input_gradient is False.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.flop_counter import register_flop_formula

from . import call
from .autograd import DOUBLE, PER_PROJECTION
from .prepared import Config

_OPTIONS = "bool transposed, bool redraw, int mask_row, int mask_column"
_FORWARD = (
    "forward(Tensor x, Tensor[] weights, Tensor[] biases, Tensor[] lora_as, Tensor[] lora_bs, "
    "Tensor[] bases, Tensor? words, int[] adapted, float[] scalings, float p, bool inference, "
    f"{_OPTIONS}) -> (Tensor[] ys, Tensor s, Tensor mask)"
)
_BACKWARD = (
    "backward(Tensor x, Tensor[] weights, Tensor[] lora_as, Tensor[] lora_bs, Tensor[] dys, "
    "Tensor s, Tensor mask, Tensor? words, int[] adapted, float[] scalings, float p, "
    f"bool input_gradient, {_OPTIONS}) -> (Tensor dx, Tensor[] d_lora_as, Tensor[] d_lora_bs)"
)

_library = torch.library.Library("lora_kernels", "DEF")
for _schema in (_FORWARD, _BACKWARD):
    _library.define(_schema, tags=(torch.Tag.pt2_compliant_tag,))

Lists = Sequence[torch.Tensor]


def _tokens(x: torch.Tensor) -> Any:
    return math.prod(x.shape[:-1])


def _padded_ranks(lora_as: Lists) -> Any:
    return sum((one.shape[0] + 15) // 16 * 16 for one in lora_as)


def _spread(lists: Lists, adapted: Sequence[int], count: int) -> list[Any]:
    """An entry for every projection, None where it has no adapter."""
    result: list[Any] = [None] * count
    for index, one in zip(adapted, lists):
        result[index] = one
    return result


def _by_projection(count: int, *lists: Sequence[Any]) -> list[Any]:
    """The lists' first entries, then their second ones, and so on; None of an empty list."""
    return [one[index] if one else None for index in range(count) for one in lists]


def _value(words: torch.Tensor | None, p: float) -> tuple[float, int, int] | None:
    return None if words is None else (p, words.data_ptr(), 0)


def _forward(
    x: torch.Tensor,
    weights: Lists,
    biases: Lists,
    lora_as: Lists,
    lora_bs: Lists,
    bases: Lists,
    words: torch.Tensor | None,
    adapted: Sequence[int],
    scalings: Sequence[float],
    p: float,
    inference: bool,
    transposed: bool,
    redraw: bool,
    mask_row: int,
    mask_column: int,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    count = len(scalings)
    memory = None if words is None else "memory"
    config = Config(
        tuple(scalings),
        transposed,
        bool(bases),
        redraw,
        mask_row,
        mask_column,
        inference,
        memory,
        split=True,
    )
    tensors = _by_projection(
        count,
        weights,
        biases,
        _spread(lora_as, adapted, count),
        _spread(lora_bs, adapted, count),
    )
    ys = [base.clone(memory_format=torch.contiguous_format) for base in bases] or None
    ys, (s, mask), _ = call.forward(config, call.rows(x), tensors, ys, _value(words, p))
    if s is None:
        s = x.new_empty(0)
    else:
        s = s.view(x.dtype).view(_tokens(x), _padded_ranks(lora_as))
    if mask is None:
        mask = x.new_empty(0, dtype=torch.int64)
    else:
        mask = mask.view(torch.int64).view(-(-x.shape[-1] // 64), _tokens(x))
    return ys, s, mask


def _forward_fake(
    x: torch.Tensor,
    weights: Lists,
    biases: Lists,
    lora_as: Lists,
    lora_bs: Lists,
    bases: Lists,
    words: torch.Tensor | None,
    adapted: Sequence[int],
    scalings: Sequence[float],
    p: float,
    inference: bool,
    transposed: bool,
    redraw: bool,
    mask_row: int,
    mask_column: int,
) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    columns = [one.shape[1 if transposed else 0] for one in weights]
    columns = columns or [one.shape[-1] for one in bases]
    ys = [x.new_empty((*x.shape[:-1], size)) for size in columns]
    tokens = _tokens(x)
    s = x.new_empty(0) if inference else x.new_empty((tokens, _padded_ranks(lora_as)))
    is_masked = words is not None and not redraw and not inference
    shape = ((x.shape[-1] + 63) // 64, tokens) if is_masked else (0,)
    return ys, s, x.new_empty(shape, dtype=torch.int64)


def _backward(
    x: torch.Tensor,
    weights: Lists,
    lora_as: Lists,
    lora_bs: Lists,
    dys: Lists,
    s: torch.Tensor,
    mask: torch.Tensor,
    words: torch.Tensor | None,
    adapted: Sequence[int],
    scalings: Sequence[float],
    p: float,
    input_gradient: bool,
    transposed: bool,
    redraw: bool,
    mask_row: int,
    mask_column: int,
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    count = len(scalings)
    memory = None if words is None else "memory"
    config = Config(
        tuple(scalings),
        transposed,
        not weights,
        redraw,
        mask_row,
        mask_column,
        dropout=memory,
        split=True,
    )
    tensors = _by_projection(
        count,
        weights,
        _spread(lora_as, adapted, count),
        _spread(lora_bs, adapted, count),
        [call.rows(dy) for dy in dys],
    )
    dx, d_as, d_bs = call.backward(
        config, call.rows(x), tensors, (s, mask), _value(words, p), input_gradient
    )
    if dx is None:
        dx = x.new_empty(0)
    return dx, [one for one in d_as if one is not None], [one for one in d_bs if one is not None]


def _backward_fake(
    x: torch.Tensor,
    weights: Lists,
    lora_as: Lists,
    lora_bs: Lists,
    dys: Lists,
    s: torch.Tensor,
    mask: torch.Tensor,
    words: torch.Tensor | None,
    adapted: Sequence[int],
    scalings: Sequence[float],
    p: float,
    input_gradient: bool,
    *_: Any,
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    dx = x.new_empty(x.shape if input_gradient else (0,))
    return (
        dx,
        [one.new_empty(one.shape) for one in lora_as],
        [one.new_empty(one.shape) for one in lora_bs],
    )


def register(device: str) -> None:
    """The kernels of a dispatch key, CUDA. The tests' device is CPU."""
    _library.impl("forward", _forward, device)
    _library.impl("backward", _backward, device)
    _library.impl("forward", _autocast(device), f"Autocast{device}")


def _autocast(device: str) -> Any:
    key = getattr(torch._C.DispatchKey, f"Autocast{device}")
    without = torch._C.DispatchKeySet(key)

    def forward(
        x: torch.Tensor, weights: Lists, biases: Lists, lora_as: Lists, lora_bs: Lists, *rest: Any
    ) -> Any:
        dtype = torch.get_autocast_dtype(device.lower())
        x, weights, biases = x.to(dtype), _to(weights, dtype), _to(biases, dtype)
        lora_as, lora_bs = adapters_for(dtype, lora_as, lora_bs)
        bases, *options = rest
        with torch._C._ExcludeDispatchKeyGuard(without):
            return torch.ops.lora_kernels.forward(
                x, weights, biases, lora_as, lora_bs, _to(bases, dtype), *options
            )

    return forward


def _to(tensors: Lists, dtype: torch.dtype) -> list[torch.Tensor]:
    return [one.to(dtype) for one in tensors]


def adapters_for(
    dtype: torch.dtype, lora_as: Sequence[Any], lora_bs: Sequence[Any]
) -> tuple[list[Any], list[Any]]:
    """The adapters as the kernels take them beside x of this type: all of it, or all float32."""
    given = {one.dtype for one in (*lora_as, *lora_bs) if one is not None}
    if given <= {dtype} or given <= {torch.float32}:
        return list(lora_as), list(lora_bs)
    cast = [[None if one is None else one.to(dtype) for one in some] for some in (lora_as, lora_bs)]
    return cast[0], cast[1]


def _setup(ctx: Any, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
    x, weights, biases, lora_as, lora_bs, bases, words, adapted, scalings, p, *options = inputs
    ys, s, mask = output
    ctx.mark_non_differentiable(s, mask)
    ctx.save_for_backward(x, words, s, mask, *weights, *lora_as, *lora_bs)
    ctx.counts = len(weights), len(lora_as), len(biases), len(bases)
    ctx.columns = [y.shape[-1] for y in ys]
    ctx.fixed = adapted, scalings, p
    ctx.options = options


def _differentiate(ctx: Any, dys: Sequence[torch.Tensor | None], *_: Any) -> tuple[Any, ...]:
    x, words, s, mask, *lists = ctx.saved_tensors
    weight_count, adapter_count, bias_count, base_count = ctx.counts
    weights, adapters = lists[:weight_count], lists[weight_count:]
    lora_as, lora_bs = adapters[:adapter_count], adapters[adapter_count:]
    needs = ctx.needs_input_grad
    given: list[torch.Tensor] = [
        x.new_zeros((*x.shape[:-1], columns)) if dy is None else dy
        for dy, columns in zip(dys, ctx.columns)
    ]
    inference, *options = ctx.options
    if inference:
        raise RuntimeError("lora_kernels.forward: a backward through a forward with inference=True")
    dx: torch.Tensor | None = None
    d_as: list[Any] = [None] * adapter_count
    d_bs: list[Any] = [None] * adapter_count
    if needs[0] or any(needs[3]) or any(needs[4]):
        dx, d_as, d_bs = torch.ops.lora_kernels.backward(
            x, weights, lora_as, lora_bs, given, s, mask, words, *ctx.fixed, needs[0], *options
        )
    d_biases = [
        dy.reshape(-1, dy.shape[-1]).sum(0) if need else None for dy, need in zip(given, needs[2])
    ]
    return (
        dx if needs[0] else None,
        [None] * weight_count,
        d_biases,
        [one if need else None for one, need in zip(d_as, needs[3])],
        [one if need else None for one, need in zip(d_bs, needs[4])],
        [dy if need else None for dy, need in zip(given, needs[5])],
        *[None] * 9,
    )


def _refuse(ctx: Any, *_: Any) -> Any:
    raise RuntimeError(DOUBLE)


def _products(
    tokens: int, in_features: int, columns: Sequence[int], lora_as: Any, delta: bool
) -> tuple[int, int]:
    """Multiplications and additions of x*W^T, and of the two products of the adapters."""
    base = 0 if delta else 2 * tokens * in_features * sum(columns)
    return base, sum(2 * tokens * a[0] * in_features for a in lora_as)


def _forward_flops(
    x: Any,
    weights: Any,
    biases: Any,
    lora_as: Any,
    lora_bs: Any,
    *_: Any,
    out_shape: Any = None,
    **__: Any,
) -> int:
    tokens = math.prod(x[:-1])
    columns = [y[-1] for y in out_shape[0]]
    base, shrink = _products(tokens, x[-1], columns, lora_as, not weights)
    return base + shrink + sum(2 * tokens * b[0] * b[1] for b in lora_bs)


def _backward_flops(
    x: Any,
    weights: Any,
    lora_as: Any,
    lora_bs: Any,
    dys: Any,
    s: Any,
    mask: Any,
    words: Any,
    adapted: Any,
    scalings: Any,
    p: float,
    input_gradient: bool,
    *_: Any,
    **__: Any,
) -> int:
    tokens = math.prod(x[:-1])
    base, of_a = _products(tokens, x[-1], [dy[-1] for dy in dys], lora_as, not weights)
    # T and dB have the products of B, dA and the adapters' part of dx those of A.
    of_b = sum(2 * tokens * b[0] * b[1] for b in lora_bs)
    return 2 * of_b + of_a + (base + of_a if input_gradient else 0)


def _register() -> None:
    forward, backward = "lora_kernels::forward", "lora_kernels::backward"
    torch.library.register_fake(forward, _forward_fake, lib=_library)
    torch.library.register_fake(backward, _backward_fake, lib=_library)
    torch.library.register_autograd(forward, _differentiate, setup_context=_setup, lib=_library)
    torch.library.register_autograd(backward, _refuse, lib=_library)
    register_flop_formula(torch.ops.lora_kernels.forward)(_forward_flops)
    register_flop_formula(torch.ops.lora_kernels.backward)(_backward_flops)
    register("CUDA")


_register()


def call_forward(
    x: torch.Tensor,
    tensors: Sequence[Any],
    bases: Lists,
    words: torch.Tensor | None,
    p: float,
    config: Config,
) -> tuple[torch.Tensor, ...]:
    """ys by the operator. tensors: weight, bias, lora_a and lora_b of each projection, or None."""
    weights, biases, lora_as, lora_bs = (
        [one for one in tensors[place::PER_PROJECTION] if one is not None]
        for place in range(PER_PROJECTION)
    )
    adapted = [index for index, one in enumerate(tensors[2::PER_PROJECTION]) if one is not None]
    ys, _, _ = torch.ops.lora_kernels.forward(
        x,
        weights,
        biases,
        lora_as,
        lora_bs,
        list(bases),
        words,
        adapted,
        list(config.scalings),
        p,
        config.inference,
        config.transposed,
        config.redraw,
        config.mask_row,
        config.mask_column,
    )
    return tuple(ys)
