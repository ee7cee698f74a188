"""The Job of a stage: one restricted pod with no rights in the cluster, that may be killed at any time."""

import re
from dataclasses import dataclass
from typing import Any

from saffron_api.failures import ExitCode
from saffron_api.quantized_model import Candidate, PodTemplate, QuantizedModelSpec
from saffron_api.results import Stage
from saffron_api.scalars import is_zero
from saffron_operator import names
from saffron_operator.manifests.arguments import (
    CHECKPOINTS_MOUNT,
    DATA_MOUNT,
    MODEL_MOUNT,
    WORKSPACE_MOUNT,
    split_uri,
)
from saffron_operator.manifests.owner import owner_references
from saffron_operator.observed import ResourceMeta

CONTAINER = "saffron"
USER = 65532
"""The quantizer image's user, and the group of the files on the claims."""

KILLED = 137
"""128 + SIGKILL: with no disruption about, it was the kernel, for memory."""

RETRIES = 3
"""Pods that may fail for reasons that go away by themselves, before the Job fails."""

_WRITES: dict[Stage, frozenset[str]] = {
    Stage.INSPECT: frozenset({WORKSPACE_MOUNT}),
    Stage.SAMPLE: frozenset({WORKSPACE_MOUNT}),
    Stage.BASELINE: frozenset({WORKSPACE_MOUNT}),
    Stage.QUANTIZE: frozenset({WORKSPACE_MOUNT, CHECKPOINTS_MOUNT}),
    Stage.EVALUATE: frozenset({WORKSPACE_MOUNT}),
}
"""The mounts that a stage writes to."""

_READS: dict[Stage, tuple[str, ...]] = {
    Stage.INSPECT: (MODEL_MOUNT,),
    Stage.SAMPLE: (MODEL_MOUNT, DATA_MOUNT),
    Stage.BASELINE: (MODEL_MOUNT,),
    Stage.QUANTIZE: (MODEL_MOUNT,),
    Stage.EVALUATE: (MODEL_MOUNT, CHECKPOINTS_MOUNT),
}
"""The mounts that a stage only reads."""

_COMPUTING = frozenset({Stage.BASELINE, Stage.QUANTIZE, Stage.EVALUATE})
"""The stages that run the model, and so take a device."""

_CARDS = re.compile(r"nvidia\.com/(gpu(\.shared)?|mig-.+)")
"""What NVIDIA's device plugin offers: whole cards, turns on one, and parts of one."""


@dataclass(frozen=True)
class JobRequest:
    """Everything that tells one Job from another.

    Attributes:
        name: Of the Job.
        key: In full.
        run: The run that makes it.
        attempt: From 1.
        image: Of the quantizer.
        arguments: After `saffron`.
        candidate: Whose Job it is, or None for what all share.
    """

    name: str
    key: str
    run: str
    attempt: int
    stage: Stage
    image: str
    arguments: list[str]
    candidate: Candidate | None = None


def build(meta: ResourceMeta, spec: QuantizedModelSpec, request: JobRequest) -> dict[str, Any]:
    """Return the manifest of a Job."""
    labels = _labels(meta, request)
    processes = _processes(spec, request)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            "name": request.name,
            "namespace": meta.namespace,
            "labels": labels,
            "annotations": {
                names.KEY_ANNOTATION: request.key,
                names.RUN_ANNOTATION: request.run,
                names.ATTEMPT_ANNOTATION: str(request.attempt),
            },
            "ownerReferences": owner_references(meta),
        },
        "spec": {
            # One that ends takes all others with it.
            "backoffLimit": RETRIES * processes,
            **(
                {"completionMode": "Indexed", "completions": processes, "parallelism": processes}
                if processes > 1
                else {}
            ),
            "activeDeadlineSeconds": spec.job.active_deadline_seconds,
            "podFailurePolicy": {"rules": _failure_rules()},
            "template": {"metadata": {"labels": labels}, "spec": _pod(spec, request)},
        },
    }


def _processes(spec: QuantizedModelSpec, request: JobRequest) -> int:
    """Return how many pods do the work together: more than one only where conversations can be shared."""
    shares = (
        request.stage is Stage.QUANTIZE
        and request.candidate is not None
        and request.candidate.needs_calibration
        and request.candidate.escalate is None
    )
    return spec.job.quantize_processes if shares else 1


def _labels(meta: ResourceMeta, request: JobRequest) -> dict[str, str]:
    labels = {
        names.MANAGED_BY_LABEL: names.MANAGED_BY,
        names.RESOURCE_LABEL: meta.name,
        names.STAGE_LABEL: request.stage.value,
    }
    return labels if request.candidate is None else labels | {names.CANDIDATE_LABEL: request.candidate.name}


