"""Good requests on the real API server: accepted, defaulted, stable under a second apply; what of them may change."""

import copy
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubernetes import client
from saffron_api.generate import REPOSITORY
from saffron_api.quantized_model import GROUP, PLURAL, VERSION, QuantizedModel, QuantizedModelStatus

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.yaml"))
MINIMAL = yaml.safe_load((REPOSITORY / "examples/minimal.yaml").read_text(encoding="utf-8"))
CANARY = yaml.safe_load((REPOSITORY / "examples/canary.yaml").read_text(encoding="utf-8"))
RUN = {"id": "1-abc", "generation": 1, "startedAt": "2026-11-23T12:00:00Z"}


def dumped(model: QuantizedModel) -> dict[str, Any]:
    """The resource as the command line understands it, without what only Kubernetes knows."""
    return model.spec.model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
@pytest.mark.usefixtures("crd")
def test_an_example_is_accepted_and_a_second_apply_changes_nothing(example: Path, kubectl, namespace: str) -> None:
    command = ("apply", "--server-side", "--namespace", namespace, "-f", example, "-o", "json", "--show-managed-fields")
    answers = [kubectl(*command) for _ in range(3)]
    assert [(answer.code, answer.err) for answer in answers] == [(0, "")] * 3
    first, second, third = (json.loads(answer.out) for answer in answers)
    assert third == second
    # The server stores a new object without its status, and adds the default with the next write, whatever that is.
    assert second["metadata"].pop("resourceVersion") != first["metadata"].pop("resourceVersion")
    assert second == first
    assert kubectl("diff", "--server-side", "--namespace", namespace, "-f", example).out == ""


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
@pytest.mark.usefixtures("crd")
def test_the_server_and_the_command_line_fill_in_the_same_defaults(example: Path, kubectl, namespace: str) -> None:
    stored = json.loads(kubectl("create", "--namespace", namespace, "-f", example, "-o", "json").out)
    read = QuantizedModel.model_validate(yaml.safe_load(example.read_text(encoding="utf-8")))
    assert stored["spec"] == dumped(read)


def test_what_is_left_out_has_its_default_on_the_wire(custom_objects: client.CustomObjectsApi, namespace: str) -> None:
    stored = custom_objects.create_namespaced_custom_object(GROUP, VERSION, namespace, PLURAL, MINIMAL)
    of_a_candidate = {"symmetric": True, "format": "CompressedTensors", "kvCache": "None", "ignore": []}
    assert stored["spec"] == MINIMAL["spec"] | {
        "candidates": [candidate | of_a_candidate for candidate in MINIMAL["spec"]["candidates"]],
        "data": MINIMAL["spec"]["data"] | {"maxTokens": 2048, "redact": [], "seed": 0},
        "calibration": {"samples": 512},
        "evaluation": {"samples": 512},
        "selection": "Smallest",
        "gates": {"confidence": 0.95, "perplexityRatio": {"max": 1.05}},
        "storage": {
            "checkpoints": {"claimName": "checkpoints", "path": "saffron"},
            "workspace": {"claimName": "saffron-work"},
        },
        "job": {
            "parallelism": 1,
            "quantizeProcesses": 1,
            "activeDeadlineSeconds": 86400,
            "pendingDeadlineSeconds": 900,
        },
        "runId": "",
        "suspend": False,
    }
    assert stored["status"] == {"observedGeneration": -1}


def test_a_status_field_that_nobody_knows_is_dropped(custom_objects: client.CustomObjectsApi, namespace: str) -> None:
    name = (GROUP, VERSION, namespace, PLURAL, "minimal")
    created = custom_objects.create_namespaced_custom_object(*name[:-1], MINIMAL)
    created["status"] = {
        "observedGeneration": 1,
        "phase": "Sampling",
        "prompt": "Dear doctor",
        "run": RUN | {"note": "x"},
    }
    stored = custom_objects.replace_namespaced_custom_object_status(*name, created)
    assert stored["status"] == {"observedGeneration": 1, "phase": "Sampling", "run": RUN}


