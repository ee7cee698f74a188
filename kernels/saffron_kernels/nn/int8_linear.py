"""A linear layer as engines run W8A8: int8 weights per channel, activations rounded to int8 per token."""

from torch import Tensor, float32, int8, nn

from saffron_kernels.nn.stored import stored
from saffron_kernels.quantize_per_token import quantize_per_token
from saffron_kernels.w8a8_gemm import w8a8_gemm


class Int8Linear(nn.Module):
    """y = (x_int8 · W_int8ᵀ) · s_x · s_w + b.

    Its tensors have the names and types of compressed-tensors' int-quantized format, so they load as stored.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = stored(out_features, in_features, dtype=int8)
        self.weight_scale = stored(out_features, 1, dtype=float32)
        self.bias = stored(out_features, dtype=float32) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] in any floating type -> [..., out] in that type."""
        tokens = x.reshape(-1, x.shape[-1])
        codes, scale = quantize_per_token(tokens)
        y = w8a8_gemm(codes, scale, self.weight, self.weight_scale, self.bias, out_dtype=x.dtype)
        return y.reshape(*x.shape[:-1], -1)
