"""A tiny world for `decide`: what its acts do to a cluster, and what the cluster then does by itself.

No imitation of an API server: it holds just the state that a pass observes, and moves as told by a script. The real
server is met in the API-level tests.
"""

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, assert_never

from deciding import builders
from deciding.lint import lint

from saffron_api.quantized_model import QuantizedModelSpec, QuantizedModelStatus
from saffron_api.results import Stage, StageResult, decode
from saffron_operator import names
from saffron_operator import target as targets
from saffron_operator.decide import decide
from saffron_operator.decision import (
    Action,
    ApplyCanary,
    ApplyOverlay,
    CreateJob,
    Decision,
    DeleteCanary,
    DeleteJob,
    Event,
    KeepResult,
    RemoveOverlay,
)
from saffron_operator.observed import (
    CanaryObserved,
    JobFailure,
    JobObserved,
    JobPhase,
    Leaving,
    Memory,
    Observed,
    SpecError,
    TargetObserved,
    Waiting,
)

TOO_MANY_PASSES = 400
VOLUME = names.CHECKPOINT_VOLUME


@dataclass(frozen=True)
class Ends:
    """A Job completes; `result` None is a message that can't be read."""

    result: StageResult | None


@dataclass(frozen=True)
class Fails:
    """A Job fails."""

    result: StageResult | None = None
    out_of_memory: bool = False
    reason: str = "BackoffLimitExceeded"


@dataclass(frozen=True)
class Hangs:
    """A Job's pod does not start."""

    reason: str = "ImagePullBackOff"


@dataclass(frozen=True)
class Runs:
    """A Job runs on and on."""


Outcome = Ends | Fails | Hangs | Runs
Script = Callable[[Stage, str | None, str], Outcome | None]
"""(stage, candidate, run) -> what becomes of the Job, or None for the usual."""


def usual(stage: Stage, candidate: str | None, divergences: Mapping[str, float]) -> Outcome:
    """The outcome of a Job where all is well; `divergences` decide who passes."""
    match stage:
        case Stage.INSPECT:
            return Ends(builders.inspected())
        case Stage.SAMPLE:
            return Ends(builders.sampled())
        case Stage.BASELINE:
            return Ends(builders.measured_original())
        case Stage.QUANTIZE:
            return Ends(builders.quantized(candidate or ""))
        case Stage.EVALUATE:
            return Ends(builders.evaluated(candidate or "", divergences.get(candidate or "", 0.05)))


