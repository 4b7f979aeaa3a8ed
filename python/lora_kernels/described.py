"""Problems made of the arrays themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .arrays import NO_STREAM, Array, named
from .kernels import Layer
from .types import DType, Layout, Mask, Problem, Projection, Tensor, WeightLayout


def problem_of(
    x: Any,
    layers: Sequence[Layer],
    *,
    dropout: bool = False,
    mask: Mask = Mask.STORED,
    weight_layout: WeightLayout = WeightLayout.OUT_IN,
    input_gradient: bool = True,
    accumulate: Iterable[Tensor] = (),
    y: Sequence[Any] | None = None,
    dy: Sequence[Any] | None = None,
    dx: Any = None,
    d_lora_a: Sequence[Any] | None = None,
    d_lora_b: Sequence[Any] | None = None,
    device: int = 0,
) -> Problem:
    """The problem that these arrays pose: sizes, types, row strides and alignments are theirs. Outputs that aren't given are contiguous.

    device: where the arrays are. They are not kept; others with the same layout, or one with larger alignments, may be given to calls.
    """
    of_x = _matrix("x", x, device)
    projections, layouts, types = [], _layout(Tensor.X, 0, of_x), set()
    for index, layer in enumerate(layers):
        weight = _matrix(f"weight of layer {index}", layer.weight, device)
        rows, columns = weight.shape if weight_layout is WeightLayout.OUT_IN else weight.shape[::-1]
        if columns != of_x.shape[1]:
            raise ValueError(f"the weight of layer {index} takes {columns} features, x has {of_x.shape[1]}")
        layouts += _layout(Tensor.WEIGHT, index, weight)
        rank = 0
        if (layer.lora_a is None) != (layer.lora_b is None):
            raise ValueError(f"layer {index} has one of lora_a and lora_b: it must have both, or none")
        if layer.lora_a is not None:
            lora_a, lora_b = _matrix(f"lora_A of layer {index}", layer.lora_a, device), _matrix(f"lora_B of layer {index}", layer.lora_b, device)
            rank = lora_a.shape[0]
            types |= {lora_a.dtype, lora_b.dtype}
            layouts += _layout(Tensor.LORA_A, index, lora_a) + _layout(Tensor.LORA_B, index, lora_b)
        projections.append(Projection(rows, rank))
        if (layer.bias is None) != (layers[0].bias is None):
            raise ValueError("some layers have a bias and some have none: give all of them one, of zeros where there is none")
    if len(types) > 1:
        raise TypeError("the adapters have several types: they must have one")
    for tensor, given in ((Tensor.Y, y), (Tensor.DY, dy), (Tensor.D_LORA_A, d_lora_a), (Tensor.D_LORA_B, d_lora_b)):
        for index, one in enumerate(given or ()):
            if one is not None:
                layouts += _layout(tensor, index, _matrix(tensor.text, one, device))
    if dx is not None:
        layouts += _layout(Tensor.DX, 0, _matrix("dx", dx, device))
    return Problem(
        tokens=of_x.shape[0],
        in_features=of_x.shape[1],
        projections=tuple(projections),
        dtype=_dtype("x", of_x),
        adapter_dtype=next(iter(types)) if types else None,
        weight_layout=weight_layout,
        bias=bool(layers) and layers[0].bias is not None,
        dropout=dropout,
        mask=mask,
        input_gradient=input_gradient,
        accumulate=frozenset(accumulate),
        layouts=tuple(layouts),
    )


def _matrix(name: str, source: Any, device: int) -> Array:
    found = named(name, source, NO_STREAM, device)
    if len(found.shape) != 2:
        raise ValueError(f"{name} has the shape {found.shape}: it must have two dimensions")
    if not found.has_contiguous_columns:
        raise ValueError(f"{name} has a stride of {found.strides[-1]} elements between columns: they must be contiguous")
    _dtype(name, found)
    return found


def _dtype(name: str, found: Array) -> DType:
    if found.dtype is None:
        raise TypeError(f"{name} is bytes: the kernels take float16, bfloat16 and float32")
    return found.dtype


def _layout(tensor: Tensor, index: int, found: Array) -> list[Layout]:
    """What isn't the default."""
    stride = found.row_stride if found.row_stride != found.shape[1] else 0
    alignment = found.alignment if found.alignment != 16 else 0
    return [Layout(tensor, index, stride, alignment)] if stride or alignment else []
