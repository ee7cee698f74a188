"""The Job of a stage: its pod, its claims, its card and its name."""

from typing import Any

import pytest
from deciding import builders

from saffron_api.quantized_model import QuantizedModelSpec
from saffron_api.results import Stage
from saffron_operator.manifests.job import JobRequest, build
from saffron_operator.names import job_name

KEY = builders.hexadecimal("key")
TMP = "/tmp"  # noqa: S108 - inside the pod


def job(spec: QuantizedModelSpec, stage: Stage, candidate: int | None = None) -> dict[str, Any]:
    request = JobRequest(
        name="the-job",
        key=KEY,
        run="run-1",
        attempt=1,
        stage=stage,
        image=builders.IMAGE,
        arguments=["stage", "--option"],
        candidate=spec.candidates[candidate] if candidate is not None else None,
    )
    return build(builders.meta(), spec, request)


def test_a_job_is_one_restricted_pod_without_rights():
    expected_pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": 65532,
            "runAsGroup": 65532,
            "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [
            {
                "name": "saffron",
                "image": builders.IMAGE,
                "imagePullPolicy": "IfNotPresent",
                "command": ["saffron", "stage", "--option"],
                "env": [{"name": "HOME", "value": TMP}, {"name": "HF_HUB_OFFLINE", "value": "1"}],
                "terminationMessagePath": "/dev/termination-log",
                "terminationMessagePolicy": "File",
                "securityContext": {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                },
                "volumeMounts": [
                    {"name": "claim-0", "mountPath": "/mnt/model", "readOnly": True},
                    {"name": "claim-1", "mountPath": "/mnt/workspace", "readOnly": False},
                    {"name": "claim-2", "mountPath": "/mnt/checkpoints", "readOnly": False},
                    {"name": "tmp", "mountPath": TMP},
                ],
            }
        ],
        "volumes": [
            {"name": "claim-0", "persistentVolumeClaim": {"claimName": "models"}},
            {"name": "claim-1", "persistentVolumeClaim": {"claimName": "work"}},
            {"name": "claim-2", "persistentVolumeClaim": {"claimName": "checkpoints"}},
            {"name": "tmp", "emptyDir": {}},
        ],
    }
    labels = {
        "app.kubernetes.io/managed-by": "saffron",
        "saffron.dev/quantizedmodel": "qwen",
        "saffron.dev/stage": "quantize",
        "saffron.dev/candidate": "gptq-int4",
    }
    only = {"containerName": "saffron", "operator": "In"}
    assert job(builders.spec(), Stage.QUANTIZE, 1) == {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": "the-job",
            "namespace": "serving",
            "labels": labels,
            "annotations": {"saffron.dev/key": KEY, "saffron.dev/run": "run-1", "saffron.dev/attempt": "1"},
            "ownerReferences": [
                {
                    "apiVersion": "saffron.dev/v1alpha1",
                    "kind": "QuantizedModel",
                    "name": "qwen",
                    "uid": builders.UID,
                    "controller": True,
                    "blockOwnerDeletion": False,
                }
            ],
        },
        "spec": {
            "backoffLimit": 3,
            "activeDeadlineSeconds": 86400,
            "podFailurePolicy": {
                "rules": [
                    {"action": "FailJob", "onExitCodes": only | {"values": [2, 10, 11, 12, 13, 14, 15, 16]}},
                    {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                    {"action": "FailJob", "onExitCodes": only | {"values": [137]}},
                ]
            },
            "template": {"metadata": {"labels": labels}, "spec": expected_pod},
        },
    }


TOGETHER = {
    "a candidate that reads conversations is shared": (Stage.QUANTIZE, 1, {}, 3),
    "one that reads none is not": (Stage.QUANTIZE, 0, {}, 1),
    "one that is escalated is not": (Stage.QUANTIZE, 1, {"escalate": {"maxBytesRatio": 0.9}}, 1),
    "no other stage is": (Stage.EVALUATE, 1, {}, 1),
}


