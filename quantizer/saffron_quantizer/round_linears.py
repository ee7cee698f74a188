"""Linears that read one input, rounded as a candidate asks for, and what is told of each."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from saffron_api.candidate import ActOrder, ScaleSearch
from saffron_quantizer.algorithms.fp8 import fp8
from saffron_quantizer.algorithms.gptq import Order, Rounding, factorize, gptq
from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.rtn import rtn
from saffron_quantizer.algorithms.scales import LEAST_SQUARES, MIN_MAX, Search

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
    """

    name: str
    relative_error: float | None = None
    damping: float | None = None
    dead_columns: int | None = None
    act_order: str | None = None
    scale_search: str | None = None


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
    importance: Tensor | None = None,
) -> list[RoundedLinear]:
    """Round linears to the nearest codes.

    Args:
        weights: [R, d] each, by the linear's name inside its block.
        grid: what their weights are rounded to.
        scale_search: how scales are found; None for the least squared error.
        importance: [d] float32 for `ScaleSearch.HESSIAN`: the sum of each input's squares.
    """
    asked = scale_search or ScaleSearch.MSE
    search = _search(asked, importance)
    return [
        RoundedLinear(rtn(W, grid, search), LinearNote(name, scale_search=asked.value)) for name, W in weights.items()
    ]


def fp8_linears(weights: Mapping[str, Tensor]) -> list[RoundedLinear]:
    """Round linears to FP8, [R, d] each, by the linear's name inside its block."""
    return [RoundedLinear(fp8(W), LinearNote(name)) for name, W in weights.items()]


def gptq_linears(
    weights: Mapping[str, Tensor],
    H: Tensor,
    grid: Grid,
    act_order: ActOrder | None,
    scale_search: ScaleSearch | None,
) -> list[RoundedLinear]:
    """Round linears that read one input by GPTQ: as one matrix, whose rows are parted again.

    Args:
        weights: [R, d] each, by the linear's name inside its block.
        H: [d, d] float32, the Hessian of the input.
        grid: what their weights are rounded to.
        act_order: of the columns; None for that which leaves less error.
        scale_search: how scales are found; None for the least error at the output.

    Raises:
        UnstableHessianError: the Hessian can't be factorized.
    """
    asked = scale_search or ScaleSearch.HESSIAN
    W = torch.cat([weight.float() for weight in weights.values()])
    rows = [len(weight) for weight in weights.values()]
    tried = [_gptq(W, H, order, grid, asked) for order in ORDERS[act_order or ActOrder.AUTO]]
    best, used = min(tried, key=lambda one: float(one[0].loss.sum()))
    energy = ((W @ H) * W).sum(dim=1)
    return [
        RoundedLinear(
            quantized,
            LinearNote(
                name,
                relative_error=_ratio(lost, there),
                scale_search=asked.value,
                **used,
            ),
        )
        for name, quantized, lost, there in zip(
            weights, best.quantized.split(rows), torch.split(best.loss, rows), torch.split(energy, rows), strict=True
        )
    ]


def _gptq(W: Tensor, H: Tensor, order: Order, grid: Grid, asked: ScaleSearch) -> tuple[Rounding, dict[str, Any]]:
    """Round in one order. Of the factor, which is as large as H, only the notes outlast this."""
    factor = factorize(H, order)
    told = {"damping": factor.damping, "dead_columns": int(factor.dead.sum()), "act_order": factor.order.value}
    return gptq(W, factor, grid, _search(asked, factor.cost)), told


def _search(asked: ScaleSearch, importance: Tensor | None) -> Search:
    if asked is ScaleSearch.HESSIAN:
        if importance is None:
            raise ValueError("a search weighed by activity needs that of each input")
        return Search(importance=importance)
    return MIN_MAX if asked is ScaleSearch.MIN_MAX else LEAST_SQUARES


def _ratio(lost: Tensor, there: Tensor) -> float:
    """The error's share of an output, 0 for an output that is 0."""
    total = float(there.double().sum())
    return float(lost.sum()) / total if total > 0 else 0.0
