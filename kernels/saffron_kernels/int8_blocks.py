"""Int8 products in compiled loops: a block of exact sums at a time, scaled while it is in the cache."""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import int8_panels, openmp
from saffron_kernels.compiled_floats import BYTES, KINDS, pointer, store_floats
from saffron_kernels.dot_tile import ACROSS, AVX2, VNNI, compile_tile
from saffron_kernels.openmp import ITEMS, take

_FIELDS = range(openmp.FIRST, openmp.FIRST + 12)
_M, _N, _K, _X, _W, _X_SCALE, _W_SCALE, _BIAS, _OUT, _KIND, _BYTES, _ROW_BLOCKS = _FIELDS
_ROWS, _COLUMNS = 192, 128
"""A block of sums: what a thread does before it takes the next. Multiples of a tile's 6 or 3 rows and of its 4."""
_VNNI_SUMMED = 4096
"""Elements of a row after which a block starts over, so that a tile's ten rows stay in the nearest cache."""
_AVX2_SUMMED = 1024
"""The same for rows that are widened to int16."""
_VNNI_ROWS, _AVX2_ROWS, _AVX2_LANES = VNNI.rows, AVX2.rows, AVX2.lanes
_vnni_tile, _avx2_tile = compile_tile(VNNI), compile_tile(AVX2)


