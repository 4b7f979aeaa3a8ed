"""Problems made of the arrays themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .arrays import NO_STREAM, Array, named
from .tensors import LoraProjection
from .types import DType, Layout, Mask, Problem, Projection, Role, WeightLayout


def problem_of(
    x: Any,
    projections: Sequence[LoraProjection[Any]],
    *,
    dropout: bool = False,
    mask: Mask = Mask.STORED,
    weight_layout: WeightLayout = WeightLayout.OUT_IN,
    input_gradient: bool = True,
    accumulate: Iterable[Role] = (),
    y: Sequence[Any] | None = None,
    dy: Sequence[Any] | None = None,
    dx: Any = None,
    d_lora_a: Sequence[Any] | None = None,
    d_lora_b: Sequence[Any] | None = None,
    device: int = 0,
) -> Problem:
    """The problem that these arrays pose: sizes, types, row strides and alignments are theirs.

    Outputs that aren't given are contiguous. device: the ordinal of the one that the arrays are on.
    They are not kept. Others with the same layout, or with larger alignments, may be given to
    calls.
    """
    matrix_x = _matrix("x", x, device)
    layouts = _layout(Role.X, 0, matrix_x)
    sizes, adapter_dtypes = [], set()
    for index, tensors in enumerate(projections):
        weight = _matrix(f"weight of projection {index}", tensors.weight, device)
        is_out_in = weight_layout is WeightLayout.OUT_IN
        out_features, in_features = weight.shape if is_out_in else weight.shape[::-1]
        if in_features != matrix_x.shape[1]:
            raise ValueError(
                f"the weight of projection {index} takes {in_features} features, x has "
                f"{matrix_x.shape[1]}"
            )
        layouts += _layout(Role.WEIGHT, index, weight)
        rank = 0
        if (tensors.lora_a is None) != (tensors.lora_b is None):
            raise ValueError(
                f"projection {index} has one of lora_a and lora_b: it must have both, or none"
            )
        if tensors.lora_a is not None:
            lora_a = _matrix(f"lora_A of projection {index}", tensors.lora_a, device)
            lora_b = _matrix(f"lora_B of projection {index}", tensors.lora_b, device)
            rank = lora_a.shape[0]
            adapter_dtypes |= {lora_a.dtype, lora_b.dtype}
            layouts += _layout(Role.LORA_A, index, lora_a)
            layouts += _layout(Role.LORA_B, index, lora_b)
        sizes.append(Projection(out_features, rank))
        if (tensors.bias is None) != (projections[0].bias is None):
            raise ValueError(
                "some projections have a bias and some have none: give all of them one, of zeros "
                "where there is none"
            )
    if len(adapter_dtypes) > 1:
        raise TypeError("the adapters have several types: they must have one")
    outputs = ((Role.Y, y), (Role.DY, dy), (Role.D_LORA_A, d_lora_a), (Role.D_LORA_B, d_lora_b))
    for role, given in outputs:
        for index, source in enumerate(given or ()):
            if source is not None:
                layouts += _layout(role, index, _matrix(role.text, source, device))
    if dx is not None:
        layouts += _layout(Role.DX, 0, _matrix("dx", dx, device))
    return Problem(
        tokens=matrix_x.shape[0],
        in_features=matrix_x.shape[1],
        projections=tuple(sizes),
        dtype=_dtype("x", matrix_x),
        adapter_dtype=next(iter(adapter_dtypes)) if adapter_dtypes else None,
        weight_layout=weight_layout,
        bias=bool(projections) and projections[0].bias is not None,
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
        raise ValueError(
            f"{name} has a stride of {found.strides[-1]} elements between columns: they must be "
            "contiguous"
        )
    _dtype(name, found)
    return found


def _dtype(name: str, found: Array) -> DType:
    if found.dtype is None:
        raise TypeError(f"{name} is bytes: the kernels take float16, bfloat16 and float32")
    return found.dtype


def _layout(role: Role, index: int, found: Array) -> list[Layout]:
    """What isn't the default."""
    stride = found.row_stride if found.row_stride != found.shape[1] else 0
    alignment = found.alignment if found.alignment != 16 else 0
    return [Layout(role, index, stride, alignment)] if stride or alignment else []
