"""Int8 products of many rows of x in compiled loops: rows of w are packed a panel at a time, which all rows share."""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
from numba import carray, njit

from saffron_kernels import int8_product as at
from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BFLOAT16, FLOAT16, FLOAT32, pointer
from saffron_kernels.int8_product import Blocks, prepare_tokens
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.panel_tile import LANES, PANEL, STEP, VECTOR, pack, panel_tile, scale_tile

FEWEST = 96
"""Rows of x from which on it pays to pack w."""
_ROWS = 516
"""The most rows of x that are multiplied with a panel before the next is packed: with their sums they stay in the
second cache."""
_SUMMED = 704
"""The most columns of a panel, so that with a tile's rows of x it stays in the nearest cache."""
_TILE, _SMALL_TILE = 6, 2
"""Rows of x in a tile, and in those of the last rows."""


@openmp.ahead_of_time("avx512vnni")
def _panels(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    K, blocks = a[at.K], a[at.ROW_BLOCKS]
    block_rows = -(-a[at.M] // (blocks * _TILE)) * _TILE
    columns = -(-K // (-(-K // _SUMMED) * VECTOR)) * VECTOR
    memory = np.empty(columns * PANEL + VECTOR, np.uint8)
    panel = memory[-memory.ctypes.data % VECTOR :]
    sums, ragged = np.empty((block_rows, PANEL), np.int32), np.empty((_TILE, PANEL), np.float32)
    across = np.zeros((2, PANEL), np.float32)
    prepare_tokens(a)
    item = take(a)
    while item < a[ITEMS]:
        m, n = item % blocks * block_rows, item // blocks * PANEL
        rows = min(a[at.M] - m, block_rows)
        _take_across(a, n, across)
        for k in range(0, K, columns):
            own = min(K - k, columns)
            _pack_panel(a, n, k, own, panel)
            _multiply_panel(a, m, n, k, own, rows, panel, sums, across, ragged)
        item = take(a)


@njit(nogil=True)
def _take_across(a: Any, n: int, across: Any) -> None:
    """The scales and biases of the output channels from n on."""
    count = min(a[at.N] - n, PANEL)
    scale = carray(pointer(a[at.W_SCALE] + n * 4), (count,), np.float32)
    for j in range(count):
        across[0, j] = scale[j]
    # Asked once, not for each number: that would be a masked load from address 0, for which the processor takes longer
    # than for some rows of a tile.
    if a[at.BIAS]:
        bias = carray(pointer(a[at.BIAS] + n * 4), (count,), np.float32)
        for j in range(count):
            across[1, j] = bias[j]
    else:
        across[1] = np.float32(-0.0)  # adding it changes nothing; 0 would make -0 another number


@njit(nogil=True)
def _pack_panel(a: Any, n: int, k: int, columns: int, panel: Any) -> None:
    K, last = a[at.K], a[at.N] - n - 1
    for begin in range(0, columns, VECTOR):
        for r in range(0, PANEL, LANES):
            first = min(r, last)
            w, into = a[at.W] + (n + first) * K + k + begin, panel.ctypes.data + begin * PANEL + r * STEP
            pack(w, last - first, K, min(columns - begin, VECTOR), into)


@njit(nogil=True)
def _multiply_panel(  # noqa: PLR0917 - numba has positional parameters only
    a: Any, m: int, n: int, k: int, columns: int, rows: int, panel: Any, sums: Any, across: Any, ragged: Any
) -> None:
    """The products of rows of x with a panel, written if these are the last columns."""
    # Addresses, since to make views of arrays for each tile takes longer than to scale it.
    w, scale, spare = panel.ctypes.data, across.ctypes.data, ragged.ctypes.data
    stride, steps, i = a[at.X_STRIDE], -(-columns // STEP), 0
    while i < rows:
        x, into, last = a[at.X] + (m + i) * stride + k, sums.ctypes.data + i * PANEL * 4, rows - i - 1
        tile = _TILE if last >= _TILE - _SMALL_TILE else _SMALL_TILE
        if tile == _TILE:
            panel_tile(_TILE, x, last, stride, w, steps, into, k)
        else:
            panel_tile(_SMALL_TILE, x, last, stride, w, steps, into, k)
        if k + columns == a[at.K]:
            _write_tile(a, m + i, n, min(last + 1, tile), into, scale, spare)
        i += tile


@njit(nogil=True)
def _write_tile(  # noqa: PLR0917 - as above
    a: Any, m: int, n: int, rows: int, sums: int, across: int, spare: int
) -> None:
    kind, size, count = a[at.KIND], a[at.BYTES], min(a[at.N] - n, PANEL)
    scale, x_sums = a[at.X_SCALE] + m * 4, a[at.X_SUMS] + m * 4
    out, stride = a[at.OUT] + (m * a[at.N] + n) * size, a[at.N] * size
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


PANELS = Blocks(_panels, _ROWS, PANEL)
