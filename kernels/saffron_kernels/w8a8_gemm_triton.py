"""`w8a8_gemm` on a card: the int8 tensor cores of every generation from sm_80 on, with sums in int32."""

import torch
from torch import Tensor

from saffron_kernels.scaled_gemm_triton import scaled_gemm, scaled_gemm_problems


def w8a8_gemm(
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, out_dtype: torch.dtype
) -> Tensor:
    """As the op of this name."""
    capability = torch.cuda.get_device_capability(codes.device)
    return scaled_gemm(codes, scale, weight, weight_scale, bias, out_dtype, capability)


PROBLEMS = scaled_gemm_problems("w8a8_gemm", torch.int8, "int8_tensor")
