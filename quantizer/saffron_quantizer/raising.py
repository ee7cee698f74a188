"""Which units to raise to a higher precision: the ones that spare most damage a byte, and as few as will do.

How much damage a unit does alone orders the raises once (`order_of_raises`). How many of them are made is then a
search along that order, in which each step is a candidate that was made and measured (`next_count`). All here is pure.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from saffron_api.quantized_model import Gates
from saffron_api.results import Figure, FigureName
from saffron_quantizer.precision import Precision

MOST_ROUNDS = 6
"""Candidates that are made and measured at most, the one with nothing raised among them."""


@dataclass(frozen=True)
class Level:
    """One way to store a unit.

    Attributes:
        precision: of its linears; None where they stay as they are.
        damage: KL divergence at the model's output, in nats a token, when only this unit is stored so.
        bytes: of its tensors.
    """

    precision: Precision | None
    damage: float
    bytes: int


@dataclass(frozen=True)
class Raise:
    """One step of one unit to a higher level.

    Attributes:
        unit: its name.
        before: the precision that it leaves.
        after: the one that it gets; None where its linears stay as they are.
        damage: that this spares.
        bytes: that this costs.
    """

    unit: str
    before: Precision | None
    after: Precision | None
    damage: float
    bytes: int


@dataclass(frozen=True)
class Measured:
    """What was found of a candidate.

    Attributes:
        raises: how many of the ordered raises were made.
        holds: whether it keeps the limits.
    """

    raises: int
    holds: bool


def order_of_raises(units: Mapping[str, Sequence[Level]], room: int) -> tuple[Raise, ...]:
    """The raises in the order in which they are made, all of which fit together.

    Always the one comes next that spares most damage a byte, of those that still fit. A unit may be raised again; a
    level that spares too little for its bytes is left out on the way.

    Args:
        units: for each unit its levels from low to high; it begins at the first.
        room: bytes that all raises together may cost.
    """
    at = dict.fromkeys(units, 0)
    raises: list[Raise] = []
    while True:
        offers = [
            (_raise(name, levels[at[name]], levels[higher]), higher)
            for name, levels in units.items()
            for higher in range(at[name] + 1, len(levels))
        ]
        fitting = [(each, higher) for each, higher in offers if each.damage > 0 and each.bytes <= room]
        if not fitting:
            return tuple(raises)
        best, higher = max(fitting, key=lambda offer: offer[0].damage / max(1, offer[0].bytes))
        raises.append(best)
        at[best.unit] = higher
        room -= best.bytes


def _raise(name: str, low: Level, high: Level) -> Raise:
    return Raise(name, low.precision, high.precision, low.damage - high.damage, high.bytes - low.bytes)


def next_count(measured: Sequence[Measured], total: int, guess: int) -> int | None:
    """How many raises the next candidate has, or None where the search has ended.

    It begins with none. If that fails it goes on with the guess, doubles until the limits hold, and then halves the
    distance between what holds and what does not. The last candidate that may be made has all raises unless a smaller
    number is known to hold: nothing that could be spared is worth more than keeping the limits.

    Args:
        measured: the candidates so far, in any order.
        total: raises that there are.
        guess: how many will do, as far as one can say before trying.
    """
    if not measured:
        return 0
    holding = min((each.raises for each in measured if each.holds), default=None)
    failing = max(
        (each.raises for each in measured if not each.holds and (holding is None or each.raises < holding)), default=-1
    )
    left = MOST_ROUNDS - len(measured)
    if holding is None:
        if failing == total or left <= 0:
            return None
        return total if left == 1 else min(total, max(guess, 2 * failing, failing + 1))
    if holding - failing <= 1 or left <= 0:
        return None
    return (holding + failing) // 2


def chosen_count(measured: Sequence[Measured]) -> int:
    """The candidate that is kept: the one with the fewest raises that holds, else the one with the most."""
    holding = [each.raises for each in measured if each.holds]
    return min(holding) if holding else max(each.raises for each in measured)


def first_guess(raises: Sequence[Raise], damage: float, share: float) -> int:
    """How many raises leave a share of the damage, if what the units do alone adds up; at least 1.

    Args:
        raises: in their order.
        damage: of all units together before any raise.
        share: that may stay.
    """
    left = damage
    for count, each in enumerate(raises, start=1):
        left -= each.damage
        if left <= share * damage:
            return count
    return max(1, len(raises))


def share_that_may_stay(figures: Sequence[Figure], gates: Gates) -> float:
    """The share of the damage, as KL divergence, that the limits leave of what was measured; 0 to 1.

    The log of the perplexity ratio grows with the divergence, and the share of tokens whose top changes with its root.
    """
    shares = [1.0]
    for figure in figures:
        if figure.name is FigureName.KL_DIVERGENCE and gates.kl_divergence:
            shares.append(_share(gates.kl_divergence.max, figure.upper))
        if figure.name is FigureName.PERPLEXITY_RATIO and gates.perplexity_ratio:
            shares.append(_share(math.log(gates.perplexity_ratio.max), math.log(max(figure.upper, 1.0))))
        if figure.name is FigureName.TOP_TOKEN_AGREEMENT and gates.top_token_agreement:
            shares.append(_share(1 - gates.top_token_agreement.min, 1 - figure.lower) ** 2)
    return min(shares)


def _share(limit: float, bound: float) -> float:
    return 1.0 if bound <= limit else max(0.0, limit / bound)
