"""A candidate: one way to make a checkpoint smaller, and the tables of ways that work.

The same type is read from a QuantizedModel and from the command line, and the tables here are the one place that
says what fits what: the CEL rules of the CRD and the command line's check are made from them.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any

from pydantic import Field, StringConstraints
from pydantic.alias_generators import to_snake

from saffron_api.model import ApiModel, Rule, Unique


class Method(StrEnum):
    """How the codes are found."""

    RTN = "RTN"
    GPTQ = "GPTQ"
    AWQ = "AWQ"
    SMOOTHQUANT = "SmoothQuant"


class Scheme(StrEnum):
    """What is stored and computed with: W for weights, A for activations, then the bits."""

    W4A16 = "W4A16"
    W8A16 = "W8A16"
    W8A8 = "W8A8"
    FP8 = "FP8"
    FP8_STATIC = "FP8Static"


class QuantizationFormat(StrEnum):
    """How a checkpoint is laid out on disk."""

    COMPRESSED_TENSORS = "CompressedTensors"
    AUTOAWQ = "AutoAWQ"
    GPTQ = "GPTQ"


class ActOrder(StrEnum):
    """In which order GPTQ takes the columns, and from which weights their scales are."""

    AUTO = "Auto"
    NONE = "None"
    STATIC = "Static"


class ScaleSearch(StrEnum):
    """What a group's scale makes small."""

    MIN_MAX = "MinMax"
    MSE = "MSE"
    HESSIAN = "Hessian"


class Target(StrEnum):
    """Whose outputs GPTQ comes near."""

    OWN = "Own"
    ORIGINAL = "Original"


class Smoothing(StrEnum):
    """What is done to the weights before GPTQ."""

    AWQ = "AWQ"
    SMOOTHQUANT = "SmoothQuant"


class KvCache(StrEnum):
    """How an engine keeps keys and values."""

    NONE = "None"
    FP8 = "FP8"


ALLOWED: dict[Method, tuple[Scheme, ...]] = {
    Method.RTN: (Scheme.W4A16, Scheme.W8A16, Scheme.W8A8, Scheme.FP8, Scheme.FP8_STATIC),
    Method.GPTQ: (Scheme.W4A16, Scheme.W8A16, Scheme.W8A8),
    Method.AWQ: (Scheme.W4A16,),
    Method.SMOOTHQUANT: (Scheme.W8A8,),
}
"""The schemes each method can produce."""

ALLOWED_SMOOTHING: dict[Smoothing, tuple[Scheme, ...]] = {
    Smoothing.AWQ: (Scheme.W4A16,),
    Smoothing.SMOOTHQUANT: (Scheme.W8A8,),
}
"""The schemes for which each smoothing may come before GPTQ."""

CALIBRATED_METHODS: frozenset[Method] = frozenset({Method.GPTQ, Method.AWQ, Method.SMOOTHQUANT})
"""The methods that always read the calibration set."""

GROUP_SIZES: tuple[int, ...] = (32, 64, 128)
"""Columns that share one scale. Every kernel of every engine that we write for takes these."""

DEFAULT_GROUP_SIZE = 128

GROUPED_SCHEMES: tuple[Scheme, ...] = (Scheme.W4A16,)
"""The schemes with a scale per group; the others have a scale per output channel."""

INTEGER_SCHEMES: tuple[Scheme, ...] = (Scheme.W4A16, Scheme.W8A16, Scheme.W8A8)
"""The schemes whose scales can be searched."""

GPU_CAPABILITY: dict[Scheme, int] = {
    Scheme.W4A16: 75,
    Scheme.W8A16: 75,
    Scheme.W8A8: 75,
    Scheme.FP8: 89,
    Scheme.FP8_STATIC: 89,
}
"""The least compute capability of an NVIDIA GPU, times ten, on which vLLM computes as the scheme says."""

SEARCHING_METHODS: tuple[Method, ...] = (Method.RTN, Method.GPTQ)
"""The methods whose scale search can be chosen; AWQ has its own, and SmoothQuant rounds as RTN does."""

RAISES: dict[Scheme, tuple[Scheme, ...]] = {Scheme.W4A16: (Scheme.W8A8,), Scheme.W8A8: ()}
"""The schemes that can be raised in part, and to what, from low to high; above them all a linear stays as it is."""

_MODULES = r"^[A-Za-z0-9_.*?-]+$"


def _quoted(words: Collection[str]) -> str:
    return ", ".join(f"'{word}'" for word in words)


def _one_of(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}" if len(words) > 1 else words[0]


def method_fits_scheme(allowed: Mapping[Method, Sequence[Scheme]]) -> Rule:
    """The rule that a method produces the scheme that is asked of it."""
    table = ", ".join(f"'{method}': [{_quoted(schemes)}]" for method, schemes in allowed.items())
    words = "; ".join(f"{method} makes {_one_of(schemes)}" for method, schemes in allowed.items())
    return Rule(
        field="scheme",
        cel=f"self.scheme in {{{table}}}[self.method]",
        message=f"must be a scheme that the method makes: {words}",
        holds=lambda candidate: candidate.scheme in allowed[candidate.method],
    )


