"""`hessian` on the CPU, little more than the lower triangle of it.

bfloat16 tokens go to the processor's own bfloat16 products, where it has them: exact products, summed in float32.
Otherwise it is vendor products of float32 panels.
"""

import torch
from torch import Tensor

_PANEL = 256
"""Columns of a panel: wide enough for a fast product, narrow enough that little of the upper triangle is computed."""


def add_lower(X: Tensor, H: Tensor) -> None:
    """Add Xᵀ X to the lower triangle of H, in place; above the diagonal, only the diagonal's blocks are written.

    Args:
        X: [B, N, d] bfloat16, float16 or float32.
        H: [B, d, d] float32.
    """
    # Numba takes half a second to import, and only this needs it.
    if X.dtype == torch.bfloat16 and _has_bfloat16_products():
        from saffron_kernels.hessian_bfloat16 import add_lower_of_bfloat16 as add  # noqa: PLC0415
    else:
        add = _add_panels
    for x, gram in zip(X, H, strict=True):
        add(x, gram)


def _has_bfloat16_products() -> bool:
    from saffron_kernels.bfloat16_tile import has_tiles  # noqa: PLC0415 - as above

    return has_tiles()


def _add_panels(x: Tensor, gram: Tensor) -> None:
    """Of one matrix, x [N, d] and gram [d, d]."""
    x_float = x.float()
    for begin in range(0, len(gram), _PANEL):
        end = begin + _PANEL
        gram[begin:, begin:end].addmm_(x_float[:, begin:].T, x_float[:, begin:end])
