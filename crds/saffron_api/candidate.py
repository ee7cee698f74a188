"""A candidate: one way to make a checkpoint smaller, and the table of ways that work.

The same type is read from a QuantizedModel and from the command line, and `ALLOWED` is the one place that
says which method fits which scheme: the CEL rules of the CRD and the command line's check are made from it.
"""

from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel


class ApiModel(BaseModel):
    """The base of every API type: camelCase outside, unknown fields refused, immutable."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)


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


class CandidateSpec(ApiModel):
    """What to make: a method, a scheme and their parameters."""

    method: Method = Field(description="How the codes are found.")
    scheme: Scheme = Field(description="The precision of weights (W) and activations (A), in bits.")
    group_size: Annotated[int | None, Field(json_schema_extra={"enum": list(GROUP_SIZES)})] = Field(
        default=None,
        description="Columns that share one scale: 32, 64 or 128 (default 128). With W4A16 only.",
    )

    @model_validator(mode="after")
    def _fits(self) -> "CandidateSpec":
        if self.scheme not in ALLOWED[self.method]:
            fitting = ", ".join(ALLOWED[self.method])
            raise ValueError(f"scheme: {self.method} produces {fitting}, not {self.scheme}")
        if self.group_size is not None and self.scheme not in GROUPED_SCHEMES:
            raise ValueError(f"groupSize: {self.scheme} has one scale per output channel; leave it out")
        if self.group_size is not None and self.group_size not in GROUP_SIZES:
            raise ValueError(f"groupSize: must be one of {', '.join(map(str, GROUP_SIZES))}")
        return self

    @property
    def effective_group_size(self) -> int | None:
        """The group size that is used, or None for one scale per output channel."""
        if self.scheme not in GROUPED_SCHEMES:
            return None
        return self.group_size or DEFAULT_GROUP_SIZE
