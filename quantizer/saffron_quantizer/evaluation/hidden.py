"""The final hidden states from which scored tokens are predicted."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from saffron_api.failures import Failure, FailureReason, StageError
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.models.compute import CPU
from saffron_quantizer.models.stream import ModelStream
from saffron_quantizer.progress import Progress, ProgressSink

_HALF_RANGE = 60_000.0
"""Under the largest float16, 65,504, with room for another model's somewhat larger states."""

_TOKENS_PER_PASS = 262_144
"""Tokens whose hidden states are held at once; a longer gate set walks the model several times."""


@dataclass(frozen=True)
class ScoredHidden:
    """The states of all scored tokens, in the order of the sequences.

    Attributes:
        states: [N, hidden] on the CPU, each the state of the token before a scored one.
        targets: [N] int64, the scored tokens.
    """

    states: Tensor
    targets: Tensor


def scored_hidden(
    stream: ModelStream,
    sequences: Sequence[TokenSequence],
    *,
    activity: str,
    not_finite: FailureReason,
    progress: ProgressSink,
) -> ScoredHidden:
    """Walk a model over the sequences, as made by `limit_scored`.

    Args:
        stream: the model.
        sequences: at least one.
        activity: what progress calls it.
        not_finite: whose fault it is if a state is NaN or infinite.
        progress: told after each block.

    Raises:
        StageError: with the reason `not_finite`.
    """
    passes = _passes(sequences)
    total = len(passes) * stream.n_blocks
    states: list[Tensor] = []
    for number, part in enumerate(passes):

        def on_block(done: int, _: int, number: int = number) -> None:
            progress(Progress(activity, number * stream.n_blocks + done, total))

        # The last token of a sequence predicts nothing that is scored.
        inputs = [torch.tensor(sequence.tokens[:-1], dtype=torch.int64) for sequence in part]
        hidden = stream.final_hidden(inputs, on_block=on_block)
        states += [
            each[sequence.score[0] - 1 :].to(CPU, copy=True) for sequence, each in zip(part, hidden, strict=True)
        ]
    joined = torch.cat(states)
    if not torch.isfinite(joined).all():
        raise StageError(Failure(reason=not_finite, subject="final-hidden-states"))
    return ScoredHidden(joined, scored_tokens(sequences))


def scored_tokens(sequences: Sequence[TokenSequence]) -> Tensor:
    """The scored tokens of sequences as made by `limit_scored`, [N] int64."""
    targets = [token for sequence in sequences for token in sequence.tokens[sequence.score[0] :]]
    return torch.tensor(targets, dtype=torch.int64)


def storage_dtype(states: Tensor) -> torch.dtype:
    """What the original's states are kept in: float16, which is finer, unless they are too large for it."""
    return torch.float16 if states.abs().max().item() < _HALF_RANGE else torch.bfloat16


def _passes(sequences: Sequence[TokenSequence]) -> list[list[TokenSequence]]:
    """The sequences in order, in parts of a bounded number of tokens."""
    parts: list[list[TokenSequence]] = []
    room = 0
    for sequence in sequences:
        if not parts or len(sequence.tokens) > room:
            parts.append([])
            room = _TOKENS_PER_PASS
        parts[-1].append(sequence)
        room -= len(sequence.tokens)
    return parts
