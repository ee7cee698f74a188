"""Fixtures of the operator's API-level tests: the chart installed, a client, the kubelet's double."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest
import pytest_asyncio
from apilevel import operators, setup
from apilevel.kubelet import Kubelet

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster
from saffron_operator.reconcile import Reconciler


@pytest.fixture(scope="session")
def installed(control_plane: ControlPlane) -> ControlPlane:
    """A control plane with the chart in it, whose operator is not started."""
    setup.install(control_plane)
    return control_plane


@pytest.fixture
def served(installed: ControlPlane) -> str:
    """A fresh namespace in which the operator has its rights."""
    (name,) = setup.create_namespaces(installed, 1)
    return name


@pytest_asyncio.fixture
async def admin(installed: ControlPlane) -> AsyncIterator[Cluster]:
    """A client that may do everything."""
    async with await setup.connect(installed.kubeconfig) as cluster:
        yield cluster


@pytest_asyncio.fixture
async def granted(installed: ControlPlane) -> AsyncIterator[Cluster]:
    """A client that may do what the chart grants to the operator, and no more."""
    async with await setup.connect(setup.operator_kubeconfig(installed)) as cluster:
        yield cluster


@pytest.fixture
def operator(granted: Cluster) -> Reconciler:
    """An operator without a memory, under the chart's rights."""
    return operators.reconciler(granted)


@pytest_asyncio.fixture
async def kubelet(admin: Cluster) -> AsyncIterator[Kubelet]:
    """The double, at work for the whole cluster. What fails in it fails the test."""
    double = Kubelet(admin)
    playing = asyncio.create_task(double.run())
    yield double
    playing.cancel()
    with suppress(asyncio.CancelledError):
        await playing
