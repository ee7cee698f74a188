"""What the author of a QuantizedModel writes.

Only what works is here: a field that is not is refused by its name.
"""

from enum import StrEnum
from itertools import pairwise
from operator import attrgetter
from typing import Annotated, Literal

from pydantic import Field
from pydantic.alias_generators import to_snake

from saffron_api.candidate import CandidateSpec
from saffron_api.model import ApiModel, Rule, Unique
from saffron_api.pod_template import PodTemplate
from saffron_api.results import MIN_UNITS
from saffron_api.scalars import CandidateName, ClaimName, ClaimUri, DnsLabel, Duration, RelativePath, RunId


class ModelSource(ApiModel):
    """The original."""

    uri: ClaimUri = Field(description="pvc://CLAIM/PATH of a Hugging Face folder with safetensors in this namespace.")


class Dataset(ApiModel):
    """A data set in a file."""

    uri: ClaimUri = Field(description="pvc://CLAIM/PATH of a JSONL file: text, prompt or messages on each line.")


class DataSource(ApiModel):
    """Where conversations come from."""

    dataset: Dataset


class RedactKind(StrEnum):
    """What can be replaced before anything is written."""

    EMAIL = "email"
    PHONE = "phone"
    CARD = "card"
    IP = "ip"


DEFAULT_MAX_TOKENS = 2048
DEFAULT_SAMPLES = 512


class Data(ApiModel):
    """The conversations that the candidates are fitted to and judged on."""

    source: DataSource
    max_tokens: Annotated[int, Field(strict=True, ge=16, le=131_072)] = Field(
        default=DEFAULT_MAX_TOKENS, description="Tokens after which a conversation is cut."
    )
    redact: Annotated[list[RedactKind], Field(max_length=4), Unique()] = Field(
        default=[], description="What is replaced before anything is written."
    )
    seed: Annotated[int, Field(strict=True, ge=0, le=2**31 - 1)] = Field(
        default=0, description="Decides which conversation goes to which set."
    )


class Calibration(ApiModel):
    """The set that fits the weights."""

    samples: Annotated[int, Field(strict=True, ge=1, le=100_000)] = Field(
        default=DEFAULT_SAMPLES, description="Conversations."
    )


class Evaluation(ApiModel):
    """The set that the gates look at."""

    samples: Annotated[int, Field(strict=True, ge=MIN_UNITS, le=100_000)] = Field(
        default=512, description=f"Conversations. No gate is conclusive with fewer than {MIN_UNITS}."
    )


class Candidate(CandidateSpec):
    """One way to make the model smaller."""

    name: CandidateName = Field(description="Unique among the candidates.")
    job: PodTemplate | None = Field(
        default=None, description="Overrides job.podTemplate and job.stages for this candidate's Jobs."
    )


class Selection(StrEnum):
    """Which of the candidates that pass is rolled out."""

    SMALLEST = "Smallest"
    BEST_QUALITY = "BestQuality"


class UpperLimit(ApiModel):
    """Passes when the upper bound is at most this."""

    max: float = Field(strict=True, description="The figure's upper bound may be this at most.")


class LowerLimit(ApiModel):
    """Passes when the lower bound is at least this."""

    min: float = Field(strict=True, description="The figure's lower bound must be this at least.")


# Not `maximum`, since the API server's own message rounds 0.999 to 0.
_IS_CONFIDENCE = Rule(
    cel="self >= 0.8 && self <= 0.999",
    message="must be 0.8 to 0.999",
    holds=lambda confidence: 0.8 <= confidence <= 0.999,  # noqa: PLR2004  (the message says what they are)
)
_ABOVE_ZERO = 1e-9
"""The least limit that is told from 0: a gate at 0 lets nothing or everything through, which nobody can mean."""


