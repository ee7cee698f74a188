"""Symmetric scales: one a group of columns, rounded to the type they are stored in before any weight is rounded."""

import torch
from torch import Tensor

SHRINKS = tuple(1.0 - 0.02 * step for step in range(21))
"""Factors that the search tries on the min-max scale: 1.00 down to 0.60."""


def code_range(bits: int) -> tuple[int, int]:
    """The smallest and the largest signed code of a width."""
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def minmax_scales(W: Tensor, bits: int, group_size: int | None, dtype: torch.dtype) -> Tensor:
    """Scales that let the codes span each group's largest weight: absmax / ((2^bits - 1) / 2).

    This is compressed-tensors' definition: half a step of the largest weight is clipped at most.

    Args:
        W: [R, C], floating.
        bits: width of a code.
        group_size: columns that share a scale, or None for all; divides C.
        dtype: type of the stored scale.

    Returns:
        [R, G] in `dtype`, none of them 0: a group of zeros has the smallest normal number.
    """
    absmax = _grouped(W, group_size).abs().amax(dim=2)
    return _stored(absmax * 2 / ((1 << bits) - 1), dtype)


def searched_scales(W: Tensor, bits: int, group_size: int | None, dtype: torch.dtype) -> Tensor:
    """Scales with the least squared rounding error among shrunken min-max ones.

    Args:
        W: [R, C], floating.
        bits: width of a code.
        group_size: columns that share a scale, or None for all; divides C.
        dtype: type of the stored scale.

    Returns:
        [R, G] in `dtype`. Of equal errors the larger scale wins.
    """
    grouped = _grouped(W, group_size)  # [R, G, g]
    low, high = code_range(bits)
    full = grouped.abs().amax(dim=2) * 2 / ((1 << bits) - 1)
    best = _stored(full, dtype)
    least = torch.full_like(full, torch.inf)
    for shrink in SHRINKS:
        scale = _stored(full * shrink, dtype)
        step = scale.float()[:, :, None]
        error = (grouped / step).round_().clamp_(low, high).mul_(step).sub_(grouped).square_().sum(dim=2)
        better = error < least
        best, least = torch.where(better, scale, best), torch.where(better, error, least)
    return best


def round_to_codes(W: Tensor, scale: Tensor, bits: int) -> Tensor:
    """The nearest code of each weight, half to even: [R, C] and [R, G] -> [R, C] int8."""
    low, high = code_range(bits)
    grouped = _grouped(W, W.shape[1] // scale.shape[1])
    return (grouped / scale.float()[:, :, None]).round_().clamp_(low, high).to(torch.int8).reshape(W.shape)


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
