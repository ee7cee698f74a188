"""What calibration learns of a linear's inputs."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gram:
    """Of the tokens that a linear reads.

    Attributes:
        sum: xᵀx summed over the tokens, raw, lower triangle of [d, d] float32.
        tokens: how many there are.
    """

    sum: Tensor
    tokens: int
