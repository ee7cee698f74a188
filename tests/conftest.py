"""Fixtures that several parts' tests share."""

import signal
import time
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

from kubernetes import client, config
from saffron_dev.controlplane import ControlPlane
from saffron_dev.controlplane import control_plane as start_control_plane

if TYPE_CHECKING:
    import torch

# What a shell starts in the background ignores Ctrl-C, and so would all that the tests start and end by it.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A real API server with its controllers and scheduler but no node, started when a test first asks for it."""
    with start_control_plane() as running:
        yield running


@pytest.fixture(scope="session")
def card() -> "torch.device":
    """A CUDA card; the test is skipped where there is none."""
    import torch  # noqa: PLC0415 - most tests need no torch, which takes seconds

    if not torch.cuda.is_available():
        pytest.skip("there is no CUDA card here that torch can use")
    return torch.device("cuda")


@pytest.fixture
def namespace(control_plane: ControlPlane) -> Iterator[str]:
    """A fresh namespace, in which pods may be created; deleted, without waiting for it, after the test."""
    name = f"test-{uuid.uuid4().hex[:8]}"
    with config.new_client_from_config(str(control_plane.kubeconfig)) as api:
        core = client.CoreV1Api(api)
        core.create_namespace({"metadata": {"name": name}})
        # Until its controller has made this account, every pod of the namespace is refused.
        _wait_for_service_account(core, name)
        yield name
        core.delete_namespace(name)


def _wait_for_service_account(core: client.CoreV1Api, namespace: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while True:
        found = core.list_namespaced_service_account(namespace).items
        if any(account.metadata.name == "default" for account in found):
            return
        if time.monotonic() > deadline:
            raise TimeoutError(f"namespace {namespace} has no service account `default` after {seconds:g} s")
        time.sleep(0.05)
