"""RMSNorm: a vector over the root of its mean square, times a gain (arXiv 1910.07467, equation 4).

Models differ in where they round. Llama's rounds the normalized vector to the type of its input and then multiplies it
by the weight; Gemma's gain is one plus the weight, and only the product is rounded.
"""

import torch
from torch import Tensor

from saffron_kernels.eager import on_cpu
from saffron_kernels.operands import FLOATING, require_one_device


def rms_norm(x: Tensor, weight: Tensor, eps: float, *, one_plus: bool = False) -> Tensor:
    """Normalize along the last dimension.

    On the CPU each vector of bfloat16, float16 or float32 is read and written once, by a compiled loop. It adds up in
    another order than torch does, so that results may differ by a rounding. On other devices, for other types, for
    gradients and for traces torch's operations are called one after the other.

    Args:
        x: [..., d], d at least 1.
        weight: [d], of the type of x.
        eps: is added to the mean square.
        one_plus: as Gemma's; else as Llama's.

    Returns:
        Of the shape and type of x; laid out as x is, if that leaves no gaps.

    Raises:
        ValueError: shapes, types or devices do not fit.
    """
    require_one_device(x, weight)
    if weight.shape != x.shape[-1:] or weight.dtype != x.dtype:
        raise ValueError(
            f"weight is {weight.dtype} {list(weight.shape)}; wanted is {x.dtype} {list(x.shape[-1:])}, as x has it"
        )
    if not on_cpu(x, weight) or x.dtype not in FLOATING:
        return rms_norm_reference(x, weight, eps, one_plus=one_plus)
    # Numba takes half a second to import, and only the CPU needs it.
    from saffron_kernels.rms_norm_cpu import rms_norm_rows  # noqa: PLC0415

    return rms_norm_rows(x, weight, eps, one_plus=one_plus)


def rms_norm_reference(x: Tensor, weight: Tensor, eps: float, *, one_plus: bool = False) -> Tensor:
    """What `rms_norm` computes, in plain torch."""
    normalized = x.float() * torch.rsqrt(x.float().square().mean(-1, keepdim=True) + eps)
    if one_plus:
        return (normalized * (1.0 + weight.float())).to(x.dtype)
    return weight * normalized.to(x.dtype)
