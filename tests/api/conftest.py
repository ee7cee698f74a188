"""Fixtures of the API's tests: a real API server that knows the CRD, and kubectl, as people use them."""

import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kubernetes import client, config
from saffron_api.generate import CRD_PATH, REPOSITORY
from saffron_dev.binaries import binaries
from saffron_dev.controlplane import ControlPlane


@dataclass(frozen=True)
class Answer:
    """What kubectl said."""

    code: int
    out: str
    err: str


Kubectl = Callable[..., Answer]


@pytest.fixture(scope="session")
def kubectl(control_plane: ControlPlane) -> Kubectl:
    """Kubectl as the cluster's admin: `kubectl("get", "qm", text=...)`, where text goes to its standard input."""
    program = str(binaries("kubectl")["kubectl"])

    def run(*arguments: str | Path, text: str = "") -> Answer:
        command = [program, f"--kubeconfig={control_plane.kubeconfig}", *map(str, arguments)]
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
        return Answer(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def crd(kubectl: Kubectl) -> str:
    """The CRD's name, once the API server serves it."""
    name = "crd/quantizedmodels.saffron.dev"
    applied = kubectl("apply", "--server-side", "--force-conflicts", "-f", REPOSITORY / CRD_PATH)
    assert applied.code == 0, applied.err
    # kubectl gives up on a condition as long as there is no list of conditions; it comes together with the names.
    for condition in ("jsonpath={.status.acceptedNames.kind}=QuantizedModel", "condition=Established"):
        ready = kubectl("wait", f"--for={condition}", "--timeout=30s", name)
        assert ready.code == 0, ready.err
    return name


@pytest.fixture(scope="session")
def custom_objects(control_plane: ControlPlane, crd: str) -> Iterator[client.CustomObjectsApi]:  # noqa: ARG001  (the CRD must be there)
    """A client for QuantizedModels."""
    with config.new_client_from_config(str(control_plane.kubeconfig)) as api:
        yield client.CustomObjectsApi(api)
