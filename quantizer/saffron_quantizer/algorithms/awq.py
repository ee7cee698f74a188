"""AWQ: Activation-aware Weight Quantization for LLM Compression and Acceleration (arXiv 2306.00978).

The few channels with large activations matter most. Multiplied by a scale above 1 before they are rounded, and divided
by it where they are made, their weights lose less (section 3.2, equation 2). Then each group's range is cut where that
leaves less error at the output.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import MIN_MAX, Search
from saffron_quantizer.algorithms.smoothing import Smoothing, centred, coarse_to_fine

CLIPS = tuple(1.0 - 0.05 * step for step in range(11))
"""Shares of a group's range that the search for clipping tries: 1.00 down to 0.50."""


def awq(activity: Tensor, error_of: Callable[[Tensor], float]) -> Smoothing:
    """Search s = s_X^alpha, with alpha in 0..1, for the least error at the output (equations 4 and 5).

    Args:
        activity: [channels] s_X, the mean of |x| over the tokens. A channel of 0 keeps the scale 1.
        error_of: scales -> error at the output of the module around the linears that read the channels, with their
            weights multiplied by the scales and rounded.
    """
    alive = activity > 0
    logs = torch.where(alive, activity.float(), 1.0).log()
    return coarse_to_fine(torch.ones_like(logs), lambda alpha: centred((logs * alpha).exp(), alive), error_of)


def clipped(W: Tensor, gram: Tensor, grid: Grid) -> Quantized:
    """Round to nearest, each group's range cut to where the group's part of the output changes least.

    For the weights w of one row and group, read by tokens X, that change is |X (w - q)|² = (w - q) XᵀX (w - q)ᵀ, so of
    the tokens no more is needed than one small matrix a group.

    Args:
        W: [R, C], floating; unchanged.
        gram: [G, g, g] float32: XᵀX for the columns of each group.
        grid: what the weights are rounded to.
    """
    W = W.float()
    best, least = rtn(W, grid, MIN_MAX), torch.full((W.shape[0], len(gram)), torch.inf, device=W.device)
    for clip in CLIPS:
        candidate = rtn(W, grid, Search(factors=(clip,)))
        E = _grouped(candidate.dequantize().float() - W, grid.group_size).transpose(0, 1)  # [G, R, g]
        error = (torch.bmm(E, gram) * E).sum(dim=2).T  # [R, G]
        best, least = _better(candidate, error < least, best), torch.minimum(error, least)
    return best


def _better(candidate: Quantized, where: Tensor, best: Quantized) -> Quantized:
    """The groups of one rounding where it is better, [R, G] bool, and else those of another."""
    wide = where.repeat_interleave(best.codes.shape[1] // where.shape[1], dim=1)
    zero = None
    if candidate.zero is not None and best.zero is not None:
        zero = torch.where(where, candidate.zero, best.zero)
    codes = torch.where(wide, candidate.codes, best.codes)
    return Quantized(codes, torch.where(where, candidate.scale, best.scale), zero)


def group_gram(X: Tensor, group_size: int | None) -> Tensor:
    """XᵀX for the columns of each group: tokens [N, C], floating -> [G, g, g] float32."""
    parts = _grouped(X, group_size).transpose(0, 1)  # [G, N, g]
    return torch.bmm(parts.transpose(1, 2), parts)


def _grouped(X: Tensor, group_size: int | None) -> Tensor:
    """[N, C] -> [N, G, g] float32."""
    return X.float().reshape(len(X), -1, group_size or X.shape[1])
