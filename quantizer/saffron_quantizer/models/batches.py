"""Token sequences of any lengths, laid out as few padded batches.

Padding is on the right. In a causal model no token sees one to its right, so real tokens come out the same with any
padding behind them and no mask is needed for it; whoever gathers statistics leaves the padding out by `real`.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BATCH_TOKENS = 1024
"""Tokens of one batch, padding included; a longer sequence is a batch by itself. Part of what fixes the bytes."""
LENGTH_STEP = 32
"""Padded lengths are multiples of this, so that few distinct lengths need a mask and a rotary embedding each."""


@dataclass(frozen=True)
class Batch:
    """Some sequences side by side.

    Attributes:
        positions: where each row's sequence stands among all that were given.
        lengths: tokens of each row.
        tokens: [rows, padded length] int64, padded with 0.
    """

    positions: tuple[int, ...]
    lengths: tuple[int, ...]
    tokens: Tensor

    @property
    def real(self) -> Tensor:
        """[rows, padded length] bool: where there is a token and no padding."""
        return torch.arange(self.tokens.shape[1])[None, :] < torch.tensor(self.lengths)[:, None]


def make_batches(sequences: Sequence[Tensor], *, limits: Sequence[int] = ()) -> list[Batch]:
    """Lay sequences out as batches, the longest first.

    Args:
        sequences: 1-D int64 token ids, each at least one.
        limits: ascending lengths beyond which a model computes otherwise or not at all. No sequence is padded beyond
            one, and no batch holds sequences from both sides of one.

    Raises:
        ValueError: a sequence is empty or not 1-D.
    """
    if any(sequence.dim() != 1 or len(sequence) == 0 for sequence in sequences):
        raise ValueError("each sequence must be 1-D with at least one token")
    lengths = [len(sequence) for sequence in sequences]
    return [_batch(sequences, rows, limits) for rows in _positions(lengths, limits)]


def batch_tokens(lengths: Sequence[int]) -> list[int]:
    """Tokens of each batch, padding included, of sequences of these lengths."""
    return [len(rows) * _padded(lengths[rows[0]], ()) for rows in _positions(lengths, ())]


def _positions(lengths: Sequence[int], limits: Sequence[int]) -> Iterator[list[int]]:
    """The positions of each batch's sequences."""
    rows: list[int] = []
    for position in sorted(range(len(lengths)), key=lambda index: (-lengths[index], index)):
        longest = lengths[rows[0]] if rows else 0
        full = (len(rows) + 1) * _padded(longest, limits) > BATCH_TOKENS
        if rows and (full or _side(lengths[position], limits) != _side(longest, limits)):
            yield rows
            rows = []
        rows.append(position)
    if rows:
        yield rows


def _side(length: int, limits: Sequence[int]) -> int:
    """How many limits a length is beyond."""
    return bisect_left(limits, length)


def _padded(length: int, limits: Sequence[int]) -> int:
    padded = -(-length // LENGTH_STEP) * LENGTH_STEP
    return min([padded, *limits[_side(length, limits) :][:1]])


def _batch(sequences: Sequence[Tensor], rows: Sequence[int], limits: Sequence[int]) -> Batch:
    tokens = torch.zeros(len(rows), _padded(len(sequences[rows[0]]), limits), dtype=torch.int64)
    for row, position in enumerate(rows):
        tokens[row, : len(sequences[position])] = sequences[position]
    return Batch(tuple(rows), tuple(len(sequences[position]) for position in rows), tokens)
