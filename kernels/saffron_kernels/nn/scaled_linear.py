"""Linear layers as engines run W8A8 and FP8: 8-bit weights per output channel, activations rounded as they come in."""

from typing import ClassVar

import torch
from torch import Tensor, nn

from saffron_kernels.fp8_gemm import fp8_gemm
from saffron_kernels.nn.stored import stored
from saffron_kernels.quantize_per_token import quantize_per_token_fp8
from saffron_kernels.w8a8_gemm import w8a8_linear


class _ScaledLinear(nn.Module):
    """y = (x_codes · W_codesᵀ) · s_x · s_w + b.

    Its tensors have the names and types of compressed-tensors' formats, so they load as stored.
    """

    _codes: ClassVar[torch.dtype]
    """Of the weight."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = stored(out_features, in_features, dtype=self._codes)
        self.weight_scale = stored(out_features, 1, dtype=torch.float32)
        self.bias = stored(out_features, dtype=torch.float32) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] in float32, float16 or bfloat16 -> [..., out] in that type."""
        return self._product(x.reshape(-1, x.shape[-1])).reshape(*x.shape[:-1], len(self.weight))

    def _product(self, x: Tensor) -> Tensor:
        """[M, in] -> [M, out]."""
        raise NotImplementedError


class Int8Linear(_ScaledLinear):
    """Int8 times int8, with a scale s_x for each token; as compressed-tensors' int-quantized format stores it."""

    _codes = torch.int8

    def _product(self, x: Tensor) -> Tensor:
        return w8a8_linear(x, self.weight, self.weight_scale, self.bias)


class Fp8Linear(_ScaledLinear):
    """E4m3 times e4m3, with a scale s_x for each token; as compressed-tensors' float-quantized format stores it."""

    _codes = torch.float8_e4m3fn

    def _product(self, x: Tensor) -> Tensor:
        codes, scale = self._rounded(x)
        return fp8_gemm(codes, scale, self.weight, self.weight_scale, self.bias, out_dtype=x.dtype)

    def _rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[M, in] -> codes [M, in] and scales [M, 1]."""
        return quantize_per_token_fp8(x)


class StaticFp8Linear(Fp8Linear):
    """The same with one scale for all tokens, which was measured before: `input_scale`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.input_scale = stored(1, dtype=torch.float32)

    def _rounded(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return quantize_per_token_fp8(x, self.input_scale)
