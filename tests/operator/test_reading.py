"""From the API server's objects to what `decide` looks at."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from saffron_api.failures import OTHER_RANKS, Failure, FailureReason
from saffron_api.results import BaselineResult, FailureResult, Stage, encode
from saffron_operator import names, reading
from saffron_operator.observed import JobFailure, JobPhase, TargetProblem, Waiting

MADE = "2026-01-01T00:00:00Z"
AT = datetime(2026, 1, 1, tzinfo=UTC)
LATER = "2026-01-01T00:00:09Z"
RESULT = BaselineResult(perplexity=12.5, scored_tokens=100)
DIFFER = FailureResult(failed_stage=Stage.QUANTIZE, failure=Failure(reason=FailureReason.RANKS_DIFFER))
ALONE = FailureResult(
    failed_stage=Stage.QUANTIZE, failure=Failure(reason=FailureReason.INPUT_OUTPUT, subject=OTHER_RANKS)
)
FACTS = TargetProblem("TargetUnsupported", "for the test")


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
            "labels": {names.STAGE_LABEL: "baseline"},
            "annotations": {names.KEY_ANNOTATION: "key"} | (annotations or {}),
            "ownerReferences": [{"kind": "QuantizedModel", "name": "m", "controller": True, "uid": "owner"}],
        },
        "status": {"conditions": stated},
    }


def pod(phase: str, state: dict[str, Any] | None = None, *, owner: str = "job", made: str = MADE, **status: Any) -> Any:
    return {
        "metadata": {
            "name": "p",
            "creationTimestamp": made,
            "ownerReferences": [{"controller": True, "uid": owner}],
        },
        "status": {"phase": phase, "containerStatuses": [{"state": state or {}}], **status},
    }


def ended(code: int, message: str = "", *, at: str = MADE, reason: str = "Error") -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "message": message, "finishedAt": at, "reason": reason}}


PULL = {"waiting": {"reason": "ErrImagePull", "message": "not found"}}
BACK_OFF = {
    "waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "i:1": ErrImagePull: not found'}
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
    seen = reading.job(manifest, pods, {"metadata": {"name": "m", "uid": "owner"}})
    assert {name: getattr(seen, name) for name in nothing | expected} == nothing | expected
    assert (seen.name, seen.uid, seen.owner_uid, seen.key, seen.deleting) == (
        "m-baseline-12345678",
        "job",
        "owner",
        "key",
        False,
    )


def deployment(**status: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "qwen", "uid": "u", "resourceVersion": "7", "generation": 3},
        "spec": {"replicas": 2, "template": {"metadata": {}, "spec": {}}},
        "status": status,
    }


def test_a_target_whose_status_is_empty_has_no_pods_and_is_not_current() -> None:
    seen = reading.target(deployment(), [], facts=FACTS, autoscaler=None)
    assert (seen.replicas, seen.total, seen.ready, seen.updated, seen.available, seen.current) == (2, 0, 0, 0, 0, False)
    assert (seen.deadline_exceeded, seen.progressed_at, seen.trouble) == (False, None, None)


def test_a_target_may_be_paused() -> None:
    made = deployment()
    assert not reading.target(made, [], facts=FACTS, autoscaler=None).paused
    made["spec"]["paused"] = True
    assert reading.target(made, [], facts=FACTS, autoscaler=None).paused


def test_a_target_whose_new_pods_hang_says_why() -> None:
    progressing = {
        "type": "Progressing",
        "status": "False",
        "reason": "ProgressDeadlineExceeded",
        "lastUpdateTime": MADE,
    }
    old, hanging = pod("Running"), pod("Pending", PULL)
    seen = reading.target(
        deployment(observedGeneration=3, conditions=[progressing], replicas=3, readyReplicas=2),
        [old, hanging],
        facts=FACTS,
        autoscaler=None,
    )
    assert (seen.deadline_exceeded, seen.progressed_at, seen.current) == (True, AT, True)
    assert seen.trouble == Waiting("ErrImagePull", "not found", AT)


def test_a_target_whose_new_pods_run_but_are_not_ready_says_so() -> None:
    unready = [{"type": "Ready", "status": "False", "reason": "ContainersNotReady", "message": "unready: [server]"}]
    seen = reading.target(deployment(), [pod("Running", conditions=unready)], facts=FACTS, autoscaler=None)
    assert seen.trouble == Waiting("ContainersNotReady", "unready: [server]", AT)


def test_only_the_newest_revisions_pods_speak_for_a_target() -> None:
    made = deployment(observedGeneration=3)
    made["spec"]["template"]["metadata"]["annotations"] = {names.CHECKPOINT_ANNOTATION: "1/int8/abc"}
    seen = reading.target(made, [pod("Pending", PULL)], facts=FACTS, autoscaler=None)
    assert seen.trouble is None


def test_a_canary_that_kubernetes_calls_stuck() -> None:
    stuck = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded", "lastUpdateTime": MADE}
    for conditions, found in (([], False), ([stuck], True), ([stuck | {"reason": "ReplicaSetUpdated"}], False)):
        made = deployment(conditions=conditions)
        assert reading.canary(made, [], []).deadline_exceeded == found


@pytest.mark.parametrize(
    ("owner", "phase", "found"),
    [
        pytest.param("job", "Running", {}, id="of a Job that is there"),
        pytest.param("gone", "Running", {"m-baseline-12345678": "p"}, id="that runs"),
        pytest.param("gone", "Pending", {"m-baseline-12345678": "p"}, id="that may yet begin"),
        pytest.param("gone", "Unknown", {"m-baseline-12345678": "p"}, id="of which nothing is known"),
        pytest.param(None, "Running", {"m-baseline-12345678": "p"}, id="that was let go"),
        pytest.param("gone", "Succeeded", {}, id="that has succeeded"),
        pytest.param("gone", "Failed", {}, id="that has failed"),
    ],
)
def test_a_pod_that_outlives_its_job(owner: str | None, phase: str, found: dict[str, str]) -> None:
    left = pod(phase, owner=owner or "")
    left["metadata"]["labels"] = {"batch.kubernetes.io/job-name": "m-baseline-12345678"}
    if owner is None:
        del left["metadata"]["ownerReferences"]
    assert reading.leaving([{"metadata": {"uid": "job"}}], [left]) == found


def test_a_deployment_whose_pods_are_not_made_says_why() -> None:
    forbidden = {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota: q"}
    made = deployment(conditions=[forbidden | {"lastTransitionTime": MADE}])
    told = Waiting("FailedCreate", "exceeded quota: q", AT)
    assert reading.canary(made, [], []).trouble == told
    assert reading.target(made, [], facts=FACTS, autoscaler=None).trouble == told
    assert reading.canary(made, [pod("Pending", PULL)], []).trouble == Waiting("ErrImagePull", "not found", AT)


@pytest.mark.parametrize(
    ("owner", "of_job", "of_canary"),
    [
        pytest.param({"name": "m", "uid": "m-uid"}, False, False, id="this one"),
        pytest.param({"name": "m", "uid": "old"}, True, True, id="an earlier one of this name"),
        pytest.param({"name": "n", "uid": "n-uid"}, False, False, id="another one that is there"),
        pytest.param({"name": "n", "uid": "old"}, False, True, id="another one that is gone, as far as is known"),
        pytest.param({"name": "m", "uid": "old", "kind": "Model"}, False, False, id="another kind"),
        pytest.param({"name": "m", "uid": "old", "controller": False}, False, False, id="no controller"),
    ],
)
def test_what_is_left_of_a_quantizedmodel_is_about_to_be_deleted(
    owner: dict[str, Any], of_job: object, of_canary: object
) -> None:
    references = [{"kind": "QuantizedModel", "controller": True} | owner]
    living = [{"metadata": {"name": name, "uid": f"{name}-uid"}} for name in ("m", "n")]
    left = deployment()
    left["metadata"]["ownerReferences"] = references
    assert reading.job({"metadata": left["metadata"]}, [], living[0]).deleting is of_job
    assert reading.canary(left, [], living).deleting is of_canary


def scaler(kind: str, name: str) -> dict[str, Any]:
    return {"metadata": {"name": "busy"}, "spec": {"scaleTargetRef": {"kind": kind, "name": name}}}


@pytest.mark.parametrize(
    ("autoscalers", "scaled_objects", "found"),
    [
        pytest.param([], [], None, id="nothing"),
        pytest.param([scaler("Deployment", "other")], [], None, id="another Deployment's"),
        pytest.param([scaler("StatefulSet", "qwen")], [], None, id="a StatefulSet's of the same name"),
        pytest.param([scaler("Deployment", "qwen")], [], "HorizontalPodAutoscaler busy", id="an HPA"),
        pytest.param(
            [scaler("Deployment", "qwen")],
            [{"metadata": {"name": "q"}, "spec": {"scaleTargetRef": {"name": "qwen"}}}],
            "ScaledObject q",
            id="KEDA's object, which made the HPA, and whose kind may be left out",
        ),
    ],
)
def test_what_scales_a_target(autoscalers: list[Any], scaled_objects: list[Any], found: str | None) -> None:
    assert reading.autoscaler("qwen", autoscalers, scaled_objects) == found


def model(name: str, made: str = MADE, *, target: str = "qwen", deleting: bool = False) -> dict[str, Any]:
    gone = {"deletionTimestamp": MADE} if deleting else {}
    return {
        "metadata": {"name": name, "creationTimestamp": made} | gone,
        "spec": {"rollout": {"targetRef": {"name": target}}},
    }


@pytest.mark.parametrize(
    ("others", "found"),
    [
        pytest.param([], None, id="alone"),
        pytest.param([model("a", "2025-12-31T23:59:59Z")], "a", id="an older one"),
        pytest.param([model("z", "2026-01-01T00:00:01Z")], None, id="a younger one"),
        pytest.param([model("a")], "a", id="of the same second, by name"),
        pytest.param([model("a", deleting=True)], None, id="one on its way out holds nothing"),
        pytest.param([model("a", target="other")], None, id="one of another target"),
    ],
)
def test_who_holds_a_target(others: list[Any], found: str | None) -> None:
    resource = model("m")
    assert reading.claimant(resource, [resource, *others]) == found


def test_a_spec_that_was_stored_under_an_older_crd_is_named_by_field() -> None:
    seen = reading.spec({"spec": {"model": {"uri": "s3://bucket/model"}}})
    assert isinstance(seen, reading.SpecError)
    assert seen.message.startswith("spec.model.uri: must be pvc://CLAIM/PATH")
