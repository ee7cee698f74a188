"""Whatever is wrong ends in a condition that says what to do, and never in a loop: on a real API server.

The cases have a namespace each and go side by side, for some wait for a deadline.
"""

import asyncio
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from apilevel import operators, setup
from apilevel.kubelet import End, Kubelet, Mumble, Outcome, Run, Wait, fail
from apilevel.operators import CountingCluster

from saffron_api.failures import FailureReason
from saffron_api.results import Stage
from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, Object, load_configuration
from saffron_operator.queue import Key
from saffron_operator.resources import AUTOSCALERS, DEPLOYMENTS, JOBS, QUANTIZED_MODELS

SECONDS_EACH = 240.0
MOST_CALLS = 60
"""That change something. A whole run makes 40."""

NO_IMAGE = Wait("ErrImagePull", "not found")
KILLED = End(137, reason="OOMKilled")
DEADLINE = 30


@dataclass(frozen=True)
class Case:
    """One thing that is wrong.

    Attributes:
        ready: Reason and message of the condition Ready in the end.
        pods: What becomes of pods, by stage and candidate, where it is not the usual.
        before: What stands in the namespace before the QuantizedModel does.
        changes: Of the usual spec.
        stalled: Whether a person has to act.
        candidates: State, reason and message of candidates that failed.
        jobs: How many Jobs there are in the end, where that is the point.
    """

    ready: tuple[str, str]
    pods: Mapping[tuple[str, str], Outcome] = field(default_factory=dict)
    before: tuple[Object, ...] = (setup.server(""),)
    changes: Mapping[str, Any] = field(default_factory=dict)
    stalled: bool = True
    candidates: Mapping[str, tuple[str, str, str]] = field(default_factory=dict)
    jobs: int | None = None


def shell() -> Object:
    """A model server whose path a shell hides."""
    made: dict[str, Any] = dict(setup.server(""))
    made["spec"]["template"]["spec"]["containers"][0]["command"] = ["sh", "-c"]
    return made


def quantizing() -> Object:
    """A model server that quantizes the original while it loads it."""
    made: dict[str, Any] = dict(setup.server(""))
    made["spec"]["template"]["spec"]["containers"][0]["args"] += ["--quantization", "bnb-8bit"]
    return made


SCALER: Object = {
    "apiVersion": AUTOSCALERS.api_version,
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "busy"},
    "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "server"}, "maxReplicas": 9},
}
OLDER: Object = setup.quantized_model("", name="older", suspend=True)


def stage_fails(stage: Stage, outcome: Outcome, reason: str, message: str) -> Case:
    """A stage that all candidates need: the run ends."""
    return Case(ready=(reason, message), pods={(stage.value, ""): outcome})


PROMOTED = ("Promoted", "server serves good-int4 (514d1e0faf73).")

