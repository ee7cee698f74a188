"""One-sided confidence bounds for ratios of sums, by the studentized bootstrap over conversations.

Tokens of one conversation depend on each other, so the unit of resampling is the conversation: it is drawn with all
its tokens or not at all. Of the percentile, BCa and studentized bootstrap (B. Efron and R. Tibshirani, An
Introduction to the Bootstrap, 1993, chapters 12 to 14) the last is used: divergences are skewed, and its bounds come
nearest to the coverage that they promise; benchmarks/bootstrap_coverage.py shows by how much.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEED = 20_260_701
"""Fixed, so that the same figures always have the same bounds; it is recorded in each report."""

_MIN_RESAMPLES = 10_000
_TAIL_RESAMPLES = 20
_COUNTS_PER_BLOCK = 4_000_000
_LEAST_ERROR = 1 / 8
_ROUNDING = 1e-12

Vector = NDArray[np.float64]


@dataclass(frozen=True)
class Bounds:
    """A figure and its one-sided bounds, each of which holds at the level asked for."""

    value: float
    lower: float
    upper: float


def resamples_for(level: float) -> int:
    """Resamples that leave enough of them beyond a bound of this level to place it."""
    return max(_MIN_RESAMPLES, round(_TAIL_RESAMPLES / (1 - level)))


def ratio_bounds(sums: Vector, tokens: Vector, *, level: float) -> Bounds:
    """Bounds of sum(sums) / sum(tokens), a figure by token.

    Args:
        sums: [units], what is summed over the tokens of each conversation.
        tokens: [units], the scored tokens of each conversation, at least 1.
        level: of each bound, as 0.95.
    """
    value = float(sums.sum() / tokens.sum())
    # Taken from what deviates, so that no digits cancel where the deviations are small.
    deviations = sums - value * tokens
    spread = float(np.sqrt(np.sum(deviations * deviations)) / tokens.sum())
    # One conversation, or conversations that all say the same, have no spread to learn from.
    if len(sums) < 2 or spread <= abs(value) * _ROUNDING:  # noqa: PLR2004 two make a spread
        return Bounds(value, value, value)
    distances = _studentized(deviations, tokens, spread, resamples_for(level))
    low, high = np.quantile(distances, [1 - level, level])
    return Bounds(value, lower=value - float(high) * spread, upper=value - float(low) * spread)


def _studentized(deviations: Vector, tokens: Vector, spread: float, resamples: int) -> Vector:
    """How many of its own standard errors each resample lies from the value, [resamples]."""
    generator = np.random.default_rng(SEED)
    units = len(deviations)
    moments = _moments(deviations, tokens)  # [units, 5]
    block = max(1, _COUNTS_PER_BLOCK // units)
    found = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        # How often each conversation is drawn, [size, units].
        counts = generator.multinomial(units, np.full(units, 1 / units), size=size)
        drawn = (counts.astype(np.float64) @ moments).T  # [5, size]
        # A resample of conversations that all say the same has no error of its own; a part of the figure's keeps
        # the bounds finite and, at several times that error, on the safe side.
        errors = np.maximum(_standard_error(*drawn), spread * _LEAST_ERROR)
        found.append(drawn[0] / drawn[1] / errors)
    distances: Vector = np.concatenate(found)
    return distances


def _moments(sums: Vector, tokens: Vector) -> Vector:
    """What the value and its standard error are made of, [units, 5]."""
    return np.stack([sums, tokens, sums * sums, sums * tokens, tokens * tokens], axis=1)


def _standard_error(s: Vector, t: Vector, ss: Vector, st: Vector, tt: Vector) -> Vector:
    """Of the ratio r = s / t by linearization: the root of the sum of (s_i - r t_i)^2, over t."""
    ratio = s / t
    squares = ss - 2 * ratio * st + ratio * ratio * tt
    error: Vector = np.sqrt(np.maximum(squares, 0)) / t
    return error
