"""Round to nearest: each weight becomes the nearest code. It reads no data."""

from dataclasses import dataclass

import torch
from torch import Tensor

from saffron_quantizer.algorithms.scales import minmax_scales, round_to_codes


@dataclass(frozen=True)
class Quantized:
    """A quantized weight matrix.

    Attributes:
        codes: [R, C] int8.
        scale: [R, G] in its stored type; the weight is code times scale.
    """

    codes: Tensor
    scale: Tensor


def rtn(W: Tensor, *, bits: int, group_size: int | None, scale_dtype: torch.dtype) -> Quantized:
    """Quantize by rounding, with min-max scales.

    Args:
        W: [R, C], floating; unchanged.
        bits: width of a code.
        group_size: columns that share a scale, or None for all; divides C.
        scale_dtype: type of the stored scale.
    """
    scale = minmax_scales(W, bits, group_size, scale_dtype)
    return Quantized(round_to_codes(W, scale, bits), scale)
