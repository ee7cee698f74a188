"""The Hessian of a linear layer's squared output error: H = 2/n · Σ xᵀx over the n tokens x that it reads.

GPTQ (arXiv 2210.17323, section 2) calls it H = 2 X Xᵀ, with a token a column. While tokens come in, the raw sum is
kept, in float32 and in the lower triangle only, which is half the work of a full product. It is scaled once, at the
end: scaling the inputs instead would round them, while the product of two bfloat16 or float16 numbers is exact in
float32.
"""

import torch
from torch import Tensor

from saffron_kernels.operands import FLOATING, require_one_device

_PANEL = 256


def hessian(X: Tensor, H: Tensor) -> None:
    """Add Xᵀ X to the lower triangle of H, in place: a raw sum, which is neither scaled nor damped.

    What is above the diagonal belongs to nobody: it may be changed, and `hessian_finish` does not read it.

    Args:
        X: [N, d] tokens, or [B, N, d] for B Hessians; bfloat16, float16 or float32.
        H: [d, d] or [B, d, d] float32.

    Raises:
        ValueError: the shapes, types or devices do not fit.
    """
    _check(X, H)
    _add(X if X.dim() == 3 else X[None], H if H.dim() == 3 else H[None])  # noqa: PLR2004 - [B, N, d] or [N, d]


def hessian_reference(X: Tensor, H: Tensor) -> None:
    """What `hessian` computes, in plain torch: the whole product in float32."""
    H += torch.tril(X.float().mT @ X.float())


def hessian_finish(H: Tensor, n: int) -> Tensor:
    """The Hessian from the raw sum over n tokens: scaled by 2/n, and the lower triangle mirrored into the upper.

    Args:
        H: [d, d] or [B, d, d] float32 raw sum; unchanged.
        n: tokens, at least 1.
    """
    finished = torch.tril(H).mul_(2.0 / n)
    # Panel by panel, since another copy would be as large as all else that a block needs.
    for begin in range(0, H.shape[-1], _PANEL):
        end = begin + _PANEL
        corner = finished[..., begin:end, begin:end]
        corner += torch.tril(corner, -1).mT
        finished[..., begin:end, end:] = finished[..., end:, begin:end].mT
    return finished


def _check(X: Tensor, H: Tensor) -> None:
    if X.dtype not in FLOATING or H.dtype != torch.float32:
        raise ValueError(f"X has {X.dtype}, H {H.dtype}: wanted are bfloat16, float16 or float32, and float32")
    if X.dim() not in {2, 3} or H.shape != (*X.shape[:-2], X.shape[-1], X.shape[-1]):
        raise ValueError(f"the Hessian of X {list(X.shape)} can not be {list(H.shape)}")
    require_one_device(X, H)


@torch.library.custom_op("saffron::hessian", mutates_args=("H",), device_types="cpu")
def _add(X: Tensor, H: Tensor) -> None:
    from saffron_kernels.hessian_cpu import add_lower  # noqa: PLC0415 - each device's own, when it is asked for

    add_lower(X, H)


@_add.register_kernel("cuda")
def _(X: Tensor, H: Tensor) -> None:
    from saffron_kernels.hessian_triton import hessian_launch  # noqa: PLC0415 - needs Triton

    hessian_launch(X, H).run()


@_add.register_fake
def _(X: Tensor, H: Tensor) -> None:
    """Nothing comes back; H has what it has."""
