"""Fixtures of the API's tests: a real API server that knows the CRD, and kubectl, as people use them."""

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from kubernetes import client, config
from saffron_api.generate import CRD_PATH, REPOSITORY
from saffron_api.model import problems
from saffron_api.quantized_model import GROUP, PLURAL, VERSION, QuantizedModel
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


@pytest.fixture
def refused_by_server(custom_objects: client.CustomObjectsApi) -> Callable[[dict[str, Any]], list[str]]:
    """What the API server refuses of a request, as "field: message"; nothing is stored."""

    def refusals(request: dict[str, Any]) -> list[str]:
        try:
            custom_objects.create_namespaced_custom_object(
                GROUP, VERSION, "default", PLURAL, request, dry_run="All", field_validation="Strict"
            )
        except client.ApiException as error:
            status = json.loads(error.body)
            causes = status.get("details", {}).get("causes", [])
            # It writes map[key] where pydantic knows fields only.
            fields = [re.sub(r"\[([a-z]+)\]", r".\1", cause.get("field", "")) for cause in causes]
            said = [f"{field}: {cause['message']}" for field, cause in zip(fields, causes, strict=True)]
            return said or [status["message"]]
        return []

    return refusals


@pytest.fixture
def refused_by_command_line() -> Callable[[dict[str, Any]], list[str]]:
    """What the command line's check refuses of a request, as "field: message"."""

    def refusals(request: dict[str, Any]) -> list[str]:
        try:
            QuantizedModel.model_validate(request)
        except ValidationError as error:
            return list(problems(error))
        return []

    return refusals
