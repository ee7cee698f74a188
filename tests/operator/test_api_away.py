"""Time that passes while nobody looks is none that anything was waited for: on a real API server."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from apilevel import operators, setup
from apilevel.operators import CountingCluster, StoppedError

from saffron_dev.controlplane import ControlPlane
from saffron_operator.client import Cluster, load_configuration
from saffron_operator.errors import RefusedError
from saffron_operator.resources import DEPLOYMENTS, QUANTIZED_MODELS

AWAY = timedelta(hours=3)


def settled(status: object) -> bool:
    assert isinstance(status, dict)
    return setup.ready(status)[0] == "True" or setup.condition(status, "Stalled") is not None


@pytest.mark.usefixtures("kubelet")
@pytest.mark.parametrize("call", ["POST deployments", "PATCH deployments"], ids=["the canary", "the promotion"])
async def test_what_was_only_written_down_is_done_after_three_hours(
    installed: ControlPlane, served: str, admin: Cluster, call: str
) -> None:
    configuration = await load_configuration(str(setup.operator_kubeconfig(installed)))
    key = await setup.begin(admin, served)

    class Dying(CountingCluster):
        async def _write(self, method: str, path: str, **given: object) -> object:
            if f"{method} {operators.kind(path)}" == call:
                raise StoppedError
            return await super()._write(method, path, **given)

    async with Dying(configuration) as first:
        first.arm()
        with pytest.raises(StoppedError):
            await operators.drive(operators.reconciler(first), key, settled, admin=admin)
    assert "rollout" in await setup.status(admin, key)
    async with Cluster(configuration) as cluster:
        second = replace(operators.reconciler(cluster), now=lambda: datetime.now(UTC) + AWAY)
        status = await operators.drive(second, key, settled, admin=admin)
    assert setup.ready(status) == ("True", "Promoted")


async def test_an_operator_that_may_not_or_is_not_to_act_begins_to_count_when_it_does(
    served: str, admin: Cluster, granted: Cluster
) -> None:
    times = iter(range(0, 1000, 100))  # a pass looks at the clock once
    operator = replace(operators.reconciler(granted), clock=lambda: float(next(times)))
    key = await setup.begin(
        admin, served, job={"podTemplate": {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}}
    )

    async def edit(**spec: object) -> None:
        await setup.edit(admin, QUANTIZED_MODELS, served, key.name, {"spec": spec})

    with pytest.raises(RefusedError):
        await operator(key)
    assert operator.attending == {}
    await edit(job={"podTemplate": None})
    await operator(key)
    begun = dict(operator.attending)
    await operator(key)
    assert operator.attending == begun != {}
    await edit(suspend=True)
    await operator(key)
    assert operator.attending == {}
    await admin.delete(
        DEPLOYMENTS, served, "server", uid=(await admin.get(DEPLOYMENTS, served, "server") or {})["metadata"]["uid"]
    )
    await edit(suspend=False)
    await operator(key)
    assert operator.attending == {}
