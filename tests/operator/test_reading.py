"""From the API server's objects to what `decide` looks at; Jobs have a file of their own."""

from typing import Any

import pytest
from deciding.objects import AT, MADE, PULL, pod

from saffron_operator import job_reading, names, reading
from saffron_operator.observed import TargetProblem, Waiting

FACTS = TargetProblem("TargetUnsupported", "for the test")


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
    left["metadata"] |= {"ownerReferences": references, "creationTimestamp": MADE}
    assert job_reading.job({"metadata": left["metadata"]}, [], [], living[0]).deleting is of_job
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
