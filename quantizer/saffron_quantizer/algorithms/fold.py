"""Moving a channel's scale from where the channel is made into the weights that read it, without changing the function.

What is stored of the producer is rounded to its type first. Its consumers are then multiplied not by the scale that was
asked for but by the one that this rounding left, old / stored, so that the product is the same as before.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Fold:
    """A producer whose channels are divided.

    Attributes:
        weight: the producer's, as it is to be stored.
        bias: the same, or None where it has none.
        scale: [channels] float32: what its consumers' columns have to be multiplied by.
    """

    weight: Tensor
    bias: Tensor | None
    scale: Tensor


def fold_gain(weight: Tensor, bias: Tensor | None, scale: Tensor, *, offset: float) -> Fold:
    """Divide the gains of a norm.

    A gain of 0 makes a channel of zeros, which no scale changes; it and a gain that would be rounded to 0 stay as they
    are, with the scale 1. A bias is a second stored number of the same channel: then scales become powers of two,
    which round neither.

    Args:
        weight: [channels], in its stored type: gain - offset.
        bias: [channels] or None.
        scale: [channels], above 0.
        offset: what the norm adds to its weight to have its gain: 1 for Gemma's, 0 for others.
    """
    gain = weight.float() + offset
    if bias is not None:
        scale = power_of_two(scale)
        return Fold((gain / scale - offset).to(weight.dtype), (bias.float() / scale).to(bias.dtype), scale)
    stored = (gain / scale.float() - offset).to(weight.dtype)
    divided = stored.float() + offset
    usable = gain * divided > 0
    return Fold(torch.where(usable, stored, weight), None, torch.where(usable, gain / divided, 1.0))


def fold_rows(weight: Tensor, bias: Tensor | None, scale: Tensor, *, rounded_later: bool) -> Fold:
    """Divide the rows of a linear.

    Args:
        weight: [channels, C], floating.
        bias: [channels] in its stored type, or None.
        scale: [channels], above 0.
        rounded_later: whether the weight is still to be quantized, from float32; else it is stored in its own type, and
            scales become powers of two, which round nothing.
    """
    if not rounded_later:
        scale = power_of_two(scale)
        return Fold(
            (weight.float() / scale[:, None]).to(weight.dtype),
            None if bias is None else (bias.float() / scale).to(bias.dtype),
            scale,
        )
    scale = scale.float()
    if bias is None:
        return Fold(weight.float() / scale[:, None], None, scale)
    stored = (bias.float() / scale).to(bias.dtype)
    actual = torch.where(bias.float() * stored.float() > 0, bias.float() / stored.float(), scale)
    return Fold(weight.float() / actual[:, None], stored, actual)


def power_of_two(scale: Tensor) -> Tensor:
    """The nearest power of two of each scale, by their ratio."""
    return torch.exp2(torch.round(torch.log2(scale.float())))
