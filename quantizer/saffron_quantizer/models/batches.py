"""Token sequences of any lengths, laid out as few padded batches.

Padding is on the right. In a causal model no token sees one to its right, so real tokens come out the same with any
padding behind them and no mask is needed for it; whoever gathers statistics leaves the padding out by `real`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BATCH_TOKENS = 4096
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


def make_batches(sequences: Sequence[Tensor]) -> list[Batch]:
    """Lay sequences out as batches, the longest first.

    Args:
        sequences: 1-D int64 token ids, each at least one.

    Raises:
        ValueError: a sequence is empty or not 1-D.
    """
    if any(sequence.dim() != 1 or len(sequence) == 0 for sequence in sequences):
        raise ValueError("each sequence must be 1-D with at least one token")
    batches: list[Batch] = []
    rows: list[int] = []
    for position in sorted(range(len(sequences)), key=lambda index: (-len(sequences[index]), index)):
        if rows and (len(rows) + 1) * _padded(len(sequences[rows[0]])) > BATCH_TOKENS:
            batches.append(_batch(sequences, rows))
            rows = []
        rows.append(position)
    return [*batches, _batch(sequences, rows)] if rows else batches


def _padded(length: int) -> int:
    return -(-length // LENGTH_STEP) * LENGTH_STEP


def _batch(sequences: Sequence[Tensor], rows: Sequence[int]) -> Batch:
    tokens = torch.zeros(len(rows), _padded(len(sequences[rows[0]])), dtype=torch.int64)
    for row, position in enumerate(rows):
        tokens[row, : len(sequences[position])] = sequences[position]
    return Batch(tuple(rows), tuple(len(sequences[position]) for position in rows), tokens)
