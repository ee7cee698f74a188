"""Scales, one a group of columns, rounded to the type they are stored in before any weight is rounded.

A search tries multiples of min-max scales. Below 1 large weights are clipped, and all others rounded more finely; above
1 the largest keeps a code of its own, and the others may happen to lie nearer to codes. As 1 is tried, too, the result
is never worse than min-max by what is made small.
"""

from dataclasses import dataclass, replace

from torch import Tensor

from saffron_kernels.quantize_pack import quantize_pack
from saffron_kernels.scale_search import Scales, scale_search
from saffron_quantizer.algorithms.quantized import Grid

SHRINKS = tuple(1.0 - 0.02 * step for step in range(21))
"""Multiples of the min-max scale from 1.00 down to 0.60."""
NEAR = (1.0, *(1.0 + 0.02 * step for step in (-4, -3, -2, -1, 1, 2, 3, 4, 5)))
"""Multiples of the min-max scale from 0.92 to 1.10, that scale itself first."""


@dataclass(frozen=True)
class Search:
    """What scales are searched for.

    Attributes:
        factors: what is tried, as multiples of the min-max scale; of equal errors the first wins.
        importance: [C] float32, what the power of each column's errors is multiplied with; None for 1.
        exponent: the power of an error that is added up, one that `scale_search` knows.
    """

    factors: tuple[float, ...] = SHRINKS
    importance: Tensor | None = None
    exponent: float = 2.0

    def of(self, columns: slice) -> "Search":
        """The search for some of the columns."""
        return self if self.importance is None else replace(self, importance=self.importance[columns])


LEAST_SQUARES = Search()
"""The least squared error of the weights."""

FOURTH_POWER = Search(factors=NEAR, exponent=4.0)
"""The least sum of the errors' fourth powers, near the min-max scale.

Where nothing is known of the inputs, a large weight may well meet a large one: clipping by the squared error of the
weights alone makes the model worse than min-max scales do (docs/adr/0010). The fourth power clips a weight only where
that is no more than others are off by.
"""

MIN_MAX = Search(factors=(1.0,))
"""The whole range: no weight is clipped by more than half a step."""


def find_scales(W: Tensor, grid: Grid, search: Search = LEAST_SQUARES) -> Scales:
    """Scales with the least error of those that a search tries.

    Args:
        W: [R, C], floating.
        grid: what the weights will be rounded to.
        search: what is tried, and what makes it good.
    """
    return scale_search(
        W,
        search.factors,
        search.importance,
        bits=grid.bits,
        group_size=grid.group_size,
        scale_dtype=grid.scale_dtype,
        symmetric=grid.symmetric,
        exponent=search.exponent,
    )


def round_to_codes(W: Tensor, scales: Scales, grid: Grid) -> Tensor:
    """The nearest code of each weight, half to even: [R, C] -> [R, C] int8."""
    return quantize_pack(W, scales.scale, scales.zero, grid.bits)
