"""`rms_norm` on the CPU: a vector is normalized while the nearest cache has it; torch's threads share the vectors."""

# numba has no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BYTES, KINDS, float_of, load_floats, store_floats
from saffron_kernels.openmp import ITEMS, take

_X, _WEIGHT, _OUT, _ROWS, _COLUMNS, _KIND, _BYTES, _EPS, _ONE_PLUS = range(openmp.FIRST, openmp.FIRST + 9)
_AT_ONCE = 16
"""Vectors that a thread takes at once."""
_LANES = 16
"""Sums of squares side by side, which the compiler makes vectors of."""


def rms_norm_rows(x: Tensor, weight: Tensor, eps: float, *, one_plus: bool) -> Tensor:
    """As the function of this name without `_rows`."""
    out = torch.empty_like(x)
    if out.stride() != x.stride() or x.stride(-1) != 1:  # there are gaps, or the vectors do not lie in one piece
        x = x.contiguous()
        out = torch.empty_like(x)
    weight, columns = weight.contiguous(), x.shape[-1]
    rows, kind = x.numel() // columns, KINDS[x.dtype]
    addresses = x.data_ptr(), weight.data_ptr(), out.data_ptr()
    bits = int(np.float32(eps).view(np.int32))
    loop = openmp.compile_loop(_vectors)
    openmp.run(loop, -(-rows // _AT_ONCE), *addresses, rows, columns, kind, BYTES[kind], bits, one_plus)
    return out


@openmp.ahead_of_time()
def _vectors(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    row, gain = np.empty(a[_COLUMNS], np.float32), np.empty(a[_COLUMNS], np.float32)
    sums = np.empty(_LANES, np.float32)
    load_floats(a[_WEIGHT], a[_KIND], gain)
    if a[_ONE_PLUS]:
        for i in range(len(gain)):
            gain[i] += np.float32(1)
    item = take(a)
    while item < a[ITEMS]:
        for number in range(item * _AT_ONCE, min((item + 1) * _AT_ONCE, a[_ROWS])):
            _normalize(a, number * a[_COLUMNS] * a[_BYTES], row, gain, sums)
        item = take(a)


@njit(nogil=True, error_model="numpy")
def _normalize(a: Any, at: int, row: Any, gain: Any, sums: Any) -> None:
    columns = len(row)
    load_floats(a[_X] + at, a[_KIND], row)
    sums[:] = 0
    for begin in range(0, columns - columns % _LANES, _LANES):
        for lane in range(_LANES):
            sums[lane] += row[begin + lane] * row[begin + lane]
    for lane in range(columns % _LANES):
        sums[lane] += row[columns - 1 - lane] * row[columns - 1 - lane]
    total = np.float32(0)
    for lane in range(_LANES):
        total += sums[lane]
    factor = np.float32(1) / np.sqrt(total / np.float32(columns) + float_of(np.int32(a[_EPS])))
    for i in range(columns):
        row[i] *= factor
    if not a[_ONE_PLUS]:
        store_floats(row, a[_OUT] + at, a[_KIND])
        load_floats(a[_OUT] + at, a[_KIND], row)
    for i in range(columns):
        row[i] *= gain[i]
    store_floats(row, a[_OUT] + at, a[_KIND])
