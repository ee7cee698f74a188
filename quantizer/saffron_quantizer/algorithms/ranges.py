"""Rounding to codes that span each group's range of weights, or a share of it."""

import torch
from torch import Tensor

from saffron_quantizer.algorithms.quantized import Grid, Quantized


def grouped(W: Tensor, group_size: int | None) -> Tensor:
    """The columns in their groups: [R, C] floating -> [R, G, g] float32."""
    rows, columns = W.shape
    return W.float().reshape(rows, -1, group_size or columns)


def round_range(W: Tensor, grid: Grid, share: float = 1.0) -> Quantized:
    """Round to the nearest of codes that span a share of each group's range; what lies outside is clipped.

    Around 0 the range is that of compressed-tensors, absmax / ((2^bits - 1) / 2) a step. With zero points it goes from
    the least to the largest weight, 0 included, as in AutoAWQ.

    Args:
        W: [R, C], floating, in whole groups; unchanged.
        grid: what the weights are rounded to.
        share: of the range, above 0 and at most 1.
    """
    parts = grouped(W, grid.group_size)  # [R, G, g]
    steps = grid.high - grid.low
    if grid.symmetric:
        scale, zero = _stored(parts.abs().amax(dim=2) * (2 * share / steps), grid.scale_dtype), None
    else:
        low, high = parts.amin(dim=2).clamp_max(0) * share, parts.amax(dim=2).clamp_min(0) * share
        scale = _stored((high - low) / steps, grid.scale_dtype)
        zero = torch.round(grid.low - low / scale.float()).clamp_(grid.low, grid.high)
    codes = (parts / scale.float()[:, :, None]).round_()
    if zero is not None:
        codes += zero[:, :, None]
    codes = codes.clamp_(grid.low, grid.high).to(torch.int8).reshape(W.shape)
    return Quantized(codes, scale, None if zero is None else zero.to(torch.int8))


def _stored(scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Round scales to their stored type; what becomes 0 there is raised to the smallest normal number."""
    rounded = scale.to(dtype)
    return torch.where(rounded > 0, rounded, torch.finfo(dtype).tiny)
