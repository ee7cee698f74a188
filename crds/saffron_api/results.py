"""What a Job tells the operator: the one JSON line in its termination message.

Each stage has a type; all hold numbers, digests and names of the model's parts, never a word of a prompt or an answer.
The kubelet cuts a message at 4,096 bytes, so the types are small and `encode` refuses a larger one.
"""

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints, TypeAdapter

from saffron_api.failures import Failure
from saffron_api.model import ApiModel
from saffron_api.scalars import CandidateName, Digest

MAX_MESSAGE_BYTES = 4096

MIN_UNITS = 30
"""Conversations that a bootstrap's bounds need: with fewer, no measured figure is conclusive."""

_CODE_NAME = StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9_. ]+$")


class Stage(StrEnum):
    """What a Job does."""

    INSPECT = "inspect"
    SAMPLE = "sample"
    BASELINE = "baseline"
    QUANTIZE = "quantize"
    EVALUATE = "evaluate"


class FigureName(StrEnum):
    """What is measured of a candidate against its original; also the names of the gates."""

    PERPLEXITY_RATIO = "perplexityRatio"
    KL_DIVERGENCE = "klDivergence"
    TOP_TOKEN_AGREEMENT = "topTokenAgreement"
    CHECKPOINT_BYTES_RATIO = "checkpointBytesRatio"


class Figure(ApiModel):
    """A measured figure with one-sided confidence bounds on both sides of it."""

    name: FigureName
    value: float
    lower: float
    upper: float


class SampleSet(ApiModel):
    """One of the three disjoint sets of conversations."""

    count: int = Field(description="Conversations.")
    tokens: int
    digest: Digest


class PredictedNeeds(ApiModel):
    """What making a candidate will need, in bytes, estimated from shapes."""

    memory: int = Field(description="Besides the program itself and the activations.")
    activations: int = Field(description="Kept between passes: in memory, or what has no room there on the disk.")
    disk: int = Field(description="What is written.")


class PredictedSize(ApiModel):
    """The bytes of a candidate's tensors, computed from shapes before any work, or why it can't be made."""

    name: CandidateName
    bytes: int | None = Field(default=None, description="None where it can't be made.")
    gpu_capability: int | None = Field(
        default=None, description="The least compute capability of an NVIDIA GPU that serves it, times ten."
    )
    tensor_parallel: int | None = Field(
        default=None,
        description="The largest of 1, 2, 4 and 8 cards that vLLM can serve it on with tensor parallelism; None where "
        "that is not known.",
    )
    needs: PredictedNeeds | None = Field(
        default=None, description="What making it will need, if its sequences are of the length that was asked for."
    )
    failure: Failure | None = Field(default=None, description="Why this candidate can't be made of this model.")


class InspectResult(ApiModel):
    """What the model folder holds."""

    stage: Literal[Stage.INSPECT] = Stage.INSPECT
    model_digest: Digest
    architecture: Annotated[str, _CODE_NAME]
    parameters: int
    bytes: int = Field(description="Bytes of all tensors as stored.")
    predicted: Annotated[list[PredictedSize], Field(max_length=16)] = Field(
        description="In the order of the candidates asked for."
    )
    isa: Annotated[str, _CODE_NAME] = Field(
        description="The CPU capability of the node in torch's words; AVX512_VNNI and AMX are told from AVX512."
    )


class SampleResult(ApiModel):
    """The three sets that were drawn."""

    stage: Literal[Stage.SAMPLE] = Stage.SAMPLE
    calibration: SampleSet
    selection: SampleSet
    gate: SampleSet


class BaselineResult(ApiModel):
    """The original on the gate set."""

    stage: Literal[Stage.BASELINE] = Stage.BASELINE
    perplexity: float
    scored_tokens: int


class QuantizeResult(ApiModel):
    """A written checkpoint."""

    stage: Literal[Stage.QUANTIZE] = Stage.QUANTIZE
    checkpoint_digest: Digest
    bytes: int = Field(description="Bytes of all tensors as stored.")
    modules: int = Field(description="Linear modules that were quantized.")
    max_damping: float = Field(
        description="The largest damping that a Hessian needed, as a share of its mean diagonal."
    )
    dead_columns: int
    seconds: float
    peak_bytes: int = Field(description="Peak resident memory.")


class EvaluateResult(ApiModel):
    """A candidate against its original, on the gate set."""

    stage: Literal[Stage.EVALUATE] = Stage.EVALUATE
    checkpoint_digest: Digest
    figures: Annotated[list[Figure], Field(max_length=8)]
    units: int = Field(description="Conversations, the unit of resampling.")
    scored_tokens: int
    confidence: float = Field(description="The level of each one-sided bound.")


class FailureResult(ApiModel):
    """A stage that could not do its work."""

    stage: Literal["failed"] = "failed"
    failed_stage: Stage
    failure: Failure


StageResult = Annotated[
    InspectResult | SampleResult | BaselineResult | QuantizeResult | EvaluateResult | FailureResult,
    Field(discriminator="stage"),
]
_ADAPTER: TypeAdapter[StageResult] = TypeAdapter(StageResult)


def encode(result: StageResult) -> str:
    """The JSON line of a result.

    Raises:
        ValueError: it would be cut by the kubelet.
    """
    text = result.model_dump_json(by_alias=True, exclude_none=True)
    if len(text.encode()) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a stage's result has {len(text.encode())} bytes, over {MAX_MESSAGE_BYTES}")
    return text


def decode(text: str) -> StageResult:
    """The result in a termination message.

    Raises:
        pydantic.ValidationError: it is not one.
    """
    return _ADAPTER.validate_json(text)
