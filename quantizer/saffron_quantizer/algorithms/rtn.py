"""Round to nearest: each weight becomes the nearest code."""

from torch import Tensor

from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.scales import FOURTH_POWER, Search, find_scales, round_to_codes


def rtn(W: Tensor, grid: Grid, search: Search = FOURTH_POWER) -> Quantized:
    """Quantize by rounding.

    Args:
        W: [R, C], floating; unchanged.
        grid: what the weights are rounded to.
        search: how scales are found.
    """
    scales = find_scales(W, grid, search)
    return Quantized(round_to_codes(W, scales, grid), scales.scale, scales.zero)
