"""Unpacking on the CPU, byte by byte with torch, and part by part, so that what lies between stays in the cache."""

import torch
from torch import Tensor

from saffron_kernels.quantize_pack import WORD, Layout, order_of

_AT_ONCE = 1 << 18
"""Weights that are done at once."""


def unpack(packed: Tensor, shape: tuple[int, int], bits: int, layout: Layout) -> Tensor:
    """As the op of this name."""
    if layout is Layout.CODES:
        return packed.clone()
    if layout is Layout.AUTOAWQ:
        return _unpacked_across(packed.T, shape[0], bits, order_of(layout, bits))
    return _unpacked_along(packed.T if layout is Layout.GPTQ else packed, shape[1], bits)


def dequantize(
    packed: Tensor, scale: Tensor, zero: Tensor | None, columns: int, *, bits: int, layout: Layout
) -> Tensor:
    """As the op of this name."""
    codes = packed if layout is Layout.CODES else unpack(packed, (len(scale), columns), bits, layout)
    W = torch.empty(len(scale), columns, dtype=scale.dtype)
    at_once = max(1, _AT_ONCE // max(1, columns))
    zeros = torch.split(torch.zeros((), dtype=torch.int8).expand_as(scale) if zero is None else zero, at_once)
    parts = (torch.split(each, at_once) for each in (codes, scale, W))
    for part, s, into, z in zip(*parts, zeros, strict=True):
        weights = part.reshape(*s.shape, columns // s.shape[1]).float()  # [rows, G, g]
        if zero is not None:
            weights -= z[:, :, None]
        into.copy_(weights.mul_(s.float()[:, :, None]).reshape(into.shape))
    return W


def _unpacked_along(words: Tensor, columns: int, bits: int) -> Tensor:
    """Neighbours along the columns, [R, words] -> [R, columns]."""
    octets = words.contiguous().view(torch.uint8)
    if bits != 8:  # noqa: PLR2004 - a byte
        octets = torch.stack([octets & ((1 << bits) - 1), octets >> bits], dim=2).flatten(1)
    return (octets[:, :columns] - (1 << (bits - 1))).view(torch.int8)


def _unpacked_across(words: Tensor, rows: int, bits: int, order: list[int]) -> Tensor:
    """Neighbours along the rows, in an order, [R · bits / 32, C] -> [R, C]."""
    codes = torch.empty(len(words), WORD // bits, words.shape[1], dtype=torch.int8)
    words = words.contiguous()
    for place, neighbour in enumerate(order):
        codes[:, neighbour] = (words >> (bits * place) & ((1 << bits) - 1)) - (1 << (bits - 1))
    return codes.reshape(rows, words.shape[1])
