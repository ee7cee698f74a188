"""Input that only a real kubelet can refuse: each ends in a condition that says what to do, and stays there."""

import time
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import pytest

from saffron_api.status import Condition, QuantizedModelStatus
from saffron_dev.demo import serving, tour
from saffron_dev.demo.follow import JOBS, follow
from saffron_dev.demo.place import Place, install_operator
from saffron_dev.demo.stopwatch import Stopwatch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("engine")]

_END_SECONDS = 600
_QUIET_SECONDS = 20


def _resource(name: str, **changes: Any) -> dict[str, Any]:
    """A QuantizedModel of one candidate without a roll-out; `changes` are fields of its spec."""
    example = tour.example(gpu=False)
    spec = deepcopy(example["spec"])
    del spec["rollout"]
    spec["candidates"] = [{"name": "rtn", "method": "RTN", "scheme": "W8A8"}]
    return {**example, "metadata": {"name": name}, "spec": {**spec, **changes}}


def _end(where: Place, watch: Stopwatch, resource: dict[str, Any]) -> QuantizedModelStatus:
    """Apply it, follow it to its end, and see that nothing goes on after that."""
    name = resource["metadata"]["name"]
    where.serving.apply([resource])
    status = follow(where.serving, name, watch, seconds=_END_SECONDS)
    before = _moving_parts(where, name)
    time.sleep(_QUIET_SECONDS)
    assert _moving_parts(where, name) == before
    return status


def _moving_parts(where: Place, name: str) -> tuple[str, list[str]]:
    resource = where.serving.get("quantizedmodels", name)
    assert resource is not None
    jobs = where.serving.items("jobs", f"{JOBS},saffron.dev/quantizedmodel={name}")
    return resource["metadata"]["resourceVersion"], sorted(job["metadata"]["uid"] for job in jobs)


def _stalled(status: QuantizedModelStatus) -> Condition:
    (condition,) = [condition for condition in status.conditions if condition.type == "Stalled"]
    return condition


def _gone(where: Place, name: str) -> None:
    where.serving.run("delete", "quantizedmodel", name, "--wait=true")


@dataclass(frozen=True)
class Case:
    """A changed spec, and the condition it ends in."""

    name: str
    changes: dict[str, Any]
    reason: str
    says: str


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            Case("nomodel", {"model": {"uri": "pvc://models/nothing-here"}}, "ModelMissing", "nothing-here"),
            id="no model folder",
        ),
        pytest.param(
            Case(
                "nodata",
                {"data": {"source": {"dataset": {"uri": "pvc://models/nothing.jsonl"}}, "maxTokens": 512}},
                "DatasetMissing",
                "nothing.jsonl",
            ),
            id="no data set",
        ),
        pytest.param(
            Case(
                "smallpod",
                {"job": {"podTemplate": {"resources": {"limits": {"memory": "64Mi"}}}}},
                "OutOfMemory",
                "resources.limits.memory",
            ),
            id="a Job killed for memory",
        ),
        pytest.param(
            Case(
                # Kubernetes waits for a claim for ever, since somebody may still make it.
                "noclaim",
                {"model": {"uri": f"pvc://absent/{serving.MODEL}"}, "job": {"activeDeadlineSeconds": 60}},
                "JobFailed",
                "DeadlineExceeded",
            ),
            id="no such claim",
        ),
    ],
)
def test_it_stalls_with_a_reason_and_what_to_do(where: Place, watch: Stopwatch, case: Case):
    condition = _stalled(_end(where, watch, _resource(case.name, **case.changes)))
    assert condition.reason == case.reason
    assert case.says in condition.message
    _gone(where, case.name)


def test_an_image_that_can_not_be_pulled_stalls_and_names_it(where: Place, watch: Stopwatch):
    missing = "localhost/saffron-absent:dev"
    install_operator(where, quantizer_image=missing)
    try:
        resource = _resource("noimage", job={"pendingDeadlineSeconds": 20})
        condition = _stalled(_end(where, watch, resource))
    finally:
        install_operator(where)
    assert condition.reason == "ImageUnavailable"
    assert missing in condition.message
    _gone(where, "noimage")