CASES: dict[str, Case] = {
    "a target that does not exist": Case(
        ready=(
            "TargetNotFound",
            "There is no Deployment server in the namespace NAMESPACE; create it or correct spec.rollout.targetRef.",
        ),
        before=(),
        jobs=0,
    ),
    "a target that an older one has": Case(
        ready=(
            "TargetClaimed",
            (
                "The Deployment server is the target of older, which is older; delete one of the two, or "
                "name another target."
            ),
        ),
        before=(setup.server(""), OLDER),
        jobs=0,
    ),
    "a target that hides its path": Case(
        ready=(
            "TargetUnsupported",
            "containers[server].command: a shell hides the model's path; write the server and its arguments as a list.",
        ),
        before=(shell(),),
        jobs=0,
    ),
    "a target whose server quantizes": Case(
        ready=(
            "TargetUnsupported",
            (
                "The server of the Deployment server is told how to quantize what it loads (--quantization "
                "bnb-8bit), and refuses a checkpoint that is quantized otherwise; take that out of its arguments. It "
                "reads from a checkpoint itself how that is quantized."
            ),
        ),
        before=(quantizing(),),
        jobs=0,
    ),
    "a target that something else scales": Case(
        ready=(
            "TargetUnsupported",
            (
                "HorizontalPodAutoscaler busy scales the Deployment server, and would take the canary's "
                "share for less load; remove it until the checkpoint is promoted."
            ),
        ),
        before=(setup.server(""), SCALER),
        jobs=7,
    ),
    "a Deployment with the canary's name": Case(
        ready=(
            "NameTaken",
            "The Deployment server-saffron exists and is not the canary of this QuantizedModel; delete or rename it.",
        ),
        before=(setup.server(""), setup.server("", name="server-saffron")),
        jobs=0,
    ),
    "an image that can't be pulled": stage_fails(
        Stage.INSPECT,
        NO_IMAGE,
        "ImageUnavailable",
        (
            "The image localhost/saffron-quantizer:test for the inspect can't be pulled (ErrImagePull: not "
            "found); check the operator's --quantizer-image, the nodes' access to the registry, and the "
            "imagePullSecrets of the service account default in this namespace."
        ),
    ),
    "an image that can't be pulled for one candidate": Case(
        ready=PROMOTED,
        stalled=False,
        pods={("quantize", "bad-int4"): NO_IMAGE},
        candidates={
            "bad-int4": (
                "Failed",
                "ImageUnavailable",
                (
                    "The image localhost/saffron-quantizer:test for the quantize of bad-int4 can't be pulled "
                    "(ErrImagePull: not found); check the operator's --quantizer-image, the nodes' access "
                    "to the registry, and the imagePullSecrets of the service account default in this namespace."
                ),
            )
        },
    ),
    "a Job killed for memory": stage_fails(
        Stage.BASELINE,
        KILLED,
        "OutOfMemory",
        "The stage ran out of memory; raise resources.limits.memory in spec.job for it.",
    ),
    "one candidate's Job killed for memory": Case(
        ready=PROMOTED,
        stalled=False,
        pods={("quantize", "bad-int4"): KILLED},
        candidates={
            "bad-int4": (
                "Failed",
                "OutOfMemory",
                "The stage ran out of memory; raise resources.limits.memory in spec.job for it.",
            )
        },
    ),
    "exit code 1, four times": stage_fails(
        Stage.SAMPLE,
        fail(Stage.SAMPLE, FailureReason.INTERNAL, subject="ZeroDivisionError"),
        "Internal",
        "An error that Saffron does not expect (ZeroDivisionError); the Job's log has the details. Please report it.",
    ),
    "exit code 2": stage_fails(
        Stage.SAMPLE,
        End(2),
        "JobFailed",
        (
            "The sample failed (PodFailurePolicy: Container saffron for pod "
            "NAMESPACE/model-sample-KEY-POD failed with exit code 2 matching FailJob rule at index 0) "
            "and left no message; see the log of Job model-sample-KEY."
        ),
    ),
    "exit code 10": stage_fails(
        Stage.SAMPLE,
        fail(Stage.SAMPLE, FailureReason.SPEC_INVALID, subject="maxTokens"),
        "SpecInvalid",
        "The request is not valid: maxTokens.",
    ),
    "exit code 11": stage_fails(
        Stage.SAMPLE,
        fail(Stage.SAMPLE, FailureReason.DATASET_EMPTY, subject="prompts.jsonl", need=144),
        "DatasetEmpty",
        "The data set prompts.jsonl has no line; it needs at least 144 conversations.",
    ),
    "exit code 12": stage_fails(
        Stage.INSPECT,
        fail(Stage.INSPECT, FailureReason.MODEL_UNSAFE, subject="model.bin"),
        "ModelUnsafe",
        (
            "The model has its weights in model.bin, a pickle, which can run code when it is read; convert "
            "it to safetensors."
        ),
    ),
    "exit code 13": stage_fails(
        Stage.BASELINE,
        fail(Stage.BASELINE, FailureReason.STORAGE_FULL, subject="/mnt/workspace", need=10, have=1),
        "StorageFull",
        (
            "The volume at /mnt/workspace is full: 10 bytes are needed and 1 are free; enlarge the claim or "
            "delete checkpoints that are no longer served."
        ),
    ),
    "exit code 14": stage_fails(
        Stage.BASELINE,
        fail(Stage.BASELINE, FailureReason.MODEL_CHANGED, subject="model.safetensors"),
        "ModelChanged",
        (
            "The model's file model.safetensors changed while it was in use; leave the folder alone during a "
            "run, then change spec.runId."
        ),
    ),
    "exit code 15": stage_fails(
        Stage.BASELINE,
        fail(Stage.BASELINE, FailureReason.OUT_OF_MEMORY),
        "OutOfMemory",
        "The stage ran out of memory; raise resources.limits.memory in spec.job for it.",
    ),
    "exit code 16": stage_fails(
        Stage.INSPECT,
        fail(Stage.INSPECT, FailureReason.ARCHITECTURE_UNSUPPORTED, subject="MambaForCausalLM"),
        "ArchitectureUnsupported",
        "The architecture MambaForCausalLM is not supported; docs/models.md lists those that are.",
    ),
    "Jobs that end well and say nothing": stage_fails(
        Stage.SAMPLE,
        Mumble(),
        "ResultUnreadable",
        (
            "The sample completed 3 times and left no result that can be read; check that the quantizer's "
            "image fits the operator's version (the log of Job model-sample-KEY says more)."
        ),
    ),
    "no candidate that passes": Case(
        ready=(
            "NoCandidatePassed",
            (
                "None of 1 candidates passed (bad-int4: Fail, perplexityRatio 1.5 [1.495, 1.505] against "
                "1.05). Loosen spec.gates, which needs no new Job, or add candidates."
            ),
        ),
        changes={"candidates": [{"name": "bad-int4", "method": "RTN", "scheme": "W4A16"}]},
    ),
    "no candidate that can be made": Case(
        ready=(
            "NoCandidatePassed",
            (
                "None of 2 candidates passed (good-int4: Failed OutOfMemory; bad-int4: Failed JobFailed). "
                "Loosen spec.gates, which needs no new Job, or add candidates."
            ),
        ),
        pods={("quantize", "good-int4"): KILLED, ("quantize", "bad-int4"): End(2)},
        candidates={
            "good-int4": (
                "Failed",
                "OutOfMemory",
                "The stage ran out of memory; raise resources.limits.memory in spec.job for it.",
            ),
            "bad-int4": (
                "Failed",
                "JobFailed",
                (
                    "The quantize of bad-int4 failed (PodFailurePolicy: Container saffron for pod "
                    "NAMESPACE/model-quantize-bad-int4-KEY-POD failed with exit code 2 matching FailJob "
                    "rule at index 0) and left no message; see the log of Job "
                    "model-quantize-bad-int4-KEY."
                ),
            ),
        },
    ),
    "a canary that does not become ready": Case(
        ready=(
            "CanaryNotReady",
            (
                "The canary of good-int4 was not ready within 30 s (CrashLoopBackOff: back-off 10s "
                "restarting failed container) and was removed; the target serves what it served before."
            ),
        ),
        pods={("canary", ""): Wait("CrashLoopBackOff", "back-off 10s restarting failed container")},
        changes={"rollout": setup.quantized_model("")["spec"]["rollout"] | {"progressDeadlineSeconds": DEADLINE}},
    ),
    "a promotion whose pods do not become ready": Case(
        ready=(
            "PromotionFailed",
            (
                "The pods of server with good-int4 were not ready in time (ContainersNotReady: containers "
                "with unready status: [server]); the checkpoint was taken off, and the target serves what it "
                "served before."
            ),
        ),
        pods={("promoted", ""): Run(ready=False)},
        changes={"rollout": setup.quantized_model("")["spec"]["rollout"] | {"progressDeadlineSeconds": DEADLINE}},
    ),
}
RESOURCES = {"Deployment": DEPLOYMENTS, "HorizontalPodAutoscaler": AUTOSCALERS, "QuantizedModel": QUANTIZED_MODELS}


