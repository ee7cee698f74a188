"""What the operator's tests put into the real API server: the chart, namespaces that opt in, a model server, a spec."""

import copy
import subprocess
import time
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from saffron_dev.binaries import binaries, helm
from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, Object, load_configuration
from saffron_operator.errors import ApiError
from saffron_operator.queue import Key
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS, Resource

CHART = Path(__file__).parents[3] / "charts" / "saffron"
SYSTEM = "saffron-system"
RELEASE = "saffron"
OPERATOR = f"{RELEASE}-operator"
QUANTIZER_IMAGE = "localhost/saffron-quantizer:test"

ROLE_BINDINGS = Resource("rbac.authorization.k8s.io", "v1", "rolebindings")
SERVICE_ACCOUNTS = Resource("", "v1", "serviceaccounts")


def kubectl(control_plane: ControlPlane, *arguments: str, text: str | None = None) -> str:
    """Run kubectl as administrator and return what it prints."""
    program = str(binaries("kubectl")["kubectl"])
    # A cache of its own: another control plane may have had the same port and other kinds of objects.
    cache = str(control_plane.folder / "kubectl")
    command = [program, "--kubeconfig", str(control_plane.kubeconfig), "--cache-dir", cache, *arguments]
    done = subprocess.run(command, input=text, text=True, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def render(*options: str) -> str:
    """Return the chart's manifests."""
    command = [str(helm()), "template", RELEASE, str(CHART), "--namespace", SYSTEM, *options]
    return subprocess.run(command, text=True, check=True, capture_output=True).stdout


def install(control_plane: ControlPlane) -> None:
    """Install the chart. No node is there to run the operator's pod, so there are none: tests run the process."""
    kubectl(control_plane, "create", "namespace", SYSTEM)
    manifests = render("--set", "replicaCount=0")
    kubectl(control_plane, "apply", "--server-side", "--filename", "-", text=manifests)
    crd = "crd/quantizedmodels.saffron.dev"
    kubectl(control_plane, "wait", "--for", "condition=Established", crd, "--timeout", "30s")


def opt_in(control_plane: ControlPlane, namespaces: Sequence[str]) -> None:
    """Give the operator its rights in namespaces, by the chart's own RoleBindings."""
    rendered = yaml.safe_load_all(render("--set", f"watchNamespaces={{{','.join(namespaces)}}}"))
    bindings = [each for each in rendered if each["kind"] == "RoleBinding" and each["metadata"]["name"] == OPERATOR]
    assert len(bindings) == len(namespaces)
    kubectl(control_plane, "apply", "--server-side", "--filename", "-", text=yaml.safe_dump_all(bindings))


def operator_kubeconfig(control_plane: ControlPlane) -> Path:
    """Return a kubeconfig of the operator's service account: what its RBAC grants, and no more."""
    groups = ("system:serviceaccounts", f"system:serviceaccounts:{SYSTEM}")
    return control_plane.kubeconfig_for(f"system:serviceaccount:{SYSTEM}:{OPERATOR}", groups)


async def connect(kubeconfig: Path) -> Cluster:
    """Return a client; the caller closes it."""
    return Cluster(await load_configuration(str(kubeconfig)))


def create_namespaces(control_plane: ControlPlane, count: int) -> list[str]:
    """Create that many namespaces with everything that pods in them need, and the operator's rights."""
    names = [f"run-{uuid.uuid4().hex[:8]}" for _ in range(count)]
    manifests = [{"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}} for name in names]
    kubectl(control_plane, "apply", "--server-side", "--filename", "-", text=yaml.safe_dump_all(manifests))
    opt_in(control_plane, names)
    deadline = time.monotonic() + 60
    while not set(names) <= _with_service_account(control_plane):
        assert time.monotonic() < deadline, "namespaces have no service account `default` after 60 s"
        time.sleep(0.2)
    return names


def _with_service_account(control_plane: ControlPlane) -> set[str]:
    template = "{range .items[*]}{.metadata.namespace} {end}"
    every = ("get", "serviceaccounts", "--all-namespaces", "--field-selector", "metadata.name=default")
    return set(kubectl(control_plane, *every, "--output", f"jsonpath={template}").split())


def server(namespace: str, *, replicas: int = 2, name: str = "server") -> Object:
    """Return a Deployment that serves a model, as its owner wrote it."""
    labels = {"app": name}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "containers": [
                        {
                            "name": "server",
                            "image": "localhost/engine:test",
                            "command": ["transformers", "serve"],
                            "args": ["/models/original", "--port", "8000"],
                            "volumeMounts": [{"name": "models", "mountPath": "/models"}],
                            "readinessProbe": {"httpGet": {"path": "/health", "port": 8000}},
                            "lifecycle": {"preStop": {"sleep": {"seconds": 1}}},
                        }
                    ],
                    "volumes": [{"name": "models", "persistentVolumeClaim": {"claimName": "models"}}],
                },
            },
        },
    }


