"""One piece of work and the Job that does it: is it there, does it run, what came of it."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from saffron_api.failures import FAILURES, FailureReason
from saffron_api.quantized_model import Candidate
from saffron_api.results import (
    BaselineResult,
    EvaluateResult,
    FailureResult,
    InspectResult,
    QuantizeResult,
    SampleResult,
    Stage,
    StageResult,
)
from saffron_operator import reasons
from saffron_operator.decide.inputs import Inputs
from saffron_operator.names import job_name, work_in
from saffron_operator.observed import JobObserved, JobPhase, Waiting

MAX_ATTEMPTS = 3
"""Jobs that may complete without a readable result before a person is asked."""

_FIRST_POD = timedelta(seconds=10)
"""After its creation a Job has its first pod, or Kubernetes has told why not."""

_RESULTS: dict[Stage, type[StageResult]] = {
    Stage.INSPECT: InspectResult,
    Stage.SAMPLE: SampleResult,
    Stage.BASELINE: BaselineResult,
    Stage.QUANTIZE: QuantizeResult,
    Stage.EVALUATE: EvaluateResult,
}

_IMAGE_REASONS = frozenset(
    {
        *("ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"),
        *("RegistryUnavailable", "SignatureValidationFailed"),
    }
)
_START_REASONS = frozenset({"CreateContainerConfigError", "CreateContainerError", "RunContainerError"})


@dataclass(frozen=True)
class Task:
    """One piece of work.

    Attributes:
        stage: What is done.
        key: The stage's key.
        arguments: Of the command that does it.
        candidate: What it is done to, or None.
    """

    stage: Stage
    key: str
    arguments: tuple[str, ...]
    candidate: Candidate | None = None

    @property
    def title(self) -> str:
        """For people."""
        return self.stage.value if self.candidate is None else f"{self.stage.value} of {self.candidate.name}"


@dataclass(frozen=True)
class Absent:
    """It has no Job; the next one is this attempt."""

    attempt: int


@dataclass(frozen=True)
class Clearing:
    """Jobs are in the way and have to go first, or pods that are left of one.

    Attributes:
        message: What is waited for.
        jobs: Those that nobody has deleted yet.
    """

    message: str
    jobs: tuple[JobObserved, ...] = ()


@dataclass(frozen=True)
class Active:
    """Its Job is under way.

    Attributes:
        message: What it does or waits for.
        until: When it will have waited for too long, or there may be more to tell; or None.
    """

    message: str
    until: datetime | None = None


@dataclass(frozen=True)
class Finished:
    """It is done."""

    result: StageResult


@dataclass(frozen=True)
class Broken:
    """It can't be done as it is."""

    reason: str
    message: str


State = Absent | Clearing | Active | Finished | Broken
"""How far a task is."""


def mine(inputs: Inputs) -> tuple[JobObserved, ...]:
    """Return the Jobs that this resource owns."""
    uid = inputs.observed.meta.uid
    return tuple(job for job in inputs.observed.jobs if job.owner_uid == uid)


def state(inputs: Inputs, task: Task) -> State:
    """Return how far a task is.

    What failed under an earlier run is cleared away and tried again: a new run is a person's wish, by a change of the
    spec or by an annotation.
    """
    jobs = [job for job in mine(inputs) if job.stage is task.stage and job.key == task.key]
    if not jobs:
        return _absent(inputs, task, 1)
    newest = max(jobs, key=lambda job: job.attempt)
    if newest.deleting:
        return Clearing(_removed(task))
    found = _outcome(inputs, task, newest)
    if isinstance(found, Broken) and newest.run != inputs.run.id:
        return Clearing(_removed(task), tuple(job for job in jobs if not job.deleting))
    if isinstance(found, Absent):
        return _absent(inputs, task, found.attempt)
    return found


def _removed(task: Task) -> str:
    return f"an earlier Job for {task.title} is removed"


