"""`gptq_block` on the CPU: a compiled loop that takes a tile of rows through all columns; threads share the tiles."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saffron_kernels.compiled import compiled
from saffron_kernels.threads import over_rows

_Array = npt.NDArray[Any]
_TILE = 64
"""Rows that are done at once."""
_CHUNK = 4
"""Columns whose errors are taken out of all later ones together, so that those are read and written once for four."""
_WORTH_A_THREAD = 512 * 128 * 128
"""Rows times columns squared: some 0.3 ms of work."""


def gptq_block_rows(  # noqa: PLR0917 - the signature that every kernel of this stem has
    W: Tensor, U: Tensor, scale: Tensor, zero: Tensor | None, group_of_column: Tensor, qmin: int, qmax: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Codes, dequantized weights and errors, as `gptq_block` gives them."""
    zeros = torch.zeros_like(scale) if zero is None else zero
    dequantized = W.mT.clone(memory_format=torch.contiguous_format)
    codes, error = torch.empty_like(dequantized, dtype=torch.int8), torch.empty_like(dequantized)
    for item in range(W.shape[0]):
        inputs = [tensor[item].contiguous().numpy() for tensor in (U, scale.mT, zeros.mT, group_of_column)]
        outputs = [tensor[item].numpy() for tensor in (dequantized, codes, error)]
        _share_rows(inputs, qmin, qmax, outputs)
    return codes.mT, dequantized.mT, error.mT


def _share_rows(inputs: list[_Array], qmin: int, qmax: int, outputs: list[_Array]) -> None:
    """Share the rows among torch's number of threads. Rows are independent, so the split changes no bit."""
    U, scale, zeros, groups = inputs
    work, codes, error = outputs
    columns, rows = work.shape

    def part(begin: int, end: int) -> None:
        _rows(work, U, scale, zeros, groups, qmin, qmax, codes, error, begin, end)

    over_rows(rows, part, least=_WORTH_A_THREAD // columns**2)


@compiled(
    "void(f4[:, ::1], f4[:, ::1], f4[:, ::1], f4[:, ::1], i4[::1], i8, i8, i1[:, ::1], f4[:, ::1], i8, i8)",
)
def _rows(  # noqa: PLR0917, C901, PLR0912 - numba compiles positional parameters only, and one function is one loop nest
    work: _Array,
    U: _Array,
    scale: _Array,
    zeros: _Array,
    groups: _Array,
    qmin: int,
    qmax: int,
    codes: _Array,
    error: _Array,
    begin: int,
    end: int,
) -> None:
    """The loop over rows begin..end - 1; `work`, [C, R], begins as the weights and ends dequantized.

    Rows lie side by side in memory, so each step is done for a tile of them by vector instructions. A tile is copied
    to a place where its columns follow each other closely, and so stays in the processor's nearest caches. Places are
    unsigned where numba can't see that they are not negative: it would look at each one, and gather.
    """
    columns = len(work)
    tile = np.zeros((columns, _TILE), np.float32)
    tile_codes = np.zeros((columns, _TILE), np.int8)
    tile_error = np.zeros((columns, _TILE), np.float32)
    s, z = np.ones(_TILE, np.float32), np.zeros(_TILE, np.float32)
    lowest, highest = np.float32(qmin), np.float32(qmax)
    for top in range(begin, end, _TILE):
        count = min(_TILE, end - top)
        for column in range(columns):
            for row in range(count):
                tile[column, row] = work[column, np.uint64(top + row)]
        for first in range(0, columns, _CHUNK):
            last = min(first + _CHUNK, columns)
            for column in range(first, last):
                group, diagonal = groups[column], U[column, column]
                for row in range(count):
                    s[row] = scale[group, np.uint64(top + row)]
                    z[row] = zeros[group, np.uint64(top + row)]
                w, e = tile[column], tile_error[column]
                for row in range(_TILE):
                    code = np.rint(w[row] / s[row]) + z[row]
                    code = min(max(code, lowest), highest)
                    q = (code - z[row]) * s[row]
                    e[row] = (w[row] - q) / diagonal
                    tile_codes[column, row] = np.int8(code)
                    w[row] = q
                for later in range(column + 1, last):
                    u, v = U[column, later], tile[later]
                    for row in range(_TILE):
                        v[row] -= e[row] * u
            for later in range(last, columns):
                v = tile[later]
                e0, e1, e2, e3 = tile_error[first], tile_error[first + 1], tile_error[first + 2], tile_error[first + 3]
                u0, u1, u2, u3 = U[first, later], U[first + 1, later], U[first + 2, later], U[first + 3, later]
                for row in range(_TILE):
                    v[row] = (((v[row] - e0[row] * u0) - e1[row] * u1) - e2[row] * u2) - e3[row] * u3
        for column in range(columns):
            for row in range(count):
                work[column, np.uint64(top + row)] = tile[column, row]
                codes[column, np.uint64(top + row)] = tile_codes[column, row]
                error[column, np.uint64(top + row)] = tile_error[column, row]