def vnni_gemm(  # noqa: PLR0917 - what every way of w8a8_gemm_cpu takes
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """`w8a8_gemm` by instructions that multiply bytes and sum in int32 (AVX512_VNNI)."""
    if len(codes) >= int8_panels.FEWEST:
        return int8_panels.panel_gemm(codes, scale, weight, weight_scale, bias, out_dtype)
    return _gemm(openmp.compile_loop(_vnni_blocks), codes, scale, weight, weight_scale, bias, out_dtype)


def avx2_gemm(  # noqa: PLR0917 - what every way of w8a8_gemm_cpu takes
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, out_dtype: torch.dtype
) -> Tensor:
    """`w8a8_gemm` in int16, for AVX2, whose products of bytes saturate."""
    return _gemm(openmp.compile_loop(_avx2_blocks), codes, scale, weight, weight_scale, bias, out_dtype)


def _gemm(  # noqa: PLR0917 - as above
    loop: openmp.Loop,
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    (M, K), N = codes.shape, weight.shape[0]
    operands = [tensor.contiguous() for tensor in (codes, weight, scale, weight_scale)]
    bias = None if bias is None else bias.float().contiguous()
    out = torch.empty(M, N, dtype=out_dtype)
    row_blocks, kind = -(-M // _ROWS), KINDS[out_dtype]
    openmp.run(
        loop,
        row_blocks * -(-N // _COLUMNS),
        *(M, N, K),
        *(tensor.data_ptr() for tensor in operands),
        *(0 if bias is None else bias.data_ptr(), out.data_ptr()),
        *(kind, BYTES[kind], row_blocks),
    )
    return out


@openmp.ahead_of_time("avx512vnni")
def _vnni_blocks(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    sums = np.empty((_ROWS, _COLUMNS), np.int32)
    row = np.empty(_COLUMNS, np.float32)
    x_sums, known = np.empty(a[_M], np.int32), np.zeros(a[_ROW_BLOCKS], np.bool_)
    item = take(a)
    while item < a[ITEMS]:
        m, n = item % a[_ROW_BLOCKS] * _ROWS, item // a[_ROW_BLOCKS] * _COLUMNS
        own = x_sums[m : m + _ROWS]
        if not known[item % a[_ROW_BLOCKS]]:
            known[item % a[_ROW_BLOCKS]] = True
            _sum_rows(a, m, own)
        _vnni_block(a, m, n, sums, own)
        _scale_block(a, m, n, sums, row)
        item = take(a)


@njit(nogil=True)
def _sum_rows(a: Any, m: int, into: Any) -> None:
    """The sums of rows of x, which a thread needs for each block of output channels."""
    x = carray(pointer(a[_X] + m * a[_K]), (into.size, a[_K]), np.int8)
    for i in range(into.size):
        total = np.int32(0)
        for k in range(a[_K]):
            total += np.int32(x[i, k])
        into[i] = total


@njit(nogil=True)
def _vnni_block(a: Any, m: int, n: int, sums: Any, x_sums: Any) -> None:
    """The products of up to 192 rows of x with up to 128 of w."""
    K, rows, across = a[_K], min(a[_M] - m, _ROWS), min(a[_N] - n, _COLUMNS)
    for k in range(0, K, _VNNI_SUMMED):
        columns = min(K - k, _VNNI_SUMMED)
        for i in range(0, rows, _VNNI_ROWS):
            x = a[_X] + (m + i) * K + k
            for j in range(0, across, ACROSS):
                w = a[_W] + (n + j) * K + k
                place = sums.ctypes.data + (i * _COLUMNS + j) * 4
                _vnni_tile(x, rows - i - 1, K, w, across - j - 1, K, columns, place, _COLUMNS * 4, k)
    # The tiles have multiplied by w + 128, so 128 times the sum of x is too much.
    for i in range(rows):
        for j in range(across):
            sums[i, j] = np.int32(sums[i, j] - (x_sums[i] << np.int32(7)))


@njit(nogil=True)
def _scale_block(a: Any, m: int, n: int, sums: Any, row: Any) -> None:
    """Scale a block of sums and write it out."""
    rows, across = min(a[_M] - m, _ROWS), min(a[_N] - n, _COLUMNS)
    scale = carray(pointer(a[_X_SCALE]), (a[_M],), np.float32)
    weight_scale = carray(pointer(a[_W_SCALE] + n * 4), (across,), np.float32)
    out = row[:across]
    for i in range(rows):
        s = scale[m + i]
        for j in range(across):
            out[j] = np.float32(sums[i, j]) * s * weight_scale[j]
        if a[_BIAS]:
            bias = carray(pointer(a[_BIAS] + n * 4), (across,), np.float32)
            for j in range(across):
                out[j] += bias[j]
        store_floats(out, a[_OUT] + ((m + i) * a[_N] + n) * a[_BYTES], a[_KIND])


@openmp.ahead_of_time("avx2")
def _avx2_blocks(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    sums = np.empty((_ROWS, _COLUMNS), np.int32)
    row = np.empty(_COLUMNS, np.float32)
    x = np.empty((_AVX2_ROWS, _AVX2_SUMMED), np.int16)
    w = np.empty((_COLUMNS, _AVX2_SUMMED), np.int16)
    item = take(a)
    while item < a[ITEMS]:
        m, n = item % a[_ROW_BLOCKS] * _ROWS, item // a[_ROW_BLOCKS] * _COLUMNS
        _avx2_block(a, m, n, sums, x, w)
        _scale_block(a, m, n, sums, row)
        item = take(a)


@njit(nogil=True)
def _avx2_block(  # noqa: PLR0917 - numba has positional parameters only
    a: Any, m: int, n: int, sums: Any, x: Any, w: Any
) -> None:
    """The products of up to 192 rows of x with up to 128 of w, a part of the columns at a time widened to int16."""
    K, rows, across = a[_K], min(a[_M] - m, _ROWS), min(a[_N] - n, _COLUMNS)
    stride = _AVX2_SUMMED * 2
    for k in range(0, K, _AVX2_SUMMED):
        columns = min(K - k, _AVX2_SUMMED)
        padded = -(-columns // _AVX2_LANES) * _AVX2_LANES
        _widen(a[_W] + n * K + k, across, K, columns, w)
        for i in range(0, rows, _AVX2_ROWS):
            _widen(a[_X] + (m + i) * K + k, min(rows - i, _AVX2_ROWS), K, columns, x)
            for j in range(0, across, ACROSS):
                place = sums.ctypes.data + (i * _COLUMNS + j) * 4
                block = w.ctypes.data + j * stride
                _avx2_tile(
                    x.ctypes.data, rows - i - 1, stride, block, across - j - 1, stride, padded, place, _COLUMNS * 4, k
                )


@njit(nogil=True)
def _widen(address: int, rows: int, stride: int, columns: int, into: Any) -> None:
    """int8 rows as int16, with zeros after them to the next whole vector."""
    for i in range(rows):
        row = carray(pointer(address + i * stride), (columns,), np.int8)
        for k in range(columns):
            into[i, k] = row[k]
        for k in range(columns, -(-columns // _AVX2_LANES) * _AVX2_LANES):
            into[i, k] = 0