def _only_where(field: str, given: str, cel: str, message: str, holds: Callable[["CandidateSpec"], bool]) -> Rule:
    """The rule that a field says `given` (a CEL condition) only where `cel` and `holds` are true."""
    return Rule(field=field, cel=f"!({given}) || {cel}", message=message, holds=holds)


_RULES = (
    method_fits_scheme(ALLOWED),
    _only_where(
        "groupSize",
        "has(self.groupSize)",
        f"self.scheme in [{_quoted(GROUPED_SCHEMES)}]",
        f"only {_one_of(GROUPED_SCHEMES)} has groups; leave groupSize out with any other scheme",
        lambda candidate: candidate.group_size is None or candidate.scheme in GROUPED_SCHEMES,
    ),
    _only_where(
        "format",
        "self.format != 'CompressedTensors'",
        "self.scheme == 'W4A16'",
        "only W4A16 can be laid out as AutoAWQ or GPTQ; leave format out with any other scheme",
        lambda candidate: candidate.format is QuantizationFormat.COMPRESSED_TENSORS or candidate.scheme is Scheme.W4A16,
    ),
    _only_where(
        "symmetric",
        "!self.symmetric",
        "self.format == 'AutoAWQ'",
        "may be false with format AutoAWQ only: engines refuse zero points in the other formats",
        lambda candidate: candidate.symmetric or candidate.format is QuantizationFormat.AUTOAWQ,
    ),
    _only_where(
        "actOrder",
        "has(self.actOrder)",
        "self.method == 'GPTQ'",
        "only GPTQ has an order of columns; leave actOrder out with any other method",
        lambda candidate: candidate.act_order is None or candidate.method is Method.GPTQ,
    ),
    _only_where(
        "scaleSearch",
        "has(self.scaleSearch)",
        f"(self.method in [{_quoted(SEARCHING_METHODS)}] && self.scheme in [{_quoted(INTEGER_SCHEMES)}])",
        f"only {_one_of(SEARCHING_METHODS)} to {_one_of(INTEGER_SCHEMES)} has a choice of search; leave scaleSearch "
        "out with any other method or scheme",
        lambda candidate: (
            candidate.scale_search is None
            or (candidate.method in SEARCHING_METHODS and candidate.scheme in INTEGER_SCHEMES)
        ),
    ),
    _only_where(
        "target",
        "has(self.target)",
        "(self.method == 'GPTQ' && !has(self.smoothing))",
        "only GPTQ without smoothing has a target; leave target out with any other method, or with smoothing",
        lambda candidate: candidate.target is None or (candidate.method is Method.GPTQ and candidate.smoothing is None),
    ),
    _only_where(
        "smoothing",
        "has(self.smoothing)",
        "(self.method == 'GPTQ' && self.scheme in {"
        + ", ".join(f"'{smoothing}': [{_quoted(schemes)}]" for smoothing, schemes in ALLOWED_SMOOTHING.items())
        + "}[self.smoothing])",
        "comes before GPTQ only: "
        + " and ".join(f"{each} to {_one_of(schemes)}" for each, schemes in ALLOWED_SMOOTHING.items()),
        lambda candidate: (
            candidate.smoothing is None
            or (candidate.method is Method.GPTQ and candidate.scheme in ALLOWED_SMOOTHING[candidate.smoothing])
        ),
    ),
    _only_where(
        "kvCache",
        "self.kvCache != 'None'",
        "self.format == 'CompressedTensors'",
        "only format CompressedTensors stores the scales of a KV cache",
        lambda candidate: (
            candidate.kv_cache is KvCache.NONE or candidate.format is QuantizationFormat.COMPRESSED_TENSORS
        ),
    ),
    _only_where(
        "escalate",
        "has(self.escalate)",
        f"(self.format == 'CompressedTensors' && self.scheme in [{_quoted(RAISES)}])",
        f"only {_one_of(tuple(RAISES))} in format CompressedTensors can be raised in part; leave escalate out "
        "with any other scheme or format",
        lambda candidate: (
            candidate.escalate is None
            or (candidate.format is QuantizationFormat.COMPRESSED_TENSORS and candidate.scheme in RAISES)
        ),
    ),
)

_IS_GROUP_SIZE = Rule(
    cel=f"self in {list(GROUP_SIZES)}",
    message=f"must be one of {', '.join(map(str, GROUP_SIZES))}",
    holds=lambda size: size in GROUP_SIZES,
)
_IS_SHARE = Rule(
    cel="self > 0.0 && self <= 1.0",
    message="must be above 0 and at most 1, a share of the original's bytes",
    holds=lambda share: 0 < share <= 1,
)


