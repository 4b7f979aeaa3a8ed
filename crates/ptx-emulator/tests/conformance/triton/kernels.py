"""Kernels in Triton, written for the conformance tests: everyday GEMM, reduction and attention code, any size, edges masked."""

import triton
import triton.language as tl


@triton.jit
def matmul(a, b, c, m, n, k, stride_a, stride_b, stride_c,
           BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, GROUP: tl.constexpr):
    """c[m, n] = a[m, k] b[k, n]. Integers sum in int32, floats in f32; f32 operands are rounded to tf32."""
    # Blocks go down GROUP rows before they go right, so that neighbours share operands.
    pid = tl.program_id(0)
    rows, columns = tl.cdiv(m, BM), tl.cdiv(n, BN)
    first = pid // (GROUP * columns) * GROUP
    height = min(rows - first, GROUP)
    i = first + pid % (GROUP * columns) % height
    j = pid % (GROUP * columns) // height

    row = i * BM + tl.arange(0, BM)
    column = j * BN + tl.arange(0, BN)
    inner = tl.arange(0, BK)
    a_at = a + row[:, None] * stride_a + inner[None, :]
    b_at = b + inner[:, None] * stride_b + column[None, :]
    integer: tl.constexpr = a.dtype.element_ty == tl.int8
    total: tl.constexpr = tl.int32 if integer else tl.float32
    sums = tl.zeros((BM, BN), dtype=total)
    for done in range(0, k, BK):
        a_tile = tl.load(a_at, mask=(row[:, None] < m) & (inner[None, :] < k - done), other=0)
        b_tile = tl.load(b_at, mask=(inner[:, None] < k - done) & (column[None, :] < n), other=0)
        sums = tl.dot(a_tile, b_tile, sums, input_precision="tf32", out_dtype=total)
        a_at += BK
        b_at += BK * stride_b
    c_at = c + row[:, None] * stride_c + column[None, :]
    tl.store(c_at, sums.to(c.dtype.element_ty), mask=(row[:, None] < m) & (column[None, :] < n))


@triton.jit
def matmul_split_k(a, b, c, m, n, k, stride_a, stride_b, stride_c,
                   BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLITS: tl.constexpr):
    """c[m, n] += a[m, k] b[k, n]: SPLITS blocks share a tile of c and add to it with atomics."""
    i, j, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    row = i * BM + tl.arange(0, BM)
    column = j * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(split, tl.cdiv(k, BK), SPLITS):
        inner = step * BK + tl.arange(0, BK)
        a_tile = tl.load(a + row[:, None] * stride_a + inner[None, :],
                         mask=(row[:, None] < m) & (inner[None, :] < k), other=0)
        b_tile = tl.load(b + inner[:, None] * stride_b + column[None, :],
                         mask=(inner[:, None] < k) & (column[None, :] < n), other=0)
        sums = tl.dot(a_tile, b_tile, sums)
    c_at = c + row[:, None] * stride_c + column[None, :]
    tl.atomic_add(c_at, sums, mask=(row[:, None] < m) & (column[None, :] < n))


@triton.jit
def softmax(x, y, columns, stride, BLOCK: tl.constexpr):
    """y[i, :] = softmax(x[i, :]); one block a row, BLOCK >= columns."""
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    values = tl.load(x + row * stride + column, mask=inside, other=-float("inf")).to(tl.float32)
    powers = tl.exp(values - tl.max(values, axis=0))
    result = powers / tl.sum(powers, axis=0)
    tl.store(y + row * stride + column, result.to(y.dtype.element_ty), mask=inside)


@triton.jit
def layer_norm(x, weight, bias, y, mean_out, rstd_out, columns, stride, epsilon, BLOCK: tl.constexpr):
    """y[i, :] = (x[i, :] - mean) / sqrt(variance + epsilon) * weight + bias; rows of any length, BLOCK columns at a time."""
    row = tl.program_id(0)
    x += row * stride
    y += row * stride
    sums = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        sums += tl.load(x + column, mask=column < columns, other=0).to(tl.float32)
    mean = tl.sum(sums, axis=0) / columns
    squares = tl.zeros((BLOCK,), dtype=tl.float32)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        value = tl.load(x + column, mask=column < columns, other=0).to(tl.float32)
        away = tl.where(column < columns, value - mean, 0.0)
        squares += away * away
    rstd = 1 / tl.sqrt(tl.sum(squares, axis=0) / columns + epsilon)
    tl.store(mean_out + row, mean)
    tl.store(rstd_out + row, rstd)
    for first in range(0, columns, BLOCK):
        column = first + tl.arange(0, BLOCK)
        inside = column < columns
        value = tl.load(x + column, mask=inside, other=0).to(tl.float32)
        w = tl.load(weight + column, mask=inside, other=0).to(tl.float32)
        b = tl.load(bias + column, mask=inside, other=0).to(tl.float32)
        tl.store(y + column, ((value - mean) * rstd * w + b).to(y.dtype.element_ty), mask=inside)