def _absent(inputs: Inputs, task: Task, attempt: int) -> State:
    # Two that do the same work would write to the same files.
    works = {work_in(name_of(inputs, task, number)) for number in range(1, MAX_ATTEMPTS + 1)}
    for pod in inputs.observed.leaving:
        if pod.stage is task.stage and work_in(pod.job) in works:
            return Clearing(f"the pod {pod.name} of an earlier Job for {task.title} has not ended yet")
    name = name_of(inputs, task, attempt)
    taken = next((job for job in inputs.observed.jobs if job.name == name), None)
    if taken is None:
        return Absent(attempt)
    if taken.deleting:
        return Clearing(_removed(task))
    return Broken(
        reasons.NAME_TAKEN,
        f"The Job {name} exists and is not the one for this work (another owner, or another {'saffron.dev/key'}); "
        "delete or rename it.",
    )


def name_of(inputs: Inputs, task: Task, attempt: int) -> str:
    """Return the name of a task's Job."""
    candidate = task.candidate.name if task.candidate is not None else None
    return job_name(inputs.observed.meta.name, task.stage, candidate, task.key, attempt)


def _outcome(inputs: Inputs, task: Task, job: JobObserved) -> State:
    match job.phase:
        case JobPhase.FAILED:
            return _failed(task, job)
        case JobPhase.SUCCEEDED:
            return _succeeded(task, job)
        case JobPhase.PENDING:
            return _pending(inputs, task, job)
        case JobPhase.QUEUED:
            return _queued(inputs, task, job)
        case JobPhase.RUNNING:
            # Some of the pods that work together may run, and others not be made.
            return Active(f"{task.title} runs{_because(job.waiting)}")


def _succeeded(task: Task, job: JobObserved) -> State:
    if isinstance(job.result, _RESULTS[task.stage]):
        return Finished(job.result)
    if job.attempt < MAX_ATTEMPTS:
        return Absent(job.attempt + 1)
    return Broken(
        reasons.RESULT_UNREADABLE,
        f"The {task.title} completed {MAX_ATTEMPTS} times and left no result that can be read; check that the "
        f"quantizer's image fits the operator's version (the log of Job {job.name} says more).",
    )


def _failed(task: Task, job: JobObserved) -> Broken:
    if isinstance(job.result, FailureResult):
        return Broken(job.result.failure.reason.value, job.result.failure.message)
    if job.failure is not None and job.failure.out_of_memory:
        reason = FailureReason.OUT_OF_MEMORY
        return Broken(reason.value, FAILURES[reason].sentence)
    why = f"{job.failure.reason}: {job.failure.message}" if job.failure is not None else "no reason given"
    return Broken(
        reasons.JOB_FAILED, f"The {task.title} failed ({why}) and left no message; see the log of Job {job.name}."
    )


def _queued(inputs: Inputs, task: Task, job: JobObserved) -> State:
    # What keeps its pods from being made is told by events, which call for no pass.
    until = job.created + _FIRST_POD
    asked = job.waiting is not None or inputs.now >= until
    return Active(f"{task.title} is queued{_because(job.waiting)}", None if asked else until)


def _because(waiting: Waiting | None) -> str:
    return f" ({_cause(waiting)})" if waiting is not None else ""


def _cause(waiting: Waiting) -> str:
    return f"{waiting.reason}: {waiting.message}" if waiting.message else waiting.reason


def _pending(inputs: Inputs, task: Task, job: JobObserved) -> State:
    waiting = job.waiting
    if waiting is None:
        return Active(f"{task.title} waits for its pod to start")
    text = _cause(waiting)
    if waiting.reason not in _IMAGE_REASONS | _START_REASONS:
        # A queue for a node or a volume ends by itself, and activeDeadlineSeconds ends it for good.
        return Active(f"{task.title} waits ({text})")
    until = waiting.since + timedelta(seconds=inputs.spec.job.pending_deadline_seconds)
    if inputs.now < until:
        return Active(f"{task.title} waits ({text})", until)
    if waiting.reason in _IMAGE_REASONS:
        return Broken(
            reasons.IMAGE_UNAVAILABLE,
            f"The image {inputs.run.quantizer_image} for the {task.title} can't be pulled ({text}); check the "
            "operator's --quantizer-image, the nodes' access to the registry, and the imagePullSecrets of the service "
            "account default in this namespace.",
        )
    return Broken(
        reasons.POD_NOT_STARTED,
        f"The pod for the {task.title} can't be started ({text}); see kubectl describe of Job {job.name}.",
    )
