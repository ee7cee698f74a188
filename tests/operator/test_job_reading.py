"""From Jobs, their pods and their events to what `decide` looks at."""

from datetime import timedelta
from typing import Any

import pytest
from deciding.objects import AT, LATER, MADE, PULL, pod

from saffron_api.failures import OTHER_RANKS, Failure, FailureReason
from saffron_api.results import BaselineResult, FailureResult, Stage, encode
from saffron_operator import job_reading, names
from saffron_operator.observed import JobFailure, JobPhase, Leaving, Waiting

RESULT = BaselineResult(perplexity=12.5, scored_tokens=100)
DIFFER = FailureResult(failed_stage=Stage.QUANTIZE, failure=Failure(reason=FailureReason.RANKS_DIFFER))
ALONE = FailureResult(
    failed_stage=Stage.QUANTIZE, failure=Failure(reason=FailureReason.INPUT_OUTPUT, subject=OTHER_RANKS)
)


def job(*, conditions: dict[str, str] | None = None, annotations: dict[str, str] | None = None) -> dict[str, Any]:
    """A Job with conditions (type -> reason), all of them True."""
    stated = [
        {"type": kind, "status": "True", "reason": reason, "message": "why"}
        for kind, reason in (conditions or {}).items()
    ]
    return {
        "metadata": {
            "name": "m-baseline-12345678",
            "uid": "job",
            "creationTimestamp": MADE,
            "labels": {names.STAGE_LABEL: "baseline"},
            "annotations": {names.KEY_ANNOTATION: "key"} | (annotations or {}),
            "ownerReferences": [{"kind": "QuantizedModel", "name": "m", "controller": True, "uid": "owner"}],
        },
        "status": {"conditions": stated},
    }


def ended(code: int, message: str = "", *, at: str = MADE, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "finishedAt": at, "reason": reason}}


BACK_OFF = {
    "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i:1": ErrImagePull: not found'}
}
OF_REGISTRY = {
    "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i:1": RegistryUnavailable: no route'}
}
CREATING = {"waiting": {"reason": "ContainerCreating"}}
UNSCHEDULABLE = [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes"}]
SCHEDULED = [{"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T02:00:00Z"}]
LOST = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]


