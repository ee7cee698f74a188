"""Round to nearest: each weight becomes the nearest code. It reads no data."""

from torch import Tensor

from saffron_quantizer.algorithms.quantized import Grid, Quantized
from saffron_quantizer.algorithms.scales import minmax_scales, round_to_codes


def rtn(W: Tensor, grid: Grid) -> Quantized:
    """Quantize by rounding, with min-max scales.

    Args:
        W: [R, C], floating; unchanged.
        grid: what the weights are rounded to.
    """
    scale = minmax_scales(W, grid)
    return Quantized(round_to_codes(W, scale, grid), scale)
