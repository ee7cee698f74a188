"""Power: how near a limit may lie to a figure for a number of conversations to show that the limit is kept.

A verdict alone does not say whether a gate could have been passed at all. A one-sided bound of a level lies z(level)
standard errors from the value, and in one of five draws the value itself lies more than z(0.8) of them on the bad side
of the truth. So a limit is shown to be kept, four times out of five, where it lies at least

    margin = (z(level) + z(0.8)) * standard error

beyond the true figure: the one-sided form of E. Miller, Adding Error Bars to Evals, 2411.00640, section 5.
"""

import math
from statistics import NormalDist

from saffron_api.gates import EXACT_FIGURES, MIN_UNITS
from saffron_api.results import Figure, FigureName

POWER = 0.8
"""The share of draws in which the margin suffices."""

_ALWAYS = 1.0
_MAX_EXPONENT = 700.0


def smallest_margin(figure: Figure, *, units: int, level: float) -> float | None:
    """The smallest distance between a true figure and its limit that conversations like these can show to be kept.

    Args:
        figure: with its bounds; the one on the bad side tells the standard error.
        units: conversations that it rests on.
        level: of each of its bounds.

    Returns:
        The margin, in the figure's own unit and on its bad side: above it for an upper limit, below it for a lower
        one. 0 for a figure that is counted. None where none can be told: too few conversations, a level at which a
        bound is the value, or conversations that all say the same, so that nothing is learnt of how they vary.
    """
    if figure.name in EXACT_FIGURES:
        return 0.0
    normal = NormalDist()
    z_level = normal.inv_cdf(level)
    if units < MIN_UNITS or z_level <= 0:
        return None
    widened = (z_level + normal.inv_cdf(POWER)) / z_level
    if figure.name is FigureName.PERPLEXITY_RATIO:
        # Its bounds are those of its logarithm.
        exponent = min(widened * math.log(figure.upper / figure.value), _MAX_EXPONENT)
        return _or_none(figure.value * math.expm1(exponent))
    if figure.name is FigureName.KL_DIVERGENCE:
        return _or_none(widened * (figure.upper - figure.value))
    if figure.lower == figure.value == _ALWAYS:
        return unseen_share(units, level)
    return _or_none(widened * (figure.value - figure.lower))


def unseen_share(units: int, level: float) -> float:
    """The largest share of units that may differ though none of `units` does: (1 - share)^units = 1 - level.

    At 0.95 it is near 3 / units, the rule of three: no difference in a few of them proves little.
    """
    return -math.expm1(math.log1p(-level) / units)


def _or_none(margin: float) -> float | None:
    return margin if 0 < margin < math.inf else None
