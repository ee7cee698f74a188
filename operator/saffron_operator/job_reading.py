"""From Jobs and their pods, as the API server shows them, to what `decide` looks at: pure, as `reading`."""

import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime

from pydantic import ValidationError

from saffron_api.failures import OTHER_RANKS
from saffron_api.results import FailureResult, Stage, StageResult, decode
from saffron_operator import names
from saffron_operator.manifests.job import CONTAINER
from saffron_operator.metrics import StageSeconds
from saffron_operator.observed import JobFailure, JobObserved, JobPhase, Json, Leaving, Waiting
from saffron_operator.reading import condition, controller, is_left, moment, trouble

_KILLED = 137
"""128 + SIGKILL: what the kernel's memory limit leaves behind."""
_LONG_AGO = datetime.min.replace(tzinfo=UTC)
_UNMADE = re.compile(r'^(\(combined from similar events\): )?(Error creating: )?(pods "[^"]*" is forbidden: )?')
"""What stands before the cause. The pod's name is another one with every try, and a status would follow it."""


def lacks_pods(manifest: Json, pods: Sequence[Json]) -> bool:
    """Return whether a Job that is not over has fewer pods under way than it is to have."""
    if condition(manifest, "Complete") or condition(manifest, "Failed"):
        return False
    phases = [pod.get("status", {}).get("phase") for pod in _own(manifest, pods)]
    under_way = sum(phase not in {"Succeeded", "Failed"} for phase in phases)
    wanted: int = manifest["spec"].get("parallelism", 1) - phases.count("Succeeded")
    return under_way < wanted


def job(manifest: Json, pods: Sequence[Json], events: Sequence[Json], resource: Json) -> JobObserved:
    """Return a Job of ours.

    Args:
        manifest: The Job.
        pods: At least all pods that it owns.
        events: Those that tell of pods that could not be made; none where it lacks none.
        resource: The QuantizedModel. What an earlier one of its name owns is about to be deleted.
    """
    data = manifest["metadata"]
    annotations, labels = data.get("annotations", {}), data.get("labels", {})
    own = _own(manifest, pods)
    phase = _job_phase(manifest, own)
    failed = condition(manifest, "Failed")
    kept = _decoded(annotations.get(names.RESULT_ANNOTATION, ""))
    return JobObserved(
        name=data["name"],
        uid=data["uid"],
        owner_uid=controller(data),
        key=annotations.get(names.KEY_ANNOTATION, ""),
        run=annotations.get(names.RUN_ANNOTATION, ""),
        attempt=_attempt(annotations.get(names.ATTEMPT_ANNOTATION, "")),
        stage=_stage(labels.get(names.STAGE_LABEL)),
        candidate=labels.get(names.CANDIDATE_LABEL),
        phase=phase,
        created=moment(data["creationTimestamp"]),
        deleting="deletionTimestamp" in data or is_left(data, resource["metadata"]["name"], [resource]),
        waiting=(trouble(own) if phase is JobPhase.PENDING else None) or _unmade(own, events),
        result=kept or _result(own),
        kept=kept is not None,
        failure=JobFailure(failed["reason"], failed.get("message", ""), _out_of_memory(own))
        if phase is JobPhase.FAILED and failed is not None
        else None,
    )


def leaving(manifests: Sequence[Json], pods: Sequence[Json]) -> tuple[Leaving, ...]:
    """Return the pods that have not ended though their Jobs are gone.

    Args:
        manifests: The Jobs that are there.
        pods: Those with our labels.
    """
    there = {each["metadata"]["uid"] for each in manifests}
    return tuple(
        Leaving(
            name=pod["metadata"]["name"],
            job=pod["metadata"]["labels"][names.JOB_LABEL],
            stage=_stage(pod["metadata"]["labels"].get(names.STAGE_LABEL)),
        )
        for pod in pods
        if names.JOB_LABEL in pod["metadata"]["labels"]
        and controller(pod["metadata"]) not in there
        and pod.get("status", {}).get("phase") not in {"Succeeded", "Failed"}
    )


