"""Layers in float64, from the numbers that the device has, and how far the device's may be off."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lora_kernels import Dropout, DType


def philox(counter: np.ndarray, key: tuple[int, int]) -> np.ndarray:
    """Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).

    counter: (4, ...) uint32.
    """
    counter = counter.astype(np.uint64)
    low = np.uint64(0xFFFFFFFF)
    key0, key1 = key
    for _ in range(10):
        a, b = np.uint64(0xD2511F53) * counter[0], np.uint64(0xCD9E8D57) * counter[2]
        shift = np.uint64(32)
        counter = np.stack(
            [
                (b >> shift) ^ counter[1] ^ np.uint64(key0),
                b & low,
                (a >> shift) ^ counter[3] ^ np.uint64(key1),
                a & low,
            ]
        )
        key0, key1 = (key0 + 0x9E3779B9) & 0xFFFFFFFF, (key1 + 0xBB67AE85) & 0xFFFFFFFF
    return counter.astype(np.uint32)


def keep_mask(rows: int, columns: int, dropout: Dropout) -> np.ndarray:
    """The kept elements of x (rows, columns).

    Element (row, column) has the 16 random bits of lane column % 8 of Philox with the counter
    (column / 8, row, offset low, offset high).
    """
    row, column = np.meshgrid(np.arange(rows), np.arange(columns), indexing="ij")
    words = [
        column // 8,
        row,
        np.full_like(row, dropout.offset & 0xFFFFFFFF),
        np.full_like(row, dropout.offset >> 32),
    ]
    random = philox(np.stack(words), (dropout.seed & 0xFFFFFFFF, dropout.seed >> 32))
    word = np.take_along_axis(random, (column % 8 // 2)[None], axis=0)[0]
    return (word >> (16 * (column % 2)).astype(np.uint32) & 0xFFFF) >= dropout.threshold


def mask_words(keep: np.ndarray) -> np.ndarray:
    """As the forward saves them: 64-bit words (ceil(columns / 64), rows)."""
    rows, columns = keep.shape
    padded = np.zeros((rows, -(-columns // 64) * 64), np.uint8)
    padded[:, :columns] = keep
    return np.packbits(padded, axis=1, bitorder="little").view(np.uint64).T


@dataclass
class Sum:
    """A sum, and the sum of its terms' sizes, which bounds what rounding may do to it."""

    value: np.ndarray
    size: np.ndarray

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.value + other.value, self.size + other.size)

    def __matmul__(self, other: Sum) -> Sum:
        return Sum(self.value @ other.value, self.size @ other.size)

    def __mul__(self, factor: object) -> Sum:
        return Sum(self.value * factor, self.size * np.abs(factor))

    @property
    def T(self) -> Sum:
        return Sum(self.value.T, self.size.T)


def exact(values: np.ndarray) -> Sum:
    return Sum(values, np.abs(values))


def close(given: np.ndarray, wanted: Sum, dtype: DType, depth: int) -> None:
    """f32: 1.5*depth*2**-24 of the terms. 16 bits: S, T and the result are each rounded once."""
    relative = 1.5 * (depth + 2) * 2.0**-24
    if dtype is not DType.F32:
        relative += 3 * (2.0**-9 if dtype is DType.BF16 else 2.0**-12)
    error = np.abs(given - wanted.value)
    # The smallest numbers of f16 are apart by 2**-24.
    bound = relative * wanted.size + (2.0**-24 if dtype is DType.F16 else 1e-30)
    worst = np.unravel_index(np.argmax(error - bound), error.shape)
    assert (error <= bound).all(), (
        f"{worst}: {given[worst]}, not {wanted.value[worst]} (within {bound[worst]})"
    )


@dataclass
class Values:
    """One projection on the host, the weight as (out_features, in_features)."""

    weight: np.ndarray
    bias: np.ndarray | None
    lora_a: np.ndarray | None
    lora_b: np.ndarray | None
    scaling: float
    dy: np.ndarray


def dropped(x: np.ndarray, dropout: Dropout | None) -> tuple[np.ndarray, np.ndarray]:
    """drop(x), and the factor of each element."""
    if dropout is None:
        return x, np.ones_like(x)
    factor = keep_mask(*x.shape, dropout) * (65536 / (65536 - dropout.threshold))
    return x * factor, factor


def forward(x: np.ndarray, one: Values, dropout: Dropout | None) -> Sum:
    y = exact(x) @ exact(one.weight).T
    if one.bias is not None:
        y += exact(np.broadcast_to(one.bias, y.value.shape))
    if one.lora_a is not None and one.lora_b is not None:
        y += exact(dropped(x, dropout)[0]) @ exact(one.lora_a).T @ exact(one.lora_b).T * one.scaling
    return y


def input_gradient(x: np.ndarray, all: list[Values], dropout: Dropout | None) -> Sum:
    dx = exact(np.zeros_like(x))
    for one in all:
        dx += exact(one.dy) @ exact(one.weight)
        if one.lora_a is not None and one.lora_b is not None:
            dx += (
                exact(one.dy)
                @ exact(one.lora_b)
                @ exact(one.lora_a)
                * (one.scaling * dropped(x, dropout)[1])
            )
    return dx


def adapter_gradients(x: np.ndarray, one: Values, dropout: Dropout | None) -> tuple[Sum, Sum]:
    seen = exact(dropped(x, dropout)[0])
    d_lora_a = (exact(one.dy) @ exact(one.lora_b)).T @ seen * one.scaling
    d_lora_b = exact(one.dy).T @ (seen @ exact(one.lora_a).T) * one.scaling
    return d_lora_a, d_lora_b
