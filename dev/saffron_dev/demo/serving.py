"""What is served before, during and after: a Deployment with an inference server, behind a Service.

The server is vLLM on the CPU where this processor runs every scheme of the demo exactly, else `transformers serve`,
which decompresses the weights and is right, if slow, everywhere.
"""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from saffron_dev.demo.kubectl import Manifest
from saffron_dev.demo.pods import claim_volume, pod_spec
from saffron_dev.demo.storage import MODELS

MODEL = "gemma-3-270m"
TARGET = "gemma"
CONTAINER = "server"
PORT = 8000
_PATH = f"/{MODELS}/{MODEL}"

_NEEDED_FLAGS = ("avx512f", "avx512_vnni")

_VLLM = [
    *("python", "-m", "vllm.entrypoints.openai.api_server"),
    *("--model", _PATH, "--served-model-name", TARGET),
    *("--port", str(PORT)),
    *("--dtype", "bfloat16", "--max-model-len", "1024", "--max-num-seqs", "8"),
    "--enforce-eager",  # else it wants a C++ compiler
    # 64 MiB hold three requests of the longest length; the smallest that VLLM_CPU_KVCACHE_SPACE can say is 1 GiB.
    *("--kv-cache-memory-bytes", str(64 * 2**20)),
    *("--distributed-executor-backend", "uni"),
    # Every answer names the pod that gave it.
    *("--fingerprint-mode", "custom", "--fingerprint-value", "$(POD_NAME)"),
]
_THREADS = {
    "OMP_NUM_THREADS": "2",
    # Threads that spin while they wait take the cores from the other pods: an answer took 3.3 s instead of 0.45 s on a
    # machine with more to do than cores.
    "OMP_WAIT_POLICY": "PASSIVE",
}
_VLLM_ENVIRONMENT = {
    **_THREADS,
    # The worker lives in the engine's process: 1.5 GB and some seconds less.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # On a processor with AMX vLLM would else round the activations of a W4A16 checkpoint to 8 bits.
    "VLLM_CPU_INT4_W4A8": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}

_TRANSFORMERS = [
    *("transformers", "serve", _PATH),
    *("--device", "cpu", "--host", "0.0.0.0", "--port", str(PORT)),  # noqa: S104 - in a pod
]
_TRANSFORMERS_ENVIRONMENT = {**_THREADS, "HF_HUB_OFFLINE": "1"}


@dataclass(frozen=True)
class Engine:
    """A server and why it is this one."""

    name: str
    reason: str
    command: list[str]
    environment: dict[str, str]
    model: str
    """The name of the model in a request."""


def choose_engine(cpu_flags: AbstractSet[str], *, transformers: bool = False) -> Engine:
    """Choose by the node's CPU flags, as /proc/cpuinfo spells them, unless `transformers` is asked for."""
    if transformers:
        reason = "SAFFRON_ENGINE asks for it"
        return Engine("transformers serve", reason, _TRANSFORMERS, _TRANSFORMERS_ENVIRONMENT, _PATH)
    missing = [flag for flag in _NEEDED_FLAGS if flag not in cpu_flags]
    if missing:
        reason = (
            f"this processor lacks {' and '.join(missing)}, without which vllm-cpu has no int4 kernel and its int8 "
            "product saturates"
        )
        return Engine("transformers serve", reason, _TRANSFORMERS, _TRANSFORMERS_ENVIRONMENT, _PATH)
    reason = f"this processor has {' and '.join(_NEEDED_FLAGS)}, with which it runs int4 and int8 checkpoints exactly"
    return Engine("vLLM", reason, _VLLM, _VLLM_ENVIRONMENT, TARGET)


def serving(engine: Engine, image: str) -> list[Manifest]:
    """Return the Deployment and its Service, made so that no request fails while pods are replaced."""
    labels = {"app": TARGET}
    strategy = {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": TARGET},
        "spec": {
            "replicas": 1,
            "strategy": strategy,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    **pod_spec(_container(engine, image), [claim_volume(MODELS, read_only=True)]),
                    "terminationGracePeriodSeconds": 40,
                },
            },
        },
    }
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": TARGET},
        "spec": {"selector": labels, "ports": [{"port": PORT, "targetPort": PORT}]},
    }
    return [deployment, service]


def _container(engine: Engine, image: str) -> dict[str, Any]:
    environment = [{"name": name, "value": value} for name, value in engine.environment.items()]
    pod_name = {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}
    return {
        "name": CONTAINER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": engine.command,
        "env": [pod_name, *environment],
        "ports": [{"containerPort": PORT}],
        "readinessProbe": {
            "httpGet": {"path": "/health", "port": PORT},
            "periodSeconds": 2,
            "timeoutSeconds": 10,
            "failureThreshold": 6,
        },
        # A pod that ends is still asked until every node has taken it out of the Service.
        "lifecycle": {"preStop": {"sleep": {"seconds": 10}}},
        "resources": {"requests": {"cpu": "100m", "memory": "2Gi"}, "limits": {"memory": "6Gi"}},
        "volumeMounts": [{"name": MODELS, "mountPath": f"/{MODELS}", "readOnly": True}],
    }
