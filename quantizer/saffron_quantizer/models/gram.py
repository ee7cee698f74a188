"""What calibration learns of a linear's inputs."""

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Gram:
    """Of the tokens that a linear reads.

    Attributes:
        sum: xᵀx summed over the tokens, raw, lower triangle of [d, d] float32.
        tokens: how many there are.
        of_all_tokens: whether they are those of a whole mixture, since the router gives its expert too few.
    """

    sum: Tensor
    tokens: int
    of_all_tokens: bool = False
