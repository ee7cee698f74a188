"""The search for scales on the CPU: many rows side by side, all candidates while the weights are in the cache."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saffron_kernels.compiled import compiled
from saffron_kernels.scale_search import CHUNK, Candidates
from saffron_kernels.threads import over_rows

_Array = npt.NDArray[Any]
_ROWS = 64
"""Rows that are done at once."""
_WORK = 1 << 21
"""Weights times candidates that are worth a thread."""
_BLOCK = 16
"""Rows and columns that are turned on their side at once, so that few lines of the cache are in use."""


def best_candidates(
    grouped: Tensor, importance: Tensor | None, tried: Candidates, *, low: int, high: int, exponent: float
) -> Tensor:
    """The number of each group's best candidate, [R, G] int64.

    Args:
        grouped: [R, G, g] float32.
        importance: [G · g] float32 or None.
        tried: [F, R, G] each.
        low: the smallest code.
        high: the largest code.
        exponent: of the errors.
    """
    rows, groups, size = grouped.shape
    weights = torch.ones(groups * size) if importance is None else importance
    # Rows lie side by side in memory, as vector instructions want them.
    scale, zero = (each.float().transpose(1, 2).contiguous().numpy() for each in tried)
    best = torch.empty(groups, rows, dtype=torch.int64)
    inputs = (grouped.contiguous().numpy(), weights.float().contiguous().numpy(), scale, zero)
    outputs = best.numpy()
    lowest, highest = np.float32(low), np.float32(high)
    over_rows(
        rows,
        lambda begin, end: _best(*inputs, lowest, highest, exponent, outputs, begin, end),
        least=_WORK // max(1, groups * size * len(scale)),
    )
    return best.T


def _best_of_rows(  # noqa: PLR0917 - numba compiles positional parameters only
    W: _Array,
    importance: _Array,
    scale: _Array,
    zero: _Array,
    low: np.float32,
    high: np.float32,
    exponent: float,
    best: _Array,
    begin: int,
    end: int,
) -> None:
    """Rows begin..end - 1 of `best`, [G, R], from W [R, G, g], importance [G · g] and candidates [F, G, R]."""
    factors, groups = scale.shape[:2]
    size = W.shape[2]
    tile = np.zeros((CHUNK, _ROWS), np.float32)
    errors = np.zeros((factors, _ROWS), np.float32)
    s, z = np.ones(_ROWS, np.float32), np.zeros(_ROWS, np.float32)
    least, found, total = np.zeros(_ROWS, np.float32), np.zeros(_ROWS, np.int32), np.zeros(_ROWS, np.float32)
    for group in range(groups):
        for first in range(begin, end, _ROWS):
            count = min(_ROWS, end - first)
            errors[:] = 0
            for column in range(0, size, CHUNK):
                width = min(CHUNK, size - column)
                _turn(W[first : first + count, group, column : column + width], tile)
                weights = importance[group * size + column : group * size + column + width]
                for factor in range(factors):
                    for row in range(count):
                        s[row] = scale[factor, group, first + row]
                        z[row] = zero[factor, group, first + row]
                    _add_errors(tile, weights, s, z, low, high, exponent, total, errors[factor])
            least[:] = np.inf
            found[:] = 0
            for factor in range(factors):
                for row in range(_ROWS):
                    better = errors[factor, row] < least[row]
                    least[row] = errors[factor, row] if better else least[row]
                    found[row] = factor if better else found[row]
            for row in range(count):
                best[group, first + row] = found[row]


def _turn_on_its_side(part: _Array, tile: _Array) -> None:
    """Transpose [rows, columns] into the corner of a tile."""
    rows, columns = part.shape
    for left in range(0, columns - columns % _BLOCK, _BLOCK):
        for top in range(0, rows - rows % _BLOCK, _BLOCK):
            for column in range(left, left + _BLOCK):
                for row in range(top, top + _BLOCK):
                    tile[column, row] = part[row, column]
    for column in range(columns):
        # What the blocks left over.
        for row in range(0 if column >= columns - columns % _BLOCK else rows - rows % _BLOCK, rows):
            tile[column, row] = part[row, column]


def _add_chunk(  # noqa: PLR0917 - as above
    tile: _Array,
    importance: _Array,
    s: _Array,
    z: _Array,
    low: np.float32,
    high: np.float32,
    exponent: float,
    total: _Array,
    errors: _Array,
) -> None:
    """Add a chunk's errors with one candidate a row to `errors`, [rows]; `total` is room for them."""
    for row in range(_ROWS):
        total[row] = 0
    for column in range(len(importance)):
        weight = importance[column]
        for row in range(_ROWS):
            w = tile[column, row]
            code = np.rint(w / s[row]) + z[row]
            code = min(max(code, low), high)
            error = (code - z[row]) * s[row] - w
            power = error * error
            if exponent == 4.0:  # noqa: PLR2004 - the powers of `EXPONENTS` are told apart here
                power *= power
            elif exponent != 2.0:  # noqa: PLR2004 - as above
                power *= np.sqrt(abs(error))
            total[row] += power * weight
    for row in range(_ROWS):
        errors[row] += total[row]


_turn = compiled()(_turn_on_its_side)
_add_errors = compiled()(_add_chunk)
_best = compiled("(f4[:, :, ::1], f4[::1], f4[:, :, ::1], f4[:, :, ::1], f4, f4, f8, i8[:, ::1], i8, i8)")(
    _best_of_rows
)
