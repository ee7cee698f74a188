"""What one pass knows: the resource, its Jobs, its target and its canary, as plain values.

`observe` reads them from the API server, `decide` looks at nothing else. Each is what is the case now, whoever brought
it about: any pass may be the first one after a crash.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from saffron_api.quantized_model import (
    Condition,
    PromotedStatus,
    QuantizedModelSpec,
    QuantizedModelStatus,
    RejectedStatus,
    RolloutStatus,
    RunStatus,
)
from saffron_api.results import Stage, StageResult

Json = Mapping[str, Any]
"""A Kubernetes object, or a part of one, as JSON."""


@dataclass(frozen=True)
class ResourceMeta:
    """The metadata of the QuantizedModel."""

    name: str
    namespace: str
    uid: str
    generation: int
    resource_version: str
    created: datetime
    deleting: bool = False
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class SpecError:
    """A spec that can't be read, though the API server took it: say, one that was stored under an older CRD.

    Attributes:
        message: What is wrong, with the fields' names.
    """

    message: str


@dataclass(frozen=True)
class Memory:
    """What is read back of the old status.

    Attributes:
        run: The run that the status speaks of; None before the first one, or where the status was lost.
        rollout: How far the roll-out is.
        promoted: What is served.
        rejected: What is not rolled out again by itself.
        conditions: Of the pass before, for their lastTransitionTime and for Ready while suspended; nothing else.
    """

    run: RunStatus | None = None
    rollout: RolloutStatus | None = None
    promoted: PromotedStatus | None = None
    rejected: tuple[RejectedStatus, ...] = ()
    conditions: tuple[Condition, ...] = ()

    @staticmethod
    def of(status: QuantizedModelStatus) -> "Memory":
        """Return the part of a status that is memory."""
        return Memory(
            run=status.run,
            rollout=status.rollout,
            promoted=status.promoted,
            rejected=tuple(status.rejected),
            conditions=tuple(status.conditions),
        )


class JobPhase(StrEnum):
    """How far a Job is."""

    QUEUED = "Queued"
    """No pod yet, or suspended by a queue."""
    PENDING = "Pending"
    """A pod that has not started; `waiting` says why, where the kubelet or the scheduler do."""
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    """Condition Complete; `result` is None where the termination message can't be read."""
    FAILED = "Failed"
    """Condition Failed."""


@dataclass(frozen=True)
class Waiting:
    """Why a pod does not start, is not ready, or is not made.

    Attributes:
        reason: In Kubernetes' words: ErrImagePull, ImagePullBackOff, InvalidImageName, CreateContainerConfigError,
            CrashLoopBackOff, Unschedulable, FailedCreate ...
        message: The sentence beside it, possibly empty. Never a word from a pod's log.
        since: When the pod was given a node; until then, when it was made, or could not be.
    """

    reason: str
    message: str
    since: datetime


@dataclass(frozen=True)
class JobFailure:
    """How Kubernetes says that a Job failed.

    Attributes:
        reason: Of the Job's Failed condition: BackoffLimitExceeded, DeadlineExceeded, PodFailurePolicy ...
        message: The sentence beside it.
        out_of_memory: A container of it ended with 137 or as OOMKilled.
    """

    reason: str
    message: str
    out_of_memory: bool = False


@dataclass(frozen=True)
class JobObserved:
    """A Job with our labels, or one whose name begins with `<QuantizedModel>-`: that may be somebody else's.

    Attributes:
        key: Of `saffron.dev/key`; empty where the annotation is missing. The same for `run`; `attempt` is then 1.
        deleting: It is being deleted, or is about to be since the QuantizedModel that made it is gone.
        stage: Of the label, or None where it is missing or unknown. The same for `candidate`.
        owner_uid: Of the controlling owner.
        waiting: Why it has not all of its pods, or they don't start.
        result: Of `saffron.dev/result`, if that is there and readable; else what the last pod to end left in its
            termination message; None where there is nothing readable. May be a `FailureResult`.
        kept: `result` stands in the annotation, so that it outlives the pod.
    """

    name: str
    uid: str
    owner_uid: str | None
    key: str
    run: str
    attempt: int
    stage: Stage | None
    candidate: str | None
    phase: JobPhase
    created: datetime
    deleting: bool = False
    waiting: Waiting | None = None
    result: StageResult | None = None
    kept: bool = False
    failure: JobFailure | None = None


@dataclass(frozen=True)
class Leaving:
    """A pod with our labels that has not ended though its Job is gone. It may still write.

    Attributes:
        job: The name of that Job.
        stage: As in `JobObserved`.
    """

    name: str
    job: str
    stage: Stage | None


class Engine(StrEnum):
    """What serves a model."""

    VLLM = "vLLM"
    TRANSFORMERS = "transformers serve"


@dataclass(frozen=True)
class Overlay:
    """Our mount on the target, as it stands.

    Attributes:
        run: Of the pod template's annotation; empty where it is missing. The same for `candidate`.
        digest: Of the checkpoint, from the volumeMount, which is what counts.
        manager: The field manager that holds the volume, or None where nobody is recorded.
    """

    run: str
    candidate: str
    digest: str
    manager: str | None


