"""`quantize_per_token` on the CPU."""

from torch import Tensor

from saffron_kernels.quantize_per_token import quantize_per_token_fp8_reference, quantize_per_token_reference


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """As the op of this name."""
    return quantize_per_token_reference(x)


def quantize_per_token_fp8(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """As the op of this name."""
    return quantize_per_token_fp8_reference(x, scale)
