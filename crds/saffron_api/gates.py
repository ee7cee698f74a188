"""Gates: what a candidate's measured figures say against the limits that its author set.

One pure function, used by the operator and by the command line, so that both say the same of the same figures.
A verdict is ternary. It passes only what is shown to keep the limit, and fails only what is shown to miss it:

- Pass: even the bound on the bad side of the figure keeps the limit.
- Fail: even the bound on the good side of the figure misses the limit.
- Inconclusive: anything else, no figure and too few conversations included. No data never passes and never fails.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from saffron_api.quantized_model import FigureStatus, Gates, LowerLimit, UpperLimit, Verdict
from saffron_api.results import MIN_UNITS, Figure, FigureName

__all__ = ["EXACT_FIGURES", "MIN_UNITS", "Judgement", "judge"]

EXACT_FIGURES: frozenset[FigureName] = frozenset({FigureName.CHECKPOINT_BYTES_RATIO})
"""Figures that are counted, not sampled: they need no conversations and their bounds are the value."""


@dataclass(frozen=True)
class Judgement:
    """What the gates say of one candidate.

    Attributes:
        verdict: Fail if any gate fails, else Inconclusive if any gate is, else Pass.
        figures: every figure in the order given, with the limit and verdict of its gate where it has one.
        units_needed: conversations that would probably settle what is inconclusive; None if nothing is inconclusive
            or no number of them would do.
    """

    verdict: Verdict
    figures: tuple[FigureStatus, ...]
    units_needed: int | None


def judge(figures: Iterable[Figure], gates: Gates, units: int) -> Judgement:
    """What the gates say of a candidate's figures.

    Args:
        figures: what was measured; a gate whose figure is missing is inconclusive.
        gates: the limits; a gate left out is off.
        units: conversations that the figures rest on.
    """
    limits = _limits(gates)
    judged = tuple(_judge_one(figure, limits.get(figure.name), units) for figure in figures)
    verdicts = {status.name: status.verdict for status in judged if status.verdict is not None}
    return Judgement(
        verdict=_overall([verdicts.get(name, Verdict.INCONCLUSIVE) for name in limits]),
        figures=judged,
        units_needed=_units_needed(judged, limits, units),
    )


def _limits(gates: Gates) -> dict[FigureName, UpperLimit | LowerLimit]:
    """The gates that are on, by the figure they look at."""
    named: dict[FigureName, UpperLimit | LowerLimit | None] = {
        FigureName.PERPLEXITY_RATIO: gates.perplexity_ratio,
        FigureName.KL_DIVERGENCE: gates.kl_divergence,
        FigureName.TOP_TOKEN_AGREEMENT: gates.top_token_agreement,
        FigureName.CHECKPOINT_BYTES_RATIO: gates.checkpoint_bytes_ratio,
    }
    return {name: limit for name, limit in named.items() if limit is not None}


def _judge_one(figure: Figure, limit: UpperLimit | LowerLimit | None, units: int) -> FigureStatus:
    return FigureStatus(
        name=figure.name,
        value=figure.value,
        lower=figure.lower,
        upper=figure.upper,
        limit=None if limit is None else _number(limit),
        verdict=None if limit is None else _verdict(figure, limit, units),
    )


def _number(limit: UpperLimit | LowerLimit) -> float:
    return limit.max if isinstance(limit, UpperLimit) else limit.min


def _verdict(figure: Figure, limit: UpperLimit | LowerLimit, units: int) -> Verdict:
    if units < MIN_UNITS and figure.name not in EXACT_FIGURES:
        return Verdict.INCONCLUSIVE
    if isinstance(limit, UpperLimit):
        passes, fails = figure.upper <= limit.max, figure.lower > limit.max
    else:
        passes, fails = figure.lower >= limit.min, figure.upper < limit.min
    return Verdict.PASS if passes else Verdict.FAIL if fails else Verdict.INCONCLUSIVE


def _overall(verdicts: list[Verdict]) -> Verdict:
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if Verdict.INCONCLUSIVE in verdicts:
        return Verdict.INCONCLUSIVE
    return Verdict.PASS


def _units_needed(
    judged: tuple[FigureStatus, ...], limits: dict[FigureName, UpperLimit | LowerLimit], units: int
) -> int | None:
    """Conversations after which the figures, if they stay what they are, would be conclusive.

    A bound's distance from its value shrinks with the square root of the conversations, so n * (distance of the
    bound / distance of the limit)^2 of them bring the bound to the limit. The bound that counts lies between value
    and limit.
    """
    needed = 0
    for status in judged:
        if status.verdict is not Verdict.INCONCLUSIVE or status.limit is None:
            continue
        room = abs(status.limit - status.value)
        bound = status.upper if status.limit > status.value else status.lower
        ratio = abs(bound - status.value) / room if room > 0 else math.inf
        if not math.isfinite(ratio) or units < 1:
            return None
        needed = max(needed, MIN_UNITS, math.ceil(units * ratio**2))
    missing = limits.keys() - {status.name for status in judged}
    return None if missing or needed == 0 else needed
