"""Int8 products of many rows of x in compiled loops: rows of w are packed a panel at a time, which all rows of x share.

Tokens may come as floats: they are quantized in the same loop, as `quantize_per_token` does it, before any is
multiplied. A small layer is multiplied so fast that to start threads twice would be seen.
"""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BFLOAT16, BYTES, FLOAT16, FLOAT32, KINDS, pointer
from saffron_kernels.openmp import ITEMS, take, wait
from saffron_kernels.panel_tile import LANES, PANEL, STEP, VECTOR, pack, panel_tile, scale_tile
from saffron_kernels.quantize_per_token_cpu import quantize_token

_FIELDS = range(openmp.FIRST, openmp.FIRST + 18)
(
    _M, _N, _K, _X, _X_STRIDE, _X_SCALE, _X_SUMS, _W, _W_SCALE, _BIAS, _OUT, _KIND, _BYTES, _ROW_BLOCKS, _FLOATS,
    _FLOAT_KIND, _BARRIER, _NEXT_TOKEN,
) = _FIELDS  # fmt: skip
FEWEST = 96
"""Rows of x from which on it pays to pack w."""
_ROWS = 516
"""The most rows of x that are multiplied with a panel before the next is packed: with their sums they stay in the
second cache."""
_SUMMED = 704
"""The most columns of a panel, so that with a tile's rows of x it stays in the nearest cache."""
_TILE, _SMALL_TILE = 6, 2
"""Rows of x in a tile, and in those of the last rows."""
_TOKENS = 8
"""Tokens that a thread prepares before it takes the next ones."""


