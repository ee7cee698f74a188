"""The kubelet's part, as far as the operator's tests need it: pods run, end with a message, or become ready.

Everything else is real: the API server, the Job, Deployment and ReplicaSet controllers, the scheduler, garbage
collection. One double serves the whole cluster; what a pod comes to is asked of a script.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from saffron_api.failures import Failure, FailureReason
from saffron_api.results import (
    BaselineResult,
    EvaluateResult,
    FailureResult,
    Figure,
    FigureName,
    InspectResult,
    PredictedSize,
    QuantizeResult,
    SampleResult,
    SampleSet,
    Stage,
    StageResult,
    encode,
)
from saffron_operator import names
from saffron_operator.client import Cluster, Object
from saffron_operator.errors import ApiError
from saffron_operator.manifests.job import CONTAINER
from saffron_operator.resources import PODS

POLL_SECONDS = 0.1
ORIGINAL_BYTES = 1000
_MERGE_PATCH = "application/merge-patch+json"


@dataclass(frozen=True)
class Succeed:
    """The stage ends well and leaves its result."""


@dataclass(frozen=True)
class End:
    """The container ends with this exit code and this message."""

    code: int
    message: str = ""
    reason: str = "Error"


@dataclass(frozen=True)
class Mumble:
    """The container ends well but leaves no result."""


@dataclass(frozen=True)
class Wait:
    """The container never starts."""

    reason: str
    message: str


@dataclass(frozen=True)
class Run:
    """The container starts and goes on."""

    ready: bool = True


Outcome = Succeed | Mumble | End | Wait | Run


def fail(stage: Stage, reason: FailureReason, **details: Any) -> End:
    """Return the end of a stage for a reason that `saffron` knows."""
    failure = Failure(reason=reason, **details)
    return End(code=int(failure.exit_code), message=encode(FailureResult(failed_stage=stage, failure=failure)))


Script = Mapping[tuple[str, str], Outcome]
"""(stage, `canary`, `server` or `promoted`, candidate or empty) -> what becomes of its pods, where not the usual."""


@dataclass
class Kubelet:
    """Plays for all namespaces of a cluster. Scripts are looked up by namespace."""

    cluster: Cluster
    scripts: dict[str, Script] = field(default_factory=dict)

    async def run(self) -> None:
        """Play until cancelled."""
        while True:
            # What runs or has ended needs nothing more, and of that there is soon a lot.
            pending = [("fieldSelector", "status.phase=Pending")]
            pods = (await self.cluster.send("GET", "/api/v1/pods", query=pending))["items"]
            acts = [self._serve(pod) for pod in pods if "deletionTimestamp" not in pod["metadata"]]
            await asyncio.gather(*acts)
            await asyncio.sleep(POLL_SECONDS)

    async def _serve(self, pod: Object) -> None:
        wanted = _status(pod, self._outcome(pod))
        if all(pod["status"].get(key) == value for key, value in wanted.items()):
            return
        metadata = pod["metadata"]
        path = PODS.path(metadata["namespace"], metadata["name"], "status")
        try:
            await self.cluster.send("PATCH", path, body={"status": wanted}, content_type=_MERGE_PATCH)
        except ApiError as error:
            if error.status not in {404, 409}:  # it went meanwhile
                raise

    def _outcome(self, pod: Object) -> Outcome:
        labels = pod["metadata"].get("labels", {})
        stage, candidate = labels.get(names.STAGE_LABEL), labels.get(names.CANDIDATE_LABEL, "")
        served = names.CHECKPOINT_ANNOTATION in pod["metadata"].get("annotations", {})
        kind = stage or ("canary" if names.CANARY_LABEL in labels else "promoted" if served else "server")
        usual: Outcome = Succeed() if stage else Run()
        return self.scripts.get(pod["metadata"]["namespace"], {}).get((kind, candidate), usual)


def _status(pod: Object, outcome: Outcome) -> Mapping[str, Any]:
    container = pod["spec"]["containers"][0]
    match outcome:
        case Succeed():
            ended = _terminated(0, "Completed", encode(result_of(pod)))
            return {"phase": "Succeeded", "containerStatuses": [_container(container, ended, ready=False)]}
        case Mumble():
            ended = _terminated(0, "Completed", "Segmentation fault (core dumped)")
            return {"phase": "Succeeded", "containerStatuses": [_container(container, ended, ready=False)]}
        case End(code, message, reason):
            ended = _terminated(code, reason, message)
            return {"phase": "Failed", "containerStatuses": [_container(container, ended, ready=False)]}
        case Wait(reason, message):
            waiting = {"waiting": {"reason": reason, "message": message}}
            return {"phase": "Pending", "containerStatuses": [_container(container, waiting, ready=False)]}
        case Run(ready):
            started = pod["metadata"]["creationTimestamp"]
            unready = {
                "reason": "ContainersNotReady",
                "message": f"containers with unready status: [{container['name']}]",
            }
            conditions = [
                {"type": kind, "status": "True" if ready else "False", "lastTransitionTime": started}
                | ({} if ready else unready)
                for kind in ("Ready", "ContainersReady")
            ]
            running = _container(container, {"running": {"startedAt": started}}, ready=ready)
            return {"phase": "Running", "containerStatuses": [running], "conditions": conditions}


def _container(container: Object, state: Mapping[str, Any], *, ready: bool) -> Mapping[str, Any]:
    return {
        "name": container["name"],
        "image": container["image"],
        "imageID": "",
        "ready": ready,
        "restartCount": 0,
        "state": state,
        "lastState": {},
        "started": "running" in state,
    }


def _terminated(code: int, reason: str, message: str) -> Mapping[str, Any]:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    ended = {"exitCode": code, "reason": reason, "startedAt": now, "finishedAt": now}
    return {"terminated": ended | ({"message": message} if message else {})}


def result_of(pod: Object) -> StageResult:
    """Return what `saffron` would leave: made-up figures, the same for the same candidate."""
    labels = pod["metadata"]["labels"]
    (container,) = (each for each in pod["spec"]["containers"] if each["name"] == CONTAINER)
    command: list[str] = container["command"]
    candidate = labels.get(names.CANDIDATE_LABEL, "")
    return _RESULTS[Stage(labels[names.STAGE_LABEL])](command, candidate)


def checkpoint_digest(candidate: str) -> str:
    """Return the digest of the checkpoint that a candidate of this name gets."""
    return hashlib.sha256(candidate.encode()).hexdigest()


def _bytes(scheme: str) -> int:
    return {"W4A16": 450, "W8A8": 600}[scheme]


def _inspect(command: list[str], _candidate: str) -> InspectResult:
    asked = [json.loads(value) for word, value in pairwise(command) if word == "--candidate"]
    return InspectResult(
        model_digest="a" * 64,
        architecture="LlamaForCausalLM",
        parameters=500,
        bytes=ORIGINAL_BYTES,
        predicted=[PredictedSize(name=each["name"], bytes=_bytes(each["scheme"])) for each in asked],
        isa="AVX512",
    )


def _sample(_command: list[str], _candidate: str) -> SampleResult:
    sets = {name: SampleSet(count=64, tokens=4096, digest=digit * 64) for name, digit in zip(_SETS, "bcd", strict=True)}
    return SampleResult(**sets)


def _baseline(_command: list[str], _candidate: str) -> BaselineResult:
    return BaselineResult(perplexity=12.5, scored_tokens=4096)


def _quantize(command: list[str], candidate: str) -> QuantizeResult:
    return QuantizeResult(
        checkpoint_digest=checkpoint_digest(candidate),
        bytes=_bytes(command[command.index("--scheme") + 1]),
        modules=7,
        max_damping=0.01,
        dead_columns=0,
        seconds=1.0,
        peak_bytes=10**6,
    )


def _evaluate(command: list[str], candidate: str) -> EvaluateResult:
    ratio = 1.5 if candidate.startswith("bad") else 1.01
    size = 0.6 if "int8" in candidate else 0.45
    return EvaluateResult(
        checkpoint_digest=checkpoint_digest(candidate),
        figures=[
            Figure(name=FigureName.PERPLEXITY_RATIO, value=ratio, lower=ratio - 0.005, upper=ratio + 0.005),
            Figure(name=FigureName.KL_DIVERGENCE, value=0.02, lower=0.01, upper=0.03),
            Figure(name=FigureName.TOP_TOKEN_AGREEMENT, value=0.95, lower=0.94, upper=0.96),
            Figure(name=FigureName.CHECKPOINT_BYTES_RATIO, value=size, lower=size, upper=size),
        ],
        units=64,
        scored_tokens=4096,
        confidence=float(command[command.index("--confidence") + 1]),
    )


_SETS = ("calibration", "selection", "gate")
_RESULTS: Mapping[Stage, Callable[[list[str], str], StageResult]] = {
    Stage.INSPECT: _inspect,
    Stage.SAMPLE: _sample,
    Stage.BASELINE: _baseline,
    Stage.QUANTIZE: _quantize,
    Stage.EVALUATE: _evaluate,
}
