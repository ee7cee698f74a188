"""A linear layer as engines run W8A8: int8 weights per channel, activations rounded to int8 per token."""

import torch
from torch import Tensor, nn

_LARGEST = 127
_TOKENS_AT_ONCE = 256
"""Few enough that what lies between the steps stays in the processor's cache; tokens are independent of each other."""


class Int8Linear(nn.Module):
    """y = (x_int8 · W_int8ᵀ) · s_x · s_w + b.

    Its tensors have the names and types of compressed-tensors' int-quantized format, so they load as stored.
    """

    def __init__(self, in_features: int, out_features: int, *, bias: bool) -> None:
        super().__init__()
        self.weight = _empty(out_features, in_features, dtype=torch.int8)
        self.weight_scale = _empty(out_features, 1, dtype=torch.float32)
        self.bias = _empty(out_features, dtype=torch.float32) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """[..., in] in any floating type -> [..., out] in that type."""
        tokens = x.reshape(-1, x.shape[-1])
        y = torch.empty(len(tokens), self.weight.shape[0], dtype=x.dtype, device=x.device)
        for first in range(0, len(tokens), _TOKENS_AT_ONCE):
            part = slice(first, first + _TOKENS_AT_ONCE)
            codes, scale = quantize_per_token(tokens[part])
            product = int8_matmul(codes, self.weight)  # [tokens, out]
            product.mul_(scale).mul_(self.weight_scale.T)
            if self.bias is not None:
                product.add_(self.bias.float())
            y[part] = product
        return y.reshape(*x.shape[:-1], -1)


def quantize_per_token(x: Tensor) -> tuple[Tensor, Tensor]:
    """Round activations to int8 with one scale a token: absmax / 127, half to even, as vLLM's kernels do.

    Args:
        x: [tokens, channels], floating.

    Returns:
        Codes [tokens, channels] int8 and scales [tokens, 1] float32. A token of zeros has codes 0.
    """
    scale = x.abs().amax(dim=1, keepdim=True).float() / _LARGEST
    # No quotient is above 127 by more than its own rounding, so none is clamped.
    codes = x.to(torch.float32, copy=True).div_(scale.clamp_min(torch.finfo(torch.float32).tiny)).round_()
    return codes.to(torch.int8), scale


def int8_matmul(a: Tensor, b: Tensor) -> Tensor:
    """A · Bᵀ of int8 matrices, [M, K] and [N, K] -> [M, N] float32.

    With VNNI instructions it is summed in int32 and exact. Without them torch's integer product is slow and on some
    processors wrong, so it is computed in float32: exact as long as partial sums stay below 2^24, and else off by less
    than 1e-6 of the largest.
    """
    # With a single column torch 2.13 gives garbage: it takes the transposed view for a contiguous one.
    if a.shape[1] > 1 and torch.cpu._is_vnni_supported():  # noqa: SLF001 - there is no public way to ask
        return torch._int_mm(a, b.T).float()  # noqa: SLF001 - torch has no public int8 product
    return a.float() @ b.float().T


def _empty(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype, device="meta"), requires_grad=False)
