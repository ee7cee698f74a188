"""Rounding and packing on the CPU, by loops that numba compiles; threads share the rows."""

# numba has no types for mypy.
# ruff: noqa: ANN401

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numba import carray, njit
from torch import Tensor

from saffron_kernels import openmp
from saffron_kernels.compiled_floats import BYTES, FLOAT32, KINDS, load_floats, pointer
from saffron_kernels.openmp import ITEMS, take
from saffron_kernels.quantize_pack import WORD, Layout, order_of
from saffron_kernels.scale_search import code_range

_Array = npt.NDArray[Any]
_FIELDS = range(openmp.FIRST, openmp.FIRST + 12)
_W, _SCALE, _ZERO, _CODES, _R, _C, _G, _LOW, _HIGH, _KIND, _BYTES, _AT_ONCE = _FIELDS
_NEIGHBOURS, _WORDS, _N, _PLACES, _COLUMNS, _BITS, _N_AT_ONCE, _ORDER = range(openmp.FIRST, openmp.FIRST + 8)
_WORK = 1 << 17
"""Weights that are worth waking a thread: some 20 µs."""


def quantize_pack(W: Tensor, scale: Tensor, zero: Tensor | None, bits: int, layout: Layout) -> Tensor:
    """As the op of this name."""
    codes = _quantized(W, scale, torch.zeros(scale.shape) if zero is None else zero, bits)
    return pack(codes, bits, layout) if layout is not Layout.CODES else codes


def _quantized(W: Tensor, scale: Tensor, zero: Tensor, bits: int) -> Tensor:
    codes = torch.empty(W.shape, dtype=torch.int8)
    operands = W.contiguous(), scale.float().contiguous(), zero.float().contiguous(), codes
    (rows, columns), kind = W.shape, KINDS[W.dtype]
    at_once = max(1, _WORK // max(1, columns))
    openmp.run(
        openmp.compile_loop(_rounded),
        -(-rows // at_once),
        *(each.data_ptr() for each in operands),
        *(rows, columns, scale.shape[1], *code_range(bits), kind, BYTES[kind], at_once),
    )
    return codes


def pack(codes: Tensor, bits: int, layout: Layout) -> Tensor:
    """As the op of this name."""
    if layout is Layout.CODES:
        return codes.clone()
    if layout is Layout.AUTOAWQ:
        return _packed_across(codes, bits, order_of(layout, bits)).T.contiguous()
    words = _packed_along(codes, bits)
    return words.T.contiguous() if layout is Layout.GPTQ else words


def _packed_along(codes: Tensor, bits: int) -> Tensor:
    """Neighbours along the columns, [R, C] -> [R, words]."""
    rows, columns = codes.shape
    words = -(-columns * bits // WORD)
    unsigned = torch.zeros(rows, words * WORD // bits, dtype=torch.uint8)
    torch.add(codes.view(torch.uint8), 1 << (bits - 1), out=unsigned[:, :columns])
    # Bytes of a word lie with the lowest first on every processor that torch runs on.
    octets = unsigned if bits == 8 else unsigned[:, ::2] | unsigned[:, 1::2] << bits  # noqa: PLR2004 - a byte
    return octets.view(torch.int32)


def _packed_across(codes: Tensor, bits: int, order: list[int]) -> Tensor:
    """Neighbours along the rows, in an order, [R, C] -> [R · bits / 32, C]."""
    rows, columns = codes.shape
    codes = codes.contiguous()
    words = torch.empty(rows * bits // WORD, columns, dtype=torch.int32)
    at_once = max(1, _WORK // max(1, columns * len(order)))
    openmp.run(
        openmp.compile_loop(_packed),
        -(-len(words) // at_once),
        *(codes.data_ptr(), words.data_ptr(), len(words), len(order), columns, bits, at_once, *order),
    )
    return words


@openmp.ahead_of_time()
def _rounded(data: Any) -> None:
    """Codes [R, C] of W [R, C] with scale and zero [R, G]."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    rows, columns, groups = a[_R], a[_C], a[_G]
    scale = carray(pointer(a[_SCALE]), (rows, groups), np.float32)
    zero = carray(pointer(a[_ZERO]), (rows, groups), np.float32)
    codes = carray(pointer(a[_CODES]), (rows, columns), np.int8)
    low, high = np.float32(a[_LOW]), np.float32(a[_HIGH])
    weights = np.empty(columns, np.float32)
    item = take(a)
    while item < a[ITEMS]:
        for row in range(item * a[_AT_ONCE], min((item + 1) * a[_AT_ONCE], rows)):
            place = a[_W] + row * columns * a[_BYTES]
            if a[_KIND] == FLOAT32:
                weights = carray(pointer(place), (columns,), np.float32)
            else:
                load_floats(place, a[_KIND], weights)
            _round(weights, scale[row], zero[row], low, high, codes[row])
        item = take(a)


@njit(nogil=True, error_model="numpy")
def _round(  # noqa: PLR0917 - numba has positional parameters only
    weights: _Array, scale: _Array, zero: _Array, low: np.float32, high: np.float32, codes: _Array
) -> None:
    """Codes [C] of weights [C] with scale and zero [G]."""
    size = len(weights) // len(scale)
    for group in range(len(scale)):
        s, z, own = scale[group], zero[group], slice(group * size, (group + 1) * size)
        w, into = weights[own], codes[own]
        for column in range(size):
            code = np.rint(w[column] / s) + z
            into[column] = np.int8(min(max(code, low), high))


@openmp.ahead_of_time()
def _packed(data: Any) -> None:
    """Words [N, C] of codes [N, neighbours, C]."""
    a = carray(data, (openmp.ARGUMENTS,), np.int64)
    rows, columns, order = a[_N], a[_COLUMNS], a[_ORDER : _ORDER + a[_PLACES]]
    codes = carray(pointer(a[_NEIGHBOURS]), (rows, len(order), columns), np.int8)
    words = carray(pointer(a[_WORDS]), (rows, columns), np.int32)
    item = take(a)
    while item < a[ITEMS]:
        for row in range(item * a[_N_AT_ONCE], min((item + 1) * a[_N_AT_ONCE], rows)):
            _pack_neighbours(codes[row], order, a[_BITS], words[row])
        item = take(a)


@njit(nogil=True)
def _pack_neighbours(codes: _Array, order: _Array, bits: int, words: _Array) -> None:
    """Words [C] of codes [neighbours, C]."""
    raised, mask = 1 << (bits - 1), (1 << bits) - 1
    words[:] = 0
    for place in range(len(order)):
        neighbour, shift = order[place], np.int32(bits * place)
        for column in range(len(words)):
            words[column] |= np.int32((codes[neighbour, column] + raised) & mask) << shift
