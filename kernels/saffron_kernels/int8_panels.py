"""Int8 products of many rows of x in compiled loops: rows of w are packed a panel at a time, which all rows share."""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import torch
from numba import carray, njit

from saffron_kernels import int8_product as at
from saffron_kernels import openmp
from saffron_kernels.compiled_floats import pointer
from saffron_kernels.int8_product import UNSIGNED, Blocks, prepare, prepare_together
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.panel_tile import LANES, PANEL, STEP, VECTOR, pack, panel_tile

FEWEST = 96
"""Rows of x from which on it pays to pack w."""
_FEWEST_OWN = 64
"""Rows of x for each thread from which on it may pay to pack all of w in each."""
_MOST_OWN = 1 << 21
"""The most weights that each thread packs for itself: they come from a cache, and not from memory as often."""
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
    blocks, block_rows = a[at.ROW_BLOCKS], _block_rows(a)
    memory = _memory(a, block_rows)
    prepare_together(a, UNSIGNED)
    item = take(a)
    while item < a[ITEMS]:
        m, n = item % blocks * block_rows, item // blocks * PANEL
        _multiply(a, m, n, min(a[at.M] - m, block_rows), memory)
        item = take(a)


@openmp.ahead_of_time("avx512vnni")
def _own_rows(data: Any) -> None:
    """Each thread prepares the rows that it multiplies with all of w, so that it waits for no other."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    block_rows = _block_rows(a)
    memory, row = _memory(a, block_rows), np.empty(a[at.K], np.float32)
    item = take(a)
    while item < a[ITEMS]:
        m = item * block_rows
        rows = min(a[at.M] - m, block_rows)
        if rows > 0:
            prepare(a, m, m + rows, row, UNSIGNED)
            for n in range(0, a[at.N], PANEL):
                _multiply(a, m, n, rows, memory)
        item = take(a)


@njit(nogil=True)
def _block_rows(a: Any) -> Any:
    return -(-a[at.M] // (a[at.ROW_BLOCKS] * _SMALL_TILE)) * _SMALL_TILE


@njit(nogil=True)
def _memory(a: Any, block_rows: int) -> Any:
    """What a thread works in: a panel, its scales, biases and sums of w, a block of sums, a tile of last columns."""
    memory = np.empty(_columns(a) * PANEL + VECTOR, np.uint8)
    panel = memory[-memory.ctypes.data % VECTOR :]
    across, sums = np.zeros((3, PANEL), np.float32), np.empty((block_rows, PANEL), np.int32)
    return panel, across, sums, np.empty((_TILE, PANEL), np.float32)


@njit(nogil=True)
def _columns(a: Any) -> Any:
    """Columns of a panel."""
    return -(-a[at.K] // (-(-a[at.K] // _SUMMED) * VECTOR)) * VECTOR


@njit(nogil=True)
def _multiply(a: Any, m: int, n: int, rows: int, memory: Any) -> None:
    """The products of rows of x with a panel."""
    panel, across, sums, ragged = memory
    K, columns = a[at.K], _columns(a)
    _take_across(a, n, across)
    for k in range(0, K, columns):
        own = min(K - k, columns)
        _pack_panel(a, n, k, own, panel, across)
        _multiply_panel(a, m, n, k, own, rows, panel, sums, across, ragged)


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
    across[2] = np.float32(0)


@njit(nogil=True)
def _pack_panel(a: Any, n: int, k: int, columns: int, panel: Any, across: Any) -> None:  # noqa: PLR0917 - numba has positional parameters only
    K, last = a[at.K], a[at.N] - n - 1
    for begin in range(0, columns, VECTOR):
        for r in range(0, PANEL, LANES):
            first = min(r, last)
            w, into = a[at.W] + (n + first) * K + k + begin, panel.ctypes.data + begin * PANEL + r * STEP
            pack(w, last - first, K, min(columns - begin, VECTOR), into, across.ctypes.data + (2 * PANEL + r) * 4)


@njit(nogil=True)
def _multiply_panel(  # noqa: PLR0917 - numba has positional parameters only
    a: Any, m: int, n: int, k: int, columns: int, rows: int, panel: Any, sums: Any, across: Any, ragged: Any
) -> None:
    """The products of rows of x with a panel, written if these are the last columns."""
    # Addresses, since to make views of arrays for each tile takes longer than to scale it.
    w, weight_scale, spare = panel.ctypes.data, across.ctypes.data, ragged.ctypes.data
    kind, size, count = a[at.KIND], a[at.BYTES], min(a[at.N] - n, PANEL)
    x_stride, stride, whole = a[at.X_STRIDE], a[at.N] * size, count == PANEL
    line, steps, finish, i = stride if whole else PANEL * size, -(-columns // STEP), k + columns == a[at.K], 0
    while i < rows:
        x, place, last = a[at.X] + (m + i) * x_stride + k, sums.ctypes.data + i * PANEL * 4, rows - i - 1
        out, scale = a[at.OUT] + ((m + i) * a[at.N] + n) * size, a[at.X_SCALE] + (m + i) * 4
        into = out if whole else spare
        tile = _TILE if last >= _TILE - _SMALL_TILE else _SMALL_TILE
        if tile == _TILE:
            panel_tile(_TILE, x, last, x_stride, w, steps, place, k, finish, kind, scale, weight_scale, into, line)
        else:
            panel_tile(
                _SMALL_TILE, x, last, x_stride, w, steps, place, k, finish, kind, scale, weight_scale, into, line
            )
        if finish and not whole:
            for row in range(min(last + 1, tile)):
                _copy(spare + row * line, out + row * stride, count * size)
        i += tile


@njit(nogil=True)
def _copy(source: int, into: int, size: int) -> None:
    read, written = carray(pointer(source), (size,), np.uint8), carray(pointer(into), (size,), np.uint8)
    for j in range(size):
        written[j] = read[j]


_PANELS, _OWN_ROWS = Blocks(_panels, _ROWS, PANEL), Blocks(_own_rows, _ROWS, None)


def panels(M: int, N: int, K: int) -> Blocks:
    """The faster of two ways to share the work, for at least `FEWEST` rows of x.

    To read codes that another thread has written takes long, above all from another part of the processor. Where there
    are many of them beside few output channels, to pack all of w takes less.
    """
    own = _FEWEST_OWN * torch.get_num_threads() <= M and N <= 2 * M and N * K <= _MOST_OWN
    return _OWN_ROWS if own else _PANELS