@triton.jit
def attention(q, k, v, out, tokens, scale_log2,
              HEAD: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
    """Causal attention over [heads, tokens, HEAD] without the score matrix: a running maximum and sum for each query."""
    first = tl.program_id(0) * BM
    base = tl.program_id(1) * tokens * HEAD
    query = first + tl.arange(0, BM)
    feature = tl.arange(0, HEAD)
    q_tile = tl.load(q + base + query[:, None] * HEAD + feature[None, :], mask=query[:, None] < tokens, other=0)
    most = tl.full((BM,), -float("inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    sums = tl.zeros((BM, HEAD), dtype=tl.float32)
    for start in range(0, first + BM, BN):
        key = start + tl.arange(0, BN)
        k_tile = tl.load(k + base + key[None, :] * HEAD + feature[:, None], mask=key[None, :] < tokens, other=0)
        scores = tl.dot(q_tile, k_tile) * scale_log2
        visible = (query[:, None] >= key[None, :]) & (key[None, :] < tokens)
        scores = tl.where(visible, scores, -float("inf"))
        now = tl.maximum(most, tl.max(scores, axis=1))
        # Every query sees key 0, so `now` is finite from the first tile on.
        shrink = tl.exp2(most - now)
        powers = tl.exp2(scores - now[:, None])
        total = total * shrink + tl.sum(powers, axis=1)
        v_tile = tl.load(v + base + key[:, None] * HEAD + feature[None, :], mask=key[:, None] < tokens, other=0)
        sums = tl.dot(powers.to(v_tile.dtype), v_tile, sums * shrink[:, None])
        most = now
    sums = sums / total[:, None]
    tl.store(out + base + query[:, None] * HEAD + feature[None, :], sums.to(out.dtype.element_ty),
             mask=query[:, None] < tokens)


@triton.jit
def matmul_columns(a, b, c, m, n, k, stride_a, stride_b, stride_c,
                   BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c[m, n] = a[m, k] b[n, k]^T; operands of 8 bits must both run along k."""
    row = tl.program_id(0) * BM + tl.arange(0, BM)
    column = tl.program_id(1) * BN + tl.arange(0, BN)
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        inner = start + tl.arange(0, BK)
        a_tile = tl.load(a + row[:, None] * stride_a + inner[None, :],
                         mask=(row[:, None] < m) & (inner[None, :] < k), other=0.0)
        b_tile = tl.load(b + column[None, :] * stride_b + inner[:, None],
                         mask=(column[None, :] < n) & (inner[:, None] < k), other=0.0)
        sums = tl.dot(a_tile, b_tile, sums)
    tl.store(c + row[:, None] * stride_c + column[None, :], sums.to(c.dtype.element_ty),
             mask=(row[:, None] < m) & (column[None, :] < n))


@triton.jit
def matmul_tensor_maps(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c[m, n] = a[m, k] b[n, k]^T through tensor maps that the host encodes."""
    i, j = tl.program_id(0) * BM, tl.program_id(1) * BN
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        sums = tl.dot(a.load([i, start]), b.load([j, start]).T, sums)
    c.store([i, j], sums.to(c.dtype))


@triton.jit
def matmul_persistent(a, b, c, m, n, k,
                      BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BLOCKS: tl.constexpr):
    """c[m, n] = a[m, k] b[k, n] through tensor maps; BLOCKS blocks take all tiles in turns."""
    rows, columns = tl.cdiv(m, BM), tl.cdiv(n, BN)
    for tile in tl.range(tl.program_id(0), rows * columns, BLOCKS, flatten=True):
        i, j = tile // columns * BM, tile % columns * BN
        sums = tl.zeros((BM, BN), dtype=tl.float32)
        for start in range(0, k, BK):
            sums = tl.dot(a.load([i, start]), b.load([start, j]), sums)
        c.store([i, j], sums.to(c.dtype))


@triton.jit
def matmul_made_maps(a, b, c, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """c[m, n] = a[m, k] b[k, n] through tensor maps that each block makes for itself."""
    a_map = tl.make_tensor_descriptor(a, [m, k], [k, 1], [BM, BK])
    b_map = tl.make_tensor_descriptor(b, [k, n], [n, 1], [BK, BN])
    c_map = tl.make_tensor_descriptor(c, [m, n], [n, 1], [BM, BN])
    i, j = tl.program_id(0) * BM, tl.program_id(1) * BN
    sums = tl.zeros((BM, BN), dtype=tl.float32)
    for start in range(0, k, BK):
        sums = tl.dot(a_map.load([i, start]), b_map.load([start, j]), sums)
    c_map.store([i, j], sums.to(c_map.dtype))
