"""The product of FP8 e4m3 activations with FP8 e4m3 weights: y = (codes · weightᵀ) · s_x · s_w + b.

FP8 Formats for Deep Learning, arXiv 2209.05433. Every product of two e4m3 numbers is a float32 as it is; the sums round
in float32, in an order that is the device's.
"""

import torch
from torch import Tensor

from saffron_kernels.operands import require_operands, require_out_dtype


def fp8_gemm(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype,
) -> Tensor:
    """Multiply quantized tokens with weights that are quantized per output channel.

    Args:
        codes: [M, K] float8_e4m3fn, as from `quantize_per_token_fp8`.
        scale: [M, 1] float32, one a token.
        weight: [N, K] float8_e4m3fn, as compressed-tensors' float-quantized format stores it.
        weight_scale: [N, 1] float32, one an output channel.
        bias: [N] of any floating type, or None.
        out_dtype: float32, float16 or bfloat16.

    Returns:
        [M, N] in out_dtype, rounded to it once, at the end.

    Raises:
        ValueError: shapes or types do not fit.
        NotImplementedError: the card has no FP8 (it has from compute capability 8.9 on). Dequantize the weights there,
            and multiply in bfloat16.
    """
    require_operands(codes, scale, weight, weight_scale, bias, torch.float8_e4m3fn)
    require_out_dtype(out_dtype)
    y: Tensor = _gemm(codes, scale, weight, weight_scale, bias, out_dtype)
    return y


def fp8_gemm_reference(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype,
) -> Tensor:
    """What `fp8_gemm` computes, in plain torch, with sums in float32."""
    y = (codes.float() @ weight.float().T) * scale * weight_scale.T
    return (y if bias is None else y + bias.float()).to(out_dtype)


@torch.library.custom_op("saffron::fp8_gemm", mutates_args=(), device_types="cpu")
def _gemm(  # noqa: PLR0917 - an op's arguments have places
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    from saffron_kernels import fp8_gemm_cpu  # noqa: PLC0415 - what another device doesn't need

    return fp8_gemm_cpu.fp8_gemm(codes, scale, weight, weight_scale, bias, out_dtype=out_dtype)


@_gemm.register_kernel("cuda")
def _(  # noqa: PLR0917 - as above
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    from saffron_kernels import fp8_gemm_triton  # noqa: PLC0415 - Triton is needed on a card alone

    y: Tensor = fp8_gemm_triton.fp8_gemm(codes, scale, weight, weight_scale, bias, out_dtype=out_dtype)
    return y


@_gemm.register_fake
def _(  # noqa: PLR0917 - as above
    codes: Tensor,
    scale: Tensor,  # noqa: ARG001 - only these change no shape
    weight: Tensor,
    weight_scale: Tensor,  # noqa: ARG001
    bias: Tensor | None,  # noqa: ARG001
    out_dtype: torch.dtype,
) -> Tensor:
    return codes.new_empty(codes.shape[0], weight.shape[0], dtype=out_dtype)
