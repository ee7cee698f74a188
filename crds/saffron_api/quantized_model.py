"""The types of a QuantizedModel: what its author writes (spec) and what Saffron remembers and shows (status)."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from saffron_api.candidate import ApiModel, CandidateSpec
from saffron_api.results import Digest, FigureName, SampleSet

GROUP = "saffron.dev"
VERSION = "v1alpha1"
KIND = "QuantizedModel"
PLURAL = "quantizedmodels"

_SEGMENT = r"[A-Za-z0-9_-][A-Za-z0-9._-]*"
RelativePath = Annotated[str, StringConstraints(max_length=256, pattern=rf"^{_SEGMENT}(/{_SEGMENT})*$")]
ClaimUri = Annotated[
    str,
    StringConstraints(
        max_length=320, pattern=rf"^pvc://[a-z0-9]([a-z0-9.-]{{0,61}}[a-z0-9])?/{_SEGMENT}(/{_SEGMENT})*$"
    ),
]
DnsLabel = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
ClaimName = Annotated[str, StringConstraints(max_length=63, pattern=r"^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$")]
CandidateName = Annotated[str, StringConstraints(max_length=14, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")]
Duration = Annotated[str, StringConstraints(max_length=16, pattern=r"^([0-9]+(s|m|h))+$")]
RunId = Annotated[str, StringConstraints(max_length=63, pattern=r"^[A-Za-z0-9._-]*$")]


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


class Data(ApiModel):
    """The conversations that the candidates are fitted to and judged on."""

    source: DataSource
    max_tokens: Annotated[int, Field(ge=16, le=131072)] = 2048
    redact: Annotated[list[RedactKind], Field(max_length=4)] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0, le=2**31 - 1)] = 0


class Calibration(ApiModel):
    """The set that fits the weights."""

    samples: Annotated[int, Field(ge=1, le=100_000)] = 512


class Evaluation(ApiModel):
    """The set that the gates look at."""

    samples: Annotated[int, Field(ge=1, le=100_000)] = 512


class PodTemplate(ApiModel):
    """What a Job's pod takes over from its author."""

    resources: dict[str, dict[str, str | int]] | None = None
    node_selector: dict[str, str] | None = None
    tolerations: list[dict[str, Any]] | None = None
    runtime_class_name: str | None = None
    priority_class_name: str | None = None


class Candidate(CandidateSpec):
    """One way to make the model smaller."""

    name: CandidateName
    job: PodTemplate | None = Field(
        default=None, description="Overrides spec.job.podTemplate for this candidate's Jobs."
    )

    @property
    def recipe(self) -> CandidateSpec:
        """What decides the bytes: the candidate without its name and its Job."""
        return CandidateSpec(method=self.method, scheme=self.scheme, group_size=self.group_size)


class Selection(StrEnum):
    """Which of the candidates that pass is rolled out."""

    SMALLEST = "Smallest"
    BEST_QUALITY = "BestQuality"


class UpperLimit(ApiModel):
    """Passes when the upper bound is at most this."""

    max: float


class LowerLimit(ApiModel):
    """Passes when the lower bound is at least this."""

    min: float


class Gates(ApiModel):
    """What a candidate must keep. A gate left out is off; at least one must be there."""

    confidence: Annotated[float, Field(ge=0.8, le=0.999)] = 0.95
    perplexity_ratio: UpperLimit | None = None
    kl_divergence: UpperLimit | None = None
    top_token_agreement: LowerLimit | None = None
    checkpoint_bytes_ratio: UpperLimit | None = None


class CheckpointStorage(ApiModel):
    """Where finished checkpoints are kept. Serving pods mount this claim, read-only."""

    claim_name: ClaimName
    path: RelativePath = "saffron"


class WorkspaceStorage(ApiModel):
    """Where samples and hidden states are kept. Serving pods never see it."""

    claim_name: ClaimName


class Storage(ApiModel):
    """The two claims, which must differ."""

    checkpoints: CheckpointStorage
    workspace: WorkspaceStorage


class TargetRef(ApiModel):
    """The Deployment that serves the original."""

    api_version: Literal["apps/v1"] = "apps/v1"
    kind: Literal["Deployment"] = "Deployment"
    name: DnsLabel
    container: DnsLabel


class Approval(StrEnum):
    """Whether a person must agree before the next step."""

    REQUIRED = "Required"


class RolloutStep(ApiModel):
    """A share of the traffic for the canary, and what must pass before the next."""

    weight: Annotated[int, Field(ge=1, le=99)]
    pause: Duration | None = None
    approval: Approval | None = None


class Rollout(ApiModel):
    """How the selected checkpoint reaches the pods that serve."""

    target_ref: TargetRef
    steps: Annotated[list[RolloutStep], Field(min_length=1, max_length=16)]
    max_extra_replicas: Annotated[int, Field(ge=1, le=100)] = 2
    progress_deadline_seconds: Annotated[int, Field(ge=30, le=86400)] = 1800


