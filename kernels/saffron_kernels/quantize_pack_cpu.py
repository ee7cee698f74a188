"""Rounding and packing on the CPU, by loops that numba compiles; threads share the rows."""

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from saffron_kernels.compiled import compiled
from saffron_kernels.quantize_pack import WORD, Layout, order_of
from saffron_kernels.scale_search import code_range
from saffron_kernels.threads import over_rows

_Array = npt.NDArray[Any]
_AT_ONCE = 1 << 22
"""Weights that are turned into float32 at once."""
_WORK = 1 << 20
"""Weights that are worth a thread."""


def quantize_pack(W: Tensor, scale: Tensor, zero: Tensor | None, bits: int, layout: Layout) -> Tensor:
    """As the op of this name."""
    codes = torch.empty(W.shape, dtype=torch.int8)
    zeros = torch.zeros(scale.shape) if zero is None else zero
    at_once = max(1, _AT_ONCE // max(1, W.shape[1]))
    parts = (torch.split(each, at_once) for each in (W, scale, zeros, codes))
    for weights, s, z, into in zip(*parts, strict=True):
        _quantize(weights, s, z, into, bits)
    return pack(codes, bits, layout) if layout is not Layout.CODES else codes


def _quantize(W: Tensor, scale: Tensor, zero: Tensor, codes: Tensor, bits: int) -> None:
    grouped = W.float().reshape(*scale.shape, -1).numpy()
    s, z = (each.float().contiguous().numpy() for each in (scale, zero))
    low, high = (np.float32(code) for code in code_range(bits))
    into = codes.reshape(grouped.shape).numpy()

    def part(begin: int, end: int) -> None:
        own = slice(begin, end)
        _rounded(grouped[own], s[own], z[own], low, high, into[own])

    over_rows(len(W), part, least=_WORK // max(1, W.shape[1]))


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
    words = torch.empty(rows * bits // WORD, columns, dtype=torch.int32)
    inputs, outputs = codes.contiguous().reshape(len(words), -1, columns).numpy(), words.numpy()
    places = np.array(order)
    over_rows(
        len(words),
        lambda begin, end: _packed(inputs[begin:end], places, bits, outputs[begin:end]),
        least=_WORK // max(1, codes.shape[1]),
    )
    return words


def _round(  # noqa: PLR0917 - numba compiles positional parameters only
    W: _Array, scale: _Array, zero: _Array, low: np.float32, high: np.float32, codes: _Array
) -> None:
    """Codes [R, G, g] of W [R, G, g] with scale and zero [R, G]."""
    for row in range(W.shape[0]):
        for group in range(W.shape[1]):
            s, z = scale[row, group], zero[row, group]
            for column in range(W.shape[2]):
                code = np.rint(W[row, group, column] / s) + z
                codes[row, group, column] = np.int8(min(max(code, low), high))


def _pack_neighbours(codes: _Array, order: _Array, bits: int, words: _Array) -> None:
    """Words [N, C] of codes [N, neighbours, C]."""
    raised, mask = 1 << (bits - 1), (1 << bits) - 1
    for number in range(codes.shape[0]):
        words[number] = 0
        for place in range(codes.shape[1]):
            neighbour, shift = order[place], np.int32(bits * place)
            for column in range(codes.shape[2]):
                words[number, column] |= np.int32((codes[number, neighbour, column] + raised) & mask) << shift


_rounded = compiled("(f4[:, :, ::1], f4[:, ::1], f4[:, ::1], f4, f4, i1[:, :, ::1])")(_round)
_packed = compiled("(i1[:, :, ::1], i8[::1], i8, i4[:, ::1])")(_pack_neighbours)
