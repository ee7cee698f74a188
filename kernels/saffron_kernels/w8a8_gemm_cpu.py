"""`w8a8_gemm` on the CPU."""

import torch
from torch import Tensor

from saffron_kernels.w8a8_gemm import w8a8_gemm_reference


def w8a8_gemm(
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, out_dtype: torch.dtype
) -> Tensor:
    """As the op of this name."""
    return w8a8_gemm_reference(codes, scale, weight, weight_scale, bias, out_dtype=out_dtype)