class JobStages(ApiModel):
    """Pod templates that override `podTemplate` for one stage."""

    inspect: PodTemplate | None = None
    sample: PodTemplate | None = None
    baseline: PodTemplate | None = None
    quantize: PodTemplate | None = None
    evaluate: PodTemplate | None = None


class JobSettings(ApiModel):
    """How Jobs run."""

    parallelism: Annotated[int, Field(ge=1, le=16)] = 1
    pod_template: PodTemplate | None = None
    stages: JobStages | None = None
    active_deadline_seconds: Annotated[int, Field(ge=60, le=2_592_000)] = 86_400
    pending_deadline_seconds: Annotated[int, Field(ge=10, le=604_800)] = 900


class QuantizedModelSpec(ApiModel):
    """What the author asks for."""

    model: ModelSource
    data: Data
    calibration: Calibration = Calibration()
    evaluation: Evaluation = Evaluation()
    candidates: Annotated[list[Candidate], Field(min_length=1, max_length=16)]
    selection: Selection = Selection.SMALLEST
    gates: Gates
    storage: Storage
    rollout: Rollout | None = None
    job: JobSettings = JobSettings()
    run_id: RunId = ""
    suspend: bool = False


class Verdict(StrEnum):
    """What the gates say of a candidate."""

    PASS = "Pass"
    FAIL = "Fail"
    INCONCLUSIVE = "Inconclusive"
    ERROR = "Error"


class CandidateState(StrEnum):
    """How far a candidate is."""

    PENDING = "Pending"
    RUNNING = "Running"
    DONE = "Done"
    FAILED = "Failed"
    UNSUPPORTED = "Unsupported"


class FigureStatus(ApiModel):
    """A figure, its bounds, and what its gate says of it."""

    name: FigureName
    value: float
    lower: float
    upper: float
    limit: float | None = None
    verdict: Verdict | None = None


class CandidateStatus(ApiModel):
    """What became of a candidate."""

    name: CandidateName
    key: Digest | None = None
    state: CandidateState
    reason: str | None = None
    message: str | None = None
    checkpoint_digest: Digest | None = None
    bytes: int | None = None
    verdict: Verdict | None = None
    figures: list[FigureStatus] = Field(default_factory=list)


class RunStatus(ApiModel):
    """The run that this status speaks of. Saffron's memory."""

    id: str
    generation: int
    model_digest: Digest | None = None
    sample_key: Digest | None = None
    quantizer_image: str | None = None
    engine_image: str | None = None
    started_at: datetime


class SamplesStatus(ApiModel):
    """The three disjoint sets."""

    calibration: SampleSet
    selection: SampleSet
    gate: SampleSet


class SelectedStatus(ApiModel):
    """The candidate that is, or will be, rolled out."""

    name: CandidateName
    checkpoint_digest: Digest
    uri: str


class RolloutStatus(ApiModel):
    """How far the roll-out is. Saffron's memory."""

    target_uid: str = Field(alias="targetUID")
    container: str
    model_path: str
    checkpoint_digest: Digest = Field(description="What is rolled out.")
    step: int = Field(description="The step in force, from 0; the number of steps means promotion.")
    step_entered_at: datetime = Field(description="When the step began to wait for ready pods.")
    step_started_at: datetime | None = Field(default=None, description="When the canary of this step was first ready.")
    desired_weight: int
    actual_weight: int
    previous_digest: Digest | None = None


class PromotedStatus(ApiModel):
    """What is served. Saffron's memory."""

    run_id: str
    candidate: CandidateName
    checkpoint_digest: Digest
    at: datetime


class RejectedStatus(ApiModel):
    """A checkpoint that is not rolled out again by itself. Saffron's memory."""

    checkpoint_digest: Digest
    reason: str
    message: str
    at: datetime


class Condition(ApiModel):
    """A Kubernetes condition, as kstatus reads it."""

    type: str
    status: Literal["True", "False", "Unknown"]
    reason: str
    message: str
    last_transition_time: datetime
    observed_generation: int


class QuantizedModelStatus(ApiModel):
    """What Saffron remembers and shows."""

    observed_generation: int = -1
    phase: str | None = None
    conditions: list[Condition] = Field(default_factory=list)
    run: RunStatus | None = None
    samples: SamplesStatus | None = None
    candidates: list[CandidateStatus] = Field(default_factory=list)
    selected: SelectedStatus | None = None
    rollout: RolloutStatus | None = None
    promoted: PromotedStatus | None = None
    rejected: Annotated[list[RejectedStatus], Field(max_length=20)] = Field(default_factory=list)
