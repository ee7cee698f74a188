"""RMSNorm as a module."""

from torch import Tensor, nn

from saffron_kernels.rms_norm import rms_norm


class RmsNorm(nn.Module):
    """`rms_norm` with its weight."""

    def __init__(self, weight: Tensor, eps: float, *, one_plus: bool) -> None:
        """Take a weight, [d].

        Args:
            weight: what is multiplied with, or one less.
            eps: is added to the mean square.
            one_plus: whether the gain is one plus the weight.
        """
        super().__init__()
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.eps = eps
        self.one_plus = one_plus

    def forward(self, x: Tensor) -> Tensor:
        """[..., d] -> the same shape and type."""
        return rms_norm(x, self.weight, self.eps, one_plus=self.one_plus)
