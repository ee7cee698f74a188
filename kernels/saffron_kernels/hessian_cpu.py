"""`hessian` on the CPU, little more than the lower triangle of it.

It goes by tiles of products where they are made for the processor, else by vendor products of float32 panels.
"""

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
    from saffron_kernels.hessian_tiles import add_lower_by_tiles  # noqa: PLC0415
    from saffron_kernels.tile_kinds import tile_kind  # noqa: PLC0415

    kind = tile_kind(X.dtype)
    for x, gram in zip(X, H, strict=True):
        if kind is None:
            _add_panels(x, gram)
        else:
            add_lower_by_tiles(x, gram, kind)


def _add_panels(x: Tensor, gram: Tensor) -> None:
    """Of one matrix, x [N, d] and gram [d, d]."""
    x_float = x.float()
    for begin in range(0, len(gram), _PANEL):
        end = begin + _PANEL
        gram[begin:, begin:end].addmm_(x_float[:, begin:].T, x_float[:, begin:end])