@pytest.mark.parametrize(
    ("manifest", "pods", "expected"),
    [
        pytest.param(job(), [], {"phase": JobPhase.QUEUED}, id="without a pod it is queued"),
        pytest.param(
            job(),
            [pod("Pending", CREATING)],
            {"phase": JobPhase.PENDING},
            id="a container that is being created is no trouble",
        ),
        pytest.param(
            job(),
            [pod("Pending", PULL)],
            {"phase": JobPhase.PENDING, "waiting": Waiting("ErrImagePull", "not found", AT)},
            id="an image that can't be pulled is",
        ),
        pytest.param(
            job(),
            [pod("Pending", BACK_OFF)],
            {"phase": JobPhase.PENDING, "waiting": Waiting("ErrImagePull", "not found", AT)},
            id="the wait between two pulls tells of the same trouble, so that a status does not change with each",
        ),
        pytest.param(
            job(),
            [pod("Pending", conditions=UNSCHEDULABLE)],
            {"phase": JobPhase.PENDING, "waiting": Waiting("Unschedulable", "0/1 nodes", AT)},
            id="the scheduler's reason is read from the condition",
        ),
        pytest.param(
            job(),
            [pod("Pending", PULL, conditions=SCHEDULED)],
            {"phase": JobPhase.PENDING, "waiting": Waiting("ErrImagePull", "not found", AT + timedelta(hours=2))},
            id="it has been in trouble at most since it has a node",
        ),
        pytest.param(
            job(),
            [pod("Pending", PULL, owner="another")],
            {"phase": JobPhase.QUEUED},
            id="another Job's pod says nothing",
        ),
        pytest.param(
            job(),
            [pod("Failed", ended(1)), pod("Running", {"running": {}})],
            {"phase": JobPhase.RUNNING},
            id="a pod that is tried again runs",
        ),
        pytest.param(
            job(conditions={"Complete": "CompletionsReached"}),
            [pod("Succeeded", ended(0, encode(RESULT)))],
            {"phase": JobPhase.SUCCEEDED, "result": RESULT},
            id="the last pod's message is the result",
        ),
        pytest.param(
            job(conditions={"Failed": "PodFailurePolicy"}),
            [pod("Failed", ended(16, encode(DIFFER))), pod("Failed", ended(1, encode(ALONE), at=LATER))],
            {
                "phase": JobPhase.FAILED,
                "result": DIFFER,
                "failure": JobFailure("PodFailurePolicy", "why", out_of_memory=False),
            },
            id="of several pods, one that lost the others does not know why the Job failed",
        ),
        pytest.param(
            job(),
            [pod("Failed", ended(1, encode(ALONE)))],
            {"phase": JobPhase.QUEUED, "result": ALONE},
            id="where no other pod says more, the loss of the others is what is told",
        ),
        pytest.param(
            job(conditions={"Complete": "CompletionsReached"}),
            [pod("Succeeded", ended(0, "Traceback"))],
            {"phase": JobPhase.SUCCEEDED},
            id="what can't be read is no result",
        ),
        pytest.param(
            job(conditions={"Complete": "CompletionsReached"}, annotations={names.RESULT_ANNOTATION: encode(RESULT)}),
            [],
            {"phase": JobPhase.SUCCEEDED, "result": RESULT, "kept": True},
            id="a kept result outlives its pod",
        ),
        pytest.param(
            job(conditions={"Complete": "CompletionsReached"}, annotations={names.RESULT_ANNOTATION: "{"}),
            [pod("Succeeded", ended(0, encode(RESULT)))],
            {"phase": JobPhase.SUCCEEDED, "result": RESULT},
            id="a kept result that can't be read gives way to the pod's",
        ),
        pytest.param(
            job(conditions={"Failed": "PodFailurePolicy"}),
            [pod("Failed", ended(137, reason="OOMKilled"))],
            {"phase": JobPhase.FAILED, "failure": JobFailure("PodFailurePolicy", "why", out_of_memory=True)},
            id="killed for memory",
        ),
        pytest.param(
            job(conditions={"Failed": "BackoffLimitExceeded"}),
            [pod("Failed", ended(137), conditions=LOST)],
            {"phase": JobPhase.FAILED, "failure": JobFailure("BackoffLimitExceeded", "why")},
            id="a pod that had to make room was not killed for memory",
        ),
        pytest.param(
            job(conditions={"Complete": "Done"}),
            [pod("Succeeded", ended(0, encode(RESULT)), sidecar=ended(0, at=LATER))],
            {"phase": JobPhase.SUCCEEDED, "result": RESULT},
            id="a sidecar that the cluster put there ends later and has nothing to tell",
        ),
        pytest.param(
            job(conditions={"Failed": "BackoffLimitExceeded"}),
            [pod("Failed", ended(1), sidecar=ended(137, at=LATER))],
            {"phase": JobPhase.FAILED, "failure": JobFailure("BackoffLimitExceeded", "why")},
            id="nor is it the stage's memory if it is killed",
        ),
        pytest.param(
            job(),
            [pod("Pending", OF_REGISTRY)],
            {"phase": JobPhase.PENDING, "waiting": Waiting("RegistryUnavailable", "no route", AT)},
            id="the wait between two pulls tells of the same trouble, whatever it is",
        ),
        pytest.param(
            job(annotations={names.ATTEMPT_ANNOTATION: "2", names.RUN_ANNOTATION: "1"}),
            [],
            {"phase": JobPhase.QUEUED, "attempt": 2, "run": "1"},
            id="attempt and run are read from annotations",
        ),
        pytest.param(
            job(annotations={names.ATTEMPT_ANNOTATION: "many"}),
            [],
            {"phase": JobPhase.QUEUED},
            id="an attempt that is no number is the first",
        ),
    ],
)
def test_a_job(manifest: dict[str, Any], pods: list[Any], expected: dict[str, Any]) -> None:
    nothing = {"waiting": None, "result": None, "kept": False, "failure": None, "attempt": 1, "run": ""}
    seen = job_reading.job(manifest, pods, [], {"metadata": {"name": "m", "uid": "owner"}})
    assert {name: getattr(seen, name) for name in nothing | expected} == nothing | expected
    assert (seen.name, seen.uid, seen.owner_uid, seen.key, seen.deleting) == (
        "m-baseline-12345678",
        "job",
        "owner",
        "key",
        False,
    )