@dataclass
class World:
    """The state of one namespace.

    Attributes:
        canary_gets_ready: Whether pods of a canary do.
        target_gets_ready: Whether pods of the target do that have a checkpoint mounted.
        written: The statuses, one a pass.
        acts: All that was done.
    """

    spec: QuantizedModelSpec | SpecError = field(default_factory=builders.spec)
    script: Script = lambda *_: None
    divergences: Mapping[str, float] = field(default_factory=lambda: {"rtn-int4": 0.5})
    deployment: dict[str, Any] | None = field(default_factory=builders.deployment)
    canary_gets_ready: bool = True
    target_gets_ready: bool = True
    generation: int = 1
    annotations: dict[str, str] = field(default_factory=dict)
    status: QuantizedModelStatus = field(default_factory=QuantizedModelStatus)
    jobs: dict[str, JobObserved] = field(default_factory=dict)
    canary: CanaryObserved | None = None
    target_ready: int = 4
    rolling_since: datetime | None = None
    leaving: tuple[Leaving, ...] = ()
    claimant: str | None = None
    refused: str | None = None
    autoscaler: str | None = None
    deleting: bool = False
    now: datetime = builders.START
    attending_since: datetime = builders.START
    uids: int = 0
    written: list[QuantizedModelStatus] = field(default_factory=list)
    acts: list[Action] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    # --- a pass --------------------------------------------------------------------------------------------------

    def observe(self) -> Observed:
        return Observed(
            meta=builders.meta(generation=self.generation, annotations=dict(self.annotations), deleting=self.deleting),
            spec=self.spec,
            memory=Memory.of(QuantizedModelStatus.model_validate_json(self.status.model_dump_json(by_alias=True))),
            quantizer_image=builders.IMAGE,
            jobs=tuple(self.jobs.values()),
            leaving=self.leaving,
            target=self._target(),
            canary=self.canary,
            claimant=self.claimant,
            refused=self.refused,
            attended=self.now - self.attending_since,
        )

    def _target(self) -> TargetObserved | None:
        if self.deployment is None or isinstance(self.spec, SpecError) or self.spec.rollout is None:
            return None
        replicas = self.deployment["spec"]["replicas"]
        rolling = self.rolling_since is not None
        facts = targets.read(
            self.deployment, container=self.spec.rollout.target_ref.container, model_uri=self.spec.model.uri
        )
        return TargetObserved(
            name="qwen",
            uid=self.deployment["metadata"]["uid"],
            resource_version=self.deployment["metadata"]["resourceVersion"],
            replicas=replicas,
            total=replicas + (1 if rolling else 0),
            ready=self.target_ready,
            updated=1 if rolling else replicas,
            available=self.target_ready,
            current=True,
            facts=facts,
            paused=self.deployment["spec"].get("paused", False),
            progressed_at=self.rolling_since,
            autoscaler=self.autoscaler,
        )

    def step(self, *, killed_after: int | None = None) -> Decision:
        """Do one pass; the operator may die after so many of its acts, and then sends no event."""
        decision = decide(self.observe(), self.now)
        lint(decision, self.generation)
        if decision.status is not None:
            self.status = decision.status
            self.written.append(decision.status)
        for action in decision.actions[:killed_after]:
            self._do(action)
            self.acts.append(action)
        if killed_after is None:
            self.events += decision.events
        return decision

    def _do(self, action: Action) -> None:
        match action:
            case CreateJob(name, manifest):
                assert name not in self.jobs, f"{name} exists"
                self.jobs[name] = self._job(manifest)
            case DeleteJob(name, uid):
                if name in self.jobs and self.jobs[name].uid == uid:
                    self.jobs[name] = replace(self.jobs[name], deleting=True)
            case KeepResult(name, _, text):
                self.jobs[name] = replace(self.jobs[name], kept=True, result=decode(text))
            case ApplyCanary(_, manifest, exists):
                assert exists == (self.canary is not None)
                self.canary = self._applied_canary(manifest)
            case DeleteCanary(_, uid):
                if self.canary is not None and self.canary.uid == uid:
                    self.canary = replace(self.canary, deleting=True)
            case ApplyOverlay(_, manager, manifest):
                self._mount(manager, manifest)
            case RemoveOverlay():
                self.unmount()
            case _:
                assert_never(action)

    def _uid(self) -> str:
        self.uids += 1
        return f"uid-{self.uids}"

    def _job(self, manifest: Mapping[str, Any]) -> JobObserved:
        metadata = manifest["metadata"]
        return JobObserved(
            name=metadata["name"],
            uid=self._uid(),
            owner_uid=metadata["ownerReferences"][0]["uid"],
            key=metadata["annotations"][names.KEY_ANNOTATION],
            run=metadata["annotations"][names.RUN_ANNOTATION],
            attempt=int(metadata["annotations"][names.ATTEMPT_ANNOTATION]),
            stage=Stage(metadata["labels"][names.STAGE_LABEL]),
            candidate=metadata["labels"].get(names.CANDIDATE_LABEL),
            phase=JobPhase.QUEUED,
            created=self.now,
        )

    def _applied_canary(self, manifest: Mapping[str, Any]) -> CanaryObserved:
        template = manifest["spec"]["template"]
        new = CanaryObserved(
            name=manifest["metadata"]["name"],
            uid=self.canary.uid if self.canary is not None else self._uid(),
            owner_uid=manifest["metadata"]["ownerReferences"][0]["uid"],
            replicas=manifest["spec"]["replicas"],
            total=0,
            ready=0,
            updated=0,
            current=False,
            digest=template["metadata"]["annotations"][names.CHECKPOINT_ANNOTATION].split("/")[2],
            template_hash=manifest["metadata"]["annotations"][names.TEMPLATE_ANNOTATION],
        )
        old = self.canary
        if old is not None and (old.digest, old.template_hash) == (new.digest, new.template_hash):
            return replace(new, total=old.total, ready=min(old.ready, new.replicas), updated=old.updated)
        return new

    def _mount(self, manager: str, manifest: Mapping[str, Any]) -> None:
        assert self.deployment is not None
        assert manifest["metadata"]["resourceVersion"] == self.deployment["metadata"]["resourceVersion"]
        self.unmount()
        template, ours = self.deployment["spec"]["template"], manifest["spec"]["template"]
        template["metadata"]["annotations"] = dict(ours["metadata"]["annotations"])
        template["spec"]["volumes"] += deepcopy(ours["spec"]["volumes"])
        template["spec"]["containers"][0]["volumeMounts"] += deepcopy(ours["spec"]["containers"][0]["volumeMounts"])
        held = {"f:spec": {"f:template": {"f:spec": {"f:volumes": {f'k:{{"name":"{VOLUME}"}}': {}}}}}}
        self.deployment["metadata"]["managedFields"] = [{"manager": manager, "fieldsV1": held}]
        self._rolls()

    def unmount(self) -> None:
        """Take the overlay off the target, as an act or as somebody else does."""
        assert self.deployment is not None
        template = self.deployment["spec"]["template"]
        template["metadata"].pop("annotations", None)
        spec = template["spec"]
        spec["volumes"] = [each for each in spec["volumes"] if each["name"] != VOLUME]
        container = spec["containers"][0]
        container["volumeMounts"] = [each for each in container["volumeMounts"] if each["name"] != VOLUME]
        self.deployment["metadata"].pop("managedFields", None)
        self._rolls()

    def _rolls(self) -> None:
        assert self.deployment is not None
        version = int(self.deployment["metadata"]["resourceVersion"]) + 1
        self.deployment["metadata"]["resourceVersion"] = str(version)
        self.rolling_since = self.now

    # --- the cluster ---------------------------------------------------------------------------------------------

    def move(self) -> bool:
        """Let the cluster do all that it does by itself; return whether that was anything."""
        before = (dict(self.jobs), self.canary, self.rolling_since)
        self.jobs = {
            name: self._moved(job)
            for name, job in self.jobs.items()
            if not (job.deleting and job.owner_uid == builders.UID)
        }
        if self.canary is not None and self.canary.deleting:
            self.canary = None
        elif self.canary is not None:
            pods = self.canary.replicas
            ready = pods if self.canary_gets_ready else 0
            trouble = None if ready else Waiting("CrashLoopBackOff", "back-off 10s", builders.START)
            self.canary = replace(self.canary, total=pods, updated=pods, ready=ready, current=True, trouble=trouble)
        if self.rolling_since is not None and (self.target_gets_ready or self.overlay is None):
            self.rolling_since = None
        return before != (self.jobs, self.canary, self.rolling_since)

    def _moved(self, job: JobObserved) -> JobObserved:
        if job.phase in {JobPhase.SUCCEEDED, JobPhase.FAILED} or job.stage is None or job.deleting:
            return job
        outcome = self.script(job.stage, job.candidate, job.run) or usual(job.stage, job.candidate, self.divergences)
        match outcome:
            case Ends(result):
                return replace(job, phase=JobPhase.SUCCEEDED, result=result)
            case Fails(result, out_of_memory, reason):
                return replace(
                    job, phase=JobPhase.FAILED, result=result, failure=JobFailure(reason, "it failed", out_of_memory)
                )
            case Hangs(reason):
                waiting = job.waiting or Waiting(reason, "it hangs", self.now)
                return replace(job, phase=JobPhase.PENDING, waiting=waiting)
            case Runs():
                return replace(job, phase=JobPhase.RUNNING)

    @property
    def overlay(self) -> str | None:
        """The digest of the checkpoint that is mounted on the target."""
        if self.deployment is None:
            return None
        mounts = self.deployment["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
        return next((each["subPath"].split("/")[-1] for each in mounts if each["name"] == VOLUME), None)

    # --- whole runs ----------------------------------------------------------------------------------------------

    def run(self, until: Callable[["World"], bool] = lambda _: False) -> "World":
        """Do passes until nothing changes any more, or `until` holds. Time passes only where a pass asks for it."""
        for _ in range(TOO_MANY_PASSES):
            before = self.status
            decision = self.step()
            if until(self):
                return self
            moved = self.move()
            if decision.status == before and not decision.actions and not moved:
                if decision.requeue_after is None:
                    return self
                self.now += timedelta(seconds=max(1.0, decision.requeue_after))
        raise AssertionError(f"no fixed point; the last standing is {self.ready}")

    def change(self, **changes: Any) -> None:
        """Edit the spec."""
        self.spec = builders.spec(**changes)
        self.generation += 1

    @property
    def run_id(self) -> str:
        assert self.status.run is not None
        return self.status.run.id

    @property
    def ready(self) -> tuple[str, str]:
        """Ready's status and reason."""
        return next((each.status, each.reason) for each in self.status.conditions if each.type == "Ready")

    @property
    def message(self) -> str:
        return next(each.message for each in self.status.conditions if each.type == "Ready")

    def condition(self, kind: str) -> str | None:
        return next((each.status for each in self.status.conditions if each.type == kind), None)

    @property
    def candidates(self) -> dict[str, str]:
        """Each candidate's state, with its verdict and reason where it has any."""
        return {
            each.name: " ".join(str(word) for word in (each.state, each.verdict, each.reason) if word is not None)
            for each in self.status.candidates
        }