def test_the_status_that_the_operator_writes_is_stored_whole(
    custom_objects: client.CustomObjectsApi, namespace: str
) -> None:
    name = (GROUP, VERSION, namespace, PLURAL, "gemma")
    created = custom_objects.create_namespaced_custom_object(*name[:-1], CANARY)
    created["status"] = FULL_STATUS
    stored = custom_objects.replace_namespaced_custom_object_status(*name, created)
    assert stored["status"] == FULL_STATUS
    read = QuantizedModelStatus.model_validate(stored["status"])
    assert read.model_dump(mode="json", by_alias=True, exclude_none=True) == FULL_STATUS


def test_the_columns_of_kubectl_get(custom_objects: client.CustomObjectsApi, kubectl, namespace: str) -> None:
    name = (GROUP, VERSION, namespace, PLURAL, "gemma")
    created = custom_objects.create_namespaced_custom_object(*name[:-1], CANARY)
    created["status"] = FULL_STATUS
    custom_objects.replace_namespaced_custom_object_status(*name, created)
    head, row = (line.split() for line in kubectl("get", "qm", "--namespace", namespace).out.splitlines())
    assert head == ["NAME", "PHASE", "SELECTED", "GATES", "WEIGHT", "AGE"]
    assert row[:-1] == ["gemma", "Canary", "gptq-int4", "True", "25"]


DIGEST = "0123456789abcdef" * 4
SAMPLES = {"count": 60, "tokens": 30_000, "digest": DIGEST}
NOW = "2026-11-23T12:30:00Z"
FULL_STATUS = {
    "observedGeneration": 1,
    "phase": "Canary",
    "conditions": [
        {
            "type": kind,
            "status": "True",
            "reason": "CandidateSelected",
            "message": "gptq-int4 is the smallest of the candidates that pass.",
            "lastTransitionTime": NOW,
            "observedGeneration": 1,
        }
        for kind in ("GatesPassed", "Reconciling")
    ],
    "run": RUN
    | {
        "modelDigest": DIGEST,
        "sampleKey": DIGEST,
        "quantizerImage": "localhost/saffron-quantizer:dev",
        "engineImage": "localhost/saffron-engine:dev",
    },
    "samples": {"calibration": SAMPLES, "selection": SAMPLES, "gate": SAMPLES},
    "candidates": [
        {
            "name": "gptq-int4",
            "key": DIGEST,
            "state": "Done",
            "reason": "Evaluated",
            "message": "Every gate passes.",
            "checkpointDigest": DIGEST,
            "bytes": 385_000_000,
            "verdict": "Pass",
            "figures": [
                {
                    "name": "perplexityRatio",
                    "value": 1.15,
                    "lower": 1.12,
                    "upper": 1.18,
                    "limit": 1.3,
                    "verdict": "Pass",
                }
            ],
        }
    ],
    "selected": {"name": "gptq-int4", "checkpointDigest": DIGEST, "uri": f"pvc://checkpoints/saffron/{DIGEST}"},
    "rollout": {
        "targetUID": "5b0c4a0e-0000-4000-8000-000000000000",
        "container": "server",
        "modelPath": "/models/gemma-3-270m",
        "runId": "1-abc",
        "candidate": "gptq-int4",
        "checkpointDigest": DIGEST,
        "step": 0,
        "stepEnteredAt": NOW,
        "stepStartedAt": NOW,
        "stepLosses": 0,
        "desiredWeight": 25,
        "actualWeight": 25,
        "previousDigest": DIGEST,
    },
    "promoted": {"runId": "1-abc", "candidate": "gptq-int4", "checkpointDigest": DIGEST, "at": NOW},
    "rejected": [{"checkpointDigest": DIGEST, "reason": "Aborted", "message": "A person aborted it.", "at": NOW}],
}


