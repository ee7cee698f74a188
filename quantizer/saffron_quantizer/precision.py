"""The precision of one linear layer: what of a candidate's scheme decides how its weight is stored and computed."""

from dataclasses import dataclass
from enum import Enum

import torch

from saffron_api.candidate import CandidateSpec, Scheme
from saffron_quantizer.algorithms.quantized import Grid


class Activations(Enum):
    """What an engine does with a linear's input before it multiplies."""

    AS_THEY_ARE = "as they are"
    INT8_PER_TOKEN = "rounded to int8, a scale a token"


WEIGHT_BITS: dict[Scheme, int] = {Scheme.W4A16: 4, Scheme.W8A8: 8}

ACTIVATIONS: dict[Scheme, Activations] = {
    Scheme.W4A16: Activations.AS_THEY_ARE,
    Scheme.W8A8: Activations.INT8_PER_TOKEN,
}


@dataclass(frozen=True)
class Precision:
    """How one linear's weight is stored, and what is multiplied with it.

    Attributes:
        scheme: bits of weights and activations.
        group_size: columns that share a scale, or None for one scale per output channel.
    """

    scheme: Scheme
    group_size: int | None = None

    @property
    def bits(self) -> int:
        """Width of a weight's code."""
        return WEIGHT_BITS[self.scheme]

    @property
    def activations(self) -> Activations:
        """What is done with the inputs."""
        return ACTIVATIONS[self.scheme]

    def scale_dtype(self, model: torch.dtype) -> torch.dtype:
        """The type that engines hold the scales in: the model's where only weights are rounded, else float32."""
        return model if self.activations is Activations.AS_THEY_ARE else torch.float32

    def grid(self, model: torch.dtype) -> Grid:
        """What the weights of a model that is stored in a type are rounded to."""
        return Grid(self.bits, self.group_size, self.scale_dtype(model))

    def groups(self, columns: int) -> int:
        """Scales of one row."""
        return columns // self.group_size if self.group_size else 1


def precision_of(spec: CandidateSpec) -> Precision:
    """The precision that a candidate asks for."""
    return Precision(spec.scheme, spec.effective_group_size)
