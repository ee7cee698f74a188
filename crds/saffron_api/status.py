"""What Saffron remembers of a QuantizedModel, and shows. Never a word of a prompt or an answer."""

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from saffron_api.model import ApiModel, Unique
from saffron_api.results import FigureName, SampleSet
from saffron_api.scalars import CandidateName, Digest

Word = Annotated[str, StringConstraints(max_length=64)]
Name = Annotated[str, StringConstraints(max_length=253)]
Sentence = Annotated[str, StringConstraints(max_length=2048)]
Image = Annotated[str, StringConstraints(max_length=512)]
Percent = Annotated[int, Field(ge=0, le=100)]


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
    lower: float = Field(description="The one-sided lower confidence bound.")
    upper: float = Field(description="The one-sided upper confidence bound.")
    limit: float | None = Field(default=None, description="The gate's limit, where there is a gate.")
    verdict: Verdict | None = Field(default=None, description="What the gate says, where there is one.")


class CandidateStatus(ApiModel):
    """What became of a candidate."""

    name: CandidateName
    key: Digest | None = Field(default=None, description="The key of its checkpoint.")
    state: CandidateState
    reason: Word | None = Field(default=None, description="Why it is in this state, in one word.")
    message: Sentence | None = Field(default=None, description="Why, and what to do about it.")
    checkpoint_digest: Digest | None = None
    bytes: int | None = Field(default=None, description="Bytes of all tensors; predicted until it is written.")
    verdict: Verdict | None = None
    figures: Annotated[list[FigureStatus], Field(max_length=16), Unique("name")] = Field(default_factory=list)


class RunStatus(ApiModel):
    """The run that this status speaks of. Saffron's memory."""

    id: Annotated[str, StringConstraints(max_length=128)]
    generation: int
    model_digest: Digest | None = None
    sample_key: Digest | None = None
    quantizer_image: Image | None = None
    engine_image: Image | None = None
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
    uri: Annotated[str, StringConstraints(max_length=512)]


class RolloutStatus(ApiModel):
    """How far the roll-out is. Saffron's memory."""

    target_uid: Name = Field(alias="targetUID")
    container: Name
    model_path: Annotated[str, StringConstraints(max_length=1024)]
    run_id: Annotated[str, StringConstraints(max_length=128)]
    candidate: CandidateName
    checkpoint_digest: Digest = Field(description="What is rolled out.")
    step: Annotated[int, Field(ge=0, le=16)] = Field(
        description="The step in force, from 0; the number of steps, with a desired weight of 100, means promotion."
    )
    step_entered_at: datetime = Field(description="When the step began to wait for ready pods.")
    step_started_at: datetime | None = Field(default=None, description="When the canary of this step was first ready.")
    step_losses: Annotated[int, Field(ge=0)] = Field(
        default=0, description="How often the canary of this step was ready and then was not; at 10 it is given up."
    )
    desired_weight: Percent
    actual_weight: Percent
    previous_digest: Digest | None = None


class PromotedStatus(ApiModel):
    """What is served. Saffron's memory."""

    run_id: Annotated[str, StringConstraints(max_length=128)]
    candidate: CandidateName
    checkpoint_digest: Digest
    at: datetime


class RejectedStatus(ApiModel):
    """A checkpoint that is not rolled out again by itself. Saffron's memory."""

    checkpoint_digest: Digest
    reason: Word
    message: Sentence
    at: datetime


class Condition(ApiModel):
    """A Kubernetes condition, as kstatus reads it."""

    type: Annotated[str, StringConstraints(max_length=64)]
    status: Literal["True", "False", "Unknown"]
    reason: Annotated[str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z][A-Za-z0-9]*$")]
    message: Annotated[str, StringConstraints(max_length=32_768)]
    last_transition_time: datetime
    observed_generation: int


class QuantizedModelStatus(ApiModel):
    """What Saffron remembers and shows."""

    observed_generation: int = Field(
        default=-1, description="The generation that this status speaks of; -1 until Saffron has seen any."
    )
    phase: Word | None = Field(default=None, description="A word for people; the conditions are what counts.")
    conditions: Annotated[list[Condition], Field(max_length=16), Unique("type")] = Field(default_factory=list)
    run: RunStatus | None = None
    samples: SamplesStatus | None = None
    candidates: Annotated[list[CandidateStatus], Field(max_length=16), Unique("name")] = Field(default_factory=list)
    selected: SelectedStatus | None = None
    rollout: RolloutStatus | None = None
    promoted: PromotedStatus | None = None
    rejected: Annotated[list[RejectedStatus], Field(max_length=20)] = Field(
        default_factory=list, description="The newest 20."
    )