def _failure_rules() -> list[dict[str, Any]]:
    """Return what ends a Job at once, in the order that counts: a disruption looks like 137, too."""
    final = [ExitCode.USAGE, *range(ExitCode.SPEC, ExitCode.UNSUPPORTED + 1)]
    return [
        {"action": "FailJob", "onExitCodes": _exit_codes([int(code) for code in final])},
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {"action": "FailJob", "onExitCodes": _exit_codes([KILLED])},
    ]


def _exit_codes(values: list[int]) -> dict[str, Any]:
    return {"containerName": CONTAINER, "operator": "In", "values": values}


def _pod(spec: QuantizedModelSpec, request: JobRequest) -> dict[str, Any]:
    template = _template(spec, request)
    volumes, mounts = _storage(spec, request.stage)
    pod: dict[str, Any] = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            # Changing the group of every file of a large model at each start would take longer than the stage.
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(request, template, mounts, _processes(spec, request))],
        "volumes": volumes,
    }
    chosen = template.model_dump(mode="json", by_alias=True, exclude_none=True, exclude={"resources"})
    return pod | chosen


def _container(
    request: JobRequest, template: PodTemplate, mounts: list[dict[str, Any]], processes: int
) -> dict[str, Any]:
    container: dict[str, Any] = {
        "name": CONTAINER,
        "image": request.image,
        "imagePullPolicy": "IfNotPresent",
        "command": ["saffron", *request.arguments, *_device(request.stage, template)],
        "env": [
            {"name": "HOME", "value": "/tmp"},  # noqa: S108 - an emptyDir of this pod alone
            # A file that is missing is an error of the model's folder, not something to ask the hub for.
            {"name": "HF_HUB_OFFLINE", "value": "1"},
            *(_together(processes) if processes > 1 else []),
        ],
        "terminationMessagePath": "/dev/termination-log",
        # The other policy would copy the end of the log, and with it what a traceback shows of a prompt.
        "terminationMessagePolicy": "File",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": mounts,
    }
    if template.resources is not None:
        container["resources"] = template.resources.model_dump(mode="json", by_alias=True, exclude_none=True)
    return container


def _device(stage: Stage, template: PodTemplate) -> list[str]:
    """Return the option that has a stage compute on the card that its pod gets; nothing where there is none to use.

    Kubernetes takes such resources from limits alone.
    """
    limits = template.resources.limits if template.resources is not None else None
    asked = any(_CARDS.fullmatch(name) and not is_zero(amount) for name, amount in (limits or {}).items())
    return ["--device", "cuda"] if asked and stage in _COMPUTING else []


def _together(processes: int) -> list[dict[str, Any]]:
    """Return what processes need to find each other besides the index that the Job gives to each."""
    return [
        {"name": "WORLD_SIZE", "value": str(processes)},
        {"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
    ]


def _template(spec: QuantizedModelSpec, request: JobRequest) -> PodTemplate:
    """Return the pod template of a Job: each field from the most special place that has it."""
    stages = spec.job.stages
    layers = (
        spec.job.pod_template,
        getattr(stages, request.stage.value) if stages is not None else None,
        request.candidate.job if request.candidate is not None else None,
    )
    fields: dict[str, Any] = {}
    for layer in layers:
        if layer is not None:
            fields |= {name: value for name, value in layer if value is not None}
    return PodTemplate(**fields)


def _storage(spec: QuantizedModelSpec, stage: Stage) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return volumes and mounts: a volume for each claim, mounted at its root.

    A `subPath` would have the kubelet create what is missing, and hide that the author named a wrong path.
    """
    claims = {
        MODEL_MOUNT: split_uri(spec.model.uri)[0],
        DATA_MOUNT: split_uri(spec.data.source.dataset.uri)[0],
        WORKSPACE_MOUNT: spec.storage.workspace.claim_name,
        CHECKPOINTS_MOUNT: spec.storage.checkpoints.claim_name,
    }
    paths = [path for path in claims if path in _READS[stage] or path in _WRITES[stage]]
    distinct = list(dict.fromkeys(claims[path] for path in paths))
    volume = {claim: f"claim-{index}" for index, claim in enumerate(distinct)}
    volumes: list[dict[str, Any]] = [
        {"name": name, "persistentVolumeClaim": {"claimName": claim}} for claim, name in volume.items()
    ]
    mounts: list[dict[str, Any]] = [
        {"name": volume[claims[path]], "mountPath": path, "readOnly": path not in _WRITES[stage]} for path in paths
    ]
    volumes.append({"name": "tmp", "emptyDir": {}})
    mounts.append({"name": "tmp", "mountPath": "/tmp"})  # noqa: S108 - the same emptyDir
    return volumes, mounts
