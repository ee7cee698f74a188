"""What the API server refuses to do: told where a person looks, and tried again until it is done."""

from apilevel import operators, setup

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, load_configuration
from saffron_operator.resources import EVENTS, JOBS, QUANTIZED_MODELS

TOO_LITTLE = {"requests": {"memory": "16Gi"}, "limits": {"memory": "8Gi"}}


async def test_a_job_that_the_api_server_refuses_is_told_until_it_is_taken(
    installed: ControlPlane, served: str, admin: Cluster
) -> None:
    async with Cluster(await load_configuration(str(setup.operator_kubeconfig(installed)))) as cluster:
        operator = operators.reconciler(cluster)
        key = await setup.begin(admin, served, job={"podTemplate": {"resources": TOO_LITTLE}})
        for _ in range(3):
            assert "must be less than or equal to memory limit" in await setup.refused(operator(key))
        status = await setup.status(admin, key)
        stalled = setup.condition(status, "Stalled")
        assert stalled is not None
        assert stalled[1] == "Refused"
        assert "must be less than or equal to memory limit" in stalled[2]
        told = [each["reason"] for each in await admin.list_all(EVENTS, served) if each["regarding"]["name"] == "model"]
        assert told.count("Refused") == 1

        await admin.send(
            "PATCH",
            QUANTIZED_MODELS.path(served, key.name),
            body={"spec": {"job": {"podTemplate": None}}},
            content_type="application/merge-patch+json",
        )
        assert await operator(key) == 0, "the status still tells what was refused"
        await operator(key)
        status = await setup.status(admin, key)
        assert setup.condition(status, "Stalled") is None
        assert setup.ready(status)[1] == "Inspecting"
        assert len(await admin.list_all(JOBS, served)) == 1
