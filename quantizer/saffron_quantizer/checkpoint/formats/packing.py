"""Narrow codes in 32-bit words, the first code in the lowest bits."""

import torch
from torch import Tensor

_WORD = 32
_NIBBLE = 4


def words(columns: int, bits: int) -> int:
    """Words that hold a row of codes."""
    return -(-columns * bits // _WORD)


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack signed codes, [O, I] int8 -> [O, ceil(I · bits / 32)] int32; 2^(bits - 1) is added to each.

    Args:
        codes: in -2^(bits - 1) .. 2^(bits - 1) - 1.
        bits: 4 or 8.
    """
    rows, columns = codes.shape
    unsigned = torch.zeros(rows, words(columns, bits) * _WORD // bits, dtype=torch.uint8)
    unsigned[:, :columns] = (codes + _offset(bits)).view(torch.uint8)
    # Bytes of a word lie with the lowest first on every processor that torch runs on.
    octets = unsigned if bits != _NIBBLE else unsigned[:, ::2] | unsigned[:, 1::2] << _NIBBLE
    return octets.view(torch.int32)


def unpack(packed: Tensor, columns: int, bits: int) -> Tensor:
    """Undo `pack`, [O, words] int32 -> [O, I] int8."""
    octets = packed.contiguous().view(torch.uint8)
    if bits == _NIBBLE:
        octets = torch.stack([octets & 0xF, octets >> _NIBBLE], dim=2).reshape(len(packed), -1)
    return octets[:, :columns].view(torch.int8) - _offset(bits)


def _offset(bits: int) -> Tensor:
    """What makes codes unsigned, as an int8 that wraps around: 128 is -128 there."""
    return torch.tensor(1 << (bits - 1), dtype=torch.uint8).view(torch.int8)
