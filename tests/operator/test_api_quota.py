"""What a quota keeps from being made is told by the objects' controllers, and by Saffron in turn."""

from collections.abc import Mapping
from typing import Any

import pytest
from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, load_configuration
from saffron_operator.queue import Key
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS, Resource

QUOTAS = Resource("", "v1", "resourcequotas")
MERGE_PATCH = "application/merge-patch+json"


@pytest.mark.usefixtures("kubelet")
async def test_a_canary_whose_pods_a_quota_forbids_says_so(
    installed: ControlPlane, served: str, admin: Cluster
) -> None:
    rollout = setup.quantized_model(served)["spec"]["rollout"]
    await setup.create(admin, DEPLOYMENTS, setup.server(served))
    await setup.create(admin, QUANTIZED_MODELS, setup.quantized_model(served, rollout=None))
    key = Key(served, "model")
    async with Cluster(await load_configuration(str(setup.operator_kubeconfig(installed)))) as cluster:
        operator = operators.reconciler(cluster)
        await operators.drive(operator, key, lambda status: setup.ready(status)[1] == "CheckpointReady", admin=admin)
        quota = {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "full", "namespace": served},
            "spec": {"hard": {"pods": "2"}},
        }
        await setup.create(admin, QUOTAS, quota)
        path = QUANTIZED_MODELS.path(served, "model")
        await admin.send("PATCH", path, body={"spec": {"rollout": rollout}}, content_type=MERGE_PATCH)

        def told(status: Mapping[str, Any]) -> bool:
            _, _, message = setup.condition(status, "Ready") or ("", "", "")
            return "exceeded quota: full" in message

        status = await operators.drive(operator, key, told, admin=admin, seconds=25)
        assert setup.ready(status) == ("False", "CanaryStarting")
    _, _, message = setup.condition(status, "Ready") or ("", "", "")
    assert message.startswith('good-int4, step 1 of 1 (50 %): FailedCreate: pods "server-saffron-')
    assert message.endswith("exceeded quota: full, requested: pods=1, used: pods=2, limited: pods=2")
