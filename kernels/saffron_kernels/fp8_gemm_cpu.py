"""`fp8_gemm` on the CPU."""

import torch
from torch import Tensor

from saffron_kernels.fp8_gemm import fp8_gemm_reference


def fp8_gemm(
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, out_dtype: torch.dtype
) -> Tensor:
    """As the op of this name."""
    return fp8_gemm_reference(codes, scale, weight, weight_scale, bias, out_dtype=out_dtype)
