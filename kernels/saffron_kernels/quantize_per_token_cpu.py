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
from saffron_kernels.eager import empty_strided
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.quantize_per_token import LARGEST_FP8, LARGEST_INT8, LEAST_FP8_SCALE
from saffron_kernels.rounding_tile import LEAST_DIVISOR, ROUNDED, round_bfloat16

_X, _CODES, _SCALES, _GIVEN, _COLUMNS, _KIND, _BYTES, _THREADS = range(openmp.FIRST, openmp.FIRST + 8)
_ENOUGH = 1 << 15
"""Numbers that a thread takes at once, if all threads have some: with fewer, threads wait for each other's count."""
_TOGETHER = 8
"""Tokens whose scales are found before any is rounded: they stay in the nearest cache."""
_LAST_PLACE_IS_ONE = np.float32(3 << 22)
"""A sum with it is rounded to an integer, half to even, which is what its lowest bits hold in two's complement."""
_LEAST_DIVISOR = np.float32(LEAST_DIVISOR)
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
    (rows, columns), kind = x.shape, KINDS[x.dtype]
    codes, scales = empty_strided((rows, columns), (columns, 1), dtype), empty_strided((rows, 1), (1, 1), torch.float32)
    if given is not None:
        scales.fill_(given.item())
    addresses = x.data_ptr(), codes.data_ptr(), scales.data_ptr()
    openmp.run(loop, rows, *addresses, given is not None, columns, kind, BYTES[kind], torch.get_num_threads())
    return codes, scales


@njit(nogil=True)
def tokens_at_once(rows: int, columns: int, threads: int) -> int:
    """How many tokens each of so many threads takes at once, for compiled loops."""
    return max(1, min(_ENOUGH // max(1, columns), rows // (4 * threads)))


@openmp.ahead_of_time()
def _int8_tokens(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    rows, columns = a[ITEMS], a[_COLUMNS]
    at_once = tokens_at_once(rows, columns, a[_THREADS])
    row = np.empty(columns, np.float32)
    codes = carray(pointer(a[_CODES]), (rows, columns), np.int8)
    scales = carray(pointer(a[_SCALES]), (rows,), np.float32)
    first = take(a) * at_once
    while first < rows:
        last = min(first + at_once, rows)
        quantize_tokens(a[_X] + first * columns * a[_BYTES], a[_KIND], row, codes[first:last], scales[first:last], 0)
        first = take(a) * at_once


@openmp.ahead_of_time()
def _fp8_tokens(data: Any) -> None:
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    rows, columns = a[ITEMS], a[_COLUMNS]
    at_once = tokens_at_once(rows, columns, a[_THREADS])
    row = np.empty(columns, np.float32)
    codes = carray(pointer(a[_CODES]), (rows, columns), np.uint8)
    scales = carray(pointer(a[_SCALES]), (rows,), np.float32)
    first = take(a) * at_once
    while first < rows:
        for token in range(first, min(first + at_once, rows)):
            load_floats(a[_X] + token * columns * a[_BYTES], a[_KIND], row)
            if not a[_GIVEN]:
                scale = _absmax(row) / _FP8
                scales[token] = _LEAST if scale < _LEAST else scale  # noqa: FURB136 - NaN stays
            _round_fp8(row, np.float32(1) / scales[token], codes[token])
        first = take(a) * at_once


@njit(nogil=True)
def _absmax(row: Any) -> Any:
    # As integers the magnitudes of floats have the same order, with NaN as the largest, and integers' maximum is
    # the same in any order, so that the compiler may take many at a time.
    largest = np.int32(0)
    for i in range(row.size):
        largest = max(largest, bits_of(row[i]) & np.int32(0x7FFFFFFF))
    return float_of(largest)


@njit(nogil=True)
def quantize_tokens(  # noqa: PLR0917 - numba has positional parameters only
    address: int, kind: int, row: Any, codes: Any, scales: Any, offset: int
) -> None:
    """Write int8 codes of tokens and their scales, for compiled loops.

    Args:
        address: of the numbers.
        kind: of these.
        row: float32 [columns]: memory that is used on the way.
        codes: int8 [tokens, at least as many columns].
        scales: float32 [tokens].
        offset: what is added to each code, modulo 256.
    """
    last_place, line = _LAST_PLACE_IS_ONE + np.float32(offset), row.size * BYTES[kind]
    if kind != BFLOAT16:
        for m in range(len(codes)):
            load_floats(address + m * line, kind, row)
            scales[m] = _absmax(row) / _INT8
            _round_int8(row, max(scales[m], _TINY), last_place, codes[m])
        return
    into, stride = codes.ctypes.data, codes.shape[1]
    for first in range(0, len(codes), _TOGETHER):
        last = min(first + _TOGETHER, len(codes))
        # All scales before all codes: the processor goes on with another token while it waits for one's.
        for m in range(first, last):
            scales[m] = _absmax_of_bfloat16(carray(pointer(address + m * line), row.shape, np.uint16)) / _INT8
        for m in range(first, last):
            _round_bfloat16(address + m * line, row.size, max(scales[m], _TINY), last_place, into + m * stride)


@njit(nogil=True)
def _absmax_of_bfloat16(bits: Any) -> Any:
    # Half as many bits are twice as many numbers in a vector.
    largest = np.uint16(0)
    for i in range(bits.size):
        largest = max(largest, np.uint16(bits[i] & np.uint16(0x7FFF)))
    return float_of_bfloat16(largest)


@njit(nogil=True, error_model="numpy")
def _round_int8(row: Any, divisor: Any, last_place: Any, codes: Any) -> None:
    for i in range(row.size):
        codes[i] = np.int8(bits_of(row[i] / divisor + last_place))


@njit(nogil=True, error_model="numpy")
def _round_bfloat16(address: int, columns: int, divisor: Any, last_place: Any, into: int) -> None:
    done = 0
    if _LEAST_DIVISOR <= divisor < np.inf:
        done = columns - columns % ROUNDED
        for i in range(0, done, ROUNDED):
            round_bfloat16(address + 2 * i, divisor, last_place, into + i)
    bits, codes = carray(pointer(address), (columns,), np.uint16), carray(pointer(into), (columns,), np.int8)
    for i in range(done, columns):
        codes[i] = np.int8(bits_of(float_of_bfloat16(bits[i]) / divisor + last_place))


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
