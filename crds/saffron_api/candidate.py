"""A candidate: one way to make a checkpoint smaller, and the table of ways that work.

The same type is read from a QuantizedModel and from the command line, and `ALLOWED` is the one place that
says which method fits which scheme: the CEL rules of the CRD and the command line's check are made from it.
"""

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated

from pydantic import Field

from saffron_api.model import ApiModel, Rule


class Method(StrEnum):
    """How the codes are found."""

    RTN = "RTN"
    GPTQ = "GPTQ"


class Scheme(StrEnum):
    """What is stored and computed with: W for weights, A for activations, then the bits."""

    W4A16 = "W4A16"
    W8A8 = "W8A8"


class QuantizationFormat(StrEnum):
    """How a checkpoint is laid out on disk."""

    COMPRESSED_TENSORS = "CompressedTensors"


ALLOWED: dict[Method, tuple[Scheme, ...]] = {
    Method.RTN: (Scheme.W4A16, Scheme.W8A8),
    Method.GPTQ: (Scheme.W4A16, Scheme.W8A8),
}
"""The schemes each method can produce."""

NEEDS_CALIBRATION: frozenset[Method] = frozenset({Method.GPTQ})
"""The methods that read the calibration set."""

GROUP_SIZES: tuple[int, ...] = (32, 64, 128)
"""Columns that share one scale. Every kernel of every engine that we write for takes these."""

DEFAULT_GROUP_SIZE = 128

GROUPED_SCHEMES: frozenset[Scheme] = frozenset({Scheme.W4A16})
"""The schemes with a scale per group; the others have a scale per output channel."""


def method_fits_scheme(allowed: Mapping[Method, Sequence[Scheme]]) -> Rule:
    """The rule that a method produces the scheme that is asked of it."""
    table = ", ".join(f"'{method}': [{_quoted(schemes)}]" for method, schemes in allowed.items())
    words = "; ".join(f"{method} makes {' or '.join(schemes)}" for method, schemes in allowed.items())
    return Rule(
        field="scheme",
        cel=f"self.scheme in {{{table}}}[self.method]",
        message=f"must be a scheme that the method makes: {words}",
        holds=lambda candidate: candidate.scheme in allowed[candidate.method],
    )


def only_groups_have_a_size(grouped: Sequence[Scheme]) -> Rule:
    """The rule that a group size is given only to a scheme that has groups."""
    return Rule(
        field="groupSize",
        cel=f"!has(self.groupSize) || self.scheme in [{_quoted(grouped)}]",
        message=f"only {' and '.join(grouped)} has groups; leave groupSize out with any other scheme",
        holds=lambda candidate: candidate.group_size is None or candidate.scheme in grouped,
    )


_IS_GROUP_SIZE = Rule(
    cel=f"self in {list(GROUP_SIZES)}",
    message=f"must be one of {', '.join(map(str, GROUP_SIZES))}",
    holds=lambda size: size in GROUP_SIZES,
)


def _quoted(words: Sequence[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


class CandidateSpec(ApiModel):
    """What to make: a method, a scheme and their parameters."""

    rules = (method_fits_scheme(ALLOWED), only_groups_have_a_size(sorted(GROUPED_SCHEMES)))

    method: Method = Field(description="How the codes are found.")
    scheme: Scheme = Field(description="The precision of weights (W) and activations (A), in bits.")
    group_size: Annotated[int, Field(strict=True), _IS_GROUP_SIZE] | None = Field(
        default=None,
        description="Columns that share one scale: 32, 64 or 128 (used where none is given). With W4A16 only.",
    )

    @property
    def effective_group_size(self) -> int | None:
        """The group size that is used, or None for one scale per output channel."""
        if self.scheme not in GROUPED_SCHEMES:
            return None
        return self.group_size or DEFAULT_GROUP_SIZE

    @property
    def recipe(self) -> "CandidateSpec":
        """What decides the bytes: no name, no Job, and the group size spelled out."""
        return CandidateSpec(method=self.method, scheme=self.scheme, group_size=self.effective_group_size)
