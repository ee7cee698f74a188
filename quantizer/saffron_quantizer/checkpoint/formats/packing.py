"""Narrow codes in 32-bit words, the first code in the lowest bits."""

import torch
from torch import Tensor

_WORD = 32


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
    per_word = _WORD // bits
    unsigned = torch.zeros(rows, words(columns, bits) * per_word, dtype=torch.int32)
    unsigned[:, :columns] = codes.to(torch.int32) + (1 << (bits - 1))
    shifts = torch.arange(0, _WORD, bits, dtype=torch.int32)
    # No two codes share a bit, so the sum is their union; the highest one may wrap into the sign bit.
    return (unsigned.reshape(rows, -1, per_word) << shifts).sum(dim=2, dtype=torch.int32)


def unpack(packed: Tensor, columns: int, bits: int) -> Tensor:
    """Undo `pack`, [O, words] int32 -> [O, I] int8."""
    shifts = torch.arange(0, _WORD, bits, dtype=torch.int32)
    codes = (packed[:, :, None] >> shifts) & ((1 << bits) - 1)  # [O, words, codes a word]
    return (codes.reshape(packed.shape[0], -1)[:, :columns] - (1 << (bits - 1))).to(torch.int8)
