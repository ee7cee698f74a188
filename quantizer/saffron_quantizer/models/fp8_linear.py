"""A linear layer as engines run FP8: e4m3 weights per output channel, activations rounded to e4m3 as they come in."""

import torch
from torch import Tensor, nn

from saffron_quantizer.algorithms.fp8 import LARGEST, to_fp8

_LEAST_SCALE = 1 / (LARGEST * 512)
"""vLLM's floor of a token's scale: below it a token's numbers are lost."""


class Fp8Linear(nn.Module):
    """y = (x_fp8 · W_fp8ᵀ) · s_x · s_w + b, with a scale s_x for each token.

    Its tensors have the names and types of compressed-tensors' float-quantized format, so they load as stored.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = _empty(out_features, in_features, dtype=torch.float8_e4m3fn)
        self.weight_scale = _empty(out_features, 1, dtype=torch.float32)
        self.bias = _empty(out_features, dtype=torch.float32) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] in any floating type -> [..., out] in that type."""
        tokens = x.reshape(-1, x.shape[-1]).float()
        scale = self._scale(tokens)
        # Every FP8 number is a float32 as it is, so only the sums round, as in an engine's float32 accumulator.
        product = round_to_fp8(tokens, scale).float() @ self.weight.float().T  # [tokens, out]
        y = product * scale * self.weight_scale.T
        if self.bias is not None:
            y += self.bias.float()
        return y.to(x.dtype).reshape(*x.shape[:-1], -1)

    def _scale(self, tokens: Tensor) -> Tensor:
        """[tokens, 1] float32."""
        return (tokens.abs().amax(dim=1, keepdim=True) / LARGEST).clamp_min(_LEAST_SCALE)


class StaticFp8Linear(Fp8Linear):
    """The same with one scale for all tokens, which was measured before: `input_scale`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__(in_features, out_features, bias=bias)
        self.input_scale = _empty(1, dtype=torch.float32)

    def _scale(self, tokens: Tensor) -> Tensor:  # noqa: ARG002 - what comes in does not count
        """[1] float32."""
        return self.input_scale


def round_to_fp8(x: Tensor, scale: Tensor) -> Tensor:
    """Round activations in a scale to FP8, saturating: as vLLM, by a product with the scale's reciprocal.

    Args:
        x: any shape, floating.
        scale: float32, which broadcasts to it.
    """
    return to_fp8(x.float() * scale.reciprocal())


def _empty(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"), requires_grad=False)