def other_claim(spec: dict[str, Any]) -> None:
    spec["storage"]["checkpoints"]["claimName"] = "elsewhere"


def other_folder(spec: dict[str, Any]) -> None:
    spec["storage"]["checkpoints"]["path"] = "elsewhere"


def other_workspace(spec: dict[str, Any]) -> None:
    spec["storage"]["workspace"]["claimName"] = "elsewhere"


def without_rollout(spec: dict[str, Any]) -> None:
    del spec["rollout"]


def other_target(spec: dict[str, Any]) -> None:
    spec["rollout"]["targetRef"]["name"] = "llama"


def other_container(spec: dict[str, Any]) -> None:
    spec["rollout"]["targetRef"]["container"] = "sidecar"


def other_steps(spec: dict[str, Any]) -> None:
    spec["rollout"]["steps"] = [{"weight": 5}]


def other_gates(spec: dict[str, Any]) -> None:
    spec["gates"]["perplexityRatio"]["max"] = 1.1


def added_rollout(spec: dict[str, Any]) -> None:
    spec["rollout"] = copy.deepcopy(CANARY["spec"]["rollout"])


@dataclass(frozen=True)
class Edit:
    """A change to a resource that is there already, before or after its first run."""

    start: dict[str, Any]
    change: Callable[[dict[str, Any]], None]
    after_a_run: bool
    refused: tuple[str, str] | None = None


TARGET = ("spec.rollout.targetRef", "is fixed once a run exists; make another QuantizedModel for another target")
STORAGE = ("spec.storage", "is fixed once a run exists, for pods may mount a checkpoint from there; make another")

BEFORE_OR_AFTER = {
    "before a run, the target may change": Edit(CANARY, other_target, after_a_run=False),
    "before a run, the roll-out may go": Edit(CANARY, without_rollout, after_a_run=False),
    "after it, the target may not change": Edit(CANARY, other_target, after_a_run=True, refused=TARGET),
    "after it, the container may not change": Edit(CANARY, other_container, after_a_run=True, refused=TARGET),
    "after it, the roll-out may not go, or the target could change in two steps": Edit(
        CANARY, without_rollout, after_a_run=True, refused=TARGET
    ),
    "before a run, the storage may change": Edit(CANARY, other_claim, after_a_run=False),
    "after it, the claim may not change": Edit(CANARY, other_claim, after_a_run=True, refused=STORAGE),
    "after it, the folder may not change": Edit(CANARY, other_folder, after_a_run=True, refused=STORAGE),
    "after it, the workspace may not change": Edit(MINIMAL, other_workspace, after_a_run=True, refused=STORAGE),
    "after it, the steps may change": Edit(CANARY, other_steps, after_a_run=True),
    "after it, the gates may change": Edit(CANARY, other_gates, after_a_run=True),
    "after it, a roll-out may come": Edit(MINIMAL, added_rollout, after_a_run=True),
}


@pytest.mark.parametrize("edit", BEFORE_OR_AFTER.values(), ids=BEFORE_OR_AFTER.keys())
def test_what_may_change(edit: Edit, custom_objects: client.CustomObjectsApi, namespace: str) -> None:
    name = (GROUP, VERSION, namespace, PLURAL, edit.start["metadata"]["name"])
    current = custom_objects.create_namespaced_custom_object(*name[:-1], edit.start)
    if edit.after_a_run:
        current["status"] = {"run": RUN}
        current = custom_objects.replace_namespaced_custom_object_status(*name, current)
    edit.change(current["spec"])
    if edit.refused is None:
        assert custom_objects.replace_namespaced_custom_object(*name, current)["metadata"]["generation"] == 2
        return
    with pytest.raises(client.ApiException) as refusal:
        custom_objects.replace_namespaced_custom_object(*name, current)
    (cause,) = json.loads(refusal.value.body)["details"]["causes"]
    field, message = edit.refused
    assert cause["field"] == field
    assert message in cause["message"]
