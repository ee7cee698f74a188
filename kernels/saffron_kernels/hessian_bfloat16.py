"""Xᵀ X of bfloat16 tokens by the processor's own bfloat16 products.

They are exact and summed in float32, so this is the sum that float32 products give, in another order.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saffron_kernels.bfloat16_tile import COLUMNS, NEEDS, ROWS, add_tile, pack_pairs
from saffron_kernels.compiled import compiled
from saffron_kernels.threads import over_rows

_Array = npt.NDArray[Any]

_TOKENS = 1024
"""Tokens that are laid out at once: a panel's 48 columns of them stay in the second-level cache."""


def add_lower_of_bfloat16(x: Tensor, gram: Tensor) -> None:
    """Add xᵀ x to the lower triangle of a matrix, in place.

    Above the diagonal, only the tiles that reach over it are written. Tiles are shared among torch's threads; each is
    summed by one of them in the order of the tokens, so the number of threads changes no bit.

    Args:
        x: [N, d] bfloat16.
        gram: [d, d] float32.
    """
    if not gram.is_contiguous():
        summed = torch.zeros(gram.shape)
        add_lower_of_bfloat16(x, summed)
        gram += summed
        return
    bits = x.contiguous().view(torch.uint16).numpy()
    for begin in range(0, len(x), _TOKENS):
        _add_tokens(bits[begin : begin + _TOKENS], gram.numpy())


def _add_tokens(bits: _Array, sums: _Array) -> None:
    """Add so many tokens, [N, d], that their panels stay in the cache."""
    panels = -(-bits.shape[1] // COLUMNS)
    packed = torch.empty(panels, -(-len(bits) // 2), COLUMNS, dtype=torch.uint32).numpy()
    over_rows(panels, lambda first, last: _pack(bits, packed, first, last), least=8)
    over_rows(panels * (panels + 1) // 2, lambda first, last: _add(packed, sums, first, last), least=8)


@compiled("void(uint16[:, ::1], uint32[:, :, ::1], int64, int64)")
def _pack(bits: _Array, packed: _Array, first: int, last: int) -> None:
    """Lay out panels first..last - 1 of [N, d] in [panels, pairs, columns]."""
    for panel in range(first, last):
        pack_pairs(bits, panel * COLUMNS, packed[panel])


@compiled("void(uint32[:, :, ::1], float32[:, ::1], int64, int64)", needs=NEEDS)
def _add(packed: _Array, sums: _Array, first: int, last: int) -> None:
    """Add blocks first..last - 1 of the lower triangle, counted down the columns of blocks of 48 by 48."""
    panels, pairs = packed.shape[0], packed.shape[1]
    count, stride = sums.shape[0], sums.shape[1]
    panel_bytes = pairs * COLUMNS * 4
    edge = np.empty((ROWS, COLUMNS), np.float32)
    left, passed = 0, 0
    while passed + panels - left <= first:
        passed += panels - left
        left += 1
    top = left + first - passed
    for _ in range(first, last):
        for row in range(top * COLUMNS, min((top + 1) * COLUMNS, count), ROWS):
            column = left * COLUMNS
            rows = packed.ctypes.data + top * panel_bytes + (row - top * COLUMNS) * 4
            columns = packed.ctypes.data + left * panel_bytes
            if row + ROWS <= count and column + COLUMNS <= count:
                add_tile(rows, columns, pairs, sums.ctypes.data + (row * stride + column) * 4, stride)
                continue
            edge[:] = 0
            add_tile(rows, columns, pairs, edge.ctypes.data, COLUMNS)
            for i in range(row, min(row + ROWS, count)):
                for j in range(column, min(column + COLUMNS, count)):
                    sums[i, j] += edge[i - row, j - column]
        top += 1
        if top == panels:
            left += 1
            top = left
