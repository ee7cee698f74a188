"""The precision of one linear layer: what of a candidate's scheme decides how its weight is stored and computed."""

from dataclasses import dataclass
from enum import Enum

from saffron_api.candidate import CandidateSpec, Scheme


class Activations(Enum):
    """What an engine does with a linear's input before it multiplies."""

    AS_THEY_ARE = "as they are"
    INT8_PER_TOKEN = "rounded to int8, a scale a token"
    FP8_PER_TOKEN = "rounded to FP8, a scale a token"
    FP8_PER_TENSOR = "rounded to FP8, one scale that was measured before"


WEIGHT_BITS: dict[Scheme, int] = {
    Scheme.W4A16: 4,
    Scheme.W8A16: 8,
    Scheme.W8A8: 8,
    Scheme.FP8: 8,
    Scheme.FP8_STATIC: 8,
}

ACTIVATIONS: dict[Scheme, Activations] = {
    Scheme.W4A16: Activations.AS_THEY_ARE,
    Scheme.W8A16: Activations.AS_THEY_ARE,
    Scheme.W8A8: Activations.INT8_PER_TOKEN,
    Scheme.FP8: Activations.FP8_PER_TOKEN,
    Scheme.FP8_STATIC: Activations.FP8_PER_TENSOR,
}

FLOATING: frozenset[Scheme] = frozenset({Scheme.FP8, Scheme.FP8_STATIC})
"""The schemes whose codes are FP8 numbers; the others' are whole numbers."""


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
    def is_floating(self) -> bool:
        """Whether codes are FP8 numbers."""
        return self.scheme in FLOATING

    @property
    def activations(self) -> Activations:
        """What is done with the inputs."""
        return ACTIVATIONS[self.scheme]

    def groups(self, columns: int) -> int:
        """Scales of one row."""
        return columns // self.group_size if self.group_size else 1


def precision_of(spec: CandidateSpec) -> Precision:
    """The precision that a candidate asks for."""
    return Precision(spec.scheme, spec.effective_group_size)
