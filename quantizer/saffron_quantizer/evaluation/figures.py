"""From figures of tokens to figures of a candidate: sums by conversation, weighted by tokens, with bounds."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from saffron_api.results import Figure, FigureName
from saffron_quantizer.data.sequences import TokenSequence
from saffron_quantizer.evaluation.bootstrap import Bounds, Vector, ratio_bounds
from saffron_quantizer.evaluation.divergence import TokenFigures

_MAX_EXPONENT = 700.0
"""JSON has no infinity; no gate lets a model through that is e^700 times as perplexed."""


@dataclass(frozen=True)
class UnitSums:
    """Sums over the scored tokens of each conversation, all [units] float64; None of what was not measured."""

    tokens: Vector
    nll_original: Vector
    nll_candidate: Vector
    divergence: Vector | None
    agreement: Vector | None

    @property
    def units(self) -> int:
        """Conversations."""
        return len(self.tokens)


def sum_by_unit(figures: TokenFigures, sequences: Sequence[TokenSequence]) -> UnitSums:
    """Add up the tokens of each conversation, which may have several sequences."""
    numbers: dict[str, int] = {}
    units = [numbers.setdefault(sequence.conversation, len(numbers)) for sequence in sequences]
    of_token = np.repeat(units, [sequence.scored for sequence in sequences])

    def add(values: Vector) -> Vector:
        return np.bincount(of_token, weights=values, minlength=len(numbers)).astype(np.float64)

    return UnitSums(
        tokens=add(np.ones(len(of_token))),
        nll_original=add(figures.nll_original.numpy()),
        nll_candidate=add(figures.nll_candidate.numpy()),
        divergence=None if figures.divergence is None else add(figures.divergence.numpy()),
        agreement=None if figures.agreement is None else add(figures.agreement.numpy()),
    )


def perplexity(nll: Vector, tokens: Vector) -> float:
    """The exponential of the mean negative log-likelihood of a token."""
    return math.exp(min(float(nll.sum() / tokens.sum()), _MAX_EXPONENT))


def measured_figures(sums: UnitSums, *, level: float) -> list[Figure]:
    """Perplexity ratio and, where they are known, divergence and agreement, with one-sided bounds of a level."""
    # The logarithm of the ratio of perplexities is a mean over tokens; its bounds are those of the ratio.
    log_ratio = ratio_bounds(sums.nll_candidate - sums.nll_original, sums.tokens, level=level)
    ratio = Bounds(*(math.exp(min(x, _MAX_EXPONENT)) for x in (log_ratio.value, log_ratio.lower, log_ratio.upper)))
    means = (
        (FigureName.KL_DIVERGENCE, sums.divergence, math.inf),
        (FigureName.TOP_TOKEN_AGREEMENT, sums.agreement, 1.0),
    )
    return [
        _figure(FigureName.PERPLEXITY_RATIO, ratio, low=0, high=math.inf),
        *(
            _figure(name, ratio_bounds(summed, sums.tokens, level=level), low=0, high=high)
            for name, summed, high in means
            if summed is not None
        ),
    ]


def exact_figure(name: FigureName, value: float) -> Figure:
    """A figure that is counted: its bounds are its value."""
    return Figure(name=name, value=value, lower=value, upper=value)


def _figure(name: FigureName, bounds: Bounds, *, low: float, high: float) -> Figure:
    """A figure with bounds inside what it can be at all; rounding may leave a divergence a little below 0."""
    value, lower, upper = (min(max(x, low), high) for x in (bounds.value, bounds.lower, bounds.upper))
    return Figure(name=name, value=value, lower=lower, upper=upper)
