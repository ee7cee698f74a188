"""The pure parts of the demo: its settings, its choice of a server, what it tells of a status and of a client's log."""

from pathlib import Path

import pytest

from saffron_api.status import QuantizedModelStatus
from saffron_dev.demo import asking, pods, serving, storage, story, tour
from saffron_dev.demo.settings import Settings, read_settings
from saffron_dev.errors import DevError

_OURS = Settings(kubeconfig=None, image_prefix="localhost/saffron-", tag="dev", storage_class="saffron-dev", gpu=False)


def test_without_a_kubeconfig_the_cluster_and_its_images_are_our_own():
    assert read_settings({}) == _OURS
    assert _OURS.image("engine") == "localhost/saffron-engine:dev"


def test_transformers_serves_where_it_is_asked_for():
    settings = read_settings({"SAFFRON_ENGINE": "transformers"})
    engine = serving.choose_engine({"avx512f", "avx512_vnni"}, transformers=settings.transformers)
    assert (engine.name, engine.reason) == ("transformers serve", "SAFFRON_ENGINE asks for it")


def test_with_a_kubeconfig_all_else_is_read_from_the_environment(tmp_path: Path):
    kubeconfig = tmp_path / "config"
    kubeconfig.touch()
    environment = {
        "KUBECONFIG": str(kubeconfig),
        "SAFFRON_IMAGE_PREFIX": "registry.example.com/saffron-",
        "SAFFRON_STORAGE_CLASS": "nfs",
        "SAFFRON_GPU": "0",
    }
    assert read_settings(environment) == Settings(
        kubeconfig=kubeconfig,
        image_prefix="registry.example.com/saffron-",
        tag="dev",
        storage_class="nfs",
        gpu=False,
    )


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        pytest.param({"KUBECONFIG": "/nowhere"}, "KUBECONFIG names /nowhere, which is not a file", id="no such file"),
        pytest.param(
            {"KUBECONFIG": __file__, "SAFFRON_GPU": "0"},
            "these must be set, too: SAFFRON_IMAGE_PREFIX (where the images are pushed, as in "
            "registry.example.com/saffron-); SAFFRON_STORAGE_CLASS (a storage class with ReadWriteMany volumes).",
            id="something is missing",
        ),
        pytest.param(
            {
                "KUBECONFIG": __file__,
                "SAFFRON_IMAGE_PREFIX": "x-",
                "SAFFRON_STORAGE_CLASS": "nfs",
                "SAFFRON_GPU": "yes",
            },
            "SAFFRON_GPU is 'yes'; it must be 0 or 1.",
            id="neither 0 nor 1",
        ),
        pytest.param(
            {"SAFFRON_ENGINE": "sglang"},
            "SAFFRON_ENGINE is 'sglang'; it must be transformers, or unset for what the processor runs.",
            id="an engine that is not in the image",
        ),
    ],
)
def test_what_is_missing_for_a_foreign_cluster_is_one_sentence(environment: dict[str, str], says: str):
    with pytest.raises(DevError) as error:
        read_settings(environment)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("flags", "name", "why"),
    [
        pytest.param(
            {"avx2", "avx512f", "avx512_vnni"}, "vLLM", "this processor has avx512f and avx512_vnni", id="VNNI"
        ),
        pytest.param({"avx2", "avx512f"}, "transformers serve", "this processor lacks avx512_vnni", id="no VNNI"),
        pytest.param({"avx2"}, "transformers serve", "lacks avx512f and avx512_vnni", id="AVX2 only"),
    ],
)
def test_the_server_is_vllm_only_where_it_is_exact(flags: set[str], name: str, why: str):
    engine = serving.choose_engine(flags)
    assert engine.name == name
    assert why in engine.reason


@pytest.mark.parametrize("flags", [{"avx512f", "avx512_vnni"}, set[str]()], ids=["vLLM", "transformers"])
def test_every_pod_of_the_demo_fits_the_level_restricted(flags: set[str]):
    deployment, _service = serving.serving(serving.choose_engine(flags), "engine")
    _script, asker = asking.asker("quantizer", "gemma")
    for pod in (deployment["spec"]["template"]["spec"], asker["spec"], storage.loader("quantizer")["spec"]):
        (container,) = pod["containers"]
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == pods.USER
        assert pod["automountServiceAccountToken"] is False


@pytest.mark.parametrize(
    ("gpu", "limits"), [(False, {"memory": "6Gi"}), (True, {"memory": "6Gi", "nvidia.com/gpu": 1})]
)
def test_only_where_the_cluster_has_a_gpu_does_one_candidate_ask_for_it(gpu: bool, limits: dict[str, object]):  # noqa: FBT001
    candidates = tour.example(gpu=gpu)["spec"]["candidates"]
    assert [(each["name"], each.get("job")) for each in candidates] == [
        ("rtn-int4", None),
        ("gptq-int4", {"resources": {"limits": limits}}),
        ("w8a8", None),
    ]


