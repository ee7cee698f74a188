"""What calibration learns of a linear's inputs."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gram:
    """Of the tokens that a linear reads.

    Attributes:
        sum: xᵀx summed over the tokens, raw, lower triangle of [d, d] float32.
        tokens: how many there are.
        drift: (x̃ - x)ᵀx summed over them, [d, d] float32, with x̃ what the linear reads in the original; None where
            that is not looked at.
    """

    sum: Tensor
    tokens: int
    drift: Tensor | None = None
