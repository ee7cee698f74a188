"""Symmetric scales: one a group of columns, rounded to the type they are stored in before any weight is rounded."""

import torch
from torch import Tensor

from saffron_quantizer.algorithms.quantized import Grid

SHRINKS = tuple(1.0 - 0.02 * step for step in range(21))
"""Factors that the search tries on the min-max scale: 1.00 down to 0.60."""


def minmax_scales(W: Tensor, grid: Grid) -> Tensor:
    """Scales that let the codes span each group's largest weight: absmax / ((2^bits - 1) / 2).

    This is compressed-tensors' definition: half a step of the largest weight is clipped at most.

    Args:
        W: [R, C], floating.
        grid: what the weights will be rounded to.

    Returns:
        [R, G] in their stored type, none of them 0: a group of zeros has the smallest normal number.
    """
    absmax = _grouped(W, grid.group_size).abs().amax(dim=2)
    return _stored(absmax * 2 / (grid.high - grid.low), grid.scale_dtype)


def searched_scales(W: Tensor, grid: Grid) -> Tensor:
    """Scales with the least squared rounding error among shrunken min-max ones.

    Args:
        W: [R, C], floating.
        grid: what the weights will be rounded to.

    Returns:
        [R, G] in their stored type. Of equal errors the larger scale wins.
    """
    grouped = _grouped(W, grid.group_size)  # [R, G, g]
    full = grouped.abs().amax(dim=2) * 2 / (grid.high - grid.low)
    best = _stored(full, grid.scale_dtype)
    least = torch.full_like(full, torch.inf)
    for shrink in SHRINKS:
        scale = _stored(full * shrink, grid.scale_dtype)
        step = scale.float()[:, :, None]
        error = (grouped / step).round_().clamp_(grid.low, grid.high).mul_(step).sub_(grouped).square_().sum(dim=2)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def round_to_codes(W: Tensor, scale: Tensor, grid: Grid) -> Tensor:
    """The nearest code of each weight, half to even: [R, C] and [R, G] -> [R, C] int8."""
    grouped = _grouped(W, grid.group_size)
    return (grouped / scale.float()[:, :, None]).round_().clamp_(grid.low, grid.high).to(torch.int8).reshape(W.shape)


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