def _limit_within(gate: str, side: str, words: str, least: float, most: float) -> Rule:
    """The rule that a gate's limit can be met and can be missed."""
    value = f"self.{gate}.{side}"
    limit_of = attrgetter(to_snake(gate))
    return Rule(
        field=f"{gate}.{side}",
        cel=f"!has(self.{gate}) || ({value} >= {least!r} && {value} <= {most!r})",
        message=f"must be {words}",
        holds=lambda gates: limit_of(gates) is None or least <= getattr(limit_of(gates), side) <= most,
    )


class Gates(ApiModel):
    """What a candidate must keep. A gate left out is off; at least one must be there."""

    rules = (
        Rule(
            cel="has(self.perplexityRatio) || has(self.klDivergence) || has(self.topTokenAgreement) || "
            "has(self.checkpointBytesRatio)",
            message="must have at least one of perplexityRatio, klDivergence, topTokenAgreement and "
            "checkpointBytesRatio",
            holds=lambda gates: any(
                (gates.perplexity_ratio, gates.kl_divergence, gates.top_token_agreement, gates.checkpoint_bytes_ratio)
            ),
        ),
        _limit_within("perplexityRatio", "max", "1 to 100; 1.05 allows 5 % more than the original has", 1.0, 100.0),
        _limit_within("klDivergence", "max", "above 0 and at most 100 nats a token", _ABOVE_ZERO, 100.0),
        _limit_within("topTokenAgreement", "min", "above 0 and at most 1, a share of the tokens", _ABOVE_ZERO, 1.0),
        _limit_within("checkpointBytesRatio", "max", "above 0 and at most 1, a share of the bytes", _ABOVE_ZERO, 1.0),
    )

    confidence: Annotated[float, Field(strict=True), _IS_CONFIDENCE] = Field(
        default=0.95, description="The chance, at least, that no candidate passes which truly misses a limit."
    )
    perplexity_ratio: UpperLimit | None = Field(
        default=None, description="The candidate's perplexity over the original's."
    )
    kl_divergence: UpperLimit | None = Field(
        default=None, description="From the original's distribution of the next token, in nats a token."
    )
    top_token_agreement: LowerLimit | None = Field(
        default=None, description="The share of tokens where both find the same one most likely."
    )
    checkpoint_bytes_ratio: UpperLimit | None = Field(
        default=None,
        description="The candidate's bytes over the original's. Exact, and known from shapes: a candidate that must "
        "miss it gets no Job.",
    )


class CheckpointStorage(ApiModel):
    """Where finished checkpoints are kept. Serving pods mount this claim, read-only."""

    claim_name: ClaimName = Field(description="A ReadWriteMany claim in this namespace.")
    path: RelativePath = Field(default="saffron", description="The folder of this claim that holds them.")


class WorkspaceStorage(ApiModel):
    """Where samples and hidden states are kept. Serving pods never see it."""

    claim_name: ClaimName = Field(description="A claim in this namespace that no serving pod mounts.")


class Storage(ApiModel):
    """The two claims, which must differ."""

    rules = (
        Rule(
            field="workspace.claimName",
            cel="self.workspace.claimName != self.checkpoints.claimName",
            message="must be another claim than checkpoints.claimName: serving pods mount that one, and must not see "
            "samples",
            holds=lambda storage: storage.workspace.claim_name != storage.checkpoints.claim_name,
        ),
    )

    checkpoints: CheckpointStorage
    workspace: WorkspaceStorage


class TargetRef(ApiModel):
    """The Deployment that serves the original."""

    api_version: Literal["apps/v1"] = Field(default="apps/v1", description="The target's API.")
    kind: Literal["Deployment"] = Field(default="Deployment", description="The target's kind.")
    name: DnsLabel = Field(description="The Deployment's name, in this namespace.")
    container: DnsLabel = Field(description="The name of the container that serves.")


class Approval(StrEnum):
    """Whether a person must agree before the next step."""

    REQUIRED = "Required"


