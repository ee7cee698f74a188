"""`hessian` on the CPU: vendor products of panels, so that little more than the lower triangle is computed."""

from torch import Tensor

_PANEL = 256
"""Columns of a panel: wide enough for a fast product, narrow enough that little of the upper triangle is computed."""


def add_lower(X: Tensor, H: Tensor) -> None:
    """Add Xᵀ X to the lower triangle of H, in place; above the diagonal, only the diagonal's blocks are written.

    Args:
        X: [B, N, d] floating.
        H: [B, d, d] float32.
    """
    columns = H.shape[-1]
    for x, gram in zip(X, H, strict=True):
        x_float = x.float()
        for begin in range(0, columns, _PANEL):
            end = begin + _PANEL
            gram[begin:, begin:end].addmm_(x_float[:, begin:].T, x_float[:, begin:end])
