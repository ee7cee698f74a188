"""The pod that asks all the time, and what its log says of it."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from saffron_dev.demo import client
from saffron_dev.demo.kubectl import Kubectl, Manifest
from saffron_dev.demo.pods import pod_spec
from saffron_dev.demo.serving import PORT, TARGET

ASKER = "asker"
_PAUSE_SECONDS = "1"
"""Each answer takes all cores of a small machine. With a short pause the client takes most of them from the Jobs."""
_SCRIPT = "/client/client.py"


@dataclass(frozen=True)
class Answer:
    """One request and what became of it."""

    asked: float
    seconds: float
    by: str | None
    """The pod that answered, where the server tells."""
    text: str | None
    error: str | None


def asker(image: str, model: str) -> list[Manifest]:
    """Return the pod and the ConfigMap that holds its script."""
    script = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": ASKER},
        "data": {Path(_SCRIPT).name: Path(client.__file__).read_text()},
    }
    container = {
        "name": ASKER,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "command": [*command(model), _PAUSE_SECONDS],
        "volumeMounts": [{"name": "client", "mountPath": str(Path(_SCRIPT).parent)}],
    }
    spec = pod_spec(container, [{"name": "client", "configMap": {"name": ASKER}}])
    # A request that fails must be seen, so nothing is started again; it has nothing to finish.
    ending = {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": ASKER}, "spec": {**spec, **ending}}
    return [script, pod]


def command(model: str) -> list[str]:
    """Return the command that asks once, inside the pod, and prints the answer."""
    return ["python", _SCRIPT, f"http://{TARGET}:{PORT}", model]


def answers(kubectl: Kubectl) -> list[Answer]:
    """Return all requests so far, the oldest first."""
    return read_log(kubectl.run("logs", ASKER))


def read_log(log: str) -> list[Answer]:
    """Read the client's lines; one that is cut short by the pod's end is left out."""
    read = []
    for line in log.splitlines():
        if line.endswith("}"):
            fields = json.loads(line)
            read.append(
                Answer(
                    asked=fields["asked"],
                    seconds=fields["seconds"],
                    by=fields.get("by"),
                    text=fields.get("text"),
                    error=fields.get("error"),
                )
            )
    return read


def summary(requests: Sequence[Answer]) -> str:
    """Return how many were asked, how many failed, and which pod answered how many."""
    failed = [request for request in requests if request.error is not None]
    slowest = max((request.seconds for request in requests), default=0.0)
    lines = [f"{len(requests)} requests, {len(failed)} failed, the slowest took {slowest:.1f} s"]
    by = Counter(request.by or "a pod that does not say its name" for request in requests if request.error is None)
    lines += [f"  {count:5d} answered by {pod}" for pod, count in by.items()]
    lines += [f"  failed: {request.error}" for request in failed]
    return "\n".join(lines)
