"""`fp8_gemm` on a card: the FP8 tensor cores that there are from sm_89 on, with sums in float32.

An older card is refused: it would have to turn the codes into bfloat16 first, which is `dequantize`'s business.
"""

import torch
from torch import Tensor

from saffron_kernels.scaled_gemm_triton import scaled_gemm, scaled_gemm_problems


def fp8_gemm(
    codes: Tensor, scale: Tensor, weight: Tensor, weight_scale: Tensor, bias: Tensor | None, *, out_dtype: torch.dtype
) -> Tensor:
    """As the op of this name."""
    capability = torch.cuda.get_device_capability(codes.device)
    return scaled_gemm(codes, scale, weight, weight_scale, bias, out_dtype, capability)


PROBLEMS = scaled_gemm_problems("fp8_gemm", torch.float8_e4m3fn, "fp8_tensor")
