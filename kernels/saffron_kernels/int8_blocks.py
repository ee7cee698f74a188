"""Int8 products in compiled loops: a block of exact sums at a time, scaled while it is in the cache."""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
from numba import carray, njit

from saffron_kernels import int8_product as at
from saffron_kernels import openmp
from saffron_kernels.compiled_floats import pointer, store_floats
from saffron_kernels.dot_tile import ACROSS, AVX2, VNNI, compile_tile
from saffron_kernels.int8_product import SIGNED, Blocks, prepare_together
from saffron_kernels.openmp import ITEMS, take

_ROWS, _COLUMNS = 192, 128
"""A block of sums: what a thread does before it takes the next. Multiples of a tile's 6 or 3 rows and of its 4."""
_VNNI_SUMMED = 4096
"""Elements of a row after which a block starts over, so that a tile's ten rows stay in the nearest cache."""
_AVX2_SUMMED = 1024
"""The same for rows that are widened to int16."""
_VNNI_ROWS, _AVX2_ROWS, _AVX2_LANES = VNNI.rows, AVX2.rows, AVX2.lanes
_vnni_tile, _avx2_tile = compile_tile(VNNI), compile_tile(AVX2)


@openmp.ahead_of_time("avx512vnni")
def _vnni_blocks(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    sums = np.empty((_ROWS, _COLUMNS), np.int32)
    row = np.empty(_COLUMNS, np.float32)
    prepare_together(a, SIGNED)
    x_sums = carray(pointer(a[at.X_SUMS]), (a[at.M],), np.int32)
    item = take(a)
    while item < a[ITEMS]:
        m, n = item % a[at.ROW_BLOCKS] * _ROWS, item // a[at.ROW_BLOCKS] * _COLUMNS
        _vnni_block(a, m, n, sums, x_sums[m : m + _ROWS])
        _scale_block(a, m, n, sums, row)
        item = take(a)


@njit(nogil=True)
def _vnni_block(a: Any, m: int, n: int, sums: Any, x_sums: Any) -> None:
    """The products of up to 192 rows of x with up to 128 of w."""
    K, rows, across = a[at.K], min(a[at.M] - m, _ROWS), min(a[at.N] - n, _COLUMNS)
    stride = a[at.X_STRIDE]
    for k in range(0, K, _VNNI_SUMMED):
        columns = min(K - k, _VNNI_SUMMED)
        for i in range(0, rows, _VNNI_ROWS):
            x = a[at.X] + (m + i) * stride + k
            for j in range(0, across, ACROSS):
                w = a[at.W] + (n + j) * K + k
                place = sums.ctypes.data + (i * _COLUMNS + j) * 4
                _vnni_tile(x, rows - i - 1, stride, w, across - j - 1, K, columns, place, _COLUMNS * 4, k)
    # The tiles have multiplied by w + 128, so 128 times the sum of x is too much.
    for i in range(rows):
        for j in range(across):
            sums[i, j] = np.int32(sums[i, j] - (x_sums[i] << np.int32(7)))


@njit(nogil=True)
def _scale_block(a: Any, m: int, n: int, sums: Any, row: Any) -> None:
    """Scale a block of sums and write it out."""
    rows, across = min(a[at.M] - m, _ROWS), min(a[at.N] - n, _COLUMNS)
    scale = carray(pointer(a[at.X_SCALE]), (a[at.M],), np.float32)
    weight_scale = carray(pointer(a[at.W_SCALE] + n * 4), (across,), np.float32)
    out = row[:across]
    for i in range(rows):
        s = scale[m + i]
        for j in range(across):
            out[j] = np.float32(sums[i, j]) * s * weight_scale[j]
        if a[at.BIAS]:
            bias = carray(pointer(a[at.BIAS] + n * 4), (across,), np.float32)
            for j in range(across):
                out[j] += bias[j]
        store_floats(out, a[at.OUT] + ((m + i) * a[at.N] + n) * a[at.BYTES], a[at.KIND])


@openmp.ahead_of_time("avx2")
def _avx2_blocks(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    sums = np.empty((_ROWS, _COLUMNS), np.int32)
    row = np.empty(_COLUMNS, np.float32)
    x = np.empty((_AVX2_ROWS, _AVX2_SUMMED), np.int16)
    w = np.empty((_COLUMNS, _AVX2_SUMMED), np.int16)
    prepare_together(a, SIGNED)
    item = take(a)
    while item < a[ITEMS]:
        m, n = item % a[at.ROW_BLOCKS] * _ROWS, item // a[at.ROW_BLOCKS] * _COLUMNS
        _avx2_block(a, m, n, sums, x, w)
        _scale_block(a, m, n, sums, row)
        item = take(a)


@njit(nogil=True)
def _avx2_block(  # noqa: PLR0917 - numba has positional parameters only
    a: Any, m: int, n: int, sums: Any, x: Any, w: Any
) -> None:
    """The products of up to 192 rows of x with up to 128 of w, a part of the columns at a time widened to int16."""
    K, rows, across = a[at.K], min(a[at.M] - m, _ROWS), min(a[at.N] - n, _COLUMNS)
    stride = _AVX2_SUMMED * 2
    for k in range(0, K, _AVX2_SUMMED):
        columns = min(K - k, _AVX2_SUMMED)
        padded = -(-columns // _AVX2_LANES) * _AVX2_LANES
        _widen(a[at.W] + n * K + k, across, K, columns, w)
        for i in range(0, rows, _AVX2_ROWS):
            _widen(a[at.X] + (m + i) * a[at.X_STRIDE] + k, min(rows - i, _AVX2_ROWS), a[at.X_STRIDE], columns, x)
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


VNNI_BLOCKS, AVX2_BLOCKS = (Blocks(body, _ROWS, _COLUMNS) for body in (_vnni_blocks, _avx2_blocks))