class RolloutStep(ApiModel):
    """A share of the traffic for the canary, and what must pass before the next."""

    weight: Annotated[int, Field(strict=True, ge=1, le=99)] = Field(description="The canary's share, in percent.")
    pause: Duration | None = Field(default=None, description="How long the step lasts, once the canary is ready.")
    approval: Approval | None = Field(
        default=None,
        description="Required: the step ends when someone sets saffron.dev/promote to what Ready's message says.",
    )


def _ascend(steps: list[RolloutStep]) -> bool:
    return all(one.weight < next_one.weight for one, next_one in pairwise(steps))


Steps = Annotated[
    list[RolloutStep],
    Field(min_length=1, max_length=16),
    Rule(
        cel="self.map(step, step.weight).isSorted() && "
        "self.all(step, self.exists_one(other, other.weight == step.weight))",
        message="each step's weight must be above the one before it",
        holds=_ascend,
    ),
]


class Rollout(ApiModel):
    """How the selected checkpoint reaches the pods that serve."""

    target_ref: TargetRef
    steps: Steps = Field(description="The canary's steps. After the last, the checkpoint is promoted.")
    max_extra_replicas: Annotated[int, Field(strict=True, ge=1, le=100)] = Field(
        default=2, description="Canary pods at most."
    )
    progress_deadline_seconds: Annotated[int, Field(strict=True, ge=30, le=86_400)] = Field(
        default=1800, description="How long the canary, and then the promoted target, may take to get ready."
    )


class JobStages(ApiModel):
    """Pod templates that override `podTemplate` for one stage."""

    inspect: PodTemplate | None = None
    sample: PodTemplate | None = None
    baseline: PodTemplate | None = None
    quantize: PodTemplate | None = None
    evaluate: PodTemplate | None = None


class JobSettings(ApiModel):
    """How Jobs run."""

    parallelism: Annotated[int, Field(strict=True, ge=1, le=16)] = Field(default=1, description="Jobs at a time.")
    quantize_processes: Annotated[int, Field(strict=True, ge=1, le=16)] = Field(
        default=1,
        description="Pods that quantize one candidate together, each with its share of the calibration conversations. "
        "A candidate that reads none, or is escalated, is quantized by one pod.",
    )
    pod_template: PodTemplate | None = Field(default=None, description="For the pods of every Job.")
    stages: JobStages | None = Field(default=None, description="For the pods of one stage, over podTemplate.")
    active_deadline_seconds: Annotated[int, Field(strict=True, ge=60, le=2_592_000)] = Field(
        default=86_400, description="How long a Job may run."
    )
    pending_deadline_seconds: Annotated[int, Field(strict=True, ge=10, le=604_800)] = Field(
        default=900, description="How long an image may fail to be pulled, once the pod has a node."
    )


class QuantizedModelSpec(ApiModel):
    """What the author asks for."""

    rules = (
        Rule(
            field="storage.workspace.claimName",
            cel="!self.model.uri.startsWith('pvc://' + self.storage.workspace.claimName + '/')",
            message="must be another claim than the model's: serving pods mount that one, and must not see samples",
            holds=lambda spec: not spec.model.uri.startswith(f"pvc://{spec.storage.workspace.claim_name}/"),
        ),
    )

    model: ModelSource
    data: Data
    calibration: Calibration = Calibration()
    evaluation: Evaluation = Evaluation()
    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=16), Unique("name")] = Field(
        description="The ways to try. Names are unique."
    )
    selection: Selection = Field(default=Selection.SMALLEST, description="Which of those that pass is rolled out.")
    gates: Gates
    storage: Storage
    rollout: Rollout | None = Field(
        default=None, description="How it reaches the target. Without it, checkpoints are made and judged only."
    )
    job: JobSettings = JobSettings()
    run_id: RunId = Field(default="", description="Change it to force a new run.")
    suspend: Annotated[bool, Field(strict=True)] = Field(
        default=False, description="No new Job and no new step while true."
    )
