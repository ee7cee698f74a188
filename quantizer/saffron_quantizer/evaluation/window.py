"""Which tokens are scored: at most 65,536 in all, and of every conversation some."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from saffron_quantizer.data.sequences import TokenSequence, check_vocabulary, load_sequences

MAX_SCORED_TOKENS = 65_536


def load_gate_set(path: Path, model: Path, *, max_tokens: int) -> list[TokenSequence]:
    """The gate set of a file, raw or sampled, with as many scored tokens as are looked at.

    Raises:
        StageError: the data set can't be used, or is another model's.
    """
    sequences = load_sequences(path, model, max_tokens=max_tokens)
    check_vocabulary(sequences, model, path)
    return limit_scored(sequences)


def limit_scored(sequences: Sequence[TokenSequence], most: int = MAX_SCORED_TOKENS) -> list[TokenSequence]:
    """The sequences with as many scored tokens each as lets all of them stay within `most` together.

    Each keeps the beginning of its range and at most the same number of tokens, so that no conversation is lost as
    long as there are fewer sequences than `most`. Tokens after the range are cut off: they have no influence on it.
    """
    kept = sequences[:most]
    cap = _largest_cap([sequence.scored for sequence in kept], most)
    return [_cut(sequence, cap) for sequence in kept]


def _largest_cap(lengths: Sequence[int], most: int) -> int:
    """The largest c for which the sum of min(length, c) is at most `most`."""
    low, high = 0, max(lengths, default=0)
    while low < high:
        middle = (low + high + 1) // 2
        if sum(min(length, middle) for length in lengths) <= most:
            low = middle
        else:
            high = middle - 1
    return low


def _cut(sequence: TokenSequence, cap: int) -> TokenSequence:
    start, end = sequence.score
    end = min(end, start + cap)
    return replace(sequence, tokens=sequence.tokens[:end], score=(start, end))
