"""Pods of one Indexed Job quantize a candidate together."""

from copy import deepcopy

import pytest

from saffron_api.results import QuantizeResult, decode
from saffron_dev.demo import tour
from saffron_dev.demo.follow import follow
from saffron_dev.demo.place import Place
from saffron_dev.demo.stopwatch import Stopwatch

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400), pytest.mark.usefixtures("engine")]

_NAME = "together"
_SECONDS = 900


def test_two_pods_quantize_a_candidate_together(where: Place, watch: Stopwatch):
    example = tour.example(gpu=False)
    spec = deepcopy(example["spec"])
    del spec["rollout"]
    spec |= {
        "calibration": {"samples": 16},
        "evaluation": {"samples": 30},
        "candidates": [{"name": "gptq", "method": "GPTQ", "scheme": "W4A16"}],
        "job": {"quantizeProcesses": 2},
    }
    where.serving.apply([{**example, "metadata": {"name": _NAME}, "spec": spec}])
    status = follow(where.serving, _NAME, watch, seconds=_SECONDS)
    (candidate,) = status.candidates
    pods = where.serving.items("pods", f"saffron.dev/quantizedmodel={_NAME},saffron.dev/stage=quantize")
    results = [decode(pod["status"]["containerStatuses"][0]["state"]["terminated"]["message"]) for pod in pods]
    where.serving.run("delete", "quantizedmodel", _NAME, "--wait=true")
    indices = sorted(pod["metadata"]["annotations"]["batch.kubernetes.io/job-completion-index"] for pod in pods)
    assert indices == ["0", "1"]
    assert all(isinstance(result, QuantizeResult) for result in results)
    assert {result.checkpoint_digest for result in results} == {candidate.checkpoint_digest}
    assert candidate.verdict is not None