class Escalation(ApiModel):
    """Raise the most sensitive linears to a higher precision, until the gates hold on the selection set."""

    max_bytes_ratio: Annotated[float, Field(strict=True), _IS_SHARE] = Field(
        description="Where to stop: the candidate's bytes over the original's."
    )


class CandidateSpec(ApiModel):
    """What to make: a method, a scheme and their parameters."""

    rules = _RULES

    method: Method = Field(description="How the codes are found.")
    scheme: Scheme = Field(description="The precision of weights (W) and activations (A), in bits.")
    group_size: Annotated[int, Field(strict=True), _IS_GROUP_SIZE] | None = Field(
        default=None,
        description="Columns that share one scale: 32, 64 or 128 (used where none is given). With W4A16 only.",
    )
    symmetric: Annotated[bool, Field(strict=True)] = Field(
        default=True, description="Whether codes lie around 0; false adds zero points, with format AutoAWQ only."
    )
    format: QuantizationFormat = Field(
        default=QuantizationFormat.COMPRESSED_TENSORS,
        description="How the checkpoint is laid out; AutoAWQ and GPTQ with W4A16 only.",
    )
    act_order: ActOrder | None = Field(
        default=None,
        description="GPTQ's order of columns. Static (used where none is given): the most active first, all scales up "
        "front. None: as they are, each group's scales from weights that already carry the errors before it. Auto: for "
        "each input the one that leaves less error.",
    )
    scale_search: ScaleSearch | None = Field(
        default=None,
        description="What the scales of RTN and GPTQ make small: the clipping (MinMax), the error of the weights (MSE, "
        "used by RTN where none is given; RTN takes its fourth power, GPTQ its square), or what that error costs at "
        "the output (Hessian, which reads the calibration set, used by GPTQ where none is given).",
    )
    target: Target | None = Field(
        default=None,
        description="What GPTQ's outputs come near: those of the linear's own weights on the inputs that it will read "
        "(Own, used where none is given), or the original model's on the same tokens (Original), which makes good a "
        "part of what the linears before it lost and takes one more pass through the original.",
    )
    smoothing: Smoothing | None = Field(
        default=None, description="What comes before GPTQ: AWQ with W4A16, SmoothQuant with W8A8."
    )
    kv_cache: KvCache = Field(
        default=KvCache.NONE, description="FP8 stores scales with which an engine keeps keys and values in FP8."
    )
    ignore: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=_MODULES)]],
        Field(max_length=64),
        Unique(),
    ] = Field(
        default=[],
        description="Linears that stay as they are, by full name, with * and ? as in file names; what an engine merges "
        "into one layer must be named together.",
    )
    escalate: Escalation | None = Field(
        default=None, description="Raise the most sensitive linears, as far as the bytes allow."
    )

    @property
    def effective_group_size(self) -> int | None:
        """The group size that is used, or None for one scale per output channel."""
        if self.scheme not in GROUPED_SCHEMES:
            return None
        return self.group_size or DEFAULT_GROUP_SIZE

    @property
    def needs_calibration(self) -> bool:
        """Whether the calibration set is read."""
        return (
            self.method in CALIBRATED_METHODS
            or self.scheme is Scheme.FP8_STATIC
            or self.scale_search is ScaleSearch.HESSIAN
            or self.kv_cache is not KvCache.NONE
        )

    @property
    def schemes(self) -> tuple[Scheme, ...]:
        """Every scheme that a linear of the checkpoint may be stored in."""
        return (self.scheme, *(RAISES[self.scheme] if self.escalate is not None else ()))

    @property
    def recipe(self) -> "CandidateSpec":
        """What decides the bytes: no name, no Job, and the group size spelled out."""
        own = {name: getattr(self, name) for name in CandidateSpec.model_fields}
        return CandidateSpec(**own | {"group_size": self.effective_group_size})

    @property
    def told(self) -> dict[str, Any]:
        """The recipe as JSON, without what is as it is by default: a new field changes no old candidate's key."""
        return self.recipe.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def command_line(spec: CandidateSpec) -> list[str]:
    """A candidate as options of `saffron quantize`; what is as it is by default is left out."""
    words: list[str] = []
    for field, value in spec.told.items():
        for option, each in _options(field, value):
            words += [option, str(each).lower() if isinstance(each, bool) else str(each)]
    return words


def _options(field: str, value: Any) -> list[tuple[str, Any]]:  # noqa: ANN401 - any JSON value
    """The options of one field: one an entry of a list, one a field of an object."""
    name = f"--{to_snake(field).replace('_', '-')}"
    if isinstance(value, list):
        return [(name, entry) for entry in value]
    if isinstance(value, dict):
        return [(f"{name}-{to_snake(inner).replace('_', '-')}", each) for inner, each in value.items()]
    return [(name, value)]
