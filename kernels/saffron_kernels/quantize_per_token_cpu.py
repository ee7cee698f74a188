"""`quantize_per_token` on the CPU: a token is read once for its scale and, still in the cache, once to be rounded."""

# numba and llvmlite have no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import (
    BFLOAT16,
    BYTES,
    KINDS,
    bits_of,
    float_of,
    float_of_bfloat16,
    load_floats,
    pointer,
)
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.quantize_per_token import LARGEST_FP8, LARGEST_INT8, LEAST_FP8_SCALE

_FIELDS = range(openmp.FIRST, openmp.FIRST + 9)
_X, _CODES, _SCALES, _GIVEN, _ROWS, _COLUMNS, _KIND, _BYTES, _AT_ONCE = _FIELDS
_ENOUGH = 1 << 15
"""Numbers that a thread takes at once, if all threads have some: with fewer, threads wait for each other's count."""
_LAST_PLACE_IS_ONE = np.float32(3 << 22)
"""A sum with it is rounded to an integer, half to even, which is what its lowest bits hold in two's complement."""
_TINY = np.float32(torch.finfo(torch.float32).tiny)
_INT8, _FP8, _LEAST = np.float32(LARGEST_INT8), np.float32(LARGEST_FP8), np.float32(LEAST_FP8_SCALE)


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """As the op of this name."""
    return _quantize(openmp.compile_loop(_int8_tokens), x, torch.int8, None)


def quantize_per_token_fp8(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """As the op of this name."""
    return _quantize(openmp.compile_loop(_fp8_tokens), x, torch.float8_e4m3fn, scale)


def _quantize(loop: openmp.Loop, x: Tensor, dtype: torch.dtype, given: Tensor | None) -> tuple[Tensor, Tensor]:
    x = x.contiguous()
    codes, scales = torch.empty(x.shape, dtype=dtype), torch.empty(len(x), 1)
    if given is not None:
        scales.fill_(given.item())
    addresses = x.data_ptr(), codes.data_ptr(), scales.data_ptr()
    (rows, columns), kind = x.shape, KINDS[x.dtype]
    at_once = tokens_at_once(rows, columns)
    sizes = rows, columns, kind, BYTES[kind], at_once
    openmp.run(loop, -(-rows // at_once), *addresses, given is not None, *sizes)
    return codes, scales


def tokens_at_once(rows: int, columns: int) -> int:
    """How many tokens a thread takes at once."""
    return max(1, min(_ENOUGH // max(1, columns), rows // (4 * torch.get_num_threads())))


@openmp.ahead_of_time()
def _int8_tokens(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    rows, columns = a[_ROWS], a[_COLUMNS]
    row = np.empty(columns, np.float32)
    codes = carray(pointer(a[_CODES]), (rows, columns), np.int8)
    scales = carray(pointer(a[_SCALES]), (rows,), np.float32)
    item = take(a)
    while item < a[ITEMS]:
        for token in range(item * a[_AT_ONCE], min((item + 1) * a[_AT_ONCE], rows)):
            scales[token] = quantize_token(a[_X] + token * columns * a[_BYTES], a[_KIND], row, codes[token])
        item = take(a)


@openmp.ahead_of_time()
def _fp8_tokens(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    rows, columns = a[_ROWS], a[_COLUMNS]
    row = np.empty(columns, np.float32)
    codes = carray(pointer(a[_CODES]), (rows, columns), np.uint8)
    scales = carray(pointer(a[_SCALES]), (rows,), np.float32)
    item = take(a)
    while item < a[ITEMS]:
        for token in range(item * a[_AT_ONCE], min((item + 1) * a[_AT_ONCE], rows)):
            load_floats(a[_X] + token * columns * a[_BYTES], a[_KIND], row)
            if not a[_GIVEN]:
                scale = _absmax(row) / _FP8
                scales[token] = _LEAST if scale < _LEAST else scale  # noqa: FURB136 - NaN stays
            _round_fp8(row, np.float32(1) / scales[token], codes[token])
        item = take(a)


@njit(nogil=True)
def _absmax(row: Any) -> Any:
    # As integers the magnitudes of floats have the same order, with NaN as the largest, and integers' maximum is
    # the same in any order, so that the compiler may take many at a time.
    largest = np.int32(0)
    for i in range(row.size):
        largest = max(largest, bits_of(row[i]) & np.int32(0x7FFFFFFF))
    return float_of(largest)


@njit(nogil=True, error_model="numpy")
def quantize_token(address: int, kind: int, row: Any, codes: Any) -> Any:
    """Write a token's int8 codes, for compiled loops.

    Args:
        address: of its numbers.
        kind: of these.
        row: float32, as many: memory that is used on the way.
        codes: int8, as many.

    Returns:
        Its scale, float32.
    """
    if kind != BFLOAT16:
        load_floats(address, kind, row)
        scale = _absmax(row) / _INT8
        divisor = max(scale, _TINY)
        for i in range(row.size):
            codes[i] = np.int8(bits_of(row[i] / divisor + _LAST_PLACE_IS_ONE))
        return scale
    # Half as many bits are twice as many numbers in a vector.
    bits = carray(pointer(address), row.shape, np.uint16)
    largest = np.uint16(0)
    for i in range(row.size):
        largest = max(largest, np.uint16(bits[i] & np.uint16(0x7FFF)))
    scale = float_of_bfloat16(largest) / _INT8
    divisor = max(scale, _TINY)
    for i in range(row.size):
        codes[i] = np.int8(bits_of(float_of_bfloat16(bits[i]) / divisor + _LAST_PLACE_IS_ONE))
    return scale


@njit(nogil=True)
def _round_fp8(row: Any, reciprocal: Any, codes: Any) -> None:
    """Round to e4m3 by bits (arXiv 2209.05433, table 1): 4 bits of exponent with bias 7, 3 of mantissa, no infinity."""
    for i in range(row.size):
        bits = bits_of(row[i] * reciprocal)
        sign = (bits >> np.int32(24)) & np.int32(0x80)
        magnitude = bits & np.int32(0x7FFFFFFF)
        clamped = min(magnitude, np.int32(0x43E00000))  # 448
        # Half to even at bit 20, and the bias 127 of float32 made 7.
        odd = (clamped >> np.int32(20)) & np.int32(1)
        normal = (clamped - np.int32(120 << 23) + np.int32(0x7FFFF) + odd) >> np.int32(20)
        # Below 2^-6 codes are multiples of 2^-9, which is the last place of a float32 between 2^14 and 2^15.
        subnormal = bits_of(float_of(clamped) + np.float32(1 << 14)) & np.int32(0xFF)
        code = subnormal if clamped < np.int32(0x3C800000) else normal  # 2^-6
        code = np.int32(0x7F) if magnitude > np.int32(0x7F800000) else code
        codes[i] = np.uint8(code | sign)
