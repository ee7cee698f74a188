"""What AWQ and SmoothQuant share: a scale for each channel, from one exponent that is searched for.

A channel is divided by its scale where it is made and multiplied by it where it is read, which changes nothing until
weights or activations are rounded. Both methods take the scales from a power of how large the channel is, and search
for the exponent that leaves least error behind.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

_COARSE = (0.0, 0.25, 0.5, 0.75, 1.0)
_STEPS = (0.125, 0.0625)


@dataclass(frozen=True)
class Smoothing:
    """The scales that were found.

    Attributes:
        scale: [channels] float32, above 0; consumers are multiplied by it.
        exponent: what they were made with, or None where leaving all as it is was best.
        error: what is left with them.
        identity_error: what is left without them; never below `error`.
    """

    scale: Tensor
    exponent: float | None
    error: float
    identity_error: float


def coarse_to_fine(
    identity: Tensor, scale_of: Callable[[float], Tensor], error_of: Callable[[Tensor], float]
) -> Smoothing:
    """Search the exponent with ten evaluations: none at all, five over 0 to 1, then two and two around the best.

    Args:
        identity: scales that change nothing, [channels] float32 of 1.
        scale_of: exponent -> scales [channels], finite and above 0.
        error_of: scales -> what is left with them. An error that is not finite is never taken.

    Raises:
        ArithmeticError: the error without any scales is not finite.
    """
    error = error_of(identity)
    if not error < torch.inf:
        raise ArithmeticError(f"the error without scales is {error}")
    best = Smoothing(identity, None, error, error)
    for exponent in _COARSE:
        best = _better(best, exponent, scale_of, error_of)
    for step in _STEPS:
        centre = best.exponent
        if centre is None:
            break
        for exponent in (centre - step, centre + step):
            if 0.0 <= exponent <= 1.0:
                best = _better(best, exponent, scale_of, error_of)
    return best


def _better(
    best: Smoothing, exponent: float, scale_of: Callable[[float], Tensor], error_of: Callable[[Tensor], float]
) -> Smoothing:
    """The better of what was found and an exponent; of equal ones what was found first."""
    scale = scale_of(exponent)
    error = error_of(scale)
    return Smoothing(scale, exponent, error, best.identity_error) if error < best.error else best


def centred(scale: Tensor, alive: Tensor) -> Tensor:
    """Scales of one level, so that the largest is as far above 1 as the smallest is below; 1 for dead channels.

    The level of all scales together changes no rounding, but the range that stored numbers need.

    Args:
        scale: [channels], above 0 where alive.
        alive: [channels] bool.
    """
    if not bool(alive.any()):
        return torch.ones_like(scale)
    low, high = torch.aminmax(scale[alive])
    return torch.where(alive, scale / (low * high).sqrt(), 1.0)
