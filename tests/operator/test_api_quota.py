"""What a quota keeps from being made is told by the objects' controllers, and by Saffron in turn."""

import asyncio
from typing import Any

import pytest
from apilevel import operators, setup

from saffron_operator.client import Cluster
from saffron_operator.queue import Key
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS, Resource

QUOTAS = Resource("", "v1", "resourcequotas")


def quota(namespace: str, *, pods: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full", "namespace": namespace},
        "spec": {"hard": {"pods": str(pods)}},
    }


@pytest.mark.usefixtures("kubelet")
async def test_a_canary_whose_pods_a_quota_forbids_says_so(served: str, admin: Cluster, operator: Reconciler) -> None:
    rollout = setup.quantized_model(served)["spec"]["rollout"]
    await setup.create(admin, DEPLOYMENTS, setup.server(served))
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served, rollout=None))
    key = Key(served, "model")
    await operators.drive(operator, key, lambda status: setup.ready(status)[1] == "CheckpointReady", admin=admin)
    await setup.create(admin, QUOTAS, quota(served, pods=2))
    await setup.edit(admin, QUANTIZED_MODELS, served, "model", {"spec": {"rollout": rollout}})

    status = await operators.drive(
        operator, key, lambda status: "exceeded quota: full" in setup.message(status), admin=admin, seconds=25
    )
    assert setup.ready(status) == ("False", "CanaryStarting")
    message = setup.message(status)
    assert message.startswith('good-int4, step 1 of 1 (50 %): FailedCreate: pods "server-saffron-')
    assert message.endswith("exceeded quota: full, requested: pods=1, used: pods=2, limited: pods=2")


@pytest.mark.usefixtures("kubelet")
async def test_a_job_whose_pods_a_quota_forbids_says_so_until_it_has_them(
    served: str, admin: Cluster, operator: Reconciler
) -> None:
    made = await setup.create(admin, QUOTAS, quota(served, pods=0))
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served, rollout=None))
    key = Key(served, "model")
    status = await operators.drive(
        operator, key, lambda status: "exceeded quota" in setup.message(status), admin=admin, seconds=25
    )
    assert setup.ready(status) == ("False", "Inspecting")
    assert setup.message(status) == (
        "inspect is queued (FailedCreate: exceeded quota: full, requested: pods=1, used: pods=0, limited: pods=0)"
    )
    before = await setup.status(admin, key)
    await asyncio.sleep(3)  # Kubernetes tries again, with pods of other names
    await operator(key)
    assert await setup.status(admin, key) == before, "the status is at rest"

    await admin.delete(QUOTAS, served, "full", uid=made["metadata"]["uid"])
    await operators.drive(operator, key, lambda status: setup.ready(status)[1] == "Sampling", admin=admin)
