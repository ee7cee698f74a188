"""The Hessian of a linear layer's squared output error: H = 2/n · Σ xᵀx over the tokens x that it reads.

While tokens come in, the raw sum is kept, in float32 and in the lower triangle only, which is half the work of a full
product. It is scaled once, at the end: scaling the inputs instead would round them.
"""

import torch
from torch import Tensor

_PANEL = 256


def empty_gram(columns: int) -> Tensor:
    """A sum over no tokens, [d, d] float32."""
    return torch.zeros(columns, columns, dtype=torch.float32)


def add_to_gram(X: Tensor, H: Tensor) -> None:
    """Add Xᵀ X to the lower triangle of H, in place; what is above the diagonal's blocks is left as it is.

    Args:
        X: [N, d] tokens, floating.
        H: [d, d] float32.
    """
    X = X.float()
    for begin in range(0, H.shape[0], _PANEL):
        end = begin + _PANEL
        H[begin:, begin:end].addmm_(X[:, begin:].T, X[:, begin:end])


def hessian_finish(H: Tensor, n: int) -> Tensor:
    """The Hessian from the raw sum over n tokens: scaled by 2/n, and the lower triangle mirrored into the upper.

    Args:
        H: [d, d] float32 raw sum; unchanged.
        n: tokens, at least 1.
    """
    finished = torch.tril(H).mul_(2.0 / n)
    # Panel by panel, since another copy would be as large as all else that a block needs.
    for begin in range(0, len(H), _PANEL):
        end = begin + _PANEL
        corner = finished[begin:end, begin:end]
        corner += torch.tril(corner, -1).T
        finished[begin:end, end:] = finished[end:, begin:end].T
    return finished
