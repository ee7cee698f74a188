"""What a quota keeps from being made is told by the objects' controllers, and by Saffron in turn."""

import pytest
from apilevel import operators, setup

from saffron_operator.client import Cluster
from saffron_operator.queue import Key
from saffron_operator.reconcile import Reconciler
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS, Resource

QUOTAS = Resource("", "v1", "resourcequotas")


@pytest.mark.usefixtures("kubelet")
async def test_a_canary_whose_pods_a_quota_forbids_says_so(served: str, admin: Cluster, operator: Reconciler) -> None:
    rollout = setup.quantized_model(served)["spec"]["rollout"]
    await setup.create(admin, DEPLOYMENTS, setup.server(served))
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served, rollout=None))
    key = Key(served, "model")
    await operators.drive(operator, key, lambda status: setup.ready(status)[1] == "CheckpointReady", admin=admin)
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "full", "namespace": served},
        "spec": {"hard": {"pods": "2"}},
    }
    await setup.create(admin, QUOTAS, quota)
    await setup.edit(admin, QUANTIZED_MODELS, served, "model", {"spec": {"rollout": rollout}})

    status = await operators.drive(
        operator, key, lambda status: "exceeded quota: full" in setup.message(status), admin=admin, seconds=25
    )
    assert setup.ready(status) == ("False", "CanaryStarting")
    message = setup.message(status)
    assert message.startswith('good-int4, step 1 of 1 (50 %): FailedCreate: pods "server-saffron-')
    assert message.endswith("exceeded quota: full, requested: pods=1, used: pods=2, limited: pods=2")