@pytest.mark.parametrize(("stage", "candidate", "changes", "expected"), TOGETHER.values(), ids=TOGETHER)
def test_pods_quantize_together(stage: Stage, candidate: int, changes: dict[str, Any], expected: int):
    manifest = builders.spec().model_dump(mode="json", by_alias=True, exclude_none=True)
    manifest["job"]["quantizeProcesses"] = 3
    manifest["candidates"][candidate] |= changes
    made = job(QuantizedModelSpec.model_validate(manifest), stage, candidate)["spec"]
    indexed = {"completionMode": "Indexed", "completions": expected, "parallelism": expected}
    assert {name: made[name] for name in indexed if name in made} == (indexed if expected > 1 else {})
    assert made["backoffLimit"] == 3 * expected
    env = {each["name"]: each for each in made["template"]["spec"]["containers"][0]["env"]}
    if expected > 1:
        assert env["WORLD_SIZE"]["value"] == str(expected)
        assert env["POD_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    else:
        assert {"WORLD_SIZE", "POD_IP"} & env.keys() == set()


MOUNTS = [
    (Stage.INSPECT, {"/mnt/model": True, "/mnt/workspace": False}),
    (Stage.SAMPLE, {"/mnt/model": True, "/mnt/data": True, "/mnt/workspace": False}),
    (Stage.BASELINE, {"/mnt/model": True, "/mnt/workspace": False}),
    (Stage.QUANTIZE, {"/mnt/model": True, "/mnt/workspace": False, "/mnt/checkpoints": False}),
    (Stage.EVALUATE, {"/mnt/model": True, "/mnt/workspace": False, "/mnt/checkpoints": True}),
]


@pytest.mark.parametrize(("stage", "expected"), MOUNTS)
def test_a_stage_mounts_what_it_needs_and_writes_where_it_must(stage: Stage, expected: dict[str, bool]):
    mounts = job(builders.spec(), stage)["spec"]["template"]["spec"]["containers"][0]["volumeMounts"]
    assert {each["mountPath"]: each["readOnly"] for each in mounts if each["name"] != "tmp"} == expected


def test_a_claim_that_holds_two_things_is_one_volume():
    store = {"checkpoints": {"claimName": "models"}, "workspace": {"claimName": "work"}}
    pod = job(builders.spec(storage=store), Stage.QUANTIZE)["spec"]["template"]["spec"]
    assert [each.get("persistentVolumeClaim", {}).get("claimName") for each in pod["volumes"]] == [
        "models",
        "work",
        None,
    ]
    names = {each["mountPath"]: each["name"] for each in pod["containers"][0]["volumeMounts"]}
    assert names["/mnt/model"] == names["/mnt/checkpoints"]


LAYERS = {
    "podTemplate": {"nodeSelector": {"pool": "cpu"}, "priorityClassName": "low", "resources": {"limits": {"cpu": 2}}},
    "stages": {"quantize": {"nodeSelector": {"pool": "gpu"}, "resources": {"limits": {"memory": "8Gi"}}}},
}


def test_the_most_special_pod_template_wins_field_by_field():
    candidates = [dict(each) for each in builders.CANDIDATES]
    candidates[1]["job"] = {"resources": {"limits": {"nvidia.com/gpu": 1}}}
    spec = builders.spec(candidates=candidates, job=LAYERS)

    def chosen(stage: Stage, candidate: int | None) -> tuple[Any, Any, Any]:
        pod = job(spec, stage, candidate)["spec"]["template"]["spec"]
        return pod["nodeSelector"], pod["priorityClassName"], pod["containers"][0]["resources"]["limits"]

    assert chosen(Stage.SAMPLE, None) == ({"pool": "cpu"}, "low", {"cpu": 2})
    assert chosen(Stage.QUANTIZE, 0) == ({"pool": "gpu"}, "low", {"memory": "8Gi"})
    assert chosen(Stage.QUANTIZE, 1) == ({"pool": "gpu"}, "low", {"nvidia.com/gpu": 1})


GPU = {"limits": {"nvidia.com/gpu": 1}}
DEVICES: dict[str, tuple[dict[str, Any], Stage, list[str]]] = {
    "one card": (GPU, Stage.QUANTIZE, ["--device", "cuda"]),
    "one card, as text": ({"limits": {"nvidia.com/gpu": "1"}}, Stage.BASELINE, ["--device", "cuda"]),
    "a part of a card": ({"limits": {"nvidia.com/mig-1g.10gb": 1}}, Stage.EVALUATE, ["--device", "cuda"]),
    "turns on a card": ({"limits": {"nvidia.com/gpu.shared": 1}}, Stage.EVALUATE, ["--device", "cuda"]),
    "a card for a stage that runs no model": (GPU, Stage.SAMPLE, []),
    "a card for another that runs none": (GPU, Stage.INSPECT, []),
    "no card": ({"limits": {"nvidia.com/gpu": "0", "cpu": 4}}, Stage.QUANTIZE, []),
    "another maker's card": ({"limits": {"amd.com/gpu": 1}}, Stage.QUANTIZE, []),
    "a request, which Kubernetes refuses without a limit": (
        {"requests": {"nvidia.com/gpu": 1}},
        Stage.QUANTIZE,
        [],
    ),
}


@pytest.mark.parametrize(("resources", "stage", "expected"), DEVICES.values(), ids=DEVICES)
def test_a_stage_computes_on_the_card_that_its_pod_asks_for(
    resources: dict[str, Any], stage: Stage, expected: list[str]
):
    made = job(builders.spec(job={"podTemplate": {"resources": resources}}), stage, 1)
    command = made["spec"]["template"]["spec"]["containers"][0]["command"]
    assert command == ["saffron", "stage", "--option", *expected]


def test_the_longest_name_fits_the_host_name_of_one_of_sixteen_pods():
    name = job_name("q" * 30, Stage.QUANTIZE, "c" * 14, KEY, 1)
    assert (len(name), name[:-8]) == (60, f"{'q' * 27}-quantize-{'c' * 14}-")
    assert job_name("q" * 26 + "-2", Stage.QUANTIZE, "c" * 14, KEY, 1)[:-8] == f"{'q' * 26}-quantize-{'c' * 14}-"
    assert job_name("qwen", Stage.SAMPLE, None, KEY, 1) == f"qwen-sample-{KEY[:8]}"
    assert job_name("qwen", Stage.SAMPLE, None, KEY, 2) != job_name("qwen", Stage.SAMPLE, None, KEY, 3)


def test_two_resources_of_one_plan_whose_names_begin_alike_have_jobs_of_different_names():
    resources = ("qwen-2-5-7b-instruct-prod-eu-1", "qwen-2-5-7b-instruct-prod-eu-2", "qwen-2-5-7b-instruct-prod-eu")
    names = {job_name(each, Stage.EVALUATE, "gptq-int4-g128", KEY, attempt) for each in resources for attempt in (1, 2)}
    assert len(names) == 2 * len(resources)