@pytest.mark.parametrize(
    ("owner", "phase", "found"),
    [
        pytest.param("job", "Running", False, id="of a Job that is there"),
        pytest.param("gone", "Running", True, id="that runs"),
        pytest.param("gone", "Pending", True, id="that may yet begin"),
        pytest.param("gone", "Unknown", True, id="of which nothing is known"),
        pytest.param(None, "Running", True, id="that was let go"),
        pytest.param("gone", "Succeeded", False, id="that has succeeded"),
        pytest.param("gone", "Failed", False, id="that has failed"),
    ],
)
def test_a_pod_that_outlives_its_job(owner: str | None, phase: str, found: object) -> None:
    left = pod(phase, owner=owner or "")
    left["metadata"]["labels"] = {
        "batch.kubernetes.io/job-name": "m-baseline-12345678",
        "saffron.dev/stage": "baseline",
    }
    if owner is None:
        del left["metadata"]["ownerReferences"]
    expected = (Leaving("p", "m-baseline-12345678", Stage.BASELINE),) if found else ()
    assert job_reading.leaving([{"metadata": {"uid": "job"}}], [left]) == expected


def unmade(note: str, **times: Any) -> dict[str, Any]:
    return {"reason": "FailedCreate", "note": note, "metadata": {"creationTimestamp": MADE}, **times}


FULL = "exceeded quota: full, requested: pods=1, used: pods=2, limited: pods=2"
FORBIDDEN = unmade(f'Error creating: pods "m-baseline-12345678-x7k2p" is forbidden: {FULL}', eventTime=None)
COMBINED = unmade(
    f'(combined from similar events): Error creating: pods "m-baseline-12345678-2b6vd" is forbidden: {FULL}',
    series={"lastObservedTime": "2026-01-01T00:00:09.123456Z"},
)
DENIED = unmade(
    'Error creating: admission webhook "a.b" denied the request: no', deprecatedLastTimestamp=LATER, eventTime=None
)
NINE = AT + timedelta(seconds=9)


@pytest.mark.parametrize(
    ("pods", "events", "phase", "waiting"),
    [
        pytest.param(
            [], [FORBIDDEN], JobPhase.QUEUED, Waiting("FailedCreate", FULL, AT), id="a quota, without the pod"
        ),
        pytest.param(
            [],
            [COMBINED, FORBIDDEN],
            JobPhase.QUEUED,
            Waiting("FailedCreate", FULL, NINE + timedelta(microseconds=123_456)),
            id="many tries tell it in the same words",
        ),
        pytest.param(
            [],
            [FORBIDDEN, DENIED],
            JobPhase.QUEUED,
            Waiting("FailedCreate", 'admission webhook "a.b" denied the request: no', NINE),
            id="the last cause counts",
        ),
        pytest.param([pod("Failed", made=LATER)], [FORBIDDEN], JobPhase.QUEUED, None, id="a cause that a pod outlived"),
        pytest.param(
            [pod("Pending", PULL)],
            [FORBIDDEN],
            JobPhase.PENDING,
            Waiting("ErrImagePull", "not found", AT),
            id="a pod that is there tells of itself first",
        ),
        pytest.param(
            [pod("Running", {"running": {}})],
            [FORBIDDEN],
            JobPhase.RUNNING,
            Waiting("FailedCreate", FULL, AT),
            id="one of several pods may run",
        ),
    ],
)
def test_a_job_whose_pods_are_not_made(
    pods: list[Any], events: list[Any], phase: JobPhase, waiting: Waiting | None
) -> None:
    seen = job_reading.job(job(), pods, events, {"metadata": {"name": "m", "uid": "owner"}})
    assert (seen.phase, seen.waiting, seen.created) == (phase, waiting, AT)


@pytest.mark.parametrize(
    ("conditions", "parallelism", "phases", "lacks"),
    [
        pytest.param({}, 1, [], True, id="none is there"),
        pytest.param({}, 1, ["Pending"], False, id="one that begins is there"),
        pytest.param({}, 1, ["Failed"], True, id="one failed and has no successor"),
        pytest.param({}, 3, ["Running", "Pending"], True, id="one of three is missing"),
        pytest.param({}, 3, ["Running", "Succeeded", "Running"], False, id="one of three is done"),
        pytest.param({"Suspended": "JobSuspended"}, 1, [], True, id="a queue holds it back, and no pod is tried"),
        pytest.param({"Complete": "Done"}, 1, [], False, id="it is complete, and its pod gone"),
        pytest.param({"Failed": "DeadlineExceeded"}, 1, [], False, id="it has failed"),
    ],
)
def test_a_job_that_lacks_pods(conditions: dict[str, str], parallelism: int, phases: list[str], lacks: object) -> None:
    manifest = job(conditions=conditions) | {"spec": {"parallelism": parallelism}}
    others = pod("Running", owner="another")
    assert job_reading.lacks_pods(manifest, [*(pod(phase) for phase in phases), others]) is lacks
