"""Activations rounded to 8 bits as they come in, with one scale a token: codes = round(x / s), x ≈ codes · s.

s is the token's largest magnitude over the largest code: 127 for int8, 448 for FP8 e4m3 (arXiv 2209.05433). Both round
half to even and do the same IEEE operations in the same order on every device, so codes and scales are equal bit by
bit. vLLM's dynamic per-token schemes have the same scales. Its int8 codes are the same but in ties: on the CPU (0.32.0)
it multiplies by 1 / s, so that a number half as large as its token's largest may become 63 where the quotient is 63.5.
"""

import torch
from torch import Tensor

from saffron_kernels.eager import cpu_kernels, on_cpu
from saffron_kernels.operands import FLOATING, require_one_device

LARGEST_INT8 = 127
LARGEST_FP8 = 448
LEAST_FP8_SCALE = 1 / (LARGEST_FP8 * 512)
"""vLLM's floor of a token's FP8 scale: below it a token's numbers are lost."""


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round each token to int8 codes -127..127 in its own scale, absmax / 127.

    Args:
        x: [M, K] float32, float16 or bfloat16.

    Returns:
        Codes [M, K] int8 and scales [M, 1] float32. A token of zeros has codes and scale 0; one with an infinite number
        or NaN has that scale, and its codes say nothing.

    Raises:
        ValueError: x is no matrix or has another type.
    """
    require_tokens(x)
    quantize = cpu_kernels("quantize_per_token").quantize_per_token if on_cpu(x) else _quantize_int8
    codes, scale = quantize(x)
    return codes, scale


def quantize_per_token_fp8(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Round each token to FP8 e4m3 in its own scale, absmax / 448, or all of them in one that was measured before.

    It is divided by the scale as a product with the scale's reciprocal, and what lies beyond 448 becomes 448.

    Args:
        x: [M, K] float32, float16 or bfloat16.
        scale: [1] float32, above 0: the one scale of all tokens. None: each token's own, at least `LEAST_FP8_SCALE`.

    Returns:
        Codes [M, K] float8_e4m3fn and scales [M, 1] float32. NaN stays NaN. In its own scale a token with NaN is NaN
        throughout, its scale as well; one with an infinite number has an infinite scale, there NaN and elsewhere 0.

    Raises:
        ValueError: x is no matrix or has another type, or scale is not one float32 on its device.
    """
    require_tokens(x)
    if scale is not None and (scale.numel() != 1 or scale.dtype != torch.float32):
        raise ValueError(f"scale must be one float32, not {scale.dtype} {tuple(scale.shape)}")
    require_one_device(x, scale)
    codes, scales = _quantize_fp8(x, scale)
    return codes, scales


def quantize_per_token_reference(x: Tensor) -> tuple[Tensor, Tensor]:
    """What `quantize_per_token` computes, in plain torch."""
    absmax = x.abs().amax(dim=1, keepdim=True).float()
    # By a tensor: torch turns the quotient by a number into a product with its reciprocal on some devices.
    scale = absmax / absmax.new_tensor(LARGEST_INT8)
    # No quotient is above 127 by more than its own rounding, so none is clamped.
    codes = (x.float() / scale.clamp_min(torch.finfo(torch.float32).tiny)).round()
    return codes.to(torch.int8), scale


def quantize_per_token_fp8_reference(x: Tensor, scale: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """What `quantize_per_token_fp8` computes, in plain torch."""
    if scale is None:
        absmax = x.abs().amax(dim=1, keepdim=True).float()
        scales = (absmax / absmax.new_tensor(LARGEST_FP8)).clamp_min(LEAST_FP8_SCALE)
    else:
        scales = scale.reshape(1, 1).repeat(len(x), 1)
    # Torch's own cast makes NaN of what lies beyond 448.
    codes = (x.float() * scales.reciprocal()).clamp(-LARGEST_FP8, LARGEST_FP8)
    return codes.to(torch.float8_e4m3fn), scales


def require_tokens(x: Tensor) -> None:
    """Refuse what is no matrix of floats with a ValueError."""
    if x.dim() != 2 or x.dtype not in FLOATING:  # noqa: PLR2004 - a matrix
        raise ValueError(f"x must be a matrix of float32, float16 or bfloat16, not {x.dtype} {tuple(x.shape)}")


@torch.library.custom_op("saffron::quantize_per_token", mutates_args=(), device_types="cpu")
def _quantize_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    from saffron_kernels import quantize_per_token_cpu  # noqa: PLC0415 - what another device doesn't need

    return quantize_per_token_cpu.quantize_per_token(x)


@_quantize_int8.register_kernel("cuda")
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    from saffron_kernels import quantize_per_token_triton  # noqa: PLC0415 - Triton is needed on a card alone

    codes, scale = quantize_per_token_triton.quantize_per_token(x)
    return codes, scale


@_quantize_int8.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=torch.int8), x.new_empty(x.shape[0], 1, dtype=torch.float32)


@torch.library.custom_op("saffron::quantize_per_token_fp8", mutates_args=(), device_types="cpu")
def _quantize_fp8(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    from saffron_kernels import quantize_per_token_cpu  # noqa: PLC0415 - as above

    return quantize_per_token_cpu.quantize_per_token_fp8(x, scale)


@_quantize_fp8.register_kernel("cuda")
def _(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    from saffron_kernels import quantize_per_token_triton  # noqa: PLC0415 - as above

    codes, scales = quantize_per_token_triton.quantize_per_token_fp8(x, scale)
    return codes, scales


@_quantize_fp8.register_fake
def _(x: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:  # noqa: ARG001 - the scale changes no shape
    return x.new_empty(x.shape, dtype=torch.float8_e4m3fn), x.new_empty(x.shape[0], 1, dtype=torch.float32)
