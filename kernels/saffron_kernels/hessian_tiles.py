"""Xᵀ X by tiles of products that are made for the processor, the tiles of the lower triangle alone.

bfloat16 tokens go to the processor's own bfloat16 products, where it has them: they are exact and summed in float32, so
that is the sum that float32 products give, in another order.
"""

# numba has no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BYTES, KINDS, load_floats, pointer
from saffron_kernels.openmp import ITEMS, ahead_of_time, take
from saffron_kernels.outer_tile import COLUMNS, PER_STEP, ROWS, WIDTH, add_tile, pack_pairs
from saffron_kernels.tile_kinds import AVX512_BF16, TILE_KINDS

_Array = npt.NDArray[Any]
_X, _TOKENS, _COLUMNS, _KIND, _BYTES, _PACKED = range(openmp.FIRST, openmp.FIRST + 6)
_PANELS, _STEPS, _SIDE, _SUMS, _STRIDE = range(openmp.FIRST, openmp.FIRST + 5)

_AT_ONCE = 1024
"""Tokens that are laid out at once: a panel's 48 columns of them stay in the second-level cache."""
_SUMMED = 128
"""Tokens that a tile sums by themselves: a panel's columns of so many stay in the nearest cache, and the error of a
long sum grows with the length of its parts and their number, not with its own length."""

_READ = 16
"""Tokens that a thread lays out before it takes the next ones: read along the rows, as they lie."""


def add_lower_by_tiles(x: Tensor, gram: Tensor, kind: int) -> None:
    """Add xᵀ x to the lower triangle of a matrix, in place.

    Blocks are shared among torch's threads; each is summed by one of them in the order of the tokens, so the number of
    threads changes no bit.

    Args:
        x: [N, d] bfloat16, float16 or float32.
        gram: [d, d] float32.
        kind: of the tiles (`tile_kinds`).
    """
    if gram.stride(1) != 1:
        summed = torch.zeros(gram.shape)
        add_lower_by_tiles(x, summed, kind)
        gram += summed
        return
    panels = -(-x.shape[1] // COLUMNS)
    # One piece of memory for all of them, since each new one costs the system's time for its pages.
    packed = torch.empty(panels, -(-min(len(x), _AT_ONCE) // PER_STEP[kind]), COLUMNS)
    for begin in range(0, len(x), _AT_ONCE):
        _add_tokens(x[begin : begin + _AT_ONCE].contiguous(), gram, packed, kind)


def _add_tokens(x: Tensor, gram: Tensor, packed: Tensor, kind: int) -> None:
    """Add so many tokens, [N, d], that their panels stay in the cache, given room for these."""
    panels, steps = len(packed), -(-len(x) // PER_STEP[kind])
    float_kind = KINDS[x.dtype]
    pack, items = (_pack_pairs, panels) if kind == AVX512_BF16 else (_pack_floats, -(-len(x) // _READ))
    openmp.run(
        openmp.compile_loop(pack),
        items,
        *(x.data_ptr(), *x.shape, float_kind, BYTES[float_kind], packed.data_ptr()),
    )
    openmp.run(
        openmp.compile_loop(_BLOCKS[kind]),
        panels * (panels + 1) // 2,
        *(packed.data_ptr(), steps, x.shape[1], gram.data_ptr(), gram.stride(0)),
    )


@ahead_of_time()
def _pack_pairs(data: Any) -> None:
    """Lay out panels of bfloat16, [panels, pairs, columns]."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    tokens = a[_TOKENS]
    bits = carray(pointer(a[_X]), (tokens, a[_COLUMNS]), np.uint16)
    packed = carray(pointer(a[_PACKED]), (a[ITEMS], (tokens + 1) // 2, COLUMNS), np.uint32)
    panel = take(a)
    while panel < a[ITEMS]:
        pack_pairs(bits, panel * COLUMNS, packed[panel])
        panel = take(a)


@ahead_of_time()
def _pack_floats(data: Any) -> None:
    """Lay out some tokens in float32, [panels, tokens, columns]. What lies beyond the last column stays as it is."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    tokens, side = a[_TOKENS], a[_COLUMNS]
    packed = carray(pointer(a[_PACKED]), (-(-side // COLUMNS), tokens, COLUMNS), np.float32)
    item = take(a)
    while item < a[ITEMS]:
        for panel in range(len(packed)):
            begin = panel * COLUMNS
            width = min(side - begin, COLUMNS)
            for token in range(item * _READ, min((item + 1) * _READ, tokens)):
                load_floats(a[_X] + (token * side + begin) * a[_BYTES], a[_KIND], packed[panel, token, :width])
        item = take(a)


def _blocks(kind: int) -> Any:
    """The loop with tiles of a kind, which numba's cache tells apart."""
    height, width, summed = ROWS[kind], WIDTH[kind], _SUMMED // PER_STEP[kind]

    def blocks(data: Any) -> None:
        """Add blocks of 48 by 48, counted down the columns of the lower triangle of blocks."""
        a = carray(data, (openmp.ARGUMENTS,), np.int64)
        side, steps = a[_SIDE], a[_STEPS]
        panels = -(-side // COLUMNS)
        block = np.empty((COLUMNS, COLUMNS), np.float32)  # one that reaches over the diagonal or the last row
        item = take(a)
        while item < a[ITEMS]:
            left = 0
            while item >= panels - left:
                item -= panels - left
                left += 1
            top = left + item
            inside = top > left and (top + 1) * COLUMNS <= side
            into, stride = a[_SUMS] + (top * a[_STRIDE] + left) * COLUMNS * 4, a[_STRIDE]
            if not inside:
                block[:] = 0
                into, stride = block.ctypes.data, COLUMNS
            for step in range(0, steps, summed):
                count = min(steps - step, summed)
                rows = a[_PANELS] + (top * steps + step) * COLUMNS * 4
                columns = a[_PANELS] + (left * steps + step) * COLUMNS * 4
                for j in range(0, COLUMNS, width):
                    for i in range(0, min(COLUMNS, side - top * COLUMNS), height):
                        if top > left or i + height > j:
                            add_tile(kind, rows + i * 4, columns + j * 4, count, into + (i * stride + j) * 4, stride)
            if not inside:
                _add_block(a, block, top, left)
            item = take(a)

    return blocks


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _add_block(a: _Array, block: _Array, top: int, left: int) -> None:
    """Add what of a block is in the lower triangle, given the panels of its rows and columns."""
    side = a[_SIDE]
    for i in range(min(COLUMNS, side - top * COLUMNS)):
        row = top * COLUMNS + i
        sums = carray(pointer(a[_SUMS] + row * a[_STRIDE] * 4), (side,), np.float32)
        for column in range(left * COLUMNS, min((left + 1) * COLUMNS, row + 1)):
            sums[column] += block[i, column - left * COLUMNS]


_BLOCKS = tuple(ahead_of_time(*kind.needs)(_blocks(number)) for number, kind in enumerate(TILE_KINDS))
"""By kind."""