def panel_gemm(  # noqa: PLR0917 - what every way of w8a8_gemm_cpu takes
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """`w8a8_gemm` by instructions that multiply bytes and sum in int32 (AVX512_VNNI)."""
    if codes.shape[1] % STEP:
        codes = torch.nn.functional.pad(codes, (0, -codes.shape[1] % STEP))
    codes, scale, sums = codes.contiguous(), scale.contiguous(), torch.empty(len(codes), dtype=torch.int32)
    x = codes.data_ptr(), codes.shape[1], scale.data_ptr(), sums.data_ptr()
    return _run(len(codes), x, weight, weight_scale, bias, out_dtype, (0, 0))


def panel_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None) -> Tensor:
    """`w8a8_linear` by the same instructions."""
    x = x.contiguous()
    M, K = x.shape
    stride = -(-K // STEP) * STEP
    # One piece of memory, since to ask torch for it takes as long as to quantize some tokens.
    memory = torch.empty(M * (stride + 8), dtype=torch.int8)
    codes = memory.data_ptr()
    into = codes, stride, codes + M * stride, codes + M * (stride + 4)
    return _run(M, into, weight, weight_scale, bias, x.dtype, (x.data_ptr(), KINDS[x.dtype]))


def _run(  # noqa: PLR0917 - as above
    M: int,
    x: tuple[int, int, int, int],
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
    floats: tuple[int, int],
) -> Tensor:
    """Multiply.

    Args:
        M: rows of x.
        x: addresses of codes, with bytes a row, of scales and of what their sums are written to.
        weight: [N, K].
        weight_scale: [N, 1].
        bias: [N] or None.
        out_dtype: of the product.
        floats: address and kind of tokens whose codes and scales are still to be written; or 0.
    """
    (N, K), kind = weight.shape, KINDS[out_dtype]
    weight, weight_scale = weight.contiguous(), weight_scale.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    out = torch.empty(M, N, dtype=out_dtype)  # as numbers: torch takes longer to read a tuple
    panels, blocks = -(-N // PANEL), -(-M // _ROWS)
    openmp.run(
        openmp.compile_loop(_panels),
        panels * blocks,
        *(M, N, K, *x, weight.data_ptr(), weight_scale.data_ptr(), 0 if bias is None else bias.data_ptr()),
        *(out.data_ptr(), kind, BYTES[kind], blocks, *floats, openmp.barrier(), 0),
    )
    return out


@openmp.ahead_of_time("avx512vnni")
def _panels(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    K, blocks = a[_K], a[_ROW_BLOCKS]
    block_rows = -(-a[_M] // (blocks * _TILE)) * _TILE
    columns = -(-K // (-(-K // _SUMMED) * VECTOR)) * VECTOR
    memory = np.empty(columns * PANEL + VECTOR, np.uint8)
    panel = memory[-memory.ctypes.data % VECTOR :]
    sums, ragged = np.empty((block_rows, PANEL), np.int32), np.empty((_TILE, PANEL), np.float32)
    across = np.zeros((2, PANEL), np.float32)
    _prepare_tokens(a)
    wait(a[_BARRIER])
    item = take(a)
    while item < a[ITEMS]:
        m, n = item % blocks * block_rows, item // blocks * PANEL
        rows = min(a[_M] - m, block_rows)
        _take_across(a, n, across)
        for k in range(0, K, columns):
            own = min(K - k, columns)
            _pack_panel(a, n, k, own, panel)
            _multiply_panel(a, m, n, k, own, rows, panel, sums, across, ragged)
        item = take(a)


@njit(nogil=True)
def _prepare_tokens(a: Any) -> None:
    """Quantize tokens that are given as floats, and add up the codes of each."""
    M, K, stride = a[_M], a[_K], a[_X_STRIDE]
    row = np.empty(K, np.float32)
    scale = carray(pointer(a[_X_SCALE]), (M,), np.float32)
    sums = carray(pointer(a[_X_SUMS]), (M,), np.int32)
    first = take(a[_NEXT_TOKEN:]) * _TOKENS
    while first < M:
        for m in range(first, min(first + _TOKENS, M)):
            codes = carray(pointer(a[_X] + m * stride), (stride,), np.int8)
            if a[_FLOATS]:
                place = a[_FLOATS] + m * K * BYTES[a[_FLOAT_KIND]]
                scale[m] = quantize_token(place, a[_FLOAT_KIND], row, codes)
                codes[K:] = 0
            total = np.int32(0)
            for k in range(stride):
                total += np.int32(codes[k])
            sums[m] = total
        first = take(a[_NEXT_TOKEN:]) * _TOKENS


@njit(nogil=True)
def _take_across(a: Any, n: int, across: Any) -> None:
    """The scales and biases of the output channels from n on."""
    count = min(a[_N] - n, PANEL)
    scale = carray(pointer(a[_W_SCALE] + n * 4), (count,), np.float32)
    for j in range(count):
        across[0, j] = scale[j]
    # Asked once, not for each number: that would be a masked load from address 0, for which the processor takes longer
    # than for some rows of a tile.
    if a[_BIAS]:
        bias = carray(pointer(a[_BIAS] + n * 4), (count,), np.float32)
        for j in range(count):
            across[1, j] = bias[j]
    else:
        across[1] = np.float32(-0.0)  # adding it changes nothing; 0 would make -0 another number


@njit(nogil=True)
def _pack_panel(a: Any, n: int, k: int, columns: int, panel: Any) -> None:
    K, last = a[_K], a[_N] - n - 1
    for at in range(0, columns, VECTOR):
        for r in range(0, PANEL, LANES):
            first = min(r, last)
            w, into = a[_W] + (n + first) * K + k + at, panel.ctypes.data + at * PANEL + r * STEP
            pack(w, last - first, K, min(columns - at, VECTOR), into)


@njit(nogil=True)
def _multiply_panel(  # noqa: PLR0917 - numba has positional parameters only
    a: Any, m: int, n: int, k: int, columns: int, rows: int, panel: Any, sums: Any, across: Any, ragged: Any
) -> None:
    """The products of rows of x with a panel, written if these are the last columns."""
    # Addresses, since to make views of arrays for each tile takes longer than to scale it.
    w, scale, spare = panel.ctypes.data, across.ctypes.data, ragged.ctypes.data
    stride, steps, i = a[_X_STRIDE], -(-columns // STEP), 0
    while i < rows:
        x, into, last = a[_X] + (m + i) * stride + k, sums.ctypes.data + i * PANEL * 4, rows - i - 1
        tile = _TILE if last >= _TILE - _SMALL_TILE else _SMALL_TILE
        if tile == _TILE:
            panel_tile(_TILE, x, last, stride, w, steps, into, k)
        else:
            panel_tile(_SMALL_TILE, x, last, stride, w, steps, into, k)
        if k + columns == a[_K]:
            _write_tile(a, m + i, n, min(last + 1, tile), into, scale, spare)
        i += tile


@njit(nogil=True)
def _write_tile(  # noqa: PLR0917 - as above
    a: Any, m: int, n: int, rows: int, sums: int, across: int, spare: int
) -> None:
    kind, size, count = a[_KIND], a[_BYTES], min(a[_N] - n, PANEL)
    scale, x_sums = a[_X_SCALE] + m * 4, a[_X_SUMS] + m * 4
    out, stride = a[_OUT] + (m * a[_N] + n) * size, a[_N] * size
    into, line = (out, stride) if count == PANEL else (spare, PANEL * size)
    if kind == BFLOAT16:
        scale_tile(BFLOAT16, rows, sums, x_sums, scale, across, into, line)
    elif kind == FLOAT16:
        scale_tile(FLOAT16, rows, sums, x_sums, scale, across, into, line)
    else:
        scale_tile(FLOAT32, rows, sums, x_sums, scale, across, into, line)
    if count < PANEL:
        for i in range(rows):
            to = carray(pointer(out + i * stride), (count * size,), np.uint8)
            written = carray(pointer(spare + i * line), (count * size,), np.uint8)
            for j in range(count * size):
                to[j] = written[j]