def over(status: Mapping[str, Any]) -> bool:
    """Whether the run has come to an end, good or bad."""
    ready = setup.condition(status, "Ready")
    return ready is not None and (ready[1] == "Promoted" or setup.condition(status, "Stalled") is not None)


async def come_to(control_plane: ControlPlane, admin: Cluster, namespace: str, case: Case) -> Case:
    """Return the case with what it came to in place of what is expected."""
    for manifest in case.before:
        there = manifest | {"metadata": manifest["metadata"] | {"namespace": namespace}}
        await setup.create(admin, RESOURCES[manifest["kind"]], there)
        if manifest is OLDER:
            await asyncio.sleep(1.1)  # a creation time has whole seconds
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(namespace, **case.changes))
    key = Key(namespace, "model")
    async with CountingCluster(await load_configuration(str(setup.operator_kubeconfig(control_plane)))) as cluster:
        cluster.arm()
        operator = operators.reconciler(cluster)
        await operators.drive(operator, key, over, admin=admin, seconds=SECONDS_EACH)
        # What is left to do, as to remove the canary, is done soon; then nothing is done any more.
        for _ in range(20):
            before = len(cluster.calls)
            await asyncio.sleep(1)
            await operator(key)
            if len(cluster.calls) == before:
                break
        for _ in range(5):
            await operator(key)
        assert len(cluster.calls) == before, f"it goes on: {cluster.calls[before:]}"
        assert len(cluster.calls) <= MOST_CALLS, cluster.calls
    return await _end(admin, key, case)


def _sentence(message: str, key: Key) -> str:
    """Return a message without what differs from run to run, and without the advice that every failed run has."""
    again = rf" To try again: kubectl annotate --overwrite -n {key.namespace} qm/model saffron.dev/retry=\S+$"
    message = re.sub(again, "", message)
    message = re.sub(r"(model-[a-z0-9-]+?)-[0-9a-f]{8}\b", r"\1-KEY", message)
    return re.sub(r"-KEY-\w{5}\b", "-KEY-POD", message).replace(key.namespace, "NAMESPACE")


async def _end(admin: Cluster, key: Key, case: Case) -> Case:
    status = await setup.status(admin, key)
    ready = setup.condition(status, "Ready")
    assert ready is not None
    jobs = await admin.list_all(JOBS, key.namespace)
    return replace(
        case,
        ready=(ready[1], _sentence(ready[2], key)),
        stalled=setup.condition(status, "Stalled") is not None,
        candidates={
            each["name"]: (each["state"], each["reason"], _sentence(each["message"], key))
            for each in status.get("candidates", ())
            if each["name"] in case.candidates
        },
        jobs=len(jobs) if case.jobs is not None else None,
    )


async def test_each_case_ends_as_it_should(installed: ControlPlane, admin: Cluster, kubelet: Kubelet) -> None:
    namespaces = setup.create_namespaces(installed, len(CASES))
    kubelet.scripts |= {namespace: case.pods for namespace, case in zip(namespaces, CASES.values(), strict=True)}
    ends = await asyncio.gather(
        *(
            come_to(installed, admin, namespace, case)
            for namespace, case in zip(namespaces, CASES.values(), strict=True)
        ),
        return_exceptions=True,
    )
    wrong = {name: end for name, end in zip(CASES, ends, strict=True) if end != CASES[name]}
    assert {name: str(end) for name, end in wrong.items()} == {}
