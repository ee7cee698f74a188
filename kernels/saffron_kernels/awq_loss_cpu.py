"""`awq_loss` on the CPU: some rows are rounded at a time, and multiplied with the lower triangle panel by panel."""

import torch
from torch import Tensor

from saffron_kernels.dequantize import dequantize
from saffron_kernels.quantize_pack import quantize_pack
from saffron_kernels.scale_search import scale_search

_ROWS = 512
_PANEL = 256


def awq_loss(
    W: Tensor, s: Tensor, H: Tensor, *, bits: int, group_size: int, scale_dtype: torch.dtype, symmetric: bool
) -> Tensor:
    """As the op of this name."""
    losses = []
    for part in torch.split(W.float(), _ROWS):
        scaled = part * s
        scales = scale_search(
            scaled, (1.0,), bits=bits, group_size=group_size, scale_dtype=scale_dtype, symmetric=symmetric
        )
        codes = quantize_pack(scaled, *scales, bits)
        losses.append(_weighed(dequantize(codes, *scales, W.shape[1]).float() / s - part, H))
    return torch.cat(losses)


def _weighed(change: Tensor, H: Tensor) -> Tensor:
    """ΔW H ΔWᵀ of each row, [R]: what lies below the diagonal counts twice."""
    loss = torch.zeros(len(change))
    for begin in range(0, len(H), _PANEL):
        end = begin + _PANEL
        own, later = change[:, begin:end], change[:, end:]
        corner = H[begin:end, begin:end]
        weighed = own @ (torch.tril(corner) + torch.tril(corner, -1))
        weighed.addmm_(later, H[end:, begin:end], alpha=2)
        loss += (weighed * own).sum(dim=1)
    return loss