def foreign_job(data: Json) -> JobObserved:
    """Return a Job without our labels, of which only the metadata were read: its name is all that matters."""
    return JobObserved(
        name=data["name"],
        uid=data["uid"],
        owner_uid=controller(data),
        key="",
        run="",
        attempt=1,
        stage=None,
        candidate=None,
        phase=JobPhase.QUEUED,
        created=moment(data["creationTimestamp"]),
        deleting="deletionTimestamp" in data,
    )


def stage_seconds(manifest: Json) -> StageSeconds | None:
    """Return what a Job took, or None where it has not succeeded."""
    labels, status = manifest["metadata"].get("labels", {}), manifest.get("status", {})
    if "completionTime" not in status or "startTime" not in status:
        return None
    return StageSeconds(
        stage=labels.get(names.STAGE_LABEL, ""),
        candidate=labels.get(names.CANDIDATE_LABEL, ""),
        seconds=(moment(status["completionTime"]) - moment(status["startTime"])).total_seconds(),
        ended=status["completionTime"],
    )


def _own(manifest: Json, pods: Sequence[Json]) -> Sequence[Json]:
    """Return those of the pods that an object controls."""
    return [pod for pod in pods if controller(pod["metadata"]) == manifest["metadata"]["uid"]]


def _unmade(pods: Sequence[Json], events: Sequence[Json]) -> Waiting | None:
    """Return why the next pod of a Job could not be made; None where nothing says so since the newest one was."""
    newest = max((moment(pod["metadata"]["creationTimestamp"]) for pod in pods), default=_LONG_AGO)
    last = max(events, key=_told_at, default=None)
    if last is None or _told_at(last) < newest:
        return None
    return Waiting(last["reason"], _UNMADE.sub("", last.get("note", "")), _told_at(last))


def _told_at(event: Json) -> datetime:
    """Return when an event was last the case. Kubernetes' own controllers write the fields of its older kind."""
    series = event.get("series") or {}
    told = series.get("lastObservedTime") or event.get("deprecatedLastTimestamp") or event.get("eventTime")
    return moment(told or event["metadata"]["creationTimestamp"])


def _attempt(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() else 1


def _stage(text: str | None) -> Stage | None:
    return Stage(text) if text in set(Stage) else None


def _job_phase(manifest: Json, pods: Sequence[Json]) -> JobPhase:
    if condition(manifest, "Complete"):
        return JobPhase.SUCCEEDED
    if condition(manifest, "Failed"):
        return JobPhase.FAILED
    phases = {pod.get("status", {}).get("phase") for pod in pods}
    if "Running" in phases:
        return JobPhase.RUNNING
    return JobPhase.PENDING if "Pending" in phases else JobPhase.QUEUED


def _result(pods: Sequence[Json]) -> StageResult | None:
    """Return what the last pod to end left, or None where it left nothing that can be read.

    One that only lost the others is heard last: it ends after the one that failed, and does not know why.
    """
    ended: list[tuple[str, str]] = [
        (state.get("finishedAt") or "", state.get("message", "")) for pod in pods for state in _ends(pod)
    ]
    results = [_decoded(message) for _, message in sorted(ended)]
    return next((result for result in reversed(results) if not _lost_others(result)), results[-1] if results else None)


def _lost_others(result: StageResult | None) -> bool:
    return isinstance(result, FailureResult) and result.failure.subject == OTHER_RANKS


def _decoded(text: str) -> StageResult | None:
    try:
        return decode(text)
    except ValidationError:
        return None  # a killed container leaves nothing, or a part; `decide` treats both alike


def _ends(pod: Json) -> Iterator[Json]:
    """Yield how the stage's container ended. Others are there by the cluster's wish, and may well end after it."""
    for container in pod.get("status", {}).get("containerStatuses", ()):
        if container["name"] == CONTAINER and "terminated" in container.get("state", {}):
            yield container["state"]["terminated"]


def _out_of_memory(pods: Sequence[Json]) -> bool:
    """Whether the stage was killed for memory. A pod that had to make room is killed by the same signal."""
    return any(
        state.get("reason") == "OOMKilled" or state.get("exitCode") == _KILLED
        for pod in pods
        if condition(pod, "DisruptionTarget") is None
        for state in _ends(pod)
    )
