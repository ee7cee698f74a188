"""The search for scales on the CPU: many rows side by side, all candidates while the weights are in the cache."""

# numba has no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import pointer
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.scale_search import CHUNK, EXPONENTS, Candidates

_Array = npt.NDArray[Any]
_FIELDS = range(openmp.FIRST, openmp.FIRST + 14)
_W, _IMPORTANCE, _SCALE, _ZERO, _BEST, _R, _G, _SIZE, _F, _LOW, _HIGH, _EXPONENT, _PARTS, _AT_ONCE = _FIELDS
_ROWS = 64
"""Rows that are done at once, one group of each."""
_WORK = 1 << 17
"""Weights times candidates that are worth waking a thread: some 20 µs."""
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
        exponent: of the errors, one of `EXPONENTS`.
    """
    rows, groups, size = grouped.shape
    grouped = grouped.contiguous()
    weights = torch.ones(groups * size) if importance is None else importance.float().contiguous()
    # Rows lie side by side in memory, as vector instructions want them.
    scale, zero = (each.float().transpose(1, 2).contiguous() for each in tried)
    best = torch.empty(groups, rows, dtype=torch.int64)
    # A part is a group of 64 rows; parts are counted along the rows.
    parts, at_once = -(-rows // _ROWS) * groups, max(1, _WORK // (_ROWS * size * len(scale)))
    openmp.run(
        openmp.compile_loop(_best),
        -(-parts // at_once),
        *(each.data_ptr() for each in (grouped, weights, scale, zero, best)),
        *(*grouped.shape, len(scale), low, high, EXPONENTS.index(exponent), parts, at_once),
    )
    return best.T


@openmp.ahead_of_time()
def _best(data: Any) -> None:
    """`best`, [G, R], from W [R, G, g], importance [G, g] and candidates [F, G, R]."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    rows, groups, size, factors = a[_R], a[_G], a[_SIZE], a[_F]
    W = carray(pointer(a[_W]), (rows, groups, size), np.float32)
    importance = carray(pointer(a[_IMPORTANCE]), (groups, size), np.float32)
    scale = carray(pointer(a[_SCALE]), (factors, groups, rows), np.float32)
    zero = carray(pointer(a[_ZERO]), (factors, groups, rows), np.float32)
    best = carray(pointer(a[_BEST]), (groups, rows), np.int64)
    low, high, exponent = np.float32(a[_LOW]), np.float32(a[_HIGH]), EXPONENTS[a[_EXPONENT]]
    tile = np.zeros((CHUNK, _ROWS), np.float32)
    errors = np.empty((factors, _ROWS), np.float32)
    s, z, total = np.ones(_ROWS, np.float32), np.zeros(_ROWS, np.float32), np.empty(_ROWS, np.float32)
    item = take(a)
    while item < a[ITEMS]:
        for part in range(item * a[_AT_ONCE], min((item + 1) * a[_AT_ONCE], a[_PARTS])):
            group, first = part % groups, part // groups * _ROWS
            last = min(first + _ROWS, rows)
            errors[:] = 0
            for column in range(0, size, CHUNK):
                end = min(column + CHUNK, size)
                _turn_on_its_side(W[first:last, group, column:end], tile)
                for factor in range(factors):
                    for row in range(last - first):
                        s[row] = scale[factor, group, first + row]
                        z[row] = zero[factor, group, first + row]
                    weights = importance[group, column:end]
                    _add_chunk(tile, weights, s, z, low, high, exponent, total, errors[factor])
            _pick(errors, best[group, first:last])
        item = take(a)


@njit(nogil=True)
def _pick(errors: _Array, best: _Array) -> None:
    """The first factor of the least error of each row, from [F, rows]; 0 if none is finite."""
    least, found = np.full(_ROWS, np.inf, np.float32), np.zeros(_ROWS, np.int32)
    for factor in range(len(errors)):
        for row in range(_ROWS):
            better = errors[factor, row] < least[row]
            least[row] = errors[factor, row] if better else least[row]
            found[row] = factor if better else found[row]
    for row in range(len(best)):
        best[row] = found[row]


@njit(nogil=True)
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


@njit(nogil=True, error_model="numpy")
def _add_chunk(  # noqa: PLR0917 - numba has positional parameters only
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
