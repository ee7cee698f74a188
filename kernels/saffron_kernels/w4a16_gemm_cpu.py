"""`w4a16_gemm` on the CPU."""

import torch
from torch import Tensor

from saffron_kernels.w4a16_gemm import W4A16Weight


def repack(weight_packed: Tensor, scale: Tensor, zero: Tensor | None, in_features: int) -> W4A16Weight:
    """Lay out as `w4a16_gemm` here reads it: [N, ceil(K / 8) · 4] uint8, the even column in the low nibble."""
    assert in_features <= 8 * weight_packed.shape[1]  # noqa: S101 - for the time being
    return W4A16Weight(weight_packed.contiguous().view(torch.uint8).clone(), scale.clone(), zero)


def w4a16_gemm(  # noqa: PLR0917 - as the op
    x: Tensor, codes: Tensor, scale: Tensor, zero: Tensor | None, group_size: int, bias: Tensor | None
) -> Tensor:
    """As the op of this name."""
    nibbles = torch.stack([codes & 0xF, codes >> 4], dim=2).reshape(len(codes), -1)[:, : x.shape[1]]
    weight = nibbles.float() - 8  # [N, K]
    if zero is not None:
        weight -= zero.float().repeat_interleave(group_size, dim=1)
    y = x.float() @ (weight * scale.float().repeat_interleave(group_size, dim=1)).T
    return (y if bias is None else y + bias.float()).to(x.dtype)
