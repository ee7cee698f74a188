"""The product of int8 activations with int8 weights: y = float(codes · weightᵀ) · s_x · s_w + b.

The codes' products are summed in int32, which is exact in any order, and the rest are IEEE operations in float32 in the
order written, so every device gives the same bits (LLM.int8(), arXiv 2208.07339, section 2, without its outliers).
"""

import torch
from torch import Tensor

from saffron_kernels.eager import cpu_kernels, on_cpu
from saffron_kernels.operands import require_one_device, require_operands, require_out_dtype, require_weight
from saffron_kernels.quantize_per_token import quantize_per_token, require_tokens

_LARGEST_K = 131_071
"""128 · 128 times as many stay below 2^31."""


def w8a8_gemm(
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
        codes: [M, K] int8, as from `quantize_per_token`; K at most 131,071, so that no sum leaves int32.
        scale: [M, 1] float32, one a token.
        weight: [N, K] int8, as compressed-tensors' int-quantized format stores it.
        weight_scale: [N, 1] float32, one an output channel.
        bias: [N] of any floating type, or None.
        out_dtype: float32, float16 or bfloat16.

    Returns:
        [M, N] in out_dtype, rounded to it once, at the end.

    Raises:
        ValueError: shapes or types do not fit.
    """
    require_operands(codes, scale, weight, weight_scale, bias, torch.int8)
    require_out_dtype(out_dtype)
    _require_no_overflow(codes.shape[1])
    gemm = cpu_kernels("w8a8_gemm").exact_way() if on_cpu(codes, scale, weight_scale, bias) else _gemm
    y: Tensor = gemm(codes, scale, weight, weight_scale, bias, out_dtype)
    return y


def w8a8_linear(x: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None = None) -> Tensor:
    """Quantize tokens and multiply them: `quantize_per_token` and `w8a8_gemm`, to the bit, where it can be in one go.

    Args:
        x: [M, K] float32, float16 or bfloat16.
        weight: as in `w8a8_gemm`.
        weight_scale: as there.
        bias: as there.

    Returns:
        [M, N] in x's type.

    Raises:
        ValueError: shapes or types do not fit.
    """
    require_tokens(x)
    require_one_device(x, weight)
    require_weight(x.shape[1], weight, weight_scale, bias, torch.int8)
    if on_cpu(x, weight_scale, bias):
        _require_no_overflow(x.shape[1])
        y: Tensor = cpu_kernels("w8a8_gemm").w8a8_linear(x, weight, weight_scale, bias)
        return y
    codes, scale = quantize_per_token(x)
    return w8a8_gemm(codes, scale, weight, weight_scale, bias, out_dtype=x.dtype)


def w8a8_gemm_reference(
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_dtype: torch.dtype,
) -> Tensor:
    """What `w8a8_gemm` computes, in plain torch: the sums in float64, which holds every int32 exactly."""
    y = (codes.double() @ weight.double().T).float() * scale * weight_scale.T
    return (y if bias is None else y + bias.float()).to(out_dtype)


def _require_no_overflow(K: int) -> None:
    if K > _LARGEST_K:
        raise ValueError(f"sums of {K} products may leave int32; {_LARGEST_K} are the most")


@torch.library.custom_op("saffron::w8a8_gemm", mutates_args=(), device_types="cpu")
def _gemm(  # noqa: PLR0917 - an op's arguments have places
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    from saffron_kernels import w8a8_gemm_cpu  # noqa: PLC0415 - what another device doesn't need

    return w8a8_gemm_cpu.w8a8_gemm(codes, scale, weight, weight_scale, bias, out_dtype=out_dtype)


@_gemm.register_kernel("cuda")
def _(  # noqa: PLR0917 - as above
    codes: Tensor,
    scale: Tensor,
    weight: Tensor,
    weight_scale: Tensor,
    bias: Tensor | None,
    out_dtype: torch.dtype,
) -> Tensor:
    from saffron_kernels import w8a8_gemm_triton  # noqa: PLC0415 - Triton is needed on a card alone

    y: Tensor = w8a8_gemm_triton.w8a8_gemm(codes, scale, weight, weight_scale, bias, out_dtype=out_dtype)
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
