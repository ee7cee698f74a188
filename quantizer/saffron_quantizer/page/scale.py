"""From values to places on a drawing, and where an axis has its marks."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

_STEPS = (1, 2, 5, 10)
_DECADE = (1, 2, 5)
_MARKS = 5
_MARGIN = 0.08
_OCTAVES_APART = 8.0
"""From this ratio of the largest to the smallest on, equal distances hide the small ones."""
_WORLDS_APART = 1e9
"""From this one on the smallest is nothing, and a logarithm would show little else."""
_LEAST_ROOM = 1e-9


@dataclass(frozen=True)
class Scale:
    """A straight or logarithmic map of [low, high] to [start, end].

    Attributes:
        low: the value at `start`.
        high: the value at `end`; above `low`, and both above 0 where it is logarithmic.
        start: a place on the drawing.
        end: another one, on either side of it.
        logarithmic: equal ratios have equal distances.
    """

    low: float
    high: float
    start: float
    end: float
    logarithmic: bool = False

    def __call__(self, value: float) -> float:
        """The place of a value; one outside lies at the nearer end."""
        low, high, at = (math.log(x) if self.logarithmic else x for x in (self.low, self.high, self._inside(value)))
        return self.start + (at - low) / (high - low) * (self.end - self.start)

    def _inside(self, value: float) -> float:
        return min(max(value, self.low), self.high)

    @property
    def ticks(self) -> list[float]:
        """A handful of round values inside."""
        return log_ticks(self.low, self.high) if self.logarithmic else ticks(self.low, self.high)


def fitted(values: Iterable[float], start: float, end: float, *, logarithmic: bool | None = None) -> Scale:
    """A scale that has room for all values and a little more.

    Args:
        values: at least one; all finite.
        start: where the smallest lies.
        end: where the largest lies.
        logarithmic: None to decide by the values: where all are above 0 and they are several octaves apart.
    """
    found = list(values)
    low, high = min(found), max(found)
    if logarithmic is None:
        logarithmic = low > 0 and _OCTAVES_APART < high / low < _WORLDS_APART
    if logarithmic:
        room = max((high / low) ** _MARGIN, 1.05)
        return Scale(low / room, high * room, start, end, logarithmic=True)
    room = max((high - low) * _MARGIN or abs(high) * _MARGIN, _LEAST_ROOM)
    return Scale(low - room, high + room, start, end)


def ticks(low: float, high: float) -> list[float]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high], about five of them."""
    rough = (high - low) / _MARKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in _STEPS if factor * power >= rough * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    # Rounded, since 3 * 0.1 is not 0.3.
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """1, 2 and 5 times powers of ten in [low, high]; only the powers where these would be too many."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    found = [float(f"{factor}e{decade}") for decade in decades for factor in _DECADE]
    inside = [value for value in found if low <= value <= high]
    if len(inside) <= _MARKS + 2:
        return inside
    powers = [float(f"1e{decade}") for decade in decades if low <= 10.0**decade <= high]
    return powers[:: math.ceil(len(powers) / (_MARKS + 2))]
