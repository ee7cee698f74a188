"""A linear layer as engines run FP8: e4m3 weights per output channel, activations rounded to e4m3 as they come in."""

from torch import Tensor, float8_e4m3fn, float32, nn

from saffron_kernels.fp8_gemm import fp8_gemm
from saffron_kernels.nn.stored import stored
from saffron_kernels.quantize_per_token import quantize_per_token_fp8


class Fp8Linear(nn.Module):
    """y = (x_fp8 · W_fp8ᵀ) · s_x · s_w + b, with a scale s_x for each token.

    Its tensors have the names and types of compressed-tensors' float-quantized format, so they load as stored.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = stored(out_features, in_features, dtype=float8_e4m3fn)
        self.weight_scale = stored(out_features, 1, dtype=float32)
        self.bias = stored(out_features, dtype=float32) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] in any floating type -> [..., out] in that type."""
        codes, scale = quantize_per_token_fp8(x.reshape(-1, x.shape[-1]), self._scale)
        y = fp8_gemm(codes, scale, self.weight, self.weight_scale, self.bias, out_dtype=x.dtype)
        return y.reshape(*x.shape[:-1], -1)

    @property
    def _scale(self) -> Tensor | None:
        """[1] float32, one scale for all tokens, or None."""
        return None


class StaticFp8Linear(Fp8Linear):
    """The same with one scale for all tokens, which was measured before: `input_scale`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.input_scale = stored(1, dtype=float32)

    @property
    def _scale(self) -> Tensor | None:
        return self.input_scale
