"""What every pod of the demo has: it runs in a namespace that enforces the pod security level `restricted`."""

from collections.abc import Mapping, Sequence
from typing import Any

from saffron_dev.demo.kubectl import Manifest

USER = 65532


def namespace(name: str, labels: Mapping[str, str]) -> Manifest:
    """A namespace that refuses every pod that is not `restricted`."""
    every = {**labels, "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": every}}


def pod_spec(container: Mapping[str, Any], volumes: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The spec of a pod with one container, on a read-only root file system with a writable /tmp."""
    mounts = [*container.get("volumeMounts", []), {"name": "tmp", "mountPath": "/tmp"}]  # noqa: S108 - in the pod
    security = {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    return {
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": USER,
            "runAsGroup": USER,
            "fsGroup": USER,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "automountServiceAccountToken": False,
        # A Service named vllm would otherwise set VLLM_PORT, which vLLM reads.
        "enableServiceLinks": False,
        "containers": [{**container, "securityContext": security, "volumeMounts": mounts}],
        "volumes": [*volumes, {"name": "tmp", "emptyDir": {}}],
    }


def claim_volume(claim: str, *, read_only: bool) -> dict[str, Any]:
    """A volume named like its claim."""
    return {"name": claim, "persistentVolumeClaim": {"claimName": claim, "readOnly": read_only}}