_SPEC: Mapping[str, Any] = {
    "model": {"uri": "pvc://models/original"},
    "data": {"source": {"dataset": {"uri": "pvc://data/prompts.jsonl"}}},
    "calibration": {"samples": 64},
    "evaluation": {"samples": 64},
    "candidates": [
        {"name": "good-int4", "method": "GPTQ", "scheme": "W4A16", "groupSize": 128},
        {"name": "bad-int4", "method": "RTN", "scheme": "W4A16", "groupSize": 128},
    ],
    "gates": {"perplexityRatio": {"max": 1.05}, "klDivergence": {"max": 0.08}, "checkpointBytesRatio": {"max": 0.8}},
    "storage": {
        "checkpoints": {"claimName": "checkpoints", "path": "saffron"},
        "workspace": {"claimName": "workspace"},
    },
    "rollout": {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "server", "container": "server"},
        "steps": [{"weight": 50, "pause": "1s"}],
    },
    "job": {"parallelism": 16, "pendingDeadlineSeconds": 10},
}


def quantized_model(namespace: str, *, name: str = "model", **changes: Any) -> dict[str, Any]:
    """Return a QuantizedModel; `changes` replace whole fields of its spec, and None leaves one out."""
    spec = copy.deepcopy(dict(_SPEC)) | changes
    return {
        "apiVersion": QUANTIZED_MODELS.api_version,
        "kind": "QuantizedModel",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {field: value for field, value in spec.items() if value is not None},
    }


async def create(cluster: Cluster, resource: Resource, manifest: Object) -> Object:
    """Create an object as its author does."""
    return await cluster.create(resource, manifest["metadata"]["namespace"], manifest, manager="author")


async def edit(
    cluster: Cluster, resource: Resource, namespace: str, name: str, change: Object, *, dry_run: bool = False
) -> Object:
    """Change fields of an object, as `kubectl patch --type=merge` does; None takes one away."""
    query = [("dryRun", "All")] if dry_run else []
    path = resource.path(namespace, name)
    return await cluster.send("PATCH", path, query=query, body=change, content_type="application/merge-patch+json")


async def begin(cluster: Cluster, namespace: str, **changes: Any) -> Key:
    """Create a model server and a QuantizedModel for it."""
    await create(cluster, DEPLOYMENTS, server(namespace))
    await create(cluster, QUANTIZED_MODELS, quantized_model(namespace, **changes))
    return Key(namespace, "model")


async def status(cluster: Cluster, key: Key) -> Mapping[str, Any]:
    """Return the status of a QuantizedModel."""
    found = await cluster.get(QUANTIZED_MODELS, key.namespace, key.name)
    assert found is not None
    result: Mapping[str, Any] = found["status"]
    return result


def condition(status: Mapping[str, Any], kind: str) -> tuple[str, str, str] | None:
    """Return status, reason and message of a condition, or None where it is not there."""
    for each in status.get("conditions", ()):
        if each["type"] == kind:
            return each["status"], each["reason"], each["message"]
    return None


def ready(status: Mapping[str, Any]) -> tuple[str, str]:
    """Return status and reason of Ready, both empty where it is not there yet."""
    found = condition(status, "Ready")
    return ("", "") if found is None else found[:2]


def message(status: Mapping[str, Any]) -> str:
    """Return the message of Ready, empty where it is not there yet."""
    found = condition(status, "Ready")
    return "" if found is None else found[2]


async def refused(call: Any) -> str:
    """Return the message with which the API server refuses a call."""
    try:
        await call
    except ApiError as error:
        return error.message
    raise AssertionError("the API server accepted what it should refuse")