@dataclass(frozen=True)
class TargetProblem:
    """Why Saffron can't work with the target.

    Attributes:
        reason: TargetUnsupported or TargetConflict.
        message: The field, what is wrong with it and what to do.
    """

    reason: str
    message: str


@dataclass(frozen=True)
class Holder:
    """A field manager, not ours, that holds what Saffron sets on the target.

    Attributes:
        field: Of the pod template, as `volumes[saffron-checkpoint]`.
    """

    field: str
    manager: str


@dataclass(frozen=True)
class TargetFacts:
    """What a target's manifest says, read by `saffron_operator.target.read`.

    Attributes:
        engine: What serves.
        image: Of the container that serves.
        accelerated: The container asks for a GPU.
        also_held: Who else holds a field that Saffron sets, so that server-side apply refuses to change it.
        environment: Of that container as `NAME=VALUE`, where the value is written out.
        cards: Those that serve one model together, each with a part of every linear; None where that is not written
            out.
        quantization: The method by which the server is told to quantize what it loads; None where it finds out itself.
        model_path: The absolute path that the server reads.
        template: The pod template without our overlay.
        template_hash: The digest of `template`, of the container's name and of `model_path`.
        overlay: What of ours is mounted.
        warnings: Sentences about what may make requests fail during a roll-out.
    """

    engine: Engine
    image: str
    accelerated: bool
    model_path: str
    template: Json
    template_hash: str
    overlay: Overlay | None
    also_held: tuple[Holder, ...] = ()
    environment: frozenset[str] = frozenset()
    cards: int | None = 1
    quantization: str | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class TargetObserved:
    """The Deployment that serves.

    Attributes:
        replicas: What spec.replicas asks for (1 where it is left out).
        total: status.replicas: pods of any revision. The same for `ready`, `updated` and `available`.
        current: status.observedGeneration has reached metadata.generation.
        paused: Its owner stopped its roll-outs.
        deadline_exceeded: Its Progressing condition is False for ProgressDeadlineExceeded.
        progressed_at: lastUpdateTime of its Progressing condition.
        facts: What its manifest says, or why Saffron can't work with it.
        autoscaler: The name of an HPA or ScaledObject that scales it, as `HorizontalPodAutoscaler qwen`.
        trouble: Why a pod of its newest revision is not ready, or not there.
    """

    name: str
    uid: str
    resource_version: str
    replicas: int
    total: int
    ready: int
    updated: int
    available: int
    current: bool
    facts: TargetFacts | TargetProblem
    paused: bool = False
    deadline_exceeded: bool = False
    progressed_at: datetime | None = None
    autoscaler: str | None = None
    trouble: Waiting | None = None


@dataclass(frozen=True)
class CanaryObserved:
    """The Deployment named `canary_name(target)`, whoever made it.

    Attributes:
        replicas: What spec.replicas asks for.
        total: status.replicas: pods of any revision. The same for `ready` and `updated`.
        current: status.observedGeneration has reached metadata.generation.
        digest: Of the checkpoint in its pod template's annotation; empty where it is missing.
        template_hash: Of `saffron.dev/template`; empty where it is missing.
        deleting: It is being deleted, or is about to be since the QuantizedModel that made it is gone.
        deadline_exceeded: Its Progressing condition is False for ProgressDeadlineExceeded.
        trouble: Why a pod of it is not ready, or not there.
    """

    name: str
    uid: str
    owner_uid: str | None
    replicas: int
    total: int
    ready: int
    updated: int
    current: bool
    digest: str
    template_hash: str
    deleting: bool = False
    deadline_exceeded: bool = False
    trouble: Waiting | None = None


@dataclass(frozen=True)
class Observed:
    """Everything that one pass knows.

    Attributes:
        meta: The resource's metadata.
        spec: What its author asks for, or why that can't be read.
        memory: What is read back of its old status.
        quantizer_image: What the operator runs Jobs with, from its settings.
        jobs: Those with our labels for this resource, and those whose name begins with `<name>-`.
        leaving: Pods that outlive their Jobs.
        target: Of spec.rollout.targetRef; None where there is no such Deployment (or no rollout in the spec).
        canary: None where there is none.
        claimant: The name of an older QuantizedModel of the namespace, not being deleted, that names the same target.
            Older: by creationTimestamp, then by name.
        refused: What the API server said when it refused what the pass before was to do; None where it took all, and
            in the first pass of a process, which finds out anew.
        attended: For how long, without a break, this process has looked at the resource and done what was decided.
            Nothing is late that nobody has waited for, and nobody can tell what another process did.
    """

    meta: ResourceMeta
    spec: QuantizedModelSpec | SpecError
    memory: Memory
    quantizer_image: str
    jobs: tuple[JobObserved, ...] = ()
    leaving: tuple[Leaving, ...] = ()
    target: TargetObserved | None = None
    canary: CanaryObserved | None = None
    claimant: str | None = None
    refused: str | None = None
    attended: timedelta = timedelta()
