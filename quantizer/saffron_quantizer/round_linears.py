"""Linears that read one input, rounded as a candidate asks for, and what is told of each."""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import ActOrder, ScaleSearch
from saffron_quantizer.algorithms.awq import clipped
from saffron_quantizer.algorithms.correction import corrected
from saffron_quantizer.algorithms.fp8 import fp8
from saffron_quantizer.algorithms.gptq import Order, Rounding, energy, factorize, gptq
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import FOURTH_POWER, LEAST_SQUARES, MIN_MAX, Search

ORDERS: dict[ActOrder, tuple[Order, ...]] = {
    ActOrder.AUTO: (Order.STATIC, Order.NONE),
    ActOrder.STATIC: (Order.STATIC,),
    ActOrder.NONE: (Order.NONE,),
}
"""The orders that are tried; the one with the least error at the output is taken, of equals the first."""


@dataclass(frozen=True)
class LinearNote:
    """What was learnt while a linear was quantized, as far as its method looks at it.

    Attributes:
        name: inside its block.
        relative_error: of its output on the calibration tokens, |X (W - Q)ᵀ|² / |X Wᵀ|².
        damping: share of the mean diagonal that was added to its Hessian.
        dead_columns: inputs that were 0 in every token.
        act_order: the order in which its columns were rounded.
        scale_search: how its scales were found.
        largest_channel_ratio: the root mean square of the largest channel that it reads over that of the median one.
        all_tokens: whether it is one of an expert that is sent so few tokens that all of its mixture's were taken.
    """

    name: str
    relative_error: float | None = None
    damping: float | None = None
    dead_columns: int | None = None
    act_order: str | None = None
    scale_search: str | None = None
    largest_channel_ratio: float | None = None
    all_tokens: bool = False


@dataclass(frozen=True)
class RoundedLinear:
    """A linear's quantized weight, and what is told of it."""

    quantized: Quantized
    note: LinearNote


def rtn_linears(
    weights: Mapping[str, Tensor],
    grid: Grid,
    scale_search: ScaleSearch | None,
    *,
    squares: Tensor | None = None,
) -> list[RoundedLinear]:
    """Round linears to the nearest codes.

    Args:
        weights: [R, d] each, by the linear's name inside its block.
        grid: what their weights are rounded to.
        scale_search: how scales are found; None for the least error of the weights, to its fourth power.
        squares: [d] float32, the sum of each input's squares, where that is known; `ScaleSearch.HESSIAN` needs it.
    """
    asked = scale_search or ScaleSearch.MSE
    search = _search(asked, squares, FOURTH_POWER)
    ratio = None if squares is None else channel_ratio(squares)
    return [
        RoundedLinear(rtn(W, grid, search), LinearNote(name, scale_search=asked.value, largest_channel_ratio=ratio))
        for name, W in weights.items()
    ]


def awq_linears(
    weights: Mapping[str, Tensor], gram: Tensor, grid: Grid, *, unclipped: Collection[str]
) -> list[RoundedLinear]:
    """Round linears that read one input to the nearest codes, as AWQ does once they are scaled.

    Args:
        weights: [R, d] each, by the linear's name inside its block.
        gram: [G, g, g] float32: XᵀX of the tokens that they read, for the columns of each group.
        grid: what their weights are rounded to.
        unclipped: those whose whole range is kept.
    """
    ratio = channel_ratio(gram.diagonal(dim1=1, dim2=2).flatten())
    rounded = []
    for name, W in weights.items():
        whole = name in unclipped
        note = LinearNote(
            name, scale_search=ScaleSearch.MIN_MAX.value if whole else "Clip", largest_channel_ratio=ratio
        )
        rounded.append(RoundedLinear(rtn(W, grid, MIN_MAX) if whole else clipped(W, gram, grid), note))
    return rounded


def fp8_linears(weights: Mapping[str, Tensor]) -> list[RoundedLinear]:
    """Round linears to FP8, [R, d] each, by the linear's name inside its block."""
    return [RoundedLinear(fp8(W), LinearNote(name)) for name, W in weights.items()]


def gptq_linears(
    weights: Mapping[str, Tensor],
    H: Tensor,
    grid: Grid,
    act_order: ActOrder | None,
    scale_search: ScaleSearch | None,
    *,
    drift: Tensor | None = None,
) -> list[RoundedLinear]:
    """Round linears that read one input by GPTQ: as one matrix, whose rows are parted again.

    Args:
        weights: [R, d] each, by the linear's name inside its block.
        H: [d, d] float32, the Hessian of the input.
        grid: what their weights are rounded to.
        act_order: of the columns; None for `ActOrder.STATIC`.
        scale_search: how scales are found; None for the least error at the output.
        drift: [d, d] float32, (X̃ - X)ᵀ X scaled as H is, with X̃ what the linears read in the original: makes their
            outputs come near the original's. None to come near what their own weights give for X.

    Raises:
        UnstableHessianError: the Hessian can't be factorized.
    """
    asked = scale_search or ScaleSearch.HESSIAN
    ratio = channel_ratio(H.diagonal())
    W = torch.cat(list(weights.values()))
    rows = [len(weight) for weight in weights.values()]
    moved = None if drift is None else W.float() @ drift
    tried = [_gptq(W, H, order, grid, asked, moved=moved) for order in ORDERS[act_order or ActOrder.STATIC]]
    best, used = min(tried, key=lambda one: float(one[0].loss.sum()))
    return [
        RoundedLinear(
            quantized,
            LinearNote(
                name,
                relative_error=_ratio(float(lost.sum()), energy(weight, H)),
                scale_search=asked.value,
                largest_channel_ratio=ratio,
                **used,
            ),
        )
        for (name, weight), quantized, lost in zip(
            weights.items(), best.quantized.split(rows), torch.split(best.loss, rows), strict=True
        )
    ]


def _gptq(
    W: Tensor, H: Tensor, order: Order, grid: Grid, asked: ScaleSearch, *, moved: Tensor | None
) -> tuple[Rounding, dict[str, Any]]:
    """Round in one order. Of the factor, which is as large as H, only the notes outlast this."""
    factor = factorize(H, order)
    told = {"damping": factor.damping, "dead_columns": int(factor.dead.sum()), "act_order": factor.order.value}
    target = W if moved is None else corrected(W, moved, factor)
    return gptq(target, factor, grid, _search(asked, factor.cost, LEAST_SQUARES)), told


def _search(asked: ScaleSearch, importance: Tensor | None, squares: Search) -> Search:
    if asked is ScaleSearch.HESSIAN:
        if importance is None:
            raise ValueError("a search weighed by activity needs that of each input")
        return Search(importance=importance)
    return MIN_MAX if asked is ScaleSearch.MIN_MAX else squares


def channel_ratio(squares: Tensor) -> float | None:
    """The root mean square of the largest channel over that of the median one; None where that one is dead.

    Args:
        squares: [d] floating, the sum of each channel's squares over the same tokens.
    """
    largest, median = float(squares.max()), float(squares.median())
    return math.sqrt(largest / median) if median > 0 else None


def _ratio(lost: float, there: float) -> float:
    """The error's share of an output, 0 for an output that is 0."""
    return lost / there if there > 0 else 0.0
