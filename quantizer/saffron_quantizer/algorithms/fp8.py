"""FP8 e4m3 (FP8 Formats for Deep Learning, arXiv 2209.05433): a sign, 4 bits of exponent, 3 of fraction.

The variant is e4m3fn, which engines and checkpoints use: no infinity, and 448 is the largest number.
"""

import torch
from torch import Tensor

from saffron_kernels.quantize_pack import quantize_fp8
from saffron_quantizer.algorithms.quantized import Quantized

LARGEST = torch.finfo(torch.float8_e4m3fn).max
"""448."""


def to_fp8(X: Tensor) -> Tensor:
    """The nearest FP8 number of each element, half to even; what lies beyond 448 becomes 448.

    Args:
        X: any shape, floating.

    Returns:
        The same shape in float8_e4m3fn; NaN stays NaN.
    """
    # Torch's own cast makes NaN of what lies beyond 448.
    return X.float().clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


def fp8_scale(absmax: Tensor) -> Tensor:
    """The scale that maps the largest magnitude to 448, float32; that of nothing but zeros is the smallest normal."""
    return (absmax.float() / LARGEST).clamp_min(torch.finfo(torch.float32).tiny)


def fp8(W: Tensor) -> Quantized:
    """Round weights to FP8 with one scale an output channel, absmax / 448. It reads no data.

    Args:
        W: [R, C], floating; unchanged.

    Returns:
        Codes [R, C] float8_e4m3fn and scales [R, 1] float32.
    """
    scale = fp8_scale(W.abs().amax(dim=1, keepdim=True))
    return Quantized(quantize_fp8(W, scale), scale)
