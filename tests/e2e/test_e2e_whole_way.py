"""From kubectl apply to promoted on a real cluster, with the operator killed five times on the way."""

import re
from collections import Counter

import pytest

from saffron_api.results import FigureName
from saffron_dev.demo import serving, storage, tour
from saffron_dev.demo.place import Place

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(5400)]


def test_the_operator_was_killed_five_times(run):
    assert run.killed == (
        "while it samples",
        "while the first candidate is made",
        "once the first verdict is there",
        "during the canary's step",
        "while it promotes",
    )


def test_the_run_ends_promoted_and_says_so(run):
    conditions = {condition.type: (condition.status, condition.reason) for condition in run.status.conditions}
    assert conditions["Ready"] == ("True", "Promoted")
    assert conditions["Promoted"][0] == "True"
    assert "Reconciling" not in conditions
    assert "Stalled" not in conditions


def test_rounding_to_int4_fails_its_gate_and_gptq_is_promoted(run):
    verdicts = {candidate.name: candidate.verdict for candidate in run.status.candidates}
    assert verdicts == {"rtn-int4": "Fail", "gptq-int4": "Pass", "w8a8": "Pass"}
    assert run.status.promoted.candidate == "gptq-int4"


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        # Measured here: 1.57, 1.06 and 1.03. A peer's on other passages of the same author: 1.61, 1.15 and 1.024.
        pytest.param("rtn-int4", 1.4, 1.9, id="RTN int4"),
        pytest.param("gptq-int4", 1.02, 1.18, id="GPTQ int4"),
        pytest.param("w8a8", 1.0, 1.06, id="RTN int8"),
    ],
)
def test_the_perplexity_ratio_is_what_the_method_is_known_for(run, name, low, high):
    (candidate,) = [candidate for candidate in run.status.candidates if candidate.name == name]
    (figure,) = [figure for figure in candidate.figures if figure.name is FigureName.PERPLEXITY_RATIO]
    assert low < figure.lower <= figure.value <= figure.upper < high


def test_no_request_failed(run):
    assert [request.error for request in run.requests if request.error is not None] == []
    assert len(run.requests) > 30


def test_both_the_canary_and_the_promoted_pods_answered(run):
    by = Counter(_kind(request.by) for request in run.requests if request.by is not None)
    if by:  # transformers serve does not say which pod answered
        assert {kind for kind, count in by.items() if count > 0} == {"target", "canary"}


def _kind(pod: str) -> str:
    return "canary" if pod.startswith(f"{serving.TARGET}-saffron-") else "target"


def test_each_stage_ran_as_one_job(run):
    stages = Counter(re.sub(r"-[0-9a-f]{8}$", "", job["metadata"]["name"]) for job in run.jobs)
    assert dict(stages) == dict.fromkeys(
        [
            *("gemma-inspect", "gemma-sample", "gemma-baseline"),
            *(
                f"gemma-{stage}-{name}"
                for stage in ("quantize", "evaluate")
                for name in ("rtn-int4", "gptq-int4", "w8a8")
            ),
        ],
        1,
    )


def test_the_target_reads_the_checkpoint_over_the_path_it_always_read(run, where: Place):
    deployment = where.serving.get("deployment", serving.TARGET)
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    mounts = {mount["mountPath"]: mount.get("subPath") for mount in container["volumeMounts"]}
    assert mounts[f"/{storage.MODELS}/{serving.MODEL}"] == f"saffron/{run.status.promoted.checkpoint_digest}"
    assert where.serving.get("deployment", f"{serving.TARGET}-saffron") is None


@pytest.mark.usefixtures("run")
def test_the_served_model_still_knows_the_capital_of_germany(where: Place, engine: serving.Engine):
    assert "Berlin" in tour.ask(where.serving, engine)


@pytest.mark.usefixtures("run")
def test_nothing_of_ours_asks_for_a_finalizer(where: Place):
    resource = where.serving.get("quantizedmodels", tour.NAME)
    assert resource["metadata"].get("finalizers", []) == []
