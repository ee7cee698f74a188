"""Making good, in a linear's weights, what its inputs lost when the linears before it were quantized.

A linear with the weights W reads X where the original's reads X̃: rows are tokens here. GPTQ makes |X (W - Q)ᵀ|² small,
as if X were what W was made for. GPTAQ (arXiv 2504.02692) asks for |X̃ Wᵀ - X Qᵀ|² instead: the output of the original.
By completing the square, that is |X (V - Q)ᵀ|² but for a constant, with V the weights of least squares,

    V = W + W C H⁻¹,  C = (X̃ - X)ᵀ X,  H = Xᵀ X,

so any method may round V in the place of W. That form, with a share of the correction taken so that it does not follow
the calibration tokens too far, is QEP's (arXiv 2504.09629).
"""

import torch
from torch import Tensor

from saffron_quantizer.algorithms.gptq import Factor

SHARE = 0.5
"""How much of the correction is taken (docs/adr/0014)."""


def corrected(W: Tensor, drift: Tensor, factor: Factor, share: float = SHARE) -> Tensor:
    """The weights to round in the place of W, [R, d] float32.

    Args:
        W: [R, d], floating; unchanged.
        drift: [R, d] float32: W C, with C scaled as the Hessian is.
        factor: of the Hessian of X; its damping is that of the least squares, too.
        share: of the correction, 0 to 1.
    """
    # W C (H + diag(added))⁻¹ = W C R⁻ᵀ R⁻¹, columns in their turns.
    halfway = torch.linalg.solve_triangular(factor.R.T, drift[:, factor.turns], upper=False, left=False)
    step = torch.empty_like(drift)
    step[:, factor.turns] = torch.linalg.solve_triangular(factor.R, halfway, upper=True, left=False)
    return step.mul_(share).add_(W)
