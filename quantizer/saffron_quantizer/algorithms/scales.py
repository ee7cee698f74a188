"""Scales, one a group of columns, rounded to the type they are stored in before any weight is rounded.

A search tries min-max scales, shrunken more and more: large weights are clipped, and all others rounded more finely. As
the whole range is tried, too, the result is never worse than min-max by what is made small.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from saffron_quantizer.algorithms.quantized import Grid

SHRINKS = tuple(1.0 - 0.02 * step for step in range(21))
"""Factors that the search tries on the min-max scale: 1.00 down to 0.60."""


@dataclass(frozen=True)
class Scales:
    """What turns the codes of each group into weights: (code - zero) · scale.

    Attributes:
        scale: [R, G] in its stored type, none of them 0.
        zero: [R, G] int8 zero points in codes; None where they are 0.
    """

    scale: Tensor
    zero: Tensor | None


@dataclass(frozen=True)
class Search:
    """What scales are searched for.

    Attributes:
        shrinks: factors that are tried on the min-max scale; of equal errors the first wins.
        importance: [C] float32, what each column's squared errors are multiplied with; None for 1.
    """

    shrinks: tuple[float, ...] = SHRINKS
    importance: Tensor | None = None

    def of(self, columns: slice) -> "Search":
        """The search for some of the columns."""
        return self if self.importance is None else Search(self.shrinks, self.importance[columns])


LEAST_SQUARES = Search()
"""The least squared error of the weights."""

MIN_MAX = Search(shrinks=(1.0,))
"""The whole range: no weight is clipped by more than half a step."""


def find_scales(W: Tensor, grid: Grid, search: Search = LEAST_SQUARES) -> Scales:
    """Scales with the least error of those that a search tries.

    Codes around 0 span a group's largest weight with absmax / ((2^bits - 1) / 2), which is compressed-tensors'
    definition. With zero points they span what lies between its smallest and its largest weight, 0 included.

    Args:
        W: [R, C], floating.
        grid: what the weights will be rounded to.
        search: what is tried, and what makes it good.
    """
    grouped = _grouped(W, grid.group_size)  # [R, G, g]
    weights = None if search.importance is None else search.importance.reshape(1, grouped.shape[1], -1)
    full, lowest = _range(grouped, grid)
    best = _candidate(full, lowest, search.shrinks[0], grid)
    least = _error(grouped, best, grid, weights)
    for shrink in search.shrinks[1:]:
        candidate = _candidate(full, lowest, shrink, grid)
        error = _error(grouped, candidate, grid, weights)
        better = error < least
        best, least = _better(candidate, better, best), torch.where(better, error, least)
    return best


def _better(candidate: Scales, where: Tensor, best: Scales) -> Scales:
    """The scales of one candidate where it is better, [R, G] bool, and else those of the best before it."""
    zero = best.zero
    if candidate.zero is not None and zero is not None:
        zero = torch.where(where, candidate.zero, zero)
    return Scales(torch.where(where, candidate.scale, best.scale), zero)


def round_to_codes(W: Tensor, scales: Scales, grid: Grid) -> Tensor:
    """The nearest code of each weight, half to even: [R, C] -> [R, C] int8."""
    return _codes(_grouped(W, grid.group_size), scales, grid).to(torch.int8).reshape(W.shape)


def _codes(grouped: Tensor, scales: Scales, grid: Grid) -> Tensor:
    """The nearest code of each weight, [R, G, g] float32 -> [R, G, g] float32."""
    codes = (grouped / scales.scale.float()[:, :, None]).round_()
    if scales.zero is not None:
        codes += scales.zero[:, :, None]
    return codes.clamp_(grid.low, grid.high)


def _error(grouped: Tensor, scales: Scales, grid: Grid, weights: Tensor | None) -> Tensor:
    """The squared rounding error of each group, [R, G]; `weights`, [1, G, g], multiply those of the columns."""
    codes = _codes(grouped, scales, grid)
    if scales.zero is not None:
        codes -= scales.zero[:, :, None]
    squared = codes.mul_(scales.scale.float()[:, :, None]).sub_(grouped).square_()
    return (squared if weights is None else squared.mul_(weights)).sum(dim=2)


def _range(grouped: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The size of a step that lets the codes span each group, and where the smallest code then lies, both [R, G]."""
    steps = grid.high - grid.low
    if grid.symmetric:
        step = grouped.abs().amax(dim=2) * 2 / steps
        return step, step * grid.low
    lowest, highest = (end.clone() for end in torch.aminmax(grouped, dim=2))
    lowest.clamp_(max=0)
    return (highest.clamp_(min=0) - lowest) / steps, lowest


def _candidate(full: Tensor, lowest: Tensor, shrink: float, grid: Grid) -> Scales:
    """Scales for a part of each group's range."""
    scale = _stored(full * shrink, grid.scale_dtype)
    if grid.symmetric:
        return Scales(scale, None)
    zero = grid.low - lowest * shrink / scale.float()
    return Scales(scale, zero.round_().clamp_(grid.low, grid.high).to(torch.int8))


def _grouped(W: Tensor, group_size: int | None) -> Tensor:
    """[R, C] -> [R, G, C / G] float32."""
    rows, columns = W.shape
    size = group_size or columns
    if columns % size:
        raise ValueError(f"groups of {size} do not divide {columns} columns")
    return W.float().reshape(rows, columns // size, size)


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Round scales to their stored type; what becomes 0 there is raised to the smallest normal number."""
    rounded = scale.to(dtype)
    return torch.where(rounded > 0, rounded, torch.finfo(dtype).tiny)