def _status(**fields: object) -> QuantizedModelStatus:
    return QuantizedModelStatus.model_validate(fields)


_CONDITION = {
    "type": "Reconciling",
    "status": "True",
    "reason": "Quantizing",
    "message": "1 of 2 candidates have a verdict.",
    "lastTransitionTime": "2026-01-01T00:00:00Z",
    "observedGeneration": 1,
}


def _figure(name: str, value: float, spread: float, limit: float, verdict: str) -> dict[str, object]:
    bounds = {"lower": value - spread, "upper": value + spread}
    return {"name": name, "value": value, **bounds, "limit": limit, "verdict": verdict}


_FAILED = {
    "name": "rtn",
    "state": "Done",
    "bytes": 387_000_000,
    "verdict": "Fail",
    "figures": [
        _figure("perplexityRatio", 1.6, 0.05, 1.3, "Fail"),
        _figure("checkpointBytesRatio", 0.72, 0, 0.9, "Pass"),
    ],
}
_PASSED = {
    "name": "gptq",
    "state": "Done",
    "bytes": 387_000_000,
    "verdict": "Pass",
    "figures": [
        _figure("perplexityRatio", 1.15, 0.02, 1.3, "Pass"),
        _figure("checkpointBytesRatio", 0.72, 0, 0.9, "Pass"),
    ],
}


def test_only_what_is_new_is_told():
    before = _status(phase="Running", conditions=[_CONDITION], candidates=[{"name": "rtn", "state": "Running"}])
    now = _status(phase="Running", conditions=[_CONDITION], candidates=[_FAILED, {"name": "gptq", "state": "Running"}])
    assert list(story.news(before, now)) == [
        "rtn: Done, Fail (perplexity ratio [1.550, 1.650] against max 1.3)",
    ]
    assert list(story.news(now, now)) == []


def test_the_first_status_tells_what_goes_on():
    told = list(story.news(QuantizedModelStatus(), _status(phase="Running", conditions=[_CONDITION])))
    assert told == ["Running (Quantizing): 1 of 2 candidates have a verdict."]


def test_the_table_has_a_line_for_each_candidate_with_bounds_and_gates():
    candidates = _status(candidates=[_FAILED, _PASSED, {"name": "odd", "state": "Failed"}]).candidates
    assert story.candidates_table(candidates, 0.95).splitlines() == [
        "candidate  tensor bytes  perplexity ratio      bytes ratio  verdict",
        "                         max 1.3               max 0.9",
        "---------  ------------  --------------------  -----------  -------",
        "rtn        387.0 MB      1.600 [1.550, 1.650]  0.720        Fail",
        "gptq       387.0 MB      1.150 [1.130, 1.170]  0.720        Pass",
        "odd        -             -                     -            Failed",
        "[lower, upper]: together these bounds hold with 95% confidence over all candidates.",
    ]


def test_finished_jobs_are_told_in_the_order_they_began():
    jobs = [
        {
            "metadata": {"name": "second"},
            "status": {"startTime": "2026-01-01T00:01:00Z", "completionTime": "2026-01-01T00:01:30Z"},
        },
        {"metadata": {"name": "running"}, "status": {"startTime": "2026-01-01T00:03:00Z"}},
        {
            "metadata": {"name": "first"},
            "status": {
                "startTime": "2026-01-01T00:00:00Z",
                "conditions": [{"type": "Failed", "lastTransitionTime": "2026-01-01T00:00:05Z"}],
            },
        },
    ]
    assert story.job_seconds(jobs) == [("first", 5.0), ("second", 30.0)]


_LOG = (
    '{"asked": 1.0, "seconds": 0.5, "by": "gemma-1", "text": " Berlin"}',
    '{"asked": 2.0, "seconds": 2.5, "by": "gemma-saffron-1", "text": " Berlin"}',
    '{"asked": 3.0, "seconds": 0.1, "error": "ConnectionRefusedError: no"}',
    '{"asked": 4.0, "sec',
)


def test_the_clients_log_is_counted_by_pod_and_every_failure_is_shown():
    requests = asking.read_log("\n".join(_LOG))
    assert asking.summary(requests).splitlines() == [
        "3 requests, 1 failed, the slowest took 2.5 s",
        "      1 answered by gemma-1",
        "      1 answered by gemma-saffron-1",
        "  failed: ConnectionRefusedError: no",
    ]
